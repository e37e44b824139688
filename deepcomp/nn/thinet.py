"""ThiNet: filters are chosen by how little the next layer misses them."""

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ..rules import Rule
from .convert import choose
from .coupling import MIXING, Bundle, Slot, double_copy, find_bundles, n_channels
from .cutting import set_silent
from .samples import contributions

_ADVICE = "expected channels that one layer alone reads, as those within residual blocks"


class Pruned(NamedTuple):
    """What was done to a layer.

    Attributes
    ----------
    layer, next_layer : str
        Whose filters were removed, and whose outputs were to stay what they were.
    n_before, n_after : int
        Filters that the layer has, and that are left.
    error, corrected_error : float
        What the sums of the next layer lost, as a fraction of their squares over all samples;
        and the same after the correction (equal without `reconstruct`).
    """

    layer: str
    next_layer: str
    n_before: int
    n_after: int
    error: float
    corrected_error: float


class _Pair(NamedTuple):
    layer: str
    next_layer: str
    n_kept: int
    bundles: list[Bundle]


def prune(
    model: nn.Module,
    keep: Rule,
    batches: Iterable[Any],
    reconstruct: bool = True,
    n_samples: int = 10_000,
    seed: int = 0,
) -> list[Pruned]:
    """Remove filters whose outputs the next layer misses least, on calibration data, in place.

    An output of the next layer is a sum over channels, of kernel times input. Of `n_samples` of
    its outputs, at random places of random inputs, each channel's part of the sum is known; the
    removed channels are chosen one by one so that the sum of their parts is least in square
    (algorithm 1 of the paper). With `reconstruct`, the weights of the next layer for the channels
    that stay are scaled, by one factor for each channel that least squares give (section 3.2.2 and
    equation 7): a fine-tuning without training.

    Filters, their biases and batch norms become zero, and so does what the next layer multiplies
    them by: shapes stay, and `deepcomp.shrink` removes them. Layers are pruned in the order of the
    model, each in what the former left.

    Parameters
    ----------
    model : nn.Module
        Is called in eval mode.
    keep : float or mapping of str to int or float
        How many filters are kept: a number from 1 on, or (as a float) a fraction in (0, 1]. In a
        mapping from patterns as of `deepcomp.compress`, of the layers whose filters are removed;
        None leaves a layer alone. One fraction for all is for those that can be pruned so.
    batches : iterable of Tensor, tuple or mapping
        Calibration data, what the model is called with: ``[x for x, _ in loader]``.
    reconstruct : bool, default True
    n_samples : int, default 10000
        Outputs of the next layer to look at, over all batches.
    seed : int, default 0
        Of the random places.

    Returns
    -------
    list of Pruned
        In the order of the model.

    Raises
    ------
    ImportError
        If torch-pruning is missing (the extra ``channels``).
    ValueError
        If a setting is not possible, or a layer's channels are added to others, read by several
        layers, or put out; if batches do not fit the model, samples are not finite, or too few.
        Nothing is changed then.

    References
    ----------
    Luo, Wu, Lin, "ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression",
    ICCV 2017.

    Examples
    --------
    >>> import deepcomp, torch
    >>> from torch import nn
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))
    >>> batches = [torch.randn(8, 3, 12, 12) for _ in range(4)]
    >>> [pruned] = deepcomp.nn.thinet.prune(model, {"0": 12}, batches)
    >>> pruned.n_after, pruned.next_layer, pruned.corrected_error < pruned.error
    (12, '2', True)
    >>> print(deepcomp.shrink(model, batches[0][:1]))
    layer  before  after
    --------------------
    0          16     12
    2           4      4
    """
    batches = [batches] if isinstance(batches, Tensor) else list(batches)
    if not batches:
        raise ValueError("batches is empty: expected calibration data")
    if isinstance(n_samples, bool) or not isinstance(n_samples, int) or n_samples < 1:
        raise ValueError(f"n_samples is {n_samples!r}: expected an integer of 1 or more")
    _, kept = choose("keep", keep, model, _check_keep)
    bundles = find_bundles(*double_copy(model, batches[0]))
    pairs = _pairs(model, kept, bundles, is_explicit=not isinstance(keep, float))
    trial = copy.deepcopy(model).eval()  # the model itself is changed when all went well
    results = []
    with torch.no_grad():
        for pair in pairs:
            generator = torch.Generator().manual_seed(seed)
            parts = contributions(
                trial, pair.next_layer, _places(pair), batches, n_samples, generator
            )
            results.append(_prune_layer(trial, pair, parts, reconstruct))
        for mine, theirs in zip(_tensors(model), _tensors(trial), strict=True):
            mine.copy_(theirs)
    return results


def _check_keep(what: str, name: str, value: Any) -> None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not is_count and not (isinstance(value, float) and 0 < value <= 1):
        raise ValueError(
            f"{what} of {name!r} is {value!r}: expected an integer of 1 or more, or a fraction "
            "(a float) in (0, 1]"
        )


def _pairs(
    model: nn.Module, kept: dict[str, Any], bundles: list[Bundle], is_explicit: bool
) -> list[_Pair]:
    """Find for each layer the one that reads it, in the order of the model."""
    by_slot = {slot: bundle for bundle in bundles for slot in bundle.slots}
    pairs = []
    for name, module in model.named_modules():
        if f"{name}.weight" not in kept:
            continue
        value = kept[f"{name}.weight"]
        try:
            pairs.append(_pair(model, name, module, value, by_slot))
        except ValueError:
            if is_explicit:
                raise
    if not pairs:
        raise ValueError(f"no layer of {type(model).__name__} can be pruned: {_ADVICE}")
    return pairs


