"""What was written to a file, compared with what was to be saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .errors import DczError
from .tensor import CompressedTensor

if TYPE_CHECKING:
    from .arrays import Source

_PIECE = 1 << 20  # bytes; views are compared slowly, bytes fast


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
            what = "section"
        else:
            expected = original.weight().patterns.view("u1").data
            found = written[name].decode_patterns().view("u1").data
            what = "entries"
        for first in range(0, len(expected), _PIECE):
            a, b = bytes(expected[first : first + _PIECE]), bytes(found[first : first + _PIECE])
            if a != b:
                i = next(i for i in range(len(a)) if a[i] != b[i])
                raise DczError(
                    f"{file}: tensor {name!r}: read back other than it was saved: byte {first + i} "
                    f"of its {what}: expected {a[i]:02x}, found {b[i]:02x}"
                )
