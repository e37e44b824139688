"""A writer of .dcz files that can break each rule of dcz.md on its own.

It is independent of the decoder and of the package, and plain: everything else, the checksums
included, stays right.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

ITEMSIZES = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "uint16": 2,
    "int16": 2,
    "float16": 2,
    "bfloat16": 2,
    "uint32": 4,
    "int32": 4,
    "float32": 4,
    "uint64": 8,
    "int64": 8,
    "float64": 8,
}
# Some patterns of each dtype that are not 0: 1, -1, infinity, NaNs with payloads, -0.0, extremes.
PATTERNS = {
    "bool": [1],
    "uint8": [1, 2, 127, 128, 255],
    "int8": [1, 2, 127, 128, 255],
    "float8_e4m3fn": [0x01, 0x38, 0x7F, 0x80, 0xB8],
    "float8_e5m2": [0x3C, 0x7C, 0x7F, 0x80, 0xBC],
    "uint16": [1, 255, 256, 0x7FFF, 0xFFFF],
    "int16": [1, 255, 256, 0x8000, 0xFFFF],
    "float16": [0x0001, 0x3C00, 0x7C00, 0x7E01, 0x8000, 0xBC00],
    "bfloat16": [0x0001, 0x3F80, 0x7F80, 0x7FC1, 0x8000, 0xBF80],
    "uint32": [1, 0x100, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF],
    "int32": [1, 0x100, 0x10000, 0x80000000, 0xFFFFFFFF],
    "float32": [0x00000001, 0x3F800000, 0x7F800000, 0x7FC00001, 0x80000000, 0xBF800000],
    "uint64": [1, 0x100000000, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF],
    "int64": [1, 0x100000000, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF],
    "float64": [0x1, 0x3FF0000000000000, 0x7FF0000000000000, 0x7FF8000000000001, 1 << 63],
}


def varint(value: int) -> bytes:
    """Groups of seven bits, the least significant one first."""
    groups = [value & 127]
    while value := value >> 7:
        groups[-1] |= 128
        groups.append(value & 127)
    return bytes(groups)


def little(values: Iterable[int], itemsize: int) -> bytes:
    """The patterns, little-endian."""
    return b"".join(value.to_bytes(itemsize, "little") for value in values)


def canonical(value: Any) -> bytes:
    """The canonical JSON of an index."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode("utf-8")


def stored_deflate(raw: bytes, block_nbytes: int = 65535, is_last: bool = True) -> bytes:
    """A deflate stream of stored blocks: the same bytes whatever the version of zlib."""
    chunks = [raw[i : i + block_nbytes] for i in range(0, len(raw), block_nbytes)] or [b""]
    stream = b""
    for i, chunk in enumerate(chunks):
        last = is_last and i == len(chunks) - 1
        stream += struct.pack("<BHH", last, len(chunk), len(chunk) ^ 0xFFFF) + chunk
    return stream


def zlib_stream(raw: bytes, header: bytes = b"\x78\x01", block_nbytes: int = 65535) -> bytes:
    """An RFC 1950 stream."""
    return header + stored_deflate(raw, block_nbytes) + struct.pack(">I", zlib.adler32(raw))


def zlib_stream_with_match(raw: bytes, header: bytes, start: int, distance: int) -> bytes:
    """An RFC 1950 stream in which 258 bytes from ``start`` on are a match, 513 to 768 back."""
    assert raw[start : start + 258] == raw[start - distance : start - distance + 258]
    extra = f"{distance - 513:08b}"[::-1]
    bits = "0" + "10" + "11000101" + "10010" + extra + "0000000"  # fixed codes; length 258; end
    bits += "1" + "00"  # the last block, stored
    match = bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))
    before, after = stored_deflate(raw[:start], is_last=False), stored_deflate(raw[start + 258 :])
    return header + before + match + after[1:] + struct.pack(">I", zlib.adler32(raw))


def build(
    sections: bytes,
    index: bytes,
    *,
    magic: bytes = b"\xdcDCZ\r\n\x1a\n",
    version: tuple[int, int] = (1, 0),
    data_end: int | None = None,
    edit_checksums: Callable[[list[int]], list[int]] = lambda checksums: checksums,
    stream: bytes | None = None,
    index_nbytes: int | None = None,
    index_raw_nbytes: int | None = None,
    crc_xor: int = 0,
    end_magic: bytes = b"DCZ\n",
) -> bytes:
    """A file around the sections and the index, with what is to be different."""
    data = magic + struct.pack("<HH", *version) + sections
    pages = [data[i : i + 65536] for i in range(0, len(data), 65536)]
    checksums = edit_checksums([zlib.crc32(page) for page in pages])
    stream = zlib_stream(index) if stream is None else stream
    tail = struct.pack(f"<{len(checksums)}I", *checksums) + stream
    tail += struct.pack(
        "<QII",
        len(data) if data_end is None else data_end,
        len(stream) if index_nbytes is None else index_nbytes,
        len(index) if index_raw_nbytes is None else index_raw_nbytes,
    )
    covered = (data + tail)[len(data) if data_end is None else min(data_end, len(data)) :]
    return data + tail + struct.pack("<I", zlib.crc32(covered) ^ crc_xor) + end_magic