def _pair(
    model: nn.Module, name: str, module: nn.Module, value: Any, by_slot: dict[Slot, Bundle]
) -> _Pair:
    what = f"layer {name!r} ({type(module).__name__})"
    if not isinstance(module, nn.Linear | _ConvNd) or getattr(module, "groups", 1) > 1:
        raise ValueError(f"{what}: expected a linear layer, or a convolution of one group")
    n = n_channels(module, "out")
    if isinstance(value, int) and value > n:
        raise ValueError(f"{what}: expected at most {n} filters to keep, found {value}")
    bundles = [by_slot[slot] for i in range(n) if (slot := Slot(name, "out", i)) in by_slot]
    if len({id(bundle) for bundle in bundles}) < n:
        raise ValueError(f"{what}: its channels cannot be followed, or depend on one another")
    readers = set()
    for bundle in bundles:
        if bundle.obstacles:
            raise ValueError(f"{what}: {bundle.obstacles[0]}: {_ADVICE}")
        for slot in bundle.slots:
            other = model.get_submodule(slot.layer)
            is_mixing = isinstance(other, MIXING) and getattr(other, "groups", 1) == 1
            if is_mixing and slot.side == "out" and slot.layer != name:
                raise ValueError(
                    f"{what}: its channels are added to those of {slot.layer!r}: {_ADVICE}"
                )
            if is_mixing and slot.side == "in":
                readers.add(slot.layer)
    if len(readers) != 1:
        raise ValueError(f"{what}: read by {', '.join(sorted(readers)) or 'no layer'}: {_ADVICE}")
    next_layer = readers.pop()
    if isinstance(model.get_submodule(next_layer), _ConvTransposeNd):
        raise ValueError(f"{what}: the next layer {next_layer!r} is transposed: expected another")
    n_kept = value if isinstance(value, int) else max(1, round(value * n))
    return _Pair(name, next_layer, n_kept, bundles)


def _places(pair: _Pair) -> list[list[int]]:
    """Return for each channel where the next layer reads it."""
    return [
        sorted(s.channel for s in bundle.slots if (s.layer, s.side) == (pair.next_layer, "in"))
        for bundle in pair.bundles
    ]


def _prune_layer(model: nn.Module, pair: _Pair, parts: Tensor, reconstruct: bool) -> Pruned:
    gram = parts.T @ parts
    removed = removed_channels(gram, len(gram) - pair.n_kept)
    left = [i for i in range(len(gram)) if i not in set(removed)]
    total = float(gram.sum()) or 1.0
    lost = float(gram[removed][:, removed].sum())
    scales, made_up = torch.ones(len(left), dtype=gram.dtype), 0.0
    if reconstruct:
        # the normal equations for what is added to scales of one: what the samples do not decide,
        # as of channels that are never active in them, stays as it is
        missing = gram[left][:, removed].sum(1)
        added = torch.linalg.lstsq(gram[left][:, left], missing, driver="gelsd").solution
        scales, made_up = scales + added, float(missing @ added)
    _zero(model, pair, removed)
    places = _places(pair)
    weight: Any = model.get_submodule(pair.next_layer).weight
    for channel, scale in zip(left, scales):
        weight[:, places[channel]] = (weight[:, places[channel]].double() * scale).to(weight.dtype)
    errors = lost / total, max(0.0, lost - made_up) / total
    return Pruned(pair.layer, pair.next_layer, len(gram), pair.n_kept, *errors)


def removed_channels(gram: Tensor, n_removed: int) -> list[int]:
    """Choose channels to remove, one by one: algorithm 1 of the paper.

    Parameters
    ----------
    gram : Tensor, shape (n_channels, n_channels)
        Sums over samples of the products of two channels' parts.
    n_removed : int

    Returns
    -------
    list of int
        The channels of which the sum of parts has a small square, as they were chosen.

    Examples
    --------
    >>> parts = torch.tensor([[3.0, -3.0, 1.0], [3.0, -3.0, 2.0]])  # the first two cancel
    >>> removed_channels(parts.T @ parts, 1), removed_channels(parts.T @ parts, 2)
    ([2], [2, 1])
    """
    removed: list[int] = []
    cost = gram.diagonal().clone()  # of the removed ones with one more, up to what is the same
    for _ in range(n_removed):
        best = int(cost.argmin())
        removed.append(best)
        cost += 2 * gram[best]
        cost[best] = float("inf")
    return removed


def _zero(model: nn.Module, pair: _Pair, removed: list[int]) -> None:
    """Set filters to zero, with all that belongs to them and what multiplies them."""
    weight: Any = model.get_submodule(pair.layer).weight
    following: Any = model.get_submodule(pair.next_layer).weight
    places = _places(pair)
    is_transposed = isinstance(model.get_submodule(pair.layer), _ConvTransposeNd)
    for channel in removed:
        weight[(slice(None), channel) if is_transposed else channel] = 0
        following[:, places[channel]] = 0
        set_silent(model, {slot for slot in pair.bundles[channel].slots if slot.side == "out"})


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
