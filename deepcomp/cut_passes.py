"""Pruning thresholds of tensors that are read in parts: fractions, and standard deviations.

Han, Mao, Dally, "Deep Compression", ICLR 2016, section 2.
"""

import math
from collections.abc import Sequence
from glob import escape
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _kernels, prune
from .floats import to_values
from .losses import EXACT, Loss
from .passes import Pass, Passes, Patterns
from .records import ITEMSIZE
from .squares import loss_of_counts


class Cut(NamedTuple):
    """Where a part is cut: as `prune.keep_at_least` takes it.

    Attributes
    ----------
    least : int
        The least magnitude that is kept.
    n_ties_to_remove : int
        How many of this magnitude go as well, the last ones.
    loss : Loss or None
        What that takes away, where it is known without looking again.
    """

    least: int = 0
    n_ties_to_remove: int = 0
    loss: Loss | None = None


NOTHING = Cut(loss=EXACT)
Sizes = Sequence[tuple[str, int]]  # dtype and number of entries of each part
_Digits = tuple[NDArray[np.uint16], NDArray[np.int64]]  # 16 bits, and how often each occurs


def cut_passes(
    what: str, number: float, parts: Sizes, names: Sequence[str] | None = None
) -> Passes[list[Cut]]:
    """Find where to cut tensors that are counted together.

    Parameters
    ----------
    what : {"sparsity", "threshold", "std"}
    number : float
    parts : sequence of (str, int)
        Dtype and number of entries of each part of the tensors, in order. Parts of one tensor
        begin at multiples of 2**20 entries.
    names : sequence of str, optional
        The tensor of each part, if it is not known that all entries are finite.

    Returns
    -------
    list of Cut
        For each part.

    Raises
    ------
    NotFiniteError
        If there are `names`, and an entry of one of them is not finite.
    """
    k = round(number * sum(numel for _, numel in parts)) if what == "sparsity" else 0
    if k > 0:
        return (yield from _sparsity_passes(k, parts, names))
    if names is not None:
        yield from check_finite_passes([(n, dtype) for n, (dtype, _) in zip(names, parts)])
    if what == "sparsity":
        return [NOTHING for _ in parts]
    if what == "std":
        number = yield from _deviation_passes(number, sum(numel for _, numel in parts))
    return [Cut(prune.threshold_pattern(number, dtype)) for dtype, _ in parts]


class NotFiniteError(ValueError):
    """Raise when `tensor`, which is to be pruned or shared, is not finite."""

    tensor = ""


def check_finite_passes(parts: Sequence[tuple[str, str]]) -> Passes[None]:
    """Raise NotFiniteError if a float tensor has entries that are not finite.

    Parameters
    ----------
    parts : sequence of (str, str)
        The name of the tensor of each part, and its dtype.
    """
    largest = yield Pass(_largest_magnitude)
    for (name, dtype), magnitude in zip(parts, largest, strict=True):
        _check_finite(name, magnitude, prune.threshold_pattern(math.inf, dtype))


def _check_finite(name: str, magnitude: int, infinity: int) -> None:
    if magnitude >= infinity:
        pattern = escape(name)
        error = NotFiniteError(
            f"tensor {name!r} has NaN or infinite entries: it cannot be pruned or shared "
            f"(exclude={pattern!r}, or --exact {pattern!r} of dcz compress, leaves it as it is)"
        )
        error.tensor = name
        raise error


def _sparsity_passes(k: int, parts: Sizes, names: Sequence[str] | None) -> Passes[list[Cut]]:
    """Cut at the k-th magnitude of all parts; of equal magnitudes the last ones go first."""
    dtypes = {dtype for dtype, _ in parts}
    common = dtypes.pop() if len(dtypes) == 1 else "float64"
    magnitude, to_remove, digits = yield from _kth_magnitude_passes(k, common, names)
    cuts = []
    for (dtype, _), counted in zip(reversed(parts), reversed(digits), strict=True):
        n_ties = min(int(counted[1][counted[0] == magnitude & 0xFFFF].sum()), to_remove)
        to_remove -= n_ties
        own = magnitude
        if common != dtype:
            own = prune.threshold_pattern(float(np.uint64(magnitude).view(np.float64)), dtype)
        # 16 bits are all: what goes is among what was counted
        loss = _loss_of_cut(*counted, dtype, own, n_ties) if ITEMSIZE[common] == 2 else None
        cuts.append(Cut(own, n_ties, loss))
    return cuts[::-1]


