"""Sparse matrices -> dense patterns, one tensor at a time; SciPy's as tensors of a model."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Source, check_dtype, check_shape, patterns_of
from .decode import Patterns

Integers = NDArray[np.integer]


def scatter(
    patterns: Patterns, coordinates: Sequence[Integers], shape: tuple[int, ...]
) -> Patterns:
    """Put entries at their places among zeros.

    Parameters
    ----------
    patterns : ndarray of unsigned integers, shape (nnz,)
    coordinates : sequence of ndarray of int, shape (nnz,)
        One array for each dimension.
    shape : tuple of int
        At least one dimension.

    Returns
    -------
    ndarray of the same dtype, shape (numel,)

    Raises
    ------
    ValueError
        If two entries have the same place, or one is outside; if the result does not fit into
        the memory.

    Examples
    --------
    >>> scatter(np.array([7, 8], np.uint8), [np.array([1, 0]), np.array([0, 2])], (2, 3))
    array([0, 0, 8, 7, 0, 0], dtype=uint8)
    """
    for indices, n in zip(coordinates, shape, strict=True):
        if indices.shape != patterns.shape:
            raise ValueError(f"{indices.shape} indices of {patterns.shape} entries")
        if indices.size and not 0 <= indices.min() <= indices.max() < n:
            raise ValueError(f"indices {indices.min()} to {indices.max()}: expected 0 to {n - 1}")
    try:
        dense = np.zeros(prod(shape), patterns.dtype)
    except (MemoryError, ValueError, OverflowError):
        nbytes = prod(shape) * patterns.itemsize
        raise ValueError(f"{nbytes} bytes when dense: more than the memory holds") from None
    if patterns.size:
        positions = np.ravel_multi_index(tuple(coordinates), shape)
        in_order = np.diff(positions).min(initial=1) > 0
        if not in_order and np.unique(positions).size < positions.size:
            raise ValueError("two entries have the same indices")
        dense[positions] = patterns
    return dense


def expand_indptr(indptr: Integers, n_rows: int, nnz: int) -> NDArray[np.int64]:
    """Return the row of each entry of a matrix in compressed sparse rows.

    Parameters
    ----------
    indptr : ndarray of int, shape (n_rows + 1,)
    n_rows, nnz : int

    Returns
    -------
    ndarray of int64, shape (nnz,)

    Raises
    ------
    ValueError
        If `indptr` does not rise from 0 to `nnz` in so many steps.

    Examples
    --------
    >>> expand_indptr(np.array([0, 2, 2, 3]), 3, 3)
    array([0, 0, 2])
    """
    if indptr.shape != (n_rows + 1,):
        raise ValueError(f"indptr has shape {indptr.shape}: expected {(n_rows + 1,)}")
    if indptr[0] != 0 or indptr[-1] != nnz or (indptr[1:] < indptr[:-1]).any():
        raise ValueError(f"indptr must rise from 0 to {nnz}")
    return np.repeat(np.arange(n_rows, dtype=np.int64), np.diff(indptr))


def scipy_source(name: str, matrix: Any) -> Source:
    """Present a SciPy sparse array or matrix as a source.

    Entries that are stored more than once are summed, as SciPy does.

    Raises
    ------
    ValueError
        If its dtype cannot be stored; the message names the tensor.
    """
    check_dtype(name, matrix.dtype.name)
    check_shape(name, matrix.dtype.name, matrix.shape)

    def fetch() -> Patterns:
        try:
            if hasattr(matrix, "check_format"):  # else SciPy trusts indptr, with its memory
                matrix.check_format(full_check=True)
            entries = matrix.tocoo(copy=True)
            entries.sum_duplicates()
            coordinates = (entries.row, entries.col) if matrix.ndim == 2 else entries.coords
            return scatter(patterns_of(entries.data), coordinates, matrix.shape)
        except ValueError as error:
            raise ValueError(f"tensor {name!r}: {error}") from None

    return Source(name, matrix.dtype.name, matrix.shape, ("scipy", id(matrix)), fetch)
