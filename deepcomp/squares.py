"""What tensors lose when they are pruned and shared: sums of squares, chunk by chunk.

Exact for every dtype that can lose something, up to the rounding of sums in float64; no other copy
of a tensor is made. Of 16 bits, patterns are counted anyway, and their counts are enough.
"""

import math

import numpy as np
from numpy.typing import NDArray

from . import _kernels, prune
from .floats import to_values
from .losses import Loss, add
from .memory import scratch

Patterns = NDArray[np.unsignedinteger]

CHUNK = 1 << 16  # entries: with what becomes of them, they stay in the cache
_IN_RANGE = 300  # from -300 to 300, exponents of the largest number leave squares in range
_LEAST, _MOST = 1e-150, 1e150  # sums of squares outside may be of numbers that are not


def loss_of(before: Patterns, after: Patterns, dtype: str) -> Loss:
    """Compare entries with what became of them.

    Parameters
    ----------
    before, after : ndarray of uint16, uint32 or uint64, shape (n,)
        Bit patterns of finite floats, contiguous.
    dtype : {"float16", "bfloat16", "float32", "float64"}

    Returns
    -------
    Loss

    Examples
    --------
    >>> before, after = np.array([3.0, 4.0]), np.array([3.0, 0.0])
    >>> loss_of(before.view(np.uint64), after.view(np.uint64), "float64").relative_error
    0.8
    """
    if before.shape != after.shape:
        raise ValueError(f"after has shape {after.shape}: expected {before.shape}")
    sums = np.zeros(2)
    _kernels.squares_into(before, after, dtype == "bfloat16", sums)
    loss = Loss(float(sums[0]), float(sums[1]))
    if dtype == "float64" and not (_LEAST < loss.whole < _MOST and loss.lost < _MOST):
        largest = max(prune.largest_magnitude(p) for p in (before, after))
        exponent = math.frexp(float(np.uint64(largest).view(np.float64)))[1]
        if abs(exponent) > _IN_RANGE:
            scaled = loss_of(_scaled(before, -exponent), _scaled(after, -exponent), dtype)
            return scaled._replace(exponent=exponent)
    return loss


def _scaled(patterns: Patterns, exponent: int) -> Patterns:
    return np.ldexp(patterns.view(np.float64), exponent).view(np.uint64)


def loss_of_counts(
    before: Patterns, after: Patterns, counts: NDArray[np.int64], dtype: str
) -> Loss:
    """Do the same with distinct patterns, and how many entries have each.

    Examples
    --------
    >>> before, after = (np.array(v, np.float16).view(np.uint16) for v in ([3, 4], [3, 0]))
    >>> loss_of_counts(before, after, np.array([1, 1]), "float16")
    Loss(lost=16.0, whole=25.0, exponent=0)
    """
    values, found = (to_values(p, dtype).astype(np.float64) for p in (before, after))
    return Loss(float(counts @ (values - found) ** 2), float(counts @ values**2))


def cut_off(
    patterns: Patterns, dtype: str, least: int, n_ties_to_remove: int, out: Patterns
) -> Loss:
    """Do as `prune.keep_at_least`, and return what was lost.

    Parameters
    ----------
    patterns : ndarray of uint16, uint32 or uint64, shape (n,)
    dtype : {"float16", "bfloat16", "float32", "float64"}
    least, n_ties_to_remove : int
        As of `prune.keep_at_least`.
    out : ndarray of the same dtype, shape (n,)
        May be `patterns` itself.

    Returns
    -------
    Loss

    Examples
    --------
    >>> patterns = np.array([0.5, -0.25, 2.0, -0.5], np.float32).view(np.uint32)
    >>> half = int(np.float32(0.5).view(np.uint32))
    >>> cut_off(patterns, "float32", half, 1, out=patterns)
    Loss(lost=0.3125, whole=4.5625, exponent=0)
    >>> patterns.view(np.float32)
    array([0.5, 0. , 2. , 0. ], dtype=float32)
    """
    losses = []
    for i in range(0, patterns.size, CHUNK):
        before = patterns[i : i + CHUNK]
        kept = scratch("kept_of_cut", before.size, before.dtype)
        prune.keep_at_least(before, least, out=kept)
        losses.append(loss_of(before, kept, dtype))
        out[i : i + CHUNK] = kept
    prune.remove_ties(out, least, n_ties_to_remove)
    if least and n_ties_to_remove:
        tie = np.array([least], patterns.dtype)
        of_one = loss_of(tie, np.zeros_like(tie), dtype)
        losses.append(of_one._replace(lost=n_ties_to_remove * of_one.lost, whole=0.0))
    return add(losses)
