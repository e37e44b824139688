"""Tensors of which only some rows are stored: the others are all zero.

``formats/dcz.md``, section 7.5. What follows the bitmap of rows is the section of another tensor,
which a `TensorDecoder` decodes; here its rows come to their places.
"""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .blocks import Patterns, Symbols
from .decode import TensorDecoder, pattern_dtype
from .records import MAX_BLOCK_NUMEL, TensorRecord
from .sections import Section, check_bitmap

_MOVED = 1 << 18  # entries that are moved at a time: they stay in a second-level cache

Positions = NDArray[np.int64]


class RowsDecoder:
    """What `TensorDecoder` is, of a tensor with ``kept_rows``.

    Parameters
    ----------
    record, data, head_nbytes
        See `TensorDecoder`.

    Attributes
    ----------
    stored : TensorDecoder
        Of the tensor of the kept rows.
    width : int
        Entries of a row.

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
        check_bitmap(record, data)
        n = record.bitmap_nbytes
        bits = np.unpackbits(np.frombuffer(data[:n], np.uint8), bitorder="little")
        self._is_kept = bits[: record.shape[0]].view(np.bool_)
        self.width = record.numel // record.shape[0]
        head = None if head_nbytes is None else head_nbytes - n
        self.stored = TensorDecoder(record.stored, data[n:], head)

    @cached_property
    def rows(self) -> Positions:
        """The numbers of the kept rows, rising; they take 64 times the memory of the bitmap."""
        return np.flatnonzero(self._is_kept)

    @property
    def section(self) -> Section:
        """Where the streams of the stored rows are; without the bitmap."""
        return self.stored.section

    @property
    def codebook(self) -> Patterns:
        """The shared values, shape (record.codebook or 0,)."""
        return self.stored.codebook

    def decode_into(self, out: Patterns, n_threads: int = 1) -> None:
        """Fill `out` with all entries; see `TensorDecoder.decode_into`."""
        self.stored.check_out(out, self.record.numel)
        kept = out[: self.rows.size * self.width]
        self.stored.decode_into(kept, n_threads)
        # The last ones first: none goes to where one that has not been moved stands.
        matrix, step = out.reshape(-1, self.width), max(1, _MOVED // self.width)
        for last in range(self.rows.size, 0, -step):
            if self.rows[last - 1] == last - 1:
                break  # there and before, all are where they belong
            first = max(0, last - step)
            matrix[self.rows[first:last]] = matrix[first:last].copy()
        matrix[~self._is_kept] = 0

    def kept(self) -> tuple[Positions, Patterns]:
        """Return positions and patterns of the kept entries; see `TensorDecoder.kept`."""
        positions, patterns = self.stored.kept()
        return self._moved(positions), patterns

    def kept_blocks(self) -> Iterator[tuple[Positions, Patterns]]:
        """Yield what `kept` returns block by block."""
        for positions, patterns in self.stored.kept_blocks():
            yield self._moved(positions), patterns

    def streams(self) -> Iterator[list[Symbols]]:
        """Yield the symbols of each block of the stored rows; see `TensorDecoder.streams`."""
        return self.stored.streams()

    def verify(self) -> None:
        """Decode block by block and keep nothing."""
        self.stored.verify()

    def blocks(self) -> Iterator[Patterns]:
        """Yield all entries in parts of a block's size."""
        stored, rest = self.stored.blocks(), np.empty(0, self.dtype)
        for first in range(0, self.record.numel, MAX_BLOCK_NUMEL):
            is_kept = self._are_kept(first, min(first + MAX_BLOCK_NUMEL, self.record.numel))
            entries = np.zeros(is_kept.size, self.dtype)
            n_kept = int(np.count_nonzero(is_kept))
            parts, n_missing = [rest], n_kept - rest.size
            while n_missing > 0:
                parts.append(next(stored))
                n_missing -= parts[-1].size
            rest = np.concatenate(parts)
            entries[is_kept], rest = rest[:n_kept], rest[n_kept:]
            yield entries

    def stored_rows(self, start: int, stop: int) -> tuple[int, int]:
        """Return which of the stored rows are those from `start` up to `stop`."""
        first, last = np.searchsorted(self.rows, (start, stop))
        return int(first), int(last)

    def _moved(self, positions: Positions) -> Positions:
        """Return where entries of the stored rows are in the whole tensor."""
        rows, columns = np.divmod(positions, self.width)
        return self.rows[rows] * self.width + columns

    def _are_kept(self, first: int, last: int) -> NDArray[np.bool_]:
        """Return for each entry from `first` up to `last` whether its row is kept."""
        rows = np.arange(first // self.width, -(-last // self.width))
        starts = np.maximum(rows * self.width, first)
        ends = np.minimum((rows + 1) * self.width, last)
        return np.repeat(self._is_kept[rows], ends - starts)


AnyDecoder = TensorDecoder | RowsDecoder


def decoder_of(
    record: TensorRecord, data: memoryview, head_nbytes: int | None = None
) -> AnyDecoder:
    """Make the decoder of a section; its parameters are those of `TensorDecoder`."""
    make = TensorDecoder if record.kept_rows is None else RowsDecoder
    return make(record, data, head_nbytes)
