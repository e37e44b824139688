"""What tensors lose when they are pruned and shared: sums of squares, chunk by chunk.

Exact for every dtype that can lose something, up to the rounding of sums in float64; no other copy
of a tensor is made.
"""

import math

import numpy as np
from numpy.typing import NDArray

from . import _kernels, prune
from .losses import Loss, add
from .memory import scratch

Patterns = NDArray[np.unsignedinteger]

_IN_RANGE = 300  # the exponents from -300 to 300 are those of numbers whose squares are in range


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
    exponent = 0
    if dtype == "float64":  # whose squares can be out of range: they are taken of scaled numbers
        largest = max(prune.largest_magnitude(p) for p in (before, after))
        exponent = math.frexp(float(np.uint64(largest).view(np.float64)))[1]
        exponent = exponent if abs(exponent) > _IN_RANGE else 0
        if exponent:
            before, after = (_scaled(p, -exponent) for p in (before, after))
    sums = np.zeros(2)
    _kernels.squares_into(before, after, dtype == "bfloat16", sums)
    lost, whole = sums.tolist()
    return Loss(lost, whole, exponent)


def _scaled(patterns: Patterns, exponent: int) -> Patterns:
    return np.ldexp(patterns.view(np.float64), exponent).view(np.uint64)


def loss_of_cut(patterns: Patterns, dtype: str, least: int, n_ties_to_remove: int) -> Loss:
    """Return what `prune.keep_at_least` takes away, before it does.

    Parameters
    ----------
    patterns : ndarray of uint16, uint32 or uint64, shape (n,)
    dtype : {"float16", "bfloat16", "float32", "float64"}
    least, n_ties_to_remove : int
        As of `prune.keep_at_least`.

    Returns
    -------
    Loss

    Examples
    --------
    >>> patterns = np.array([0.5, -0.25, 2.0, -0.5], np.float32).view(np.uint32)
    >>> half = int(np.float32(0.5).view(np.uint32))
    >>> loss_of_cut(patterns, "float32", half, 1)
    Loss(lost=0.3125, whole=4.5625, exponent=0)
    """
    mask = prune.magnitude_mask(patterns.itemsize)
    losses = []
    for chunk in prune.small_chunks(patterns):
        kept = scratch("cut", chunk.size, chunk.dtype)
        _kernels.keep_at_least_into(chunk, mask, max(least, 1), kept)
        losses.append(loss_of(chunk, kept, dtype))
    if least and n_ties_to_remove:
        tie = np.array([least], patterns.dtype)
        of_one = loss_of(tie, np.zeros_like(tie), dtype)
        losses.append(of_one._replace(lost=n_ties_to_remove * of_one.lost, whole=0.0))
    return add(losses)