def code_lengths(symbols: Iterable[int], limit: int = 12) -> list[int]:
    """Optimal code lengths of at most ``limit`` bits (package-merge)."""
    leaves = sorted((count, (symbol,)) for symbol, count in Counter(symbols).items())
    level = leaves
    for _ in range(limit - 1):
        pairs = zip(level[::2], level[1::2], strict=False)
        level = sorted(leaves + [(a[0] + b[0], a[1] + b[1]) for a, b in pairs])
    lengths = Counter(symbol for _, packed in level[: 2 * len(leaves) - 2] for symbol in packed)
    return [lengths[symbol] for symbol in range(max(lengths) + 1)]


def codewords(lengths: list[int]) -> dict[int, str]:
    """The canonical code, as strings of 0 and 1."""
    words, word, last = {}, 0, 0
    for length, symbol in sorted((n, symbol) for symbol, n in enumerate(lengths) if n):
        word <<= length - last
        words[symbol] = f"{word:0{length}b}"
        word, last = word + 1, length
    return words


def huffman_code(lengths: list[int]) -> bytes:
    """m and the code lengths, two in a byte."""
    padded = lengths + [0] * (len(lengths) % 2)
    pairs = zip(padded[::2], padded[1::2], strict=True)
    return varint(len(lengths)) + bytes(low | high << 4 for low, high in pairs)


def bitstream(symbols: Iterable[int], lengths: list[int]) -> bytes:
    """The codewords of the symbols, from the least significant bit on."""
    words = codewords(lengths)
    bits = "".join(words[symbol] for symbol in symbols)
    return bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))


def split(symbols: list[int]) -> list[list[int]]:
    """One part or four quarters."""
    if len(symbols) < 4096:
        return [symbols] if symbols else []
    q = (len(symbols) + 3) // 4
    return [symbols[i : i + q] for i in range(0, len(symbols), q)]


@dataclass
class Parts:
    """A tensor, ready to be written: its object in the index and the parts of its section."""

    item: dict[str, Any]
    values: list[int] = field(default_factory=list)
    bitmap: bytes = b""
    raw: bytes = b""
    codebook: list[int] = field(default_factory=list)
    codes: list[bytes] = field(default_factory=list)
    directory: list[list[Any]] = field(default_factory=list)  # of each block: varints, or bytes
    payload: list[list[bytes]] = field(default_factory=list)  # of each block: bitstreams, streams
    changes: dict[str, Any] = field(default_factory=dict)  # of the object; DROP: without the key

    def section(self) -> bytes:
        """The section's bytes."""
        if "alias" in self.item:
            return b""
        numbers = [number for block in self.directory for number in block]
        directory = [n if isinstance(n, bytes) else varint(n) for n in numbers]
        payload = [piece for block in self.payload for piece in block]
        codebook = little(self.codebook, ITEMSIZES[self.item["dtype"]])
        return b"".join([self.bitmap, self.raw, codebook, *self.codes, *directory, *payload])

    def object(self) -> dict[str, Any]:
        """The object in the index."""
        item = dict(self.item)
        if item.get("layout") in ("dense", "sparse"):
            item["nbytes"] = len(self.section())
        item.update(self.changes)
        return {key: value for key, value in item.items() if value is not DROP}


DROP = object()


def summed(parts: Parts, crc_xor: int = 0) -> Parts:
    """The tensor with the CRC-32 of its section in its object (version 1.1)."""
    parts.changes["crc32"] = zlib.crc32(parts.section()) ^ crc_xor
    return parts


def spread(parts: Parts, rows: list[int]) -> Parts:
    """The tensor with rows of zeros between its own, where ``rows`` has a 0 (version 1.1)."""
    n_kept, *rest = parts.item["shape"]
    assert n_kept == sum(rows)
    width = len(parts.values) // n_kept
    kept = iter([parts.values[i : i + width] for i in range(0, len(parts.values), width)])
    parts.values = [value for row in rows for value in (next(kept) if row else [0] * width)]
    parts.item |= {"shape": [len(rows), *rest], "kept_rows": n_kept}
    parts.bitmap = bitmap(rows)
    return parts


