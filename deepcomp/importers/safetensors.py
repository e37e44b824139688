"""``.safetensors`` files, one or many that make up a model.

The format: https://github.com/huggingface/safetensors#format. Eight bytes hold the size of a
header in JSON, which says of each tensor its dtype, its shape, and which bytes behind the header
are its entries. The format's own library is not used: without torch it refuses bfloat16 and float8
(``safe_open(..., "numpy")``, 0.8), or copies the whole file (``deserialize``).
"""

import json
import os
import reprlib
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any

import numpy as np

from ..arrays import Source, check_shape
from ..decode import Patterns, pattern_dtype
from ..files import File
from ..ranges import RangedFile, open_file
from ..records import ITEMSIZE
from ..urls import beside, is_url, shown

DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "BF16": "bfloat16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
}
MAX_HEADER_NBYTES = 100_000_000  # the limit of the format's own library
INDEX_SUFFIX = ".safetensors.index.json"


def looks_like_safetensors(start: bytes, file_nbytes: int) -> bool:
    """Whether a file of this size that starts with these bytes may be a safetensors file.

    Examples
    --------
    >>> looks_like_safetensors(bytes([2, 0, 0, 0, 0, 0, 0, 0]) + b"{}", 10)
    True
    """
    header_nbytes = int.from_bytes(start[:8], "little")
    return start[8:9] == b"{" and header_nbytes <= min(file_nbytes - 8, MAX_HEADER_NBYTES)


def read_file(path: str) -> tuple[dict[str, Source], dict[str, str]]:
    """List the tensors of a file.

    The file is mapped into memory, or read by ranges: a tensor is read when it is fetched.

    Parameters
    ----------
    path : str
        Or a URL.

    Returns
    -------
    tensors : dict of str to Source
        In the order of the header. A tied weight, which `write_checkpoint` and
        ``safetensors.torch.save_model`` name in the metadata only, has the identity of the first.
    metadata : dict of str to str
        Without the names of tied weights.

    Raises
    ------
    ValueError
        If the file breaks a rule of the format, or has a dtype that a ``.dcz`` file cannot hold.
    """
    file = open_file(path)
    header_nbytes = int.from_bytes(file.read(0, 8), "little")
    if not looks_like_safetensors(bytes(file.read(0, 9)), file.nbytes):
        raise ValueError(
            f"{file.name}: not a safetensors file: expected the size of its header (found "
            f"{header_nbytes}, the file has {file.nbytes} bytes) and then '{{'"
        )
    start = 8 + header_nbytes
    header = parse_json(file.name, bytes(file.read(8, start)))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError(f"{file.name}: __metadata__ must map strings to strings")
    spans, tensors = [], {}
    for name, entry in header.items():
        try:
            dtype, shape, begin, end = _entry(name, entry, file.nbytes - start)
        except ValueError as error:
            raise ValueError(f"{file.name}: {error}") from None
        fetch = partial(_fetch, file, name, dtype, start + begin, start + end)
        at = (path, start + begin)
        tensors[name] = Source(name, dtype, shape, (path, name), fetch, location=at)
        spans.append((begin, end, name))
    _check_no_holes(file.name, spans, file.nbytes - start)
    return _tie(tensors, metadata)


def read_shards(
    path: str, read_one: Callable[[str], tuple[Mapping[str, Any], dict[str, str]]] = read_file
) -> tuple[dict[str, Any], dict[str, str]]:
    """List the tensors of a model in several files, as its index names them.

    Parameters
    ----------
    path : str
        Path or URL of the index, a JSON file whose ``weight_map`` says for each tensor which file
        holds it.
    read_one : callable
        Reads one of the files.

    Returns
    -------
    tensors : dict of str to Source, or to what `read_one` finds
        In the order of the index.
    metadata : dict of str to str
        That of the files; where they differ, the first counts. The index's own are numbers about
        the files, and are left out.

    Raises
    ------
    ValueError
        If a file is missing or is none of the format, or if the files do not hold exactly the
        tensors that the index says.
    """
    where, weight_map = shown(path), read_index(path)
    found: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    for shard in dict.fromkeys(weight_map.values()):
        shard_path = beside(path, shard)
        if os.path.basename(shard) != shard or not shard or (is_url(path) and "?" in shard):
            raise ValueError(f"{where}: {shard!r} is not the name of a file in the same folder")
        if not is_url(path) and not os.path.isfile(shard_path):
            raise ValueError(f"{where}: its file {shard!r} is missing")
        tensors, more = read_one(shard_path)
        metadata = more | metadata
        for name, tensor in tensors.items():
            expected = weight_map.get(name)
            if expected != shard:
                has = "does not name it" if expected is None else f"has it in {expected!r}"
                raise ValueError(
                    f"{shown(shard_path)}: tensor {name!r} is there, but the index {has}"
                )
            found[name] = tensor
    for name, shard in weight_map.items():
        if name not in found:
            raise ValueError(f"{where}: tensor {name!r} is missing in {shard!r}")
    return {name: found[name] for name in weight_map}, metadata


