"""How much two tensors of one shape differ, entry by entry."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .decode import Patterns
from .pipeline import to_values
from .prune import chunks
from .records import SHARED_DTYPES

_SMALLEST_E4M3 = 2.0**-9


@dataclass(frozen=True)
class Difference:
    """What differs between two tensors.

    Attributes
    ----------
    n_entries : int
    n_different : int
        Entries that differ: in any bit, or in value where the dtypes are not the same.
    n_zeros : int
        Entries that are zero (of either sign) in one of the two only.
    largest : float
        Largest absolute difference; NaN if entries differ that have none, as NaN and 1 do.
    mean_square : float
        Mean of the squared differences over all entries; NaN as well.
    """

    n_entries: int
    n_different: int
    n_zeros: int
    largest: float
    mean_square: float


def difference(first: Patterns, second: Patterns, dtype: str, other: str = "") -> Difference:
    """Compare two tensors.

    Takes memory for a million entries, whatever the size.

    Parameters
    ----------
    first, second : ndarray of uint8, uint16, uint32 or uint64, shape (numel,)
        Entries as bit patterns.
    dtype : str
        Of the entries of `first`: a key of ``records.ITEMSIZE``.
    other : str, optional
        Of those of `second`, if another one.

    Returns
    -------
    Difference

    Examples
    --------
    >>> a, b = np.array([0, 1, 2], np.float32), np.array([0, 1.5, 0], np.float32)
    >>> difference(a.view(np.uint32), b.view(np.uint32), "float32")
    Difference(n_entries=3, n_different=2, n_zeros=1, largest=2.0, mean_square=1.416...)
    """
    other = other or dtype
    n_different = n_zeros = 0
    largest, squares = 0.0, 0.0
    for a, b in zip(chunks(first), chunks(second), strict=True):
        if dtype == other:
            where = a != b
            a, b = a[where], b[where]
        x, y = numbers(a, dtype), numbers(b, other)
        n_zeros += int(np.count_nonzero((x == 0) != (y == 0)))
        if dtype != other:
            where = ~((x == y) | (np.isnan(x) & np.isnan(y)))
            x, y = x[where], y[where]
        n_different += x.size
        with np.errstate(invalid="ignore", over="ignore"):
            distances = np.abs(x - y).astype(np.float64)
            largest = float(np.maximum(largest, distances.max(initial=0.0)))
            squares += float((distances * distances).sum())
    return Difference(first.size, n_different, n_zeros, largest, squares / max(first.size, 1))


def numbers(patterns: Patterns, dtype: str) -> NDArray[np.floating]:
    """Return entries as floats that hold every value of their dtype exactly.

    Parameters
    ----------
    patterns : ndarray of uint8, uint16, uint32 or uint64, shape (n,)
    dtype : str

    Returns
    -------
    ndarray of float64, or longdouble for integers of 64 bits, shape (n,)

    Examples
    --------
    >>> numbers(np.array([0x38, 0x7E, 0x7F], np.uint8), "float8_e4m3fn")
    array([  1., 448.,  nan])
    """
    if dtype in SHARED_DTYPES:
        with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
            return to_values(patterns, dtype).astype(np.float64)
    if dtype == "float8_e5m2":  # the upper half of a float16
        return (patterns.astype(np.uint16) << np.uint16(8)).view(np.float16).astype(np.float64)
    if dtype == "float8_e4m3fn":
        return _e4m3_values()[patterns]
    return patterns.view(dtype).astype(np.longdouble if "64" in dtype else np.float64)


def _e4m3_values() -> NDArray[np.float64]:
    """Return the value of each pattern: 4 bits of exponent, 3 of mantissa, no infinity."""
    exponent, mantissa = np.divmod(np.arange(128), 8)
    values = np.where(
        exponent == 0, mantissa * _SMALLEST_E4M3, np.ldexp(8.0 + mantissa, exponent - 10)
    )
    values[127] = np.nan
    return np.concatenate((values, -values))
