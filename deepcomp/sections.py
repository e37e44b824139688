"""The section of one dense or sparse tensor: codebook, codes, directory, payload.

``formats/dcz.md``, sections 6.1 and 7. Standard library only: what is here tells where the
bytes of each stream are and how many they are, without decoding them.
"""

import itertools
from dataclasses import dataclass, replace
from typing import NamedTuple

from .errors import DczError
from .records import (
    MAX_CODE_LENGTH,
    MAX_CODEBOOK,
    TensorRecord,
    n_bitstreams,
)

EMPTY, CONSTANT, STORED = 0, 1, 257  # values of m in section 6.1; 2 to 256: Huffman-coded


@dataclass(frozen=True)
class Code:
    """How the symbols of a stream are written (section 6.1).

    Attributes
    ----------
    m : int
        `EMPTY`, `CONSTANT`, `STORED`, or the number of code lengths.
    code_lengths : bytes
        `m` lengths in bits, 0 for symbols that do not occur, if Huffman-coded.
    symbol : int
        The only symbol, if constant.
    """

    m: int
    code_lengths: bytes = b""
    symbol: int = 0

    @property
    def is_huffman(self) -> bool:
        """Whether the stream has code lengths and bitstreams."""
        return 2 <= self.m <= MAX_CODEBOOK

    def to_bytes(self) -> bytes:
        """Write the code as it stands in the file."""
        head = encode_varint(self.m)
        if self.m == CONSTANT:
            return head + bytes([self.symbol])
        pairs = self.code_lengths + b"\0" * (len(self.code_lengths) % 2)
        return head + bytes(
            low | high << 4 for low, high in zip(pairs[::2], pairs[1::2], strict=True)
        )


class Block(NamedTuple):  # less memory than a dataclass: a file can have very many
    """One block of a tensor, from its directory entry (section 7.1).

    Attributes
    ----------
    numel, n_kept, n_escapes : int
    offset : int
        Where its payload begins, in bytes from the start of the section, or from the end of its
        bitmap of rows; 0 if it has none.
    n_symbols : tuple of int
        For each stream.
    sizes : tuple of tuple of int
        For each stream the bytes of its bitstreams; one number for a stored stream.
    """

    numel: int
    n_kept: int
    n_escapes: int
    offset: int
    n_symbols: tuple[int, ...]
    sizes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Section:
    """The parts of a section.

    Attributes
    ----------
    codebook_nbytes, codes_nbytes, directory_nbytes : int
    codes : tuple of Code
        One for each of the record's ``stream_names``.
    blocks : tuple of Block
        Of the rows that are stored.
    bitmap_nbytes : int
        Of the bitmap of rows that the section begins with; 0 where all rows are stored.
    """

    codebook_nbytes: int
    codes_nbytes: int
    directory_nbytes: int
    codes: tuple[Code, ...]
    blocks: tuple[Block, ...]
    bitmap_nbytes: int = 0

    def stream_nbytes(self, stream: int) -> int:
        """Return the bytes that a stream takes in all blocks."""
        return sum(sum(block.sizes[stream]) for block in self.blocks)

    def stream_n_symbols(self, stream: int) -> int:
        """Return the number of symbols of a stream in all blocks."""
        return sum(block.n_symbols[stream] for block in self.blocks)


def encode_varint(value: int) -> bytes:
    """Write an unsigned integer in groups of seven bits, least significant first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class _Cursor:
    """Read from a section and never past its end."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.position = data, 0

    def take(self, n: int, what: str) -> memoryview:
        part = self.data[self.position : self.position + n]
        if len(part) != n:
            raise DczError(f"the section ends inside its {what}")
        self.position += n
        return part

    def varint(self, what: str) -> int:
        value = shift = 0
        while True:
            if self.position == len(self.data):
                raise DczError(f"the section ends inside its {what}")
            byte = self.data[self.position]
            self.position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift == 63:
                raise DczError(f"{what}: a varint of more than nine bytes")
        if byte == 0 and shift > 7:
            raise DczError(f"{what}: a varint that could be shorter")
        return value


def read_section(record: TensorRecord, data: memoryview) -> Section:
    """Find the parts of a section, and check all that can be checked without decoding.

    Parameters
    ----------
    record : TensorRecord
        Of layout dense or sparse.
    data : memoryview of bytes, shape (record.section_nbytes,)
        Or its beginning, ``record.head_nbytes`` of it or more.

    Returns
    -------
    Section

    Raises
    ------
    DczError
        If a rule of section 6.1, 7, 7.1 or 7.5 is broken.
    """
    if record.kept_rows is not None:
        check_bitmap(record, data)
        stored = read_section(record.stored, data[record.bitmap_nbytes :])
        return replace(stored, bitmap_nbytes=record.bitmap_nbytes)
    cursor = _Cursor(data)
    codebook_nbytes = (record.codebook or 0) * record.itemsize
    _check_codebook(record, cursor.take(codebook_nbytes, "codebook"))
    codes = tuple(_read_code(cursor, record, name) for name in record.stream_names)
    codes_end = cursor.position
    blocks = _read_directory(cursor, record, codes)
    directory_end = offset = cursor.position
    for i, block in enumerate(blocks):
        if nbytes := sum(map(sum, block.sizes)):
            blocks[i] = Block(*block[:3], offset, *block[4:])
            offset += nbytes
    if offset != record.section_nbytes:
        raise DczError(
            f"the section has {record.section_nbytes} bytes: expected {offset} by its directory"
        )
    nnz = sum(block.n_kept for block in blocks)
    if nnz != record.nnz:
        raise DczError(f"the blocks keep {nnz} entries: expected {record.nnz}")
    section = Section(
        codebook_nbytes,
        codes_end - codebook_nbytes,
        directory_end - codes_end,
        codes,
        tuple(blocks),
    )
    for i, name in enumerate(record.stream_names):
        if (codes[i].m == EMPTY) != (section.stream_n_symbols(i) == 0):
            raise DczError(f"{name}: {section.stream_n_symbols(i)} symbols, but m is {codes[i].m}")
    return section