def read_index(path: str) -> dict[str, str]:
    """Read which file holds which tensor: the ``weight_map`` of an index, by path or URL."""
    file = open_file(path)
    text = bytes(file.read(0, min(file.nbytes, MAX_HEADER_NBYTES)))
    weight_map = parse_json(file.name, text).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise ValueError(
            f"{file.name}: expected a weight_map from names of tensors to names of files"
        )
    return weight_map


def parse_json(path: str, data: bytes) -> dict[str, Any]:
    """Read a JSON object; raise ValueError for anything else, and for a key that comes twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"{twice!r} is there twice")
        return result

    try:
        value = json.loads(data.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, found: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, found a {type(value).__name__}")
    return value


def _entry(name: str, entry: Any, nbytes: int) -> tuple[str, tuple[int, ...], int, int]:
    """Check what the header says of a tensor; `nbytes` are behind the header."""
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    where = f"tensor {name!r}"
    if not isinstance(dtype, str) or dtype not in DTYPES:
        expected = ", ".join(DTYPES)
        raise ValueError(f"{where}: dtype is {reprlib.repr(dtype)}: expected one of {expected}")
    for what, numbers in (("shape", shape), ("data_offsets", offsets)):
        is_list = isinstance(numbers, list)
        if not is_list or not all(type(n) is int and n >= 0 for n in numbers):
            found = reprlib.repr(numbers)
            raise ValueError(f"{where}: {what} is {found}: expected a list of integers from 0")
    if len(offsets) != 2 or not offsets[0] <= offsets[1] <= nbytes:
        found = reprlib.repr(offsets)
        raise ValueError(
            f"{where}: data_offsets are {found}: expected a range within 0 .. {nbytes}, the bytes "
            "behind the header (is the file cut off?)"
        )
    check_shape(name, DTYPES[dtype], tuple(shape))  # before a product that could take minutes
    expected_nbytes = prod(shape) * ITEMSIZE[DTYPES[dtype]]
    if offsets[1] - offsets[0] != expected_nbytes:
        found_nbytes = offsets[1] - offsets[0]
        raise ValueError(f"{where}: expected {expected_nbytes} bytes, found {found_nbytes}")
    return DTYPES[dtype], tuple(shape), *offsets


def _check_no_holes(path: str, spans: list[tuple[int, int, str]], nbytes: int) -> None:
    last = 0
    for begin, end, name in sorted(spans):
        if begin != last:
            raise ValueError(f"{path}: tensor {name!r} starts at {begin}: expected {last}")
        last = end
    if last != nbytes:
        raise ValueError(f"{path}: the tensors take {last} bytes, found {nbytes}")


def _fetch(file: File | RangedFile, name: str, dtype: str, begin: int, end: int) -> Patterns:
    entries = np.frombuffer(
        file.read(begin, end, f"tensor {name!r}"), pattern_dtype(ITEMSIZE[dtype])
    )
    return np.require(entries, requirements="A")


def _tie(
    tensors: dict[str, Source], metadata: dict[str, str]
) -> tuple[dict[str, Source], dict[str, str]]:
    tied = {
        name: first for name, first in metadata.items() if first in tensors and name not in tensors
    }
    for name, first in tied.items():
        tensors[name] = tensors[first].renamed(name)
    return tensors, {name: text for name, text in metadata.items() if name not in tied}
