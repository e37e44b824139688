"""Compressed tensor -> the kept entries of a matrix, by rows, never through a dense one."""

from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _kernels
from .decode import Patterns, TensorDecoder, pattern_dtype
from .errors import DczError
from .kept_rows import AnyDecoder, RowsDecoder
from .records import MAX_CODEBOOK, MAX_EMPTY_ROWS
from .sharing import distinct_patterns, pattern_labels

Floats = NDArray[np.float32]


class Entries(NamedTuple):
    """The kept entries of a matrix: CSR with labels, or with values where labels do not suffice.

    Attributes
    ----------
    indptr : ndarray of int64, shape (n_rows + 1,)
    columns : ndarray of uint32, shape (nnz,)
        Rising within each row.
    labels : ndarray of uint8, shape (nnz,) or (0,)
        Empty if there are more than 256 distinct values.
    values : ndarray of float32
        The codebook, or, without labels, the value of each entry.
    shape : (int, int)
    """

    indptr: NDArray[np.int64]
    columns: NDArray[np.uint32]
    labels: NDArray[np.uint8]
    values: Floats
    shape: tuple[int, int]

    @property
    def nnz(self) -> int:
        """Number of kept entries."""
        return self.columns.size

    @property
    def n_values(self) -> int | None:
        """Number of codebook entries; None without labels."""
        return self.values.size if self.labels.size or not self.nnz else None


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the shape of a tensor as a matrix: all dimensions but the first are flattened.

    Examples
    --------
    >>> matrix_shape((64, 32, 3, 3))
    (64, 288)
    """
    return (shape[0], prod(shape[1:])) if shape else (1, 1)


def check_rows(shape: tuple[int, int]) -> None:
    """Raise DczError if a matrix has no columns and many rows: these take memory, but no file."""
    if shape[1] == 0 and shape[0] > MAX_EMPTY_ROWS:
        raise DczError(f"{shape[0]} empty rows are too many: expected at most {MAX_EMPTY_ROWS}")


def decode_entries(decoder: AnyDecoder) -> Entries:
    """Decode a tensor into the kept entries of a matrix.

    Values are float32 whatever the dtype; what becomes zero by that is not kept.

    Parameters
    ----------
    decoder : TensorDecoder or RowsDecoder

    Returns
    -------
    Entries

    Raises
    ------
    DczError
        If the section breaks a rule.
    ValueError
        If the dtype has no values in float32.
    """
    record = decoder.record
    shape = matrix_shape(record.shape)
    if isinstance(decoder, RowsDecoder):
        stored = decode_entries(decoder.stored)
        indptr = np.zeros(shape[0] + 1, np.int64)
        indptr[1 + decoder.rows] = np.diff(stored.indptr)
        np.add.accumulate(indptr, out=indptr)
        return stored._replace(indptr=indptr, shape=shape)
    check_rows(shape)
    if record.numel == 0:
        indptr = np.zeros(shape[0] + 1, np.int64)
        return Entries(indptr, *_no_entries(), np.empty(0, np.float32), shape)
    if record.codebook is not None:
        codebook = to_float32(decoder.codebook, record.dtype)
        n_zeros = int(record.layout == "dense" and decoder.codebook[0] == 0)
        if are_kept(codebook[n_zeros:]).all() and not record.zero_signs:
            return _with_labels(decoder, codebook[n_zeros:], n_zeros, shape)
    positions, patterns = decoder.kept()
    return _share(positions, to_float32(patterns, record.dtype), shape)


def to_float32(patterns: Patterns, dtype: str) -> Floats:
    """Turn bit patterns into values.

    Examples
    --------
    >>> to_float32(np.array([0x3F80], np.uint16), "bfloat16")
    array([1.], dtype=float32)
    """
    if dtype == "float32":
        return patterns.view(np.float32)
    if dtype == "bfloat16":
        return (patterns.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype.startswith("float8"):
        raise ValueError(f"cannot compute with {dtype}: expected floats of 16 bits or more")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return patterns.view(dtype).astype(np.float32)


def are_kept(values: Floats) -> NDArray[np.bool_]:
    """Return for each value whether it is another one than 0.

    By its bits: NumPy warns of a signalling NaN that is compared, as a file may hold one.

    Examples
    --------
    >>> are_kept(np.array([0, -0.0, np.nan, 1e-45], np.float32))
    array([False, False,  True,  True])
    """
    return (values.view(np.uint32) << np.uint32(1)).astype(np.bool_)


def _no_entries() -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    return np.empty(0, np.uint32), np.empty(0, np.uint8)


def _with_labels(
    decoder: TensorDecoder, values: Floats, n_zeros: int, shape: tuple[int, int]
) -> Entries:
    """Decode columns and labels; the zero of a dense tensor is the first label, if there is one."""
    nnz = decoder.record.nnz or 0
    columns, labels = np.empty(nnz, np.uint32), np.empty(nnz, np.uint8)
    indptr = np.zeros(shape[0] + 1, np.int64)
    if decoder.record.layout == "sparse":
        decoder.walk_into(shape[1], columns, labels, indptr[1:])
    else:
        _collect_into(decoder, n_zeros, shape[1], columns, labels, indptr[1:])
    np.add.accumulate(indptr, out=indptr)
    return Entries(indptr, columns, labels, values, shape)


def _collect_into(
    decoder: TensorDecoder,
    n_zeros: int,
    n_columns: int,
    columns: NDArray[np.uint32],
    labels: NDArray[np.uint8],
    row_counts: NDArray[np.int64],
) -> None:
    first = position = 0
    for block, symbols in decoder.labels():
        last = first + block.n_kept
        if _kernels.labels_into(
            symbols, n_zeros, position, n_columns, columns[first:last], labels[first:last],
            row_counts,
        ):  # fmt: skip
            raise DczError(f"a block of {block.numel} entries does not keep {block.n_kept}")
        first, position = last, position + block.numel


def _share(positions: NDArray[np.int64], values: Floats, shape: tuple[int, int]) -> Entries:
    kept = are_kept(values)
    if not kept.all():
        positions, values = positions[kept], values[kept]
    indptr = np.searchsorted(positions, np.arange(shape[0] + 1) * shape[1])
    columns = (positions % shape[1]).astype(np.uint32)
    patterns = values.view(pattern_dtype(4))
    distinct = distinct_patterns(patterns, MAX_CODEBOOK)
    if distinct is None:
        return Entries(indptr, columns, np.empty(0, np.uint8), values, shape)
    labels = pattern_labels(patterns, distinct)
    return Entries(indptr, columns, labels, distinct.view(np.float32), shape)


def transposed(entries: Entries) -> Entries:
    """Return the entries of the transposed matrix.

    Parameters
    ----------
    entries : Entries

    Returns
    -------
    Entries
    """
    n_rows, n_columns = entries.shape
    order = np.argsort(entries.columns, kind="stable")
    rows = np.repeat(np.arange(n_rows, dtype=np.uint32), np.diff(entries.indptr))
    counts = np.bincount(entries.columns, minlength=n_columns)
    indptr = np.concatenate(([0], np.cumsum(counts)))
    labels, values = entries.labels, entries.values
    if labels.size:
        labels = labels[order]
    else:
        values = values[order] if entries.nnz else values
    return Entries(indptr, rows[order], labels, values, (n_columns, n_rows))
