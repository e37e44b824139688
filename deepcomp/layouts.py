"""Kept entries -> the layouts that products are computed from."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _kernels
from .decode import MAX_TABLE
from .entries import Entries, Floats, are_kept, matrix_shape, to_float32
from .kept_rows import AnyDecoder, RowsDecoder
from .memory import aligned, copied, scratch, shorten

_MAX_SPARSE = 0.05  # density up to which windows of 64 columns, two slots each, are the faster ones
_AVX2, _AVX512 = 1, 2
_CODEBOOK = 64  # places
_KINDS = {0: (16, 32, 3), 1: (16, 64, 2), 2: (8, 32, 2)}  # lanes, columns of a window, slots
_SMALL = 1 << 20  # words, see _uses_scratch
_GAPS_A_PIECE = 1 << 14  # DC_GAPS_A_PIECE of _native/section_windows.h
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
    nnz : int
    """

    kind: int
    starts: NDArray[np.int64]
    offsets: NDArray[np.int32]
    words: NDArray[np.uint32]
    codebook: Floats
    shape: tuple[int, int]
    nnz: int

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
    n_columns, nnz = entries.shape[1], entries.nnz
    starts, offsets, words = _room_for_windows(entries.shape, nnz, kind)
    packed = scratch("packed", _most_in_two_groups(n_columns, nnz, kind) + 8, np.uint32)
    _kernels.windows_into(
        entries.indptr, entries.columns, entries.labels, n_columns, kind, _kernels.ISA, packed,
        starts, offsets, words,
    )  # fmt: skip
    return _windows(kind, starts, offsets, words, entries.values, entries.shape, nnz)


def decode_windows(decoder: AnyDecoder) -> Windows | None:
    """Decode a section into windows, a few rows at a time.

    Parameters
    ----------
    decoder : TensorDecoder or RowsDecoder

    Returns
    -------
    Windows or None
        None if there are no windows for the tensor, or its entries have to be collected before.

    Raises
    ------
    DczError
        If the section breaks a rule.
    """
    record = decoder.record
    if isinstance(decoder, RowsDecoder) or not decoder.is_walked:
        return None
    if not record.nnz or len(decoder.section.blocks) > MAX_TABLE:
        return None
    values = to_float32(decoder.codebook, record.dtype)
    kind = window_kind(values.size, record.nnz / record.numel, _kernels.ISA)
    if kind is None or not are_kept(values).all():
        return None
    shape, blocks = matrix_shape(record.shape), decoder.section.blocks
    starts, offsets, words = _room_for_windows(shape, record.nnz, kind)
    n_waiting = _most_in_two_groups(shape[1], record.nnz, kind)
    n_gaps = max(block.n_symbols[0] for block in blocks)
    n_labels = n_waiting + max(block.n_kept for block in blocks) + 16
    symbols = scratch("symbols", n_gaps + n_labels, np.uint8)
    gaps, labels = symbols[:n_gaps], symbols[n_gaps:]
    columns = scratch("columns", n_waiting + _GAPS_A_PIECE + 16, np.uint32)
    indptr = np.zeros(shape[0] + 1, np.int64)
    kernel: Any = _kernels.section_windows_into
    status = kernel(
        *decoder.sparse_arguments(range(len(blocks)), [gaps, labels]), shape[1], kind,
        _kernels.ISA, gaps, labels, columns, indptr, starts, offsets, words,
    )  # fmt: skip
    decoder.check_status(status)
    return _windows(kind, starts, offsets, words, values, shape, record.nnz)


def _most_in_two_groups(n_columns: int, nnz: int, kind: int) -> int:
    return min(nnz, 2 * _KINDS[kind][0] * n_columns)


def _room_for_windows(
    shape: tuple[int, int], nnz: int, kind: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint32]]:
    """Return starts, and offsets and words for the most steps that there can be."""
    lanes, window, n_slots = _KINDS[kind]
    n_groups = -(-shape[0] // lanes)
    room = min(nnz, n_groups * -(-shape[1] // window) * -(-window // n_slots))
    starts = np.zeros(n_groups + 1, np.int64)
    if _uses_scratch(room * lanes, nnz, kind):
        return starts, scratch("offsets", room, np.int32), scratch("words", room * lanes, np.uint32)
    return starts, np.empty(room, np.int32), aligned(room * lanes, np.uint32)


def _uses_scratch(n_words: int, nnz: int, kind: int) -> bool:
    """Whether words are copied: that takes less time than to ask for pages and give them back.

    If less than a third of the room will be used, that is; else it takes longer.
    """
    least = nnz // _KINDS[kind][2]
    return n_words <= _SMALL and 3 * least < n_words


def _windows(
    kind: int,
    starts: NDArray[np.int64],
    offsets: NDArray[np.int32],
    words: NDArray[np.uint32],
    values: Floats,
    shape: tuple[int, int],
    nnz: int,
) -> Windows:
    n_steps = int(starts[-1])
    codebook = np.zeros(_CODEBOOK, np.float32)
    codebook[: values.size] = values
    n_words = n_steps * _KINDS[kind][0]
    if _uses_scratch(words.size, nnz, kind):
        offsets, words = offsets[:n_steps].copy(), copied(words[:n_words])
    else:
        offsets.resize(n_steps, refcheck=False)  # the rest of the memory is given back
        words = shorten(words, n_words)
    return Windows(kind, starts, offsets, words, codebook, shape, nnz)


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
