"""Kept entries -> the layouts that products are computed from."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _kernels
from .entries import Entries, Floats
from .memory import aligned, scratch

_MAX_SPARSE = 0.05  # density up to which windows of 64 columns, two slots each, are the faster ones
_AVX2, _AVX512 = 1, 2
_CODEBOOK = 64  # places
_KINDS = {0: (16, 32, 3), 1: (16, 64, 2), 2: (8, 32, 2)}  # lanes, columns of a window, slots
_ROOM = 1 << 16  # steps that are laid out before they are copied: their number is not known
_MANY = 17  # vectors
ROWS_A_GROUP = 128  # of blocks whose rows are sorted; threads share groups
_MAX_BLOCK = 1024  # columns, whose inputs take 32 KiB for eight vectors


class Windows(NamedTuple):
    """A matrix for one vector at a time; ``_native/windows.h`` describes it.

    Attributes
    ----------
    kind : int
        0: 16 lanes, 32 columns, 32 values. 1: 16 lanes, 64 columns, 63 values. 2: 8 lanes, 32
        columns, 32 values.
    starts : ndarray of int64, shape (n_groups + 1,)
    offsets : ndarray of int32, shape (n_steps,)
    words : ndarray of uint32, shape (n_steps * lanes,)
    codebook : ndarray of float32, shape (64,)
    shape : (int, int)
    """

    kind: int
    starts: NDArray[np.int64]
    offsets: NDArray[np.int32]
    words: NDArray[np.uint32]
    codebook: Floats
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.starts.nbytes + self.offsets.nbytes + self.words.nbytes + self.codebook.nbytes


class Blocks(NamedTuple):
    """A matrix for several vectors at a time; ``_native/blocks.h`` describes it.

    Attributes
    ----------
    starts : ndarray of int64, shape (n_blocks, n_rows + 1)
    order : ndarray of uint8, shape (n_blocks, n_rows) or (0, 0)
        Of each group of `ROWS_A_GROUP` rows, sorted by their number of entries; or no order.
    columns : ndarray of uint16, shape (nnz,)
        From the first column of the block.
    labels : ndarray of uint8, shape (nnz,) or (0,)
    values : ndarray of float32
        The codebook, or the value of each entry.
    shape : (int, int)
    block_columns : int
    """

    starts: NDArray[np.int64]
    order: NDArray[np.uint8]
    columns: NDArray[np.uint16]
    labels: NDArray[np.uint8]
    values: Floats
    shape: tuple[int, int]
    block_columns: int

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        arrays = self.starts, self.order, self.columns, self.labels, self.values
        return sum(array.nbytes for array in arrays)


def window_kind(n_values: int | None, density: float, isa: int) -> int | None:
    """Choose the kind of windows for a matrix; None if there is none for it.

    Parameters
    ----------
    n_values : int or None
        Number of codebook entries.
    density : float
    isa : int
        The instruction set in use.

    Returns
    -------
    int or None

    Examples
    --------
    >>> window_kind(31, density=0.5, isa=2)
    0
    """
    if n_values is None or n_values >= _CODEBOOK:
        return None
    if isa >= _AVX512 and (n_values > 32 or density <= _MAX_SPARSE):
        return 1
    if n_values > 32:
        return None
    return {_AVX512: 0, _AVX2: 2}.get(isa)


def to_windows(entries: Entries, kind: int) -> Windows:
    """Lay a matrix out for one vector at a time.

    Parameters
    ----------
    entries : Entries
        With labels.
    kind : int
        As `window_kind` returns it.

    Returns
    -------
    Windows
    """
    lanes, window, n_slots = _KINDS[kind]
    n_rows, n_columns = entries.shape
    n_groups, nnz = -(-n_rows // lanes), entries.nnz
    a_group = -(-n_columns // window) * -(-window // n_slots)  # the most steps it can have
    room = min(nnz, n_groups * a_group, max(_ROOM, 2 * a_group))
    room_offsets = scratch("offsets", room, np.int32)
    room_words = scratch("words", room * lanes, np.uint32)
    sorted_entries = scratch("sorted entries", min(nnz, 2 * lanes * n_columns) + 8, np.uint32)
    starts = np.zeros(n_groups + 1, np.int64)
    offsets, words, first = [], [], 0
    while first < n_groups:
        last = _kernels.windows_into(
            entries.indptr, entries.columns, entries.labels, n_columns, kind, _kernels.ISA, first,
            sorted_entries, starts, room_offsets, room_words,
        )  # fmt: skip
        n_steps = int(starts[last] - starts[first])
        parts = room_offsets[:n_steps], room_words[: n_steps * lanes]
        if last < n_groups:  # the room is used again
            parts = parts[0].copy(), parts[1].copy()
        offsets.append(parts[0])
        words.append(parts[1])
        first = last
    all_words = aligned(int(starts[-1]) * lanes, np.uint32)
    np.concatenate(words or [all_words], out=all_words)
    codebook = np.zeros(_CODEBOOK, np.float32)
    codebook[: entries.values.size] = entries.values
    all_offsets = np.concatenate(offsets or [np.empty(0, np.int32)])
    return Windows(kind, starts, all_offsets, all_words, codebook, entries.shape)


def block_columns_for(density: float, n_vectors: int) -> int:
    """Choose the width of blocks.

    For many vectors, the inputs of a block should stay in the first-level cache, and a row should
    have some 25 entries in a block; measured: 1.2 times as fast as 1024 columns at 10 % density,
    and 1.6 times at 50 %.

    Parameters
    ----------
    density : float
    n_vectors : int

    Returns
    -------
    int

    Examples
    --------
    >>> block_columns_for(0.1, 64), block_columns_for(0.1, 8)
    (256, 1024)
    """
    if n_vectors < _MANY or density <= 25 / _MAX_BLOCK:
        return _MAX_BLOCK
    return next((n for n in (128, 256, 512) if n * density >= 18), _MAX_BLOCK)


def to_blocks(entries: Entries, block_columns: int, is_sorted: bool = True) -> Blocks:
    """Lay a matrix out for several vectors at a time.

    Parameters
    ----------
    entries : Entries
    block_columns : int
        At most 1024 if sorted, else 65536.
    is_sorted : bool, default True
        Whether the rows of a group are in the order of their number of entries.

    Returns
    -------
    Blocks
    """
    n_rows, n_columns = entries.shape
    n_blocks = max(1, -(-n_columns // block_columns))
    starts = np.empty((n_blocks, n_rows + 1), np.int64)
    order = np.empty((n_blocks, n_rows) if is_sorted else (0, 0), np.uint8)
    columns = np.empty(entries.nnz, np.uint16)
    labels = np.empty_like(entries.labels)
    values = entries.values if labels.size else np.empty_like(entries.values)
    _kernels.blocks_into(
        entries.indptr, entries.columns, entries.labels, entries.values, block_columns,
        ROWS_A_GROUP, np.empty(n_rows, np.int64), starts, order, columns, labels, values,
    )  # fmt: skip
    return Blocks(starts, order, columns, labels, values, entries.shape, block_columns)