def _loss_of_cut(
    magnitudes: NDArray[np.uint16], counts: NDArray[np.int64], dtype: str, least: int, n_ties: int
) -> Loss:
    n_gone = np.where(magnitudes < least, counts, np.where(magnitudes == least, n_ties, 0))
    zeros = np.zeros_like(magnitudes)
    whole = loss_of_counts(magnitudes, magnitudes, counts, dtype)
    return whole._replace(lost=loss_of_counts(magnitudes, zeros, n_gone, dtype).lost)


def _kth_magnitude_passes(
    k: int, dtype: str, names: Sequence[str] | None
) -> Passes[tuple[int, int, list[_Digits]]]:
    """Find the k-th smallest magnitude, 16 bits in each pass.

    Returns
    -------
    magnitude : int
        Its pattern.
    rank : int
        How many entries of this magnitude are among the k smallest.
    digits : list of (ndarray of uint16, ndarray of int64)
        The last 16 bits of each part's magnitudes that begin as this one, and how many have them.
    """
    prefix, rank = -1, k
    for shift in range({"float64": 48, "float32": 16}.get(dtype, 0), -1, -16):
        answers = yield Pass(_count_digits, (dtype, shift, prefix))
        if prefix < 0 and names is not None:  # what is not finite begins with digits of its own
            infinity = prune.threshold_pattern(math.inf, dtype) >> shift
            for name, (digits, _) in zip(names, answers, strict=True):
                _check_finite(name, int(digits.max(initial=0)), infinity)
        counts = np.zeros(1 << 16, np.int64)
        for digits, n in answers:
            counts[digits] += n
        prefix, rank = prune.next_digit(counts, prefix, rank)
    return prefix, rank, answers


def _deviation_passes(multiple: float, n: int) -> Passes[float]:
    """Return a multiple of the standard deviation."""
    if n == 0:
        return 0.0
    exponent = max(e for e in (yield Pass(_largest_exponent)) if e is not None)
    # scaled, so that squares stay in range; sums of chunks, so that all machines add alike
    sums = yield Pass(_sums, (exponent,))
    mean = sum(x for part in sums for x in part) / n
    squares = yield Pass(_sums_of_squares, (exponent, mean))
    variance = sum(x for part in squares for x in part) / n
    deviation = math.ldexp(math.sqrt(variance), exponent)
    return float(min(multiple * deviation, float(np.finfo(np.float64).max)))


def _largest_magnitude(patterns: Patterns, dtype: str) -> int:
    return prune.largest_magnitude(patterns)


def _count_digits(patterns: Patterns, dtype: str, common: str, shift: int, prefix: int) -> _Digits:
    counts = np.zeros(1 << 16, np.int64)
    for chunk in prune.chunks(patterns):
        wide = _widen(chunk, dtype, common)
        mask = prune.magnitude_mask(wide.itemsize)
        _kernels.count_digits_into(wide, mask, shift, prefix, counts)
    digits = np.flatnonzero(counts)
    return digits.astype(np.uint16), counts[digits]


def _widen(patterns: Patterns, dtype: str, common: str) -> Patterns:
    if dtype == common:
        return np.require(patterns, requirements="A")
    return to_values(patterns, dtype).astype(np.float64).view(np.uint64)


def _largest_exponent(patterns: Patterns, dtype: str) -> int | None:
    exponents = (int(np.frexp(np.abs(v).max())[1]) for v in _chunks(patterns, dtype))
    return max(exponents, default=None)


def _sums(patterns: Patterns, dtype: str, exponent: int) -> list[float]:
    return [float(np.ldexp(v, -exponent).sum()) for v in _chunks(patterns, dtype)]


def _sums_of_squares(patterns: Patterns, dtype: str, exponent: int, mean: float) -> list[float]:
    chunks = _chunks(patterns, dtype)
    return [float(((np.ldexp(v, -exponent) - mean) ** 2).sum()) for v in chunks]


def _chunks(patterns: Patterns, dtype: str) -> Any:
    return (to_values(c, dtype).astype(np.float64) for c in prune.chunks(patterns))
