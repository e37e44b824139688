"""How much two tensors of one shape differ, entry by entry."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from .decode import Patterns
from .losses import Loss, add
from .prune import small_chunks
from .records import SHARED_DTYPES
from .squares import loss_of
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
    loss : Loss
        Of the second against the first; of the entries that are finite.
    """

    n_entries: int
    n_different: int
    n_zeros: int
    largest: float
    mean_square: float
    loss: Loss

    @property
    def relative_error(self) -> float:
        """Norm of the differences over that of the first; NaN as `largest`."""
        return math.nan if math.isnan(self.largest) else self.loss.relative_error


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
    Difference(n_entries=3, n_different=2, n_zeros=1, largest=2.0, mean_square=1.416..., loss=...)
    """
    other = other or dtype
    n_entries = n_different = n_zeros = 0
    largest, squares = 0.0, 0.0
    losses = []
    for a, b in _pairs(first, second):
        n_entries += a.size
        parts = zip(small_chunks(a), small_chunks(b), strict=True)
        losses += [_loss(*part, dtype, other) for part in parts]
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
    mean = squares / max(n_entries, 1)
    return Difference(n_entries, n_different, n_zeros, largest, mean, add(losses))


def _loss(a: Patterns, b: Patterns, dtype: str, other: str) -> Loss:
    """Compare the entries that are finite in both."""
    if dtype == other and dtype in SHARED_DTYPES:
        loss = loss_of(a, b, dtype)
        if math.isfinite(loss.lost) and math.isfinite(loss.whole):
            return loss
    with np.errstate(invalid="ignore"):
        x, y = numbers(a, dtype).astype(np.float64), numbers(b, other).astype(np.float64)
    where = np.isfinite(x) & np.isfinite(y)
    return loss_of(x[where].view(np.uint64), y[where].view(np.uint64), "float64")


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
