"""The index of a ``.dcz`` file: records <-> canonical JSON (``formats/dcz.md``, section 4)."""

import json
import reprlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from .errors import DczError
from .records import (
    GAP_BITS,
    ITEMSIZE,
    MAX_BLOCK_NUMEL,
    MAX_CODEBOOK,
    MAX_CRC32,
    MAX_DIMENSIONS,
    MAX_INTEGER,
    MIN_BLOCK_NUMEL,
    SIGNED_DTYPES,
    TensorRecord,
)


def _parse_int(digits: str) -> int:
    if len(digits) > 19:  # more than any limit; for very many, `int` takes minutes
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


# Python itself has refused numbers of many digits since 3.10.7, and is faster without the detour.
_HAS_LIMIT = hasattr(sys, "get_int_max_str_digits")
_DECODER = json.JSONDecoder(parse_int=None if _HAS_LIMIT else _parse_int)
_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class Index:
    """What a file holds, in the order of the model.

    Attributes
    ----------
    metadata : dict of str to str
    entries : dict of str to TensorRecord or str
        By tensor name; a string is an alias, the name of the tensor it stands for.
    """

    metadata: dict[str, str]
    entries: dict[str, TensorRecord | str]


def encode_index(index: Index) -> bytes:
    """Write an index as canonical JSON.

    Parameters
    ----------
    index : Index

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If a name or the metadata is not text that UTF-8 can hold.
    """
    tensors = [entry_to_json(name, entry) for name, entry in index.entries.items()]
    text = canonical_json({"metadata": dict(index.metadata), "tensors": tensors})
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:  # half of a surrogate pair
        around = text[max(0, error.start - 20) : error.end + 20]
        raise ValueError(
            f"a name or the metadata, at {around!r}: no text that UTF-8 can hold"
        ) from None


