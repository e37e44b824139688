"""``dcz diff``: in which tensors two files differ, and by how much."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..losses import text_of
from ..model import CompressedModel
from ..tables import counted, printable
from ..tensor import CompressedTensor
from .streams import STANDARD, display_name, open_file
from .terminal import EXIT_CONTENT, CommandError, show, show_json


def run(options: argparse.Namespace) -> int:
    """Compare tensor by tensor, block by block."""
    if options.first == options.second == STANDARD:
        raise CommandError("only one of the files can be standard input")
    from ..storage import model_of

    readers = [open_file(path) for path in (options.first, options.second)]
    result = compare(*map(model_of, readers))
    names = [display_name(path) for path in (options.first, options.second)]
    if options.json:
        show_json({"schema": 1, "first": names[0], "second": names[1], **result})
    else:
        show("\n".join(_lines(result, *map(printable, names))))
    return 0 if result["same"] else EXIT_CONTENT


def compare(first: CompressedModel, second: CompressedModel) -> dict[str, Any]:
    """Compare two models.

    Returns
    -------
    dict
        JSON values: ``same``; the names that are ``only_in_first`` and ``only_in_second``; in
        ``different``, for each tensor that differs, a dict of what does, as `compare_tensors`
        returns it; in ``metadata``, for each key that differs, both values.
    """
    common = [name for name in first if name in second]
    different: dict[str, Any] = {}
    for name in common:
        found: dict[str, Any] = {}
        ties = [model.aliases.get(name) for model in (first, second)]
        if ties[0] != ties[1]:
            found["tied_to"] = ties
        if None in ties:  # of names that are tied on both sides, the first is compared
            found |= compare_tensors(first[name], second[name])
        if found:
            different[name] = found
    result = {
        "only_in_first": [name for name in first if name not in second],
        "only_in_second": [name for name in second if name not in first],
        "different": different,
        "metadata": _pairs(first.metadata, second.metadata),
    }
    return {"same": not any(result.values()), "n_common": len(common), **result}


def compare_tensors(first: CompressedTensor, second: CompressedTensor) -> dict[str, Any]:
    """Compare two tensors.

    Returns
    -------
    dict
        JSON values, empty if nothing differs. ``dtype`` and ``shape``: both, if they are not the
        same; tensors of unlike shapes are not compared further. ``zeros``: in how many entries
        one is zero and the other not. ``codebook``: how many values other than zero each has
        (None without a codebook), and how many they have in common. ``values``: how many entries
        differ, and the largest difference, None where it is not finite. ``n_entries``: of both.
    """
    a, b = first.record, second.record
    found: dict[str, Any] = {}
    if a.dtype != b.dtype:
        found["dtype"] = [a.dtype, b.dtype]
    if a.shape != b.shape:
        return found | {"shape": [list(a.shape), list(b.shape)]}
    same_record = replace(a, name=b.name, crc32=b.crc32) == b
    if same_record and first.section() == second.section():
        first.verify()  # equal bytes may break the same rule
        return found
    found |= _compare_entries(first, second)
    if codebook := _compare_codebooks(first, second):
        found["codebook"] = codebook
    return found


def _compare_entries(first: CompressedTensor, second: CompressedTensor) -> dict[str, Any]:
    import math

    from ..difference import difference

    d = difference(first.decode_blocks(), second.decode_blocks(), first.dtype, second.dtype)
    found: dict[str, Any] = {"n_entries": d.n_entries} if d.n_different else {}
    if d.n_zeros:
        found["zeros"] = d.n_zeros
    if d.n_different:
        found["values"] = {
            "n_different": d.n_different,
            "largest_difference": d.largest if math.isfinite(d.largest) else None,
            "relative_error": d.relative_error if math.isfinite(d.relative_error) else None,
        }
    return found


def _compare_codebooks(first: CompressedTensor, second: CompressedTensor) -> dict[str, Any]:
    a, b = _codebook(first), _codebook(second)
    if a == b:
        return {}
    sizes = [None if codebook is None else len(codebook) for codebook in (a, b)]
    return {"sizes": sizes, "n_common": len((a or set()) & (b or set()))}


def _codebook(tensor: CompressedTensor) -> set[float] | None:
    """Return the shared values but zero, which only some layouts list."""
    section = tensor.parts()
    if section is None or not section.codebook_nbytes:
        return None
    import numpy as np

    from ..decode import pattern_dtype
    from ..values import numbers

    first = section.bitmap_nbytes
    data = bytes(tensor.section()[first : first + section.codebook_nbytes])
    patterns = np.frombuffer(data, pattern_dtype(tensor.record.itemsize))
    return set(numbers(patterns, tensor.dtype).tolist()) - {0.0}


def _pairs(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, Any]:
    keys = dict.fromkeys([*first, *second])
    return {k: [first.get(k), second.get(k)] for k in keys if first.get(k) != second.get(k)}


def _lines(result: dict[str, Any], first: str, second: str) -> list[str]:
    lines = [f"only in {first}: {printable(name)}" for name in result["only_in_first"]]
    lines += [f"only in {second}: {printable(name)}" for name in result["only_in_second"]]
    for name, found in result["different"].items():
        lines.append(f"{printable(name)}: {'; '.join(_phrases(found))}")
    for key, values in result["metadata"].items():
        lines.append(f"metadata {printable(repr(key))}: {_against(values, repr)}")
    n, n_common = len(result["different"]), result["n_common"]
    verdict = "all the same" if not n else "1 differs" if n == 1 else f"{n} differ"
    lines.append(f"{counted(n_common, 'tensor')} in both: {verdict}")
    return lines


def _phrases(found: dict[str, Any]) -> list[str]:
    phrases = [f"dtype {_against(found['dtype'])}"] if "dtype" in found else []
    if "tied_to" in found:
        phrases.append(f"tied to {_against(found['tied_to'], repr)}")
    if "shape" in found:
        phrases.append(f"shape {_against(found['shape'])}")
    if "zeros" in found:
        phrases.append(f"zeros differ in {found['zeros']:,} of {found['n_entries']:,} entries")
    if "codebook" in found:
        phrases.append(_codebooks(**found["codebook"]))
    if "values" in found:
        n, largest, error = found["values"].values()
        by = "" if largest is None else f", by {largest:.3g} at most"
        by += f", relative error {text_of(error)}" if error else ""
        by = " (the signs of zeros)" if largest == 0 else by
        phrases.append(f"values differ in {n:,} of {found['n_entries']:,} entries{by}")
    return phrases


def _codebooks(sizes: list[int | None], n_common: int) -> str:
    """Say how two codebooks differ, of which one may not be there.

    Examples
    --------
    >>> _codebooks([32, 16], 3)
    'codebook of 32 against 16 values, 3 in both'
    >>> _codebooks([None, 32], 0), _codebooks([32, None], 0)
    ('no codebook against one of 32 values', 'codebook of 32 values against none')
    """
    first, second = sizes
    if first is None:
        return f"no codebook against one of {second} values"
    if second is None:
        return f"codebook of {first} values against none"
    return f"codebook of {first} against {second} values, {n_common} in both"


def _against(values: list[Any], form: Any = str) -> str:
    texts = ["none" if value is None else printable(form(value)) for value in values]
    return " against ".join(texts)
