"""Pruning: which entries of a weight are kept, by magnitude.

Han, Mao, Dally, "Deep Compression", ICLR 2016, section 2.

Weights are handled as bit patterns: with the sign bit cleared, the patterns of floats rise with
their magnitudes, so that a threshold is an integer and the k-th magnitude is found by counting
digits, without sorting.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from . import _kernels

_CHUNK = 1 << 20  # entries handled at a time, so that temporaries stay in the cache
# Of this many, a temporary is below the 128 KiB from which malloc may map new pages for it each
# time: a page costs as much as to look at 1000 entries. (malloc learns to keep them, but not in
# the workers of Dask, which set its thresholds; there most of the time was lost with it.)
_SMALL_CHUNK = 1 << 14


def magnitude_mask(itemsize: int) -> int:
    """Return the bits of a pattern other than the sign.

    Examples
    --------
    >>> hex(magnitude_mask(2))
    '0x7fff'
    """
    return (1 << (8 * itemsize - 1)) - 1


def kth_magnitude(patterns: Sequence[NDArray[np.unsignedinteger]], k: int) -> int:
    """Find the k-th smallest magnitude in a set of float arrays.

    Parameters
    ----------
    patterns : sequence of ndarray of uint16, uint32 or uint64, each of shape (n,)
        Bit patterns of floats, all of the same dtype.
    k : int
        From 1 to the number of entries.

    Returns
    -------
    int
        The pattern of the k-th smallest absolute value.

    Raises
    ------
    ValueError
        If `k` is out of range, or the arrays are not aligned and of one dtype that holds floats.

    Examples
    --------
    >>> weights = np.array([0.5, -0.25, 2.0], np.float32)
    >>> pattern = kth_magnitude([weights.view(np.uint32)], 2)
    >>> float(np.uint32(pattern).view(np.float32))
    0.5
    """
    dtypes = {p.dtype for p in patterns}
    if len(dtypes) > 1 or not dtypes <= {np.dtype(f"u{n}") for n in (2, 4, 8)}:
        raise ValueError(f"patterns are of {dtypes}: expected one of uint16, uint32 and uint64")
    for p in patterns:
        _check_aligned(p)
    total = sum(p.size for p in patterns)
    if not 1 <= k <= total:
        raise ValueError(f"k is {k}: expected 1 to {total}")
    width = 8 * patterns[0].itemsize
    mask = magnitude_mask(patterns[0].itemsize)
    prefix = -1
    for shift in range(width - 16, -1, -16):
        counts = np.zeros(1 << 16, np.int64)
        for p in patterns:
            _kernels.count_digits_into(p, mask, shift, prefix, counts)
        prefix, k = next_digit(counts, prefix, k)
    return prefix


def next_digit(counts: NDArray[np.int64], prefix: int, k: int) -> tuple[int, int]:
    """Return the prefix with the 16 bits of the k-th magnitude that follow, and its rank there.

    Parameters
    ----------
    counts : ndarray of int64, shape (65536,)
        How many magnitudes begin with `prefix` and then with these 16 bits.
    prefix : int
        -1 if there is none yet.
    k : int

    Examples
    --------
    >>> next_digit(np.bincount([5, 5, 9], minlength=1 << 16), -1, 3)
    (9, 1)
    """
    below = np.cumsum(counts)
    digit = int(np.searchsorted(below, k))
    return max(prefix, 0) << 16 | digit, k - int(below[digit] - counts[digit])


def threshold_pattern(threshold: float, dtype: str) -> int:
    """Return the smallest magnitude pattern that is at least `threshold`.

    Parameters
    ----------
    threshold : float
        Not negative.
    dtype : {"float16", "bfloat16", "float32", "float64"}

    Returns
    -------
    int

    Examples
    --------
    >>> hex(threshold_pattern(1.0, "bfloat16"))
    '0x3f80'
    """
    threshold += 0.0  # -0.0 becomes 0.0
    if dtype == "float64":
        return int(np.float64(threshold).view(np.uint64))
    narrow = np.float16 if dtype == "float16" else np.float32
    with np.errstate(over="ignore"):
        rounded = narrow(threshold)
        if float(rounded) < threshold:
            rounded = np.nextafter(rounded, narrow(np.inf))
    pattern = int(rounded.view(np.uint16 if dtype == "float16" else np.uint32))
    return -(-pattern >> 16) if dtype == "bfloat16" else pattern


def chunks(patterns: NDArray[np.unsignedinteger]) -> Iterator[NDArray[np.unsignedinteger]]:
    """Yield an array in parts that stay in the cache, with their temporaries."""
    for i in range(0, patterns.size, _CHUNK):
        yield patterns[i : i + _CHUNK]


def small_chunks(patterns: NDArray[np.unsignedinteger]) -> Iterator[NDArray[np.unsignedinteger]]:
    """Yield an array in parts whose temporaries take no new pages."""
    for i in range(0, patterns.size, _SMALL_CHUNK):
        yield patterns[i : i + _SMALL_CHUNK]


def largest_magnitude(patterns: NDArray[np.unsignedinteger]) -> int:
    """Return the largest magnitude pattern, 0 for an empty array.

    Examples
    --------
    >>> largest_magnitude(np.array([0x8002, 1], np.uint16))
    2
    """
    mask = patterns.dtype.type(magnitude_mask(patterns.itemsize))
    return max((int((part & mask).max()) for part in small_chunks(patterns)), default=0)


def keep_at_least(
    patterns: NDArray[np.unsignedinteger],
    pattern: int,
    n_ties_to_remove: int = 0,
    out: NDArray[np.unsignedinteger] | None = None,
) -> NDArray[np.unsignedinteger]:
    """Set entries whose magnitude is below a pattern to zero.

    Parameters
    ----------
    patterns : ndarray of uint16, uint32 or uint64, shape (n,)
        Bit patterns of floats.
    pattern : int
        Entries with a smaller magnitude pattern become +0.0, and so does -0.0.
    n_ties_to_remove : int
        How many entries of exactly this magnitude become zero too, the last ones first.
    out : ndarray of the same dtype, shape (n,), optional
        Where to put the result; may be `patterns` itself. By default a new array.

    Returns
    -------
    ndarray of the same dtype, shape (n,)
        `out`.

    Examples
    --------
    >>> weights = np.array([0.5, -0.25, 2.0, -0.5], np.float32).view(np.uint32)
    >>> half = int(np.float32(0.5).view(np.uint32))
    >>> keep_at_least(weights, half, n_ties_to_remove=1).view(np.float32)
    array([0.5, 0. , 2. , 0. ], dtype=float32)
    """
    _check_aligned(patterns)
    mask = magnitude_mask(patterns.itemsize)
    out = np.empty_like(patterns) if out is None else out
    _kernels.keep_at_least_into(patterns, mask, max(pattern, 1), out)
    remove_ties(out, pattern, n_ties_to_remove)
    return out


def remove_ties(patterns: NDArray[np.unsignedinteger], pattern: int, n: int) -> None:
    """Set the last `n` entries whose magnitude is `pattern` to zero, in place; none of zero.

    Examples
    --------
    >>> patterns = np.array([7, 0, 7, 5], np.uint16)
    >>> remove_ties(patterns, 7, 1)
    >>> patterns
    array([7, 0, 0, 5], dtype=uint16)
    """
    mask = patterns.dtype.type(magnitude_mask(patterns.itemsize))
    n_left = n if pattern > 0 else 0
    for end in range(patterns.size, 0, -_SMALL_CHUNK):
        if n_left == 0:
            break
        part = patterns[max(end - _SMALL_CHUNK, 0) : end]
        ties = np.flatnonzero((part & mask) == pattern)[-n_left:]
        part[ties] = 0
        n_left -= ties.size


def _check_aligned(patterns: NDArray[np.unsignedinteger]) -> None:
    if not patterns.flags.aligned:
        raise ValueError("patterns are not aligned")
