"""The lossy stages in order, over a whole model: prune, then share; then encode.

Han, Mao, Dally, "Deep Compression", ICLR 2016.
"""

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from . import _kernels, prune, sharing
from .arrays import Source
from .encode import Patterns, Weight, encode_tensor
from .records import ITEMSIZE, MAX_CODEBOOK, TensorRecord
from .rules import Rule, assign, check_bits, check_number, pruning_rule

Encoded = tuple[TensorRecord, list[bytes | memoryview]]


def encode_model(
    tensors: list[Source],
    bits: int | Mapping[str, int] | None,
    sparsity: Rule,
    threshold: Rule,
    std: Rule,
    scope: str,
) -> Iterator[Encoded]:
    """Prune, share and encode tensors, one after the other.

    Everything that can be refused is refused before the first tensor is encoded. See
    `deepcomp.compress` for the parameters and errors.

    Parameters
    ----------
    tensors : list of Source
    bits, sparsity, threshold, std, scope
        See `deepcomp.compress`.

    Returns
    -------
    iterator of (TensorRecord, list of bytes)
    """
    bits_of = assign("bits", bits, tensors, check_bits)
    for tensor in tensors:
        if tensor.is_shared:  # by share_weights: its codebook stays as it is
            bits_of.pop(tensor.name, None)
    what, rule = pruning_rule(sparsity, threshold, std, scope)
    numbers = assign(what, rule, tensors, check_number)
    for tensor in tensors:
        if tensor.name in bits_of or tensor.name in numbers:
            check_finite(tensor.weight())
    cuts = _cuts(tensors, what, numbers, scope)
    return (_encode(t, cuts.get(t.name), bits_of.get(t.name)) for t in tensors)


def _encode(tensor: Source, cut: tuple[int, int] | None, bits: int | None) -> Encoded:
    weight = tensor.weight()
    if cut is not None or bits is not None:
        weight.patterns = prune.keep_at_least(weight.patterns, *(cut or (0, 0)))
    if bits is not None:
        share(weight.patterns, weight.dtype, bits)
    return encode_tensor(weight)


def share(patterns: Patterns, dtype: str, bits: int) -> None:
    """Replace the entries of a tensor by at most ``2**bits`` shared values, in place.

    Zeros stay zero. A tensor whose other entries have few enough distinct
    values keeps them. With 8 bits and zeros among the entries, at most 255 values are fitted, so
    that zero can be one of 256.

    Parameters
    ----------
    patterns : ndarray of uint16, uint32 or uint64, shape (numel,)
        Finite floats, zeros being +0.0; changed.
    dtype : {"float16", "bfloat16", "float32", "float64"}
    bits : int
        1 to 8.

    References
    ----------
    Han, Mao, Dally, "Deep Compression", ICLR 2016, section 3.
    """
    if sharing.distinct_patterns(patterns, 1 << bits) is not None:
        return
    where = patterns != 0
    kept = patterns if where.all() else patterns[where]
    n_values = min(1 << bits, MAX_CODEBOOK - (kept.size < patterns.size))
    values = to_values(kept, dtype)
    codebook = to_patterns(sharing.fit_codebook(values, n_values), dtype)
    labels = sharing.nearest_labels(values, to_values(codebook, dtype).astype(np.float64))
    _kernels.look_up_into(labels, codebook, kept)
    if kept is not patterns:
        patterns[where] = kept


def to_values(patterns: Patterns, dtype: str) -> NDArray[np.floating]:
    """Return float patterns as float32 (float64 for float64); exact.

    Examples
    --------
    >>> to_values(np.array([0x3F80], np.uint16), "bfloat16")
    array([1.], dtype=float32)
    """
    if dtype == "bfloat16":
        return (patterns.astype(np.uint32) << np.uint32(16)).view(np.float32)
    values = patterns.view(dtype)
    return values.astype(np.float32) if dtype == "float16" else values


def to_patterns(values: NDArray[np.float64], dtype: str) -> Patterns:
    """Round float64 to a float dtype; return the distinct patterns by rising value.

    Examples
    --------
    >>> to_patterns(np.array([2.0, 1.0, 1.0]), "bfloat16")
    array([16256, 16384], dtype=uint16)
    """
    if dtype == "bfloat16":
        wide = values.astype(np.float32).view(np.uint32).astype(np.uint64)
        wide += 0x7FFF + (wide >> np.uint64(16) & np.uint64(1))  # to nearest, ties to even
        patterns = (wide >> np.uint64(16)).astype(np.uint16)
    else:
        patterns = values.astype(dtype).view(f"<u{ITEMSIZE[dtype]}")
    mask = patterns.dtype.type(prune.magnitude_mask(patterns.itemsize))
    patterns = np.unique(np.where(patterns & mask, patterns, 0).astype(patterns.dtype))  # no -0.0
    return patterns[np.argsort(to_values(patterns, dtype))]


