"""How much two tensors of one shape differ, entry by entry."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from .decode import Patterns
from .values import numbers


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


def difference(
    first: Iterable[Patterns], second: Iterable[Patterns], dtype: str, other: str = ""
) -> Difference:
    """Compare two tensors part by part.

    Parameters
    ----------
    first, second : iterable of ndarray of uint8, uint16, uint32 or uint64, shape (n,)
        All entries in order, as bit patterns; as many of each, however they are cut into parts.
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
    >>> difference([a.view(np.uint32)], [b.view(np.uint32)], "float32")
    Difference(n_entries=3, n_different=2, n_zeros=1, largest=2.0, mean_square=1.416...)
    """
    other = other or dtype
    n_entries = n_different = n_zeros = 0
    largest, squares = 0.0, 0.0
    for a, b in _pairs(first, second):
        n_entries += a.size
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
    return Difference(n_entries, n_different, n_zeros, largest, squares / max(n_entries, 1))


def _pairs(
    first: Iterable[Patterns], second: Iterable[Patterns]
) -> Iterator[tuple[Patterns, Patterns]]:
    """Cut both into parts of the same sizes."""
    others = iter(second)
    b: Patterns = np.empty(0, np.uint8)
    for a in first:
        while a.size:
            while not b.size:
                b = next(others)
            n = min(a.size, b.size)
            yield a[:n], b[:n]
            a, b = a[n:], b[n:]
