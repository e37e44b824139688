"""Decode one tensor: record and section -> entries, all of them or the kept ones.

``formats/dcz.md``, sections 5 to 7.
"""

from collections.abc import Iterator
from concurrent.futures import wait
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _kernels
from .blocks import ERRORS, Patterns, Symbols, check_bool, entries_into
from .errors import DczError
from .huffman import Decoder
from .records import MAX_BLOCK_NUMEL, SIGNED_DTYPES, TensorRecord
from .sections import STORED, Block, Section, read_section
from .threads import threads

_PARTS_A_THREAD = 6
MAX_TABLE = 4096  # blocks; a hostile file may have millions, of two bytes each


def pattern_dtype(itemsize: int) -> np.dtype[np.unsignedinteger]:
    """Return the dtype that holds the patterns of entries of so many bytes.

    Examples
    --------
    >>> pattern_dtype(4)
    dtype('uint32')
    """
    return np.dtype(f"<u{itemsize}")


class TensorDecoder:
    """A tensor's section, ready to be decoded block by block.

    Parameters
    ----------
    record : TensorRecord
    data : memoryview of bytes, shape (record.section_nbytes,)
    head_nbytes : int, optional
        How many bytes may be looked at before something is decoded; by default, all.

    Attributes
    ----------
    is_walked : bool
        Whether it is sparse, with a codebook and without signs of zeros.

    Raises
    ------
    DczError
        If the section breaks a rule that can be checked without decoding it.
    """

    def __init__(
        self, record: TensorRecord, data: memoryview, head_nbytes: int | None = None
    ) -> None:
        self.record = record
        self.dtype = pattern_dtype(record.itemsize)
        self._data = np.frombuffer(data, np.uint8)
        self.is_walked = (
            record.layout == "sparse" and record.codebook is not None and not record.zero_signs
        )
        if record.layout == "raw":
            return
        self.section = read_section(record, data[:head_nbytes])
        nbytes = self.section.codebook_nbytes
        self.codebook = self._data[:nbytes].copy().view(self.dtype)
        self._decoders = [
            Decoder(code.code_lengths, self.section.stream_n_symbols(i))
            if code.is_huffman
            else None
            for i, code in enumerate(self.section.codes)
        ]
        n_blocks = len(self.section.blocks)
        self._table = (
            self._rows(range(n_blocks)) if self.is_walked and n_blocks <= MAX_TABLE else None
        )

    def decode_into(self, out: Patterns, n_threads: int = 1) -> None:
        """Fill `out` with all entries.

        Parameters
        ----------
        out : ndarray of uint8, uint16, uint32 or uint64, shape (numel,)
            Contiguous.
        n_threads : int

        Raises
        ------
        DczError
            If the section breaks a rule; `out` then holds anything.
        ValueError
            If `out` does not fit.
        """
        self.check_out(out, self.record.numel)
        if self.record.layout == "raw":
            out.view(np.uint8)[:] = self._data
            check_bool(self.record, out)
            return
        n_blocks = len(self.section.blocks)
        n_threads = min(n_threads, n_blocks)
        if n_threads == 1:
            self._decode_blocks(out, range(n_blocks), self._scratch())
            return
        # more parts than threads, taken as they come: no thread waits long for a slower one
        n_parts = min(n_blocks, _PARTS_A_THREAD * n_threads)
        bounds = [n_blocks * i // n_parts for i in range(n_parts + 1)]
        parts = iter([range(*pair) for pair in pairwise(bounds)])
        step = self.record.block_numel or self.record.numel

        def work(scratch: _Scratch) -> None:
            for which in parts:
                self._decode_blocks(out[which.start * step : which.stop * step], which, scratch)

        # the scratch is made here: in a new thread, its pages would be new as well
        others = [threads().submit(work, self._scratch()) for _ in range(n_threads - 1)]
        try:
            work(self._scratch())
        finally:
            wait(others)  # nothing is written any more when this returns
        for other in others:
            other.result()

    def check_out(self, out: Patterns, numel: int) -> None:
        """Raise ValueError if memory for so many entries does not fit."""
        if out.shape != (numel,) or out.dtype != self.dtype or not out.flags.carray:
            raise ValueError(
                f"out is {out.dtype} {list(out.shape)}: expected {self.dtype} "
                f"[{numel}], contiguous, aligned and writable"
            )

    def kept(self) -> tuple[NDArray[np.int64], Patterns]:
        """Return the positions and the patterns of the entries that are not 0 (or -0.0).

        Returns
        -------
        positions : ndarray of int64, shape (n,)
            Strictly increasing, in row-major order.
        patterns : ndarray of uint8, uint16, uint32 or uint64, shape (n,)
        """
        positions, patterns = zip(*self.kept_blocks(), strict=True)
        return np.concatenate(positions), np.concatenate(patterns)

    def kept_blocks(self) -> Iterator[tuple[NDArray[np.int64], Patterns]]:
        """Yield what `kept` returns block by block."""
        bits = 8 * self.record.itemsize - (self.record.dtype in SIGNED_DTYPES)
        mask = self.dtype.type((1 << bits) - 1)
        first = 0
        for entries in self.blocks():
            where = np.flatnonzero(entries & mask)
            yield where + first, entries[where]
            first += entries.size

    def streams(self) -> Iterator[list[Symbols]]:
        """Yield the symbols of each block, by the record's ``stream_names``; none if it is raw.

        Their memory is used again for the next block.
        """
        if self.record.layout != "raw":
            scratch = self._scratch()
            for block in self.section.blocks:
                yield self._symbols(block, scratch)

    def labels(self) -> Iterator[tuple[Block, Symbols]]:
        """Yield each block of a dense tensor with a codebook, and its labels.

        Their memory is used again for the next block.
        """
        scratch = self._scratch()
        for block in self.section.blocks:
            yield block, self._symbols(block, scratch)[0]

    def walk_into(
        self,
        n_columns: int,
        columns: NDArray[np.uint32],
        labels: Symbols,
        row_counts: NDArray[np.int64],
    ) -> None:
        """Decode a sparse tensor with a codebook and without signs of zeros, as a matrix.

        Parameters
        ----------
        n_columns : int
        columns : ndarray of uint32, shape (nnz,)
            Filled, as `labels`.
        labels : ndarray of uint8, shape (nnz,)
        row_counts : ndarray of int64, shape (n_rows,)
            The number of kept entries of each row is added.

        Raises
        ------
        DczError
            If the section breaks a rule.
        """
        blocks = self.section.blocks
        gaps = np.empty(max(1, *(block.n_symbols[0] for block in blocks)), np.uint8)
        first = position = 0
        for start in range(0, len(blocks), MAX_TABLE):
            which = range(start, min(start + MAX_TABLE, len(blocks)))
            kernel: Any = _kernels.walk_into
            status = kernel(
                *self.sparse_arguments(which, [gaps, labels[first:]]), position, n_columns, gaps,
                _kernels.ISA, columns[first:], labels[first:], row_counts,
            )  # fmt: skip
            self.check_status(status, start)
            first += sum(blocks[i].n_kept for i in which)
            position += sum(blocks[i].numel for i in which)

    def verify(self) -> None:
        """Decode block by block and keep nothing."""
        for _ in self.blocks():
            pass

    def blocks(self) -> Iterator[Patterns]:
        """Yield all entries block by block, a raw tensor in parts of a block's size."""
        if self.record.layout == "raw":
            for first in range(0, self.record.numel or 1, MAX_BLOCK_NUMEL):
                yield self.raw_entries(first, first + MAX_BLOCK_NUMEL)
            return
        scratch = self._scratch()
        for i, block in enumerate(self.section.blocks):
            entries = np.empty(block.numel, self.dtype)
            self._decode_blocks(entries, range(i, i + 1), scratch)
            yield entries

    def raw_entries(self, first: int, last: int) -> Patterns:
        """Return a copy of some entries of a raw tensor."""
        itemsize = self.record.itemsize
        entries = self._data[first * itemsize : last * itemsize].copy().view(self.dtype)
        check_bool(self.record, entries)
        return entries

    def decode_blocks_into(self, which: range, out: Patterns) -> None:
        """Fill `out` with the entries of some blocks of a tensor that is not raw."""
        self._decode_blocks(out, which, self._scratch())

    def _scratch(self) -> "_Scratch":
        return _Scratch(self.section, self.dtype)

    def _decode_blocks(self, out: Patterns, which: range, scratch: "_Scratch") -> None:
        """Fill `out` with the entries of some blocks."""
        if self.is_walked:
            self._decode_sparse(out, which, scratch)
            return
        first = 0
        for block in self.section.blocks[which.start : which.stop]:
            entries_into(
                self.record, self.codebook, block, self._symbols(block, scratch),
                scratch.kept[: block.n_kept], out[first : first + block.numel],
            )  # fmt: skip
            first += block.numel

    def _decode_sparse(self, out: Patterns, which: range, scratch: "_Scratch") -> None:
        """Decode gaps and labels in one call, without the interpreter in between."""
        kernel: Any = _kernels.decode_sparse_into
        status = kernel(
            *self.sparse_arguments(which, scratch.symbols), self.codebook, *scratch.symbols,
            scratch.kept, _kernels.ISA, out,
        )  # fmt: skip
        self.check_status(status, which.start)

    def sparse_arguments(self, which: range, streams: list[Symbols]) -> list[Any]:
        """Return what a kernel needs to decode some blocks into symbols; one must be `is_walked`.

        Of the directory, the table in ``_native/sparse_block.h``. If a stream is constant, its
        memory is filled here.
        """
        table = self._rows(which) if self._table is None else self._table[which.start : which.stop]
        codes: list[Any] = []
        for code, decoder, symbols in zip(self.section.codes, self._decoders, streams, strict=True):
            if decoder is None:
                symbols.fill(code.symbol)
                codes += [np.zeros(1, np.uint32), 0, np.zeros(1, np.uint8)]
            else:
                codes += [decoder.table, decoder.table_bits, decoder.code_lengths]
        return [self._data, table, self.record.gap_bits, *codes]

    def _rows(self, which: range) -> NDArray[np.int64]:
        return np.array([_row(self.section.blocks[i]) for i in which], np.int64)

    def check_status(self, status: int, first_block: int = 0) -> None:
        """Raise DczError if a kernel that began with a block found something wrong."""
        if status:
            n, error = self.section.blocks[first_block + status // 8].numel, status % 8
            raise DczError(f"a block of {n} entries: {ERRORS[error]}")

    def _symbols(self, block: Block, scratch: "_Scratch") -> list[Symbols]:
        """Decode the streams of a block."""
        streams = []
        position = block.offset
        for i, (code, decoder) in enumerate(zip(self.section.codes, self._decoders, strict=True)):
            data = self._data[position : position + sum(block.sizes[i])]
            position += data.size
            symbols = scratch.symbols[i][: block.n_symbols[i]]
            if code.m == STORED:
                symbols = data
            elif decoder is None:
                symbols.fill(code.symbol)
            else:
                decoder.decode(data, block.sizes[i], symbols)
            streams.append(symbols)
        return streams


def _row(block: Block) -> tuple[int, ...]:
    gaps, labels = block.sizes
    numbers = block.offset, block.numel, block.n_kept, block.n_symbols[0], len(gaps), len(labels)
    return (*numbers, *gaps, *[0] * (4 - len(gaps)), *labels, *[0] * (4 - len(labels)))


class _Scratch:
    """Memory for the symbols and kept entries of one block: new pages cost more than decoding."""

    def __init__(self, section: Section, dtype: np.dtype[np.unsignedinteger]) -> None:
        most = map(max, zip(*(block.n_symbols for block in section.blocks), strict=True))
        self.symbols = [np.empty(max(n, 1), np.uint8) for n in most]
        self.kept = np.empty(max(1, *(block.n_kept for block in section.blocks)), dtype)