def bitmap(bits: list[int]) -> bytes:
    """Bits from the least significant one of the first byte on."""
    number = sum(bit << i for i, bit in enumerate(bits))
    return number.to_bytes((len(bits) + 7) // 8, "little")


def raw(name: str, dtype: str, shape: list[int], values: list[int]) -> Parts:
    """A tensor of layout raw."""
    item = {"name": name, "dtype": dtype, "shape": shape, "layout": "raw"}
    return Parts(item, values, raw=little(values, ITEMSIZES[dtype]))


def alias(name: str, target: str) -> Parts:
    """A tied weight."""
    return Parts({"name": name, "alias": target})


def packed(
    dtype: str,
    values: list[int],
    *,
    name: str = "weight",
    shape: list[int] | None = None,
    codebook: list[int] | bool | None = None,
    gap_bits: int = 0,
    block_numel: int = 0,
    signs: bool = False,
    lengths: dict[str, list[int]] | None = None,
    stored: tuple[str, ...] = (),
) -> Parts:
    """A tensor of layout sparse (with ``gap_bits``) or dense.

    ``codebook`` is True for the least one, or a list, or None for byte planes. ``lengths`` and
    ``stored`` choose the codes of streams, by name; the other ones are the best.
    """
    itemsize, lengths = ITEMSIZES[dtype], lengths or {}
    minus_zero = 1 << (8 * itemsize - 1)
    zeros = {0, minus_zero} if signs else {0}
    item: dict[str, Any] = {"name": name, "dtype": dtype, "nnz": 0}
    item["shape"] = [len(values)] if shape is None else shape
    item["layout"] = "sparse" if gap_bits else "dense"
    if codebook is True:
        codebook = sorted(set(values) - zeros if gap_bits else set(values))
    if codebook is not None:
        item["codebook"] = len(codebook)
    for key, value in [("gap_bits", gap_bits), ("block_numel", block_numel), ("zero_signs", signs)]:
        if value:
            item[key] = value

    names = ["gaps"] * bool(gap_bits) + ["signs"] * signs
    names += ["labels"] if codebook is not None else [f"plane {i}" for i in range(itemsize)]
    blocks, step = [], block_numel or len(values)
    for start in range(0, len(values), step):
        entries = values[start : start + step]
        kept = [value for value in entries if value not in zeros]
        item["nnz"] += len(kept)
        streams: dict[str, list[int]] = {}
        numbers = [len(kept)]
        if gap_bits:
            escape, gap, gaps = 2**gap_bits - 1, 0, []
            for value in entries:
                if value in zeros:
                    gap += 1
                else:
                    gaps += [escape] * (gap // escape) + [gap % escape]
                    gap = 0
            streams["gaps"] = gaps
            numbers.append(gaps.count(escape))
        if signs:
            bits = [int(value == minus_zero) for value in entries if value in zeros]
            eights = [bits[i : i + 8] for i in range(0, len(bits), 8)]
            streams["signs"] = [sum(bit << i for i, bit in enumerate(eight)) for eight in eights]
        stays = kept if gap_bits else entries
        if codebook is not None:
            streams["labels"] = [codebook.index(value) for value in stays]
        else:
            for i in range(itemsize):
                streams[f"plane {i}"] = [value >> 8 * i & 255 for value in stays]
        blocks.append((numbers, streams))

    parts = Parts(item, values, codebook=codebook or [])
    chosen: dict[str, list[int]] = {}
    for stream in names:
        symbols = [symbol for _, streams in blocks for symbol in streams[stream]]
        if not symbols:
            parts.codes.append(varint(0))
        elif stream in stored:
            parts.codes.append(varint(257))
        elif len(set(symbols)) == 1 and stream not in lengths:
            parts.codes.append(varint(1) + bytes(symbols[:1]))
        else:
            chosen[stream] = lengths.get(stream) or code_lengths(symbols)
            parts.codes.append(huffman_code(chosen[stream]))
    for numbers, streams in blocks:
        payload = []
        for stream in names:
            if stream in stored:
                payload.append(bytes(streams[stream]))
            elif stream in chosen:
                pieces = [bitstream(part, chosen[stream]) for part in split(streams[stream])]
                numbers += [len(piece) for piece in pieces]
                payload += pieces
        parts.directory.append(numbers)
        parts.payload.append(payload)
    return parts


def file_of(tensors: Iterable[Parts], metadata: Any = None, **different: Any) -> bytes:
    """A file with the tensors, of the version that they need."""
    tensors = list(tensors)
    is_1_1 = any({"crc32", "kept_rows"} & tensor.object().keys() for tensor in tensors)
    different = {"version": (1, int(is_1_1)), **different}
    index = {"metadata": metadata or {}, "tensors": [tensor.object() for tensor in tensors]}
    return build(b"".join(tensor.section() for tensor in tensors), canonical(index), **different)


def noise(count: int, below: int, seed: int = 1) -> list[int]:
    """Numbers that look random (a linear congruential generator)."""
    numbers, state = [], seed
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        numbers.append((state >> 33) % below)
    return numbers


def choose(patterns: list[int], count: int, seed: int = 1) -> list[int]:
    """``count`` of the patterns, the first ones more often."""
    pairs = zip(
        noise(count, len(patterns), seed), noise(count, len(patterns), seed + 1), strict=True
    )
    return [patterns[min(pair)] for pair in pairs]


def sparse_values(patterns: list[int], count: int, one_in: int = 4, seed: int = 1) -> list[int]:
    """``count`` entries of which about one in ``one_in`` is not 0."""
    keep = noise(count, one_in, seed + 7)
    chosen = choose(patterns, count, seed)
    return [value if number == 0 else 0 for value, number in zip(chosen, keep, strict=True)]