class NotFiniteError(ValueError):
    """Raise when `tensor`, which is to be pruned or shared, is not finite."""

    tensor = ""


def check_finite(weight: Weight) -> None:
    """Raise NotFiniteError if a float tensor has entries that are not finite."""
    infinity = prune.threshold_pattern(math.inf, weight.dtype)
    largest = prune.largest_magnitude(weight.patterns)
    if largest >= infinity:
        error = NotFiniteError(
            f"tensor {weight.name!r} has NaN or infinite entries: it cannot be pruned or shared "
            "(bits=None without pruning stores it exactly)"
        )
        error.tensor = weight.name
        raise error


def _cuts(
    tensors: list[Source], what: str, numbers: dict[str, float], scope: str
) -> dict[str, tuple[int, int]]:
    """Return for each tensor to prune: the least magnitude kept, and the ties to remove."""
    chosen = [t for t in tensors if t.name in numbers]
    if scope == "layer":
        groups = [[t] for t in chosen]
    else:
        values = sorted(set(numbers.values()))
        groups = [[t for t in chosen if numbers[t.name] == v] for v in values]
    cut_of: dict[str, Callable[[list[Source], float], dict[str, tuple[int, int]]]] = {
        "sparsity": _cuts_by_sparsity,
        "threshold": _cuts_by_threshold,
        "std": _cuts_by_std,
    }
    cuts: dict[str, tuple[int, int]] = {}
    for group in groups:
        cuts |= cut_of[what](group, numbers[group[0].name])
    return cuts


def _cuts_by_threshold(group: list[Source], threshold: float) -> dict[str, tuple[int, int]]:
    return {t.name: (prune.threshold_pattern(threshold, t.dtype), 0) for t in group}


def _cuts_by_std(group: list[Source], std: float) -> dict[str, tuple[int, int]]:
    n = sum(math.prod(t.shape) for t in group)
    if n == 0:
        return _cuts_by_threshold(group, 0.0)
    exponent = max(int(np.frexp(np.abs(v).max())[1]) for v in _parts(group))
    # scaled, so that squares stay in range; sums of parts, so that all machines add alike
    mean = sum(float(np.ldexp(v, -exponent).sum()) for v in _parts(group)) / n
    squares = sum(float(((np.ldexp(v, -exponent) - mean) ** 2).sum()) for v in _parts(group))
    deviation = math.ldexp(math.sqrt(squares / n), exponent)
    return _cuts_by_threshold(group, min(std * deviation, float(np.finfo(np.float64).max)))


def _parts(group: list[Source]) -> Iterator[NDArray[np.float64]]:
    for tensor in group:
        for part in prune.chunks(tensor.fetch()):
            yield to_values(part, tensor.dtype).astype(np.float64)


def _cuts_by_sparsity(group: list[Source], sparsity: float) -> dict[str, tuple[int, int]]:
    """Cut at the k-th magnitude of the group; of equal magnitudes the last ones go first."""
    dtypes = {t.dtype for t in group}
    common = dtypes.pop() if len(dtypes) == 1 else "float64"
    arrays = [_widen(t, common) for t in group]
    k = round(sparsity * sum(a.size for a in arrays))
    if k == 0:
        return {t.name: (0, 0) for t in group}
    pattern = prune.kth_magnitude(arrays, k)
    counts = [prune.count_ties(a, pattern) for a in arrays]
    to_remove = k - sum(below for below, _ in counts)
    cuts = {}
    for tensor, (_, n_equal) in zip(reversed(group), reversed(counts), strict=True):
        n_ties = min(n_equal, to_remove)
        to_remove -= n_ties
        own = pattern
        if common != tensor.dtype:
            value = float(np.uint64(pattern).view(np.float64))
            own = prune.threshold_pattern(value, tensor.dtype)
        cuts[tensor.name] = (own, n_ties)
    return cuts


def _widen(tensor: Source, dtype: str) -> Patterns:
    patterns = tensor.fetch()
    if tensor.dtype == dtype:
        return patterns
    return to_values(patterns, tensor.dtype).astype(np.float64).view(np.uint64)