def check_bitmap(record: TensorRecord, data: memoryview) -> None:
    """Raise DczError if a section's bitmap does not keep as many rows as the record says."""
    bits = int.from_bytes(_Cursor(data).take(record.bitmap_nbytes, "bitmap of rows"), "little")
    if bits >> record.shape[0]:
        raise DczError("the padding after the bitmap of rows is not zero")
    if bits.bit_count() != record.kept_rows:
        raise DczError(f"the bitmap keeps {bits.bit_count()} rows: expected {record.kept_rows}")


def _check_codebook(record: TensorRecord, data: memoryview) -> None:
    size = record.itemsize
    entries = [int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]
    if any(a >= b for a, b in itertools.pairwise(entries)):
        raise DczError("the codebook is not strictly increasing")
    if record.dtype == "bool" and entries and entries[-1] > 1:
        raise DczError(f"the codebook of a bool tensor holds {entries[-1]}")
    zeros = {0, 1 << (8 * size - 1)} if record.zero_signs else {0}
    if record.layout == "sparse" and zeros & set(entries):
        raise DczError("the codebook of a sparse tensor holds a zero")


def _alphabet(record: TensorRecord, stream: str) -> int:
    if stream == "gaps":
        assert record.gap_bits is not None
        return 1 << record.gap_bits
    if stream == "labels":
        assert record.codebook is not None
        return record.codebook
    return 256


def _read_code(cursor: _Cursor, record: TensorRecord, stream: str) -> Code:
    what = f"code of {stream}"
    alphabet = _alphabet(record, stream)
    m = cursor.varint(what)
    if m == EMPTY or (m == STORED and stream not in ("gaps", "labels")):
        return Code(m)
    if m == CONSTANT:
        symbol = cursor.take(1, what)[0]
        if symbol >= alphabet:
            raise DczError(f"{what}: symbol {symbol} of an alphabet of {alphabet}")
        return Code(m, symbol=symbol)
    if m > alphabet:
        raise DczError(f"{what}: {m} code lengths for an alphabet of {alphabet}")
    pairs = cursor.take((m + 1) // 2, what)
    lengths = bytes(length for pair in pairs for length in (pair & 15, pair >> 4))
    if lengths[m:].strip(b"\0"):
        raise DczError(f"{what}: the padding after the code lengths is not zero")
    lengths = lengths[:m]
    if max(lengths) > MAX_CODE_LENGTH or lengths[-1] == 0:
        raise DczError(f"{what}: a code length of {max(lengths)}, or 0 for the last symbol")
    kraft = sum(1 << (MAX_CODE_LENGTH - n) for n in lengths if n)
    if kraft != 1 << MAX_CODE_LENGTH:
        raise DczError(f"{what}: Kraft's sum is {kraft}/4096: expected 4096/4096")
    return Code(m, lengths)


def _read_directory(cursor: _Cursor, record: TensorRecord, codes: tuple[Code, ...]) -> list[Block]:
    """Read the entries of all blocks; where their payloads begin is not known yet."""
    names = record.stream_names
    blocks: list[Block] = []
    # Blocks of one symbol take a byte or two of the file: equal ones are kept but once.
    equal: dict[Block, Block] = {}
    for numel in record.block_sizes:
        block = _read_entry(cursor, record, names, codes, numel)
        blocks.append(block if any(map(any, block.sizes)) else equal.setdefault(block, block))
    return blocks


def _read_entry(
    cursor: _Cursor,
    record: TensorRecord,
    names: tuple[str, ...],
    codes: tuple[Code, ...],
    numel: int,
) -> Block:
    n_kept = cursor.varint("directory")
    n_escapes = cursor.varint("directory") if record.layout == "sparse" else 0
    least = n_kept + n_escapes * ((1 << (record.gap_bits or 0)) - 1)
    if n_kept > numel or (record.layout == "sparse" and least > numel):
        raise DczError(f"{n_kept} kept entries and {n_escapes} escapes in a block of {numel}")
    if n_escapes and not n_kept:
        raise DczError(f"{n_escapes} escapes in a block without kept entries")
    n_values = n_kept if record.layout == "sparse" else numel
    n_symbols = tuple(
        n_kept + n_escapes
        if name == "gaps"
        else -(-(numel - n_kept) // 8)
        if name == "signs"
        else n_values
        for name in names
    )
    sizes: list[tuple[int, ...]] = []
    for code, n in zip(codes, n_symbols, strict=True):
        if code.m == STORED:
            sizes.append((n,))
        elif code.is_huffman:
            sizes.append(tuple(cursor.varint("directory") for _ in range(n_bitstreams(n))))
            if n > 8 * sum(sizes[-1]):
                raise DczError(f"{n} symbols in bitstreams of {sizes[-1]} bytes")
        else:
            sizes.append(())
    return Block(numel, n_kept, n_escapes, 0, n_symbols, tuple(sizes))
