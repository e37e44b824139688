"""The lossy stages in order, over a whole model: prune, then share; then encode.

Han, Mao, Dally, "Deep Compression", ICLR 2016.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from . import prune
from .arrays import Source
from .codebook_passes import codebook_passes, put_codebook
from .cut_passes import NOTHING, Cut, check_finite_passes, cut_passes
from .encode import Patterns, Weight, encode_tensor
from .floats import to_patterns as to_patterns
from .floats import to_values as to_values
from .losses import EXACT, Loss, in_order
from .passes import drive, over
from .records import ITEMSIZE, TensorRecord
from .rules import Names, Rule, assign, check_bits, check_number, excluded, pruning_rule
from .squares import cut_off

_FEW = 0.7  # of the entries are kept


class Encoded(NamedTuple):
    """A tensor as it will be in a file, and what it lost on the way."""

    record: TensorRecord
    section: list[bytes | memoryview]
    loss: Loss = EXACT


def encode_model(
    tensors: list[Source],
    bits: int | Mapping[str, int] | None,
    sparsity: Rule,
    threshold: Rule,
    std: Rule,
    scope: str,
    exclude: Names = None,
) -> Iterator[Encoded]:
    """Prune, share and encode tensors, one after the other.

    Everything that can be refused is refused before the first tensor is encoded. See
    `deepcomp.compress` for the parameters and errors.

    Parameters
    ----------
    tensors : list of Source
    bits, sparsity, threshold, std, scope, exclude
        See `deepcomp.compress`.

    Returns
    -------
    iterator of Encoded
    """
    bits_of, what, numbers = settings_of(tensors, bits, sparsity, threshold, std, scope, exclude)
    for tensor in tensors:
        if tensor.name in bits_of or tensor.name in numbers:
            check_finite(tensor.weight())
    cuts = _cuts(tensors, what, numbers, scope)
    return (encode_weight(t.weight(), cuts.get(t.name), bits_of.get(t.name)) for t in tensors)


def settings_of(
    tensors: list[Source],
    bits: int | Mapping[str, int] | None,
    sparsity: Rule,
    threshold: Rule,
    std: Rule,
    scope: str,
    exclude: Names = None,
) -> tuple[dict[str, int], str, dict[str, float]]:
    """Find the settings of each tensor; ValueError if they are not possible.

    Returns
    -------
    bits_of : dict of str to int
    what : {"sparsity", "threshold", "std"}
    numbers : dict of str to float
    """
    bits_of = assign("bits", bits, tensors, check_bits)
    what, rule = pruning_rule(sparsity, threshold, std, scope)
    numbers = assign(what, rule, tensors, check_number)
    for name in excluded("exclude", exclude, [t.name for t in tensors]):
        bits_of.pop(name, None)
        numbers.pop(name, None)
    for tensor in tensors:
        if tensor.is_shared:  # by share_weights: its codebook stays as it is
            bits_of.pop(tensor.name, None)
    return bits_of, what, numbers


def encode_weight(
    weight: Weight, cut: Cut | None, bits: int | None, in_place: bool = False
) -> Encoded:
    """Prune, share and encode one tensor; its patterns are not changed, unless `in_place`."""
    lost = shared = EXACT
    if cut is not None or bits is not None:
        before, cut = weight.patterns, cut or NOTHING
        weight = replace(weight, patterns=before if in_place else np.empty_like(before))
        lost = put_cut(before, weight.dtype, cut, weight.patterns)
    if bits is not None:
        shared = share(weight.patterns, weight.dtype, bits)
    return Encoded(*encode_tensor(weight), in_order(lost, shared))


def put_cut(patterns: Patterns, dtype: str, cut: Cut, out: Patterns) -> Loss:
    """Cut entries off, of a part or a tensor; return what that takes away."""
    if cut.loss is None:
        return cut_off(patterns, dtype, cut.least, cut.n_ties_to_remove, out)
    prune.keep_at_least(patterns, cut.least, cut.n_ties_to_remove, out)
    return cut.loss


def share(patterns: Patterns, dtype: str, bits: int) -> Loss:
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

    Returns
    -------
    Loss

    References
    ----------
    Han, Mao, Dally, "Deep Compression", ICLR 2016, section 3.
    """
    where: Any = slice(None)
    if ITEMSIZE[dtype] > 2 and np.count_nonzero(patterns) < _FEW * patterns.size:
        where = patterns != 0  # zeros cost time in each pass
    kept = patterns[where]
    fit = drive(codebook_passes(bits, dtype, patterns.size), over([(kept, dtype)]))
    loss = fit.loss
    if fit.codebook is not None:
        loss = put_codebook(kept, dtype, fit.codebook) or loss
        patterns[where] = kept
    assert loss is not None
    return loss


def check_finite(weight: Weight) -> None:
    """Raise NotFiniteError if a float tensor has entries that are not finite."""
    part = [(weight.patterns, weight.dtype)]
    drive(check_finite_passes([(weight.name, weight.dtype)]), over(part))


def _cuts(
    tensors: list[Source], what: str, numbers: dict[str, float], scope: str
) -> dict[str, Cut]:
    """Return for each tensor to prune: the least magnitude kept, and the ties to remove."""
    cuts: dict[str, Cut] = {}
    for group in groups([t for t in tensors if t.name in numbers], numbers, scope):
        parts = [(t.dtype, math.prod(t.shape)) for t in group]
        passes = cut_passes(what, numbers[group[0].name], parts)
        found = drive(passes, over(_Fetched(group)))
        cuts |= {t.name: cut for t, cut in zip(group, found, strict=True)}
    return cuts


def groups(chosen: list[Source], numbers: dict[str, float], scope: str) -> list[list[Source]]:
    """Return the tensors that are cut together: each alone, or all that have the same number."""
    if scope == "layer":
        return [[t] for t in chosen]
    values = sorted(set(numbers.values()))
    return [[t for t in chosen if numbers[t.name] == v] for v in values]


class _Fetched:
    """Tensors that are fetched anew for each pass, one at a time."""

    def __init__(self, tensors: list[Source]) -> None:
        self._tensors = tensors

    def __iter__(self) -> Iterator[tuple[Patterns, str]]:
        return ((t.fetch(), t.dtype) for t in self._tensors)
