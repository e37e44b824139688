"""Weight sharing: the values of a weight -> a small codebook, and a label for each value.

Han, Mao, Dally, "Deep Compression", ICLR 2016, section 3.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _kernels, kmeans

Floats = NDArray[np.floating[Any]]
Float64s = NDArray[np.float64]
Patterns = NDArray[np.unsignedinteger[Any]]
Labels = NDArray[np.uint8]

_MAX_VALUES = 256
MAX_SORTED = 1 << 15  # up to here sorting takes no longer than tallies, and loses nothing


def fit_codebook(values: Floats, n_values: int) -> Float64s:
    """Find the few values that stand for many with the least squared error.

    Parameters
    ----------
    values : ndarray of float32 or float64, shape (n,)
        Contiguous and finite, in any order; the kept entries of a weight, at least one.
    n_values : int
        The most codebook entries wanted, 1 to 256.

    Returns
    -------
    ndarray of float64, shape (m,)
        Strictly increasing, between the least and the greatest of `values`; ``m <= n_values``.
        It is less only where there are too few distinct values (float64: distinct in their
        first 37 bits, when there are many).

    Raises
    ------
    ValueError
        If `values` is empty, not finite or of the wrong kind, or `n_values` is out of range.

    References
    ----------
    Han, Mao, Dally, "Deep Compression", ICLR 2016, section 3. Panter and Dite, "Quantization
    distortion in pulse-count modulation with nonuniform spacing of levels", Proc. IRE 39, 1951:
    many clusters lie as densely as the cube root of the density of the values.

    Examples
    --------
    >>> fit_codebook(np.array([-1.0, 2.25, -1.5, 2.0, 1.75], np.float32), 2)
    array([-1.25,  2.  ])
    """
    _check_values(values)
    if not 1 <= n_values <= _MAX_VALUES:
        raise ValueError(f"n_values is {n_values}: expected 1 to {_MAX_VALUES}")
    if values.size == 0:
        raise ValueError("values is empty: expected at least one value")
    points, counts = _points(values, n_values)
    return fit_points(points, counts, n_values)


def fit_points(points: Float64s, counts: NDArray[np.int64], n_values: int) -> Float64s:
    """Do the same with points that stand for many values each.

    Parameters
    ----------
    points : ndarray of float64, shape (n,)
        Ascending.
    counts : ndarray of int64, shape (n,)
        How many values each stands for.
    n_values : int

    Returns
    -------
    ndarray of float64, shape (m,)

    Raises
    ------
    ValueError
        If a point is not finite.
    """
    if not np.isfinite(points).all():
        raise ValueError("values are not all finite")
    if points.size <= n_values:
        return points
    return kmeans.cluster(points, counts, n_values)


def nearest_labels(values: Floats, codebook: Floats, out: Labels | None = None) -> Labels:
    """Find the codebook entry nearest to each value, the lower of two that are as near.

    Parameters
    ----------
    values : ndarray of float32 or float64, shape (n,)
        Contiguous, no NaN.
    codebook : ndarray of floats, shape (m,)
        Strictly increasing and finite, 1 to 256 entries.
    out : ndarray of uint8, shape (n,), optional
        Where to put the labels.

    Returns
    -------
    ndarray of uint8, shape (n,)
        Indices into `codebook`. The border of two entries is their middle in float64; a value
        on it gets the lower label.

    Raises
    ------
    ValueError
        If an argument is of the wrong kind.

    Examples
    --------
    >>> nearest_labels(np.array([-9, 0.5, 0.75]), np.array([0.0, 1.0]))
    array([0, 0, 1], dtype=uint8)
    """
    _check_values(values)
    entries = np.asarray(codebook, np.float64)
    if entries.ndim != 1 or not 1 <= entries.size <= _MAX_VALUES:
        raise ValueError(f"codebook has shape {entries.shape}: expected 1 to {_MAX_VALUES} values")
    if not np.isfinite(entries).all() or not (entries[1:] > entries[:-1]).all():
        raise ValueError("codebook is not finite and strictly increasing")
    out = _labels_out(out, values.size)
    bits = _bits(values)
    thresholds = np.full(2 * _MAX_VALUES - 1, np.iinfo(bits.dtype).max, bits.dtype)
    n_thresholds = entries.size - 1
    thresholds[:n_thresholds] = _ascending(_bits(_middles(entries, values.dtype)))
    skipped = np.empty(1 << 16, np.uint8)
    _kernels.nearest_into(bits, thresholds, n_thresholds, skipped, out)
    return out


def distinct_patterns(patterns: Patterns, limit: int) -> Patterns | None:
    """List the distinct patterns other than zero, unless there are too many.

    Parameters
    ----------
    patterns : ndarray of uint8, uint16, uint32 or uint64, shape (n,)
        Contiguous; bit patterns of entries.
    limit : int
        The most patterns wanted, 1 to 256. One more ends the search.

    Returns
    -------
    ndarray of the dtype of `patterns`, or None
        Strictly increasing. None if there are more than `limit`.

    Raises
    ------
    ValueError
        If `patterns` is of the wrong kind, or `limit` is out of range.

    Examples
    --------
    >>> distinct_patterns(np.array([7, 0, 5, 7], np.uint8), 2)
    array([5, 7], dtype=uint8)
    >>> distinct_patterns(np.array([7, 0, 5, 7], np.uint8), 1) is None
    True
    """
    _check_patterns(patterns, "patterns")
    if not 1 <= limit <= _MAX_VALUES:
        raise ValueError(f"limit is {limit}: expected 1 to {_MAX_VALUES}")
    distinct = np.empty(limit, patterns.dtype)
    n = _kernels.distinct_into(patterns, distinct)
    return None if n < 0 else np.sort(distinct[:n])


def pattern_labels(
    patterns: Patterns, sorted_distinct: Patterns, out: Labels | None = None
) -> Labels:
    """Find the index of each pattern in the sorted distinct ones.

    Parameters
    ----------
    patterns : ndarray of uint8, uint16, uint32 or uint64, shape (n,)
        Contiguous; each occurs in `sorted_distinct`.
    sorted_distinct : ndarray of the same dtype, shape (m,)
        Strictly increasing, at most 256; zero may be one of them.
    out : ndarray of uint8, shape (n,), optional
        Where to put the labels.

    Returns
    -------
    ndarray of uint8, shape (n,)

    Raises
    ------
    ValueError
        If an argument is of the wrong kind, or a pattern is not in `sorted_distinct`.

    Examples
    --------
    >>> pattern_labels(np.array([7, 5, 7], np.uint8), np.array([5, 7], np.uint8))
    array([1, 0, 1], dtype=uint8)
    """
    _check_patterns(patterns, "patterns")
    _check_patterns(sorted_distinct, "sorted_distinct")
    if sorted_distinct.dtype != patterns.dtype or sorted_distinct.size > _MAX_VALUES:
        raise ValueError(
            f"sorted_distinct is {sorted_distinct.size} of {sorted_distinct.dtype}: "
            f"expected at most {_MAX_VALUES} of {patterns.dtype}"
        )
    if not (sorted_distinct[1:] > sorted_distinct[:-1]).all():
        raise ValueError("sorted_distinct is not strictly increasing")
    out = _labels_out(out, patterns.size)
    missing = 0 if patterns.size else -1
    if sorted_distinct.size:
        missing = _kernels.pattern_labels_into(patterns, sorted_distinct, out)
    if missing >= 0:
        raise ValueError(f"pattern {int(patterns[missing]):#x} is not in sorted_distinct")
    return out


def _check_array(array: NDArray[Any], name: str, dtypes: tuple[type, ...]) -> None:
    if (
        array.dtype not in dtypes
        or array.ndim != 1
        or not array.flags.c_contiguous
        or not array.flags.aligned
    ):
        raise ValueError(
            f"{name} is {array.dtype} of shape {array.shape}: expected one contiguous dimension "
            f"of {' or '.join(dtype.__name__ for dtype in dtypes)}"
        )


def _check_values(values: Floats) -> None:
    _check_array(values, "values", (np.float32, np.float64))


def _check_patterns(patterns: Patterns, name: str) -> None:
    _check_array(patterns, name, (np.uint8, np.uint16, np.uint32, np.uint64))


def _labels_out(out: Labels | None, n: int) -> Labels:
    if out is None:
        return np.empty(n, np.uint8)
    _check_array(out, "out", (np.uint8,))
    if out.size != n or not out.flags.writeable:
        raise ValueError(f"out has {out.size} entries: expected {n}, and that it is writeable")
    return out


def _bits(values: Floats) -> Patterns:
    return values.view(np.uint32 if values.itemsize == 4 else np.uint64)


def _ascending(bits: Patterns) -> Patterns:
    """Turn patterns of floats into integers in the order of the floats, or back if reversed."""
    sign = bits.dtype.type(1 << (8 * bits.itemsize - 1))
    return np.where(bits & sign, ~bits, bits | sign)


def _middles(codebook: Float64s, dtype: np.dtype[Any]) -> Floats:
    """Return the greatest `dtype` up to the middle of each two neighbours."""
    low, high = codebook[:-1], codebook[1:]
    # the sum of two neighbours might overflow, and their middle be rounded up to the higher one
    middles = np.clip(low / 2 + high / 2, low, np.nextafter(high, -np.inf))
    with np.errstate(over="ignore"):
        rounded = middles.astype(dtype)
    rounded = np.where(rounded > middles, np.nextafter(rounded, dtype.type(-np.inf)), rounded)
    return rounded + dtype.type(0)  # -0.0 becomes 0.0: neither is above the other


def _points(values: Floats, n_values: int) -> tuple[Float64s, NDArray[np.int64]]:
    """Return points in ascending order and how many values each stands for."""
    if values.size <= MAX_SORTED:
        return np.unique(values.astype(np.float64), return_counts=True)
    bits = _bits(values)
    found = distinct_patterns(bits, _MAX_VALUES - 1)
    if found is None:
        points, counts = kmeans.tally(bits, n_values)
        if values.itemsize == 8:  # the lowest bits are not in the tally
            points = np.clip(points, values.min(), values.max())
        return points, counts
    found = np.concatenate((np.zeros(1, bits.dtype), found))
    counts = np.bincount(pattern_labels(bits, found), minlength=found.size)
    found, counts = found[counts > 0], counts[counts > 0]
    points, which = np.unique(found.view(values.dtype).astype(np.float64), return_inverse=True)
    return points, np.bincount(which, counts).astype(np.int64)  # 0.0 and -0.0 are one point


def points_of(
    values: Float64s, counts: NDArray[np.int64], n_values: int
) -> tuple[Float64s, NDArray[np.int64]]:
    """Return the points that `fit_codebook` takes for float32 values.

    Parameters
    ----------
    values : ndarray of float64, shape (n,)
        Distinct and rising; each exact as float32.
    counts : ndarray of int64, shape (n,)
        How often each occurs.
    n_values : int
    """
    if counts.sum() <= MAX_SORTED or values.size < _MAX_VALUES:
        return values, counts
    return kmeans.tally_counted(values.astype(np.float32).view(np.uint32), counts, n_values)