def decode_index(raw: bytes) -> Index:
    """Read and check the JSON of an index.

    Parameters
    ----------
    raw : bytes
        The inflated index.

    Returns
    -------
    Index

    Raises
    ------
    DczError
        If any rule of section 4 is broken.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DczError(f"the index is not UTF-8: {error}") from None
    metadata, position = parse_value(text, expect(text, 0, '{"metadata":'))
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise DczError("index: metadata is not an object of strings")
    position = expect(text, position, ',"tensors":[')
    entries: dict[str, TensorRecord | str] = {}
    while text[position : position + 1] != "]":
        if entries:
            position = expect(text, position, ",")
        # one by one: a file of nonsense is refused at its first tensor, not when all is in memory
        item, position = parse_value(text, position)
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str):
            raise DczError(f"index: a tensor has no name: {short(item)}")
        if name in entries:
            raise DczError(f"index: tensor {short(name)} is there twice")
        try:
            entries[name] = entry_from_json(item, entries)
        except DczError as error:
            raise DczError(f"index: tensor {short(name)}: {error}") from None
    if expect(text, position, "]}") != len(text):
        raise DczError("index: something follows its end")
    return Index(metadata, entries)


def expect(text: str, position: int, token: str) -> int:
    """Return where a token that must be at a position ends."""
    if not text.startswith(token, position):
        found = short(text[position : position + len(token)])
        raise DczError(f"index: expected {token} at character {position}, found {found}")
    return position + len(token)


def parse_value(text: str, position: int) -> tuple[Any, int]:
    """Parse one value, and check that it is in canonical form."""
    try:
        value, end = _DECODER.raw_decode(text, position)
        canonical = canonical_json(value)  # compared in place: no copy of what may be long
        is_canonical = len(canonical) == end - position and text.startswith(canonical, position)
    except RecursionError:
        raise DczError("the index is nested too deep") from None
    except (ValueError, MemoryError) as error:
        raise DczError(f"the index is not JSON: {error}") from None
    if not is_canonical:
        raise DczError("the index is not canonical JSON (sorted keys, none twice, no white space)")
    return value, end


def canonical_json(value: Any) -> str:
    """Write a value as canonical JSON."""
    return _ENCODER.encode(value)


def short(value: Any) -> str:
    """Return a value for a message: in one short line, and harmless to a terminal."""
    return reprlib.repr(value)


def entry_to_json(name: str, entry: TensorRecord | str) -> dict[str, Any]:
    """Return the object of a tensor."""
    if isinstance(entry, str):
        return {"name": name, "alias": entry}
    item: dict[str, Any] = {
        "name": name,
        "dtype": entry.dtype,
        "shape": list(entry.shape),
        "layout": entry.layout,
    }
    if entry.layout != "raw":
        item["nbytes"] = entry.section_nbytes
        for key in ("nnz", "codebook", "gap_bits", "block_numel", "kept_rows"):
            if getattr(entry, key) is not None:
                item[key] = getattr(entry, key)
        if entry.zero_signs:
            item["zero_signs"] = True
    if entry.crc32 is not None:
        item["crc32"] = entry.crc32
    return item


def least_version(entries: Mapping[str, TensorRecord | str]) -> tuple[int, int]:
    """Return the version that a file, or an index of shards, of these tensors must have."""
    return (1, 1) if any(map(_key_of_1_1, entries.values())) else (1, 0)


def _key_of_1_1(entry: TensorRecord | str) -> str | None:
    """Return a key that version 1.0 does not have, if the tensor has one."""
    if isinstance(entry, str):
        return None
    keys = ("crc32", "kept_rows")
    return next((key for key in keys if getattr(entry, key) is not None), None)


def check_version(entries: Mapping[str, TensorRecord | str], version: tuple[int, int]) -> None:
    """Raise DczError if the version in a file, or an index of shards, is not the least one."""
    if version == least_version(entries):
        return
    found = "version {}.{}".format(*version)
    for name, entry in entries.items():
        if key := _key_of_1_1(entry):
            raise DczError(f"index: tensor {short(name)}: {key}, which {found} does not have")
    raise DczError(f"{found}, but nothing in the index needs it: expected version 1.0")


def entry_from_json(item: dict[str, Any], earlier: Mapping[str, TensorRecord | str]) -> Any:
    """Check the object of a tensor; return its record, or the name that it stands for."""
    if "alias" in item:
        expect_keys(item, {"name", "alias"}, "an alias")
        target = item["alias"]
        if not isinstance(target, str) or not isinstance(earlier.get(target), TensorRecord):
            raise DczError(f"alias of {short(target)}, which is no tensor stored before it")
        return target
    layout = item.get("layout")
    if layout not in ("raw", "dense", "sparse"):
        raise DczError(f"layout {short(layout)}: expected 'raw', 'dense' or 'sparse'")
    dtype = item.get("dtype")
    if not isinstance(dtype, str) or dtype not in ITEMSIZE:
        raise DczError(f"unknown dtype {short(dtype)}")
    shape = item.get("shape")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise DczError(f"shape {short(shape)}: expected at most {MAX_DIMENSIONS} dimensions")
    for extent in shape:
        check_integer(extent, "an extent of the shape", 0, MAX_INTEGER)
    numel = prod(shape)
    if prod(extent or 1 for extent in shape) * ITEMSIZE[dtype] > MAX_INTEGER:
        raise DczError(f"shape {short(shape)}: more entries than an array can have")
    if layout != "raw":
        read = _record_of_rows if "kept_rows" in item else _coded_record
        return read(item, layout, dtype, tuple(shape), numel)
    expect_keys(
        item, {"name", "dtype", "shape", "layout"} | ({"crc32"} & item.keys()), "a raw tensor"
    )
    if "crc32" in item and numel == 0:
        raise DczError("crc32 of a section without bytes")
    nbytes = numel * ITEMSIZE[dtype]
    return TensorRecord(item["name"], dtype, tuple(shape), layout, nbytes, crc32=_crc32(item))


def _crc32(item: dict[str, Any]) -> int | None:
    return check_integer(item["crc32"], "crc32", 0, MAX_CRC32) if "crc32" in item else None


def _record_of_rows(
    item: dict[str, Any], layout: str, dtype: str, shape: tuple[int, ...], numel: int
) -> TensorRecord:
    """Check the object of a tensor of which only some rows are stored (section 7.5)."""
    n_rows = shape[0] if shape else 0
    kept_rows = check_integer(item["kept_rows"], "kept_rows", 1, n_rows - 1)
    nbytes = check_integer(item.get("nbytes"), "nbytes", 0, MAX_INTEGER)
    bitmap_nbytes, stored_shape = -(-n_rows // 8), (kept_rows, *shape[1:])
    if nbytes < max(bitmap_nbytes, -(-numel // MAX_BLOCK_NUMEL)):
        raise DczError(f"a section of {nbytes} bytes cannot hold {n_rows} rows, {numel} entries")
    stored = {key: value for key, value in item.items() if key != "kept_rows"}
    stored["nbytes"] = nbytes - bitmap_nbytes
    record = _coded_record(stored, layout, dtype, stored_shape, prod(stored_shape))
    return replace(record, shape=shape, section_nbytes=nbytes, kept_rows=kept_rows)


def _coded_record(
    item: dict[str, Any], layout: str, dtype: str, shape: tuple[int, ...], numel: int
) -> TensorRecord:
    keys = {"name", "dtype", "shape", "layout", "nbytes", "nnz"}
    optional = {"codebook", "block_numel", "crc32"}
    if layout == "sparse":
        keys.add("gap_bits")
        if dtype in SIGNED_DTYPES:
            optional.add("zero_signs")
    expect_keys(item, keys | (optional & item.keys()), f"a {layout} tensor")
    integer: Callable[[str, int, int], int] = lambda key, low, high: check_integer(  # noqa: E731
        item[key], key, low, high
    )
    if numel < 1:
        raise DczError(f"an empty tensor cannot have the layout {layout}")
    codebook = gap_bits = block_numel = None
    if "codebook" in item:
        codebook = integer("codebook", 1 if layout == "dense" else 0, MAX_CODEBOOK)
    if "gap_bits" in item:
        gap_bits = integer("gap_bits", GAP_BITS[0], GAP_BITS[-1])
    if "block_numel" in item:
        block_numel = integer("block_numel", MIN_BLOCK_NUMEL, MAX_BLOCK_NUMEL)
        if block_numel >= numel:
            raise DczError(
                f"blocks of {block_numel} entries in a tensor of {numel}: expected fewer"
            )
    elif numel > MAX_BLOCK_NUMEL:
        raise DczError(f"one block of {numel} entries: expected at most {MAX_BLOCK_NUMEL}")
    if item.get("zero_signs", True) is not True:
        raise DczError("zero_signs: expected true or nothing")
    nnz = integer("nnz", 0, numel)
    nbytes = integer("nbytes", 0, MAX_INTEGER)
    least = -(-numel // (block_numel or numel)) * (2 if layout == "sparse" else 1)
    if nbytes < least:
        raise DczError(f"a section of {nbytes} bytes cannot hold {numel} entries")
    return TensorRecord(
        item["name"], dtype, shape, layout, nbytes, nnz, codebook, gap_bits, block_numel,
        zero_signs="zero_signs" in item, crc32=_crc32(item),
    )  # fmt: skip


def check_integer(value: Any, what: str, low: int, high: int) -> int:
    """Return a value that must be an integer from `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        raise DczError(f"{what} is {short(value)}: expected an integer from {low} to {high}")
    return value


def expect_keys(item: Any, expected: set[str], what: str) -> None:
    """Raise DczError if an object has other keys."""
    if not isinstance(item, dict) or item.keys() != expected:
        found = sorted(item) if isinstance(item, dict) else type(item).__name__
        raise DczError(f"{what} has the keys {short(found)}: expected {sorted(expected)}")
