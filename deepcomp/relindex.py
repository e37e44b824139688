"""Relative index: positions of kept entries <-> gap symbols with escapes, and CSR.

``formats/dcz.md``, section 7.3; Han, Mao, Dally, "Deep Compression", ICLR 2016, section 2.
"""

import numpy as np
from numpy.typing import NDArray

from . import _kernels
from .records import GAP_BITS


def to_gaps(positions: NDArray[np.int64], gap_bits: int) -> NDArray[np.uint8]:
    """Replace the positions of kept entries by the runs of zeros between them.

    Parameters
    ----------
    positions : ndarray of int64, shape (nnz,)
        Strictly increasing positions in the row-major flattening of a block, from 0.
    gap_bits : int
        Width of a gap symbol in bits, 2 to 8. The largest symbol is the escape.

    Returns
    -------
    ndarray of uint8, shape (nnz + n_escapes,)
        Each run of zeros as escapes, which only skip, and the remainder.

    Raises
    ------
    ValueError
        If `gap_bits` is out of range, or `positions` is not strictly increasing.

    Examples
    --------
    >>> to_gaps(np.array([0, 3, 9]), gap_bits=2)
    array([0, 2, 3, 2], dtype=uint8)
    """
    runs = np.diff(positions, prepend=-1) - 1
    if runs.min(initial=0) < 0:
        raise ValueError("positions must be strictly increasing and not negative")
    return runs_to_gaps(runs.astype(np.uint32), gap_bits)


def runs_to_gaps(runs: NDArray[np.uint32], gap_bits: int) -> NDArray[np.uint8]:
    """Write the runs of zeros before each kept entry as gap symbols.

    Parameters
    ----------
    runs : ndarray of uint32, shape (nnz,)
        Number of zeros before each kept entry.
    gap_bits : int
        2 to 8.

    Returns
    -------
    ndarray of uint8, shape (nnz + n_escapes,)

    Raises
    ------
    ValueError
        If `gap_bits` is out of range.

    Examples
    --------
    >>> runs_to_gaps(np.array([0, 2, 5], np.uint32), gap_bits=2)
    array([0, 2, 3, 2], dtype=uint8)
    """
    escape = _escape(gap_bits)
    runs = np.require(runs, requirements="A")
    most_escapes = int(runs.sum(dtype=np.int64)) // escape
    symbols = np.empty(runs.size + most_escapes, np.uint8)
    n = _kernels.gap_symbols_into(runs, gap_bits, symbols) if runs.size else 0
    return symbols[:n]


def to_positions(gaps: NDArray[np.uint8], gap_bits: int) -> NDArray[np.int64]:
    """Undo `to_gaps`.

    Parameters
    ----------
    gaps : ndarray of uint8, shape (n,)
    gap_bits : int
        2 to 8.

    Returns
    -------
    ndarray of int64, shape (nnz,)

    Raises
    ------
    ValueError
        If `gap_bits` is out of range or a gap is larger than the escape.

    Examples
    --------
    >>> to_positions(np.array([0, 2, 3, 2], np.uint8), gap_bits=2)
    array([0, 3, 9])
    """
    escape = _escape(gap_bits)
    if gaps.max(initial=0) > escape:
        raise ValueError(f"gap {int(gaps.max())} does not fit in {gap_bits} bits")
    is_kept = gaps != escape
    ends = np.cumsum(gaps.astype(np.int64) + is_kept)
    return ends[is_kept] - 1


def gap_counts(run_counts: NDArray[np.int64], gap_bits: int) -> NDArray[np.int64]:
    """Count the gap symbols that runs of zeros would be written as.

    Parameters
    ----------
    run_counts : ndarray of int64, shape (n,)
        How many runs there are of each length 0 to n - 1.
    gap_bits : int
        2 to 8.

    Returns
    -------
    ndarray of int64, shape (256,)

    Examples
    --------
    >>> gap_counts(np.array([1, 0, 1, 0, 0, 1]), gap_bits=2)[:4]
    array([1, 0, 2, 1])
    """
    escape = _escape(gap_bits)
    padded = np.zeros(-(-run_counts.size // escape) * escape, np.int64)
    padded[: run_counts.size] = run_counts
    table = padded.reshape(-1, escape)  # row: number of escapes; column: the last gap
    counts = np.zeros(256, np.int64)
    counts[:escape] = table.sum(axis=0)
    counts[escape] = table.sum(axis=1) @ np.arange(len(table))
    return counts


def to_csr(
    positions: NDArray[np.int64], shape: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Turn row-major positions into the index arrays of CSR.

    Parameters
    ----------
    positions : ndarray of int64, shape (nnz,)
        Strictly increasing.
    shape : (int, int)
        Rows and columns.

    Returns
    -------
    indptr : ndarray of int64, shape (rows + 1,)
    indices : ndarray of int64, shape (nnz,)

    Examples
    --------
    >>> to_csr(np.array([1, 2, 5]), (2, 3))
    (array([0, 2, 3]), array([1, 2, 2]))
    """
    rows, columns = shape
    indptr = np.searchsorted(positions, np.arange(rows + 1) * columns)
    return indptr, positions % max(columns, 1)


def from_csr(
    indptr: NDArray[np.int64], indices: NDArray[np.int64], shape: tuple[int, int]
) -> NDArray[np.int64]:
    """Undo `to_csr`.

    Parameters
    ----------
    indptr : ndarray of int, shape (rows + 1,)
    indices : ndarray of int, shape (nnz,)
        Strictly increasing within each row.
    shape : (int, int)
        Rows and columns.

    Returns
    -------
    ndarray of int64, shape (nnz,)

    Raises
    ------
    ValueError
        If the arrays are not those of a CSR matrix of this shape in canonical order.

    Examples
    --------
    >>> from_csr(np.array([0, 2, 3]), np.array([1, 2, 2]), (2, 3))
    array([1, 2, 5])
    """
    rows, columns = shape
    counts = np.diff(indptr)
    if indptr.shape != (rows + 1,) or counts.min(initial=0) < 0 or indptr[0] != 0:
        raise ValueError(f"indptr must rise from 0 and have {rows + 1} entries")
    if indptr[-1] != indices.size:
        raise ValueError(f"indptr ends at {int(indptr[-1])}, but there are {indices.size} indices")
    if indices.size and not 0 <= indices.min() <= indices.max() < columns:
        raise ValueError(f"indices must be in 0 .. {columns - 1}")
    positions = np.repeat(np.arange(rows, dtype=np.int64) * columns, counts) + indices
    if np.diff(positions).min(initial=1) < 1:
        raise ValueError("indices must be strictly increasing within each row")
    return positions


def _escape(gap_bits: int) -> int:
    if gap_bits not in GAP_BITS:
        raise ValueError(f"gap_bits is {gap_bits}: expected {GAP_BITS[0]} to {GAP_BITS[-1]}")
    return (1 << gap_bits) - 1
