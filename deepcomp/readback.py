"""What was written to a file, compared with what was to be saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .errors import DczError
from .tensor import CompressedTensor

if TYPE_CHECKING:
    from .arrays import Source


def compare(
    written: Mapping[str, CompressedTensor],
    originals: Mapping[str, CompressedTensor | Source | str],
    file: str,
) -> None:
    """Decode all tensors of a file, and raise DczError where one is not the original.

    Parameters
    ----------
    written : mapping of str to CompressedTensor
        As read from the file.
    originals : mapping of str to CompressedTensor, Source or str
        A compressed tensor must have the same section, another one the same entries, bit for
        bit. Strings are names of tied tensors, which the index tells.
    file : str
        For messages.
    """
    for name, original in originals.items():
        if isinstance(original, str):
            continue
        if isinstance(original, CompressedTensor):
            written[name].verify()
            expected, found = original.section(), written[name].section()
            where = "byte {} of its section"
        else:
            expected = original.weight().patterns.view("u1").data
            found = written[name].decode_patterns().view("u1").data
            where = "byte {} of its entries"
        if expected != found:
            i = next(i for i, pair in enumerate(zip(expected, found)) if pair[0] != pair[1])
            raise DczError(
                f"{file}: tensor {name!r}: read back other than it was saved: {where.format(i)}: "
                f"expected {expected[i]:02x}, found {found[i]:02x}"
            )
