"""Weight sharing that is trained: each weight becomes a codebook and fixed labels.

Han, Mao, Dally, "Deep Compression", ICLR 2016, section 3.
"""

from collections.abc import Callable, Iterable, Mapping
from glob import escape
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .. import codebooks, sharing
from ..arrays import Source
from ..decode import Patterns
from ..pipeline import check_finite, to_patterns, to_values
from ..prune import magnitude_mask
from ..rules import check_bits
from ..sharing import Labels
from .convert import DTYPES, as_tensor, choose, torch_source
from .replace import check_is_unwrapped, mark_replaced

INITIAL = {
    "kmeans": sharing.fit_codebook,
    "linear": codebooks.linear_codebook,
    "density": codebooks.density_codebook,
}


class SharedWeight(nn.Module):
    """The parametrization that `share_weights` registers: codebook and labels -> weight.

    Labels and levels are in the state_dict, but they are no buffers: those get averaged (EMA),
    and sent around at each step (DistributedDataParallel).

    Parameters
    ----------
    labels : Tensor of uint8, shape of the weight
        0 where the weight is pruned; i + 1 for entry i of the codebook.
    codebook : Tensor, shape (m,)
        The shared values; those of a grid are ``scale * levels``.
    levels : Tensor, shape (m,), optional
        Of a grid; then `codebook` is the scale, shape (1,).
    """

    def __init__(self, labels: Tensor, codebook: Tensor, levels: Tensor | None = None) -> None:
        super().__init__()
        self.labels = labels
        self.levels = levels
        self.initial: Tensor | None = codebook

    def forward(self, codebook: Tensor) -> Tensor:
        """Look up the weight."""
        return shared_weight(codebook, self.labels, self.levels)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor]:
        """Return the codebook when it is registered; other weights cannot be assigned."""
        if self.initial is None:
            raise RuntimeError(
                "this weight is shared: train or set its codebook, or make it ordinary again "
                "with torch.nn.utils.parametrize.remove_parametrizations"
            )
        return (self.initial,)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        self.labels = fn(self.labels)
        self.levels = None if self.levels is None else fn(self.levels)
        return super()._apply(fn, recurse)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        destination[f"{prefix}labels"] = self.labels
        if self.levels is not None:
            destination[f"{prefix}levels"] = self.levels

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, metadata: Any, strict: bool,
        missing: list[str], unexpected: list[str], errors: list[str],
    ) -> None:  # fmt: skip
        for name in ("labels", "levels"):
            own, new = getattr(self, name), state_dict.get(prefix + name)
            if own is None:
                continue
            if new is None:
                missing.append(prefix + name)
            elif name == "labels" and (new.shape != own.shape or new.dtype != own.dtype):
                errors.append(
                    f"{prefix}labels: expected {own.dtype} {list(own.shape)}, "
                    f"found {new.dtype} {list(new.shape)}"
                )
            else:
                setattr(self, name, new.detach().to(own.device, own.dtype, copy=True))


def _resize_codebook(
    module: nn.Module, state_dict: Mapping[str, Any], prefix: str, *_: Any
) -> None:
    """Make room for a codebook of another size before it is loaded."""
    found = state_dict.get(f"{prefix}original0")
    if isinstance(found, Tensor) and found.dim() == 1 and found.shape != module.original0.shape:
        module.original0.data = torch.zeros_like(found, device=module.original0.device)


class _LookUp(torch.autograd.Function):
    """Look up values by labels; the gradient of a value is the sum over its weights.

    Equation 3 of the paper. The sum is of float64: a codebook entry may stand for millions.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, labels: Tensor) -> Tensor:
        return values.index_select(0, labels.flatten().int()).view(labels.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        values, labels = inputs
        ctx.save_for_backward(labels)
        ctx.n_values = values.numel()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (labels,) = ctx.saved_tensors
        dense = gradient.to_dense() if gradient.is_sparse else gradient
        sums = torch.zeros(ctx.n_values, dtype=torch.float64, device=gradient.device)
        sums = sums.index_add(0, labels.flatten().int(), dense.flatten().double())
        return sums.to(gradient.dtype), None


def shared_weight(codebook: Tensor, labels: Tensor, levels: Tensor | None) -> Tensor:
    """Compute the weight that `SharedWeight` stands for.

    Examples
    --------
    >>> labels = torch.tensor([[0, 2], [1, 2]], dtype=torch.uint8)
    >>> shared_weight(torch.tensor([-1.0, 0.5]), labels, None)
    tensor([[ 0.0000,  0.5000],
            [-1.0000,  0.5000]])
    """
    values = codebook if levels is None else codebook * levels
    return _LookUp.apply(torch.cat((values.new_zeros(1), values)), labels)


def shared_source(name: str, codebook: Tensor, labels: Tensor, levels: Tensor | None) -> Source:
    """Present the parts of a shared weight, of a state_dict, as the weight."""
    codebook, labels = as_tensor(codebook), as_tensor(labels)
    levels = None if levels is None else as_tensor(levels)
    one = torch_source(name, codebook)
    if codebook.dim() != 1 or not one.is_float:
        raise ValueError(
            f"tensor {name!r} has a codebook of {one.dtype} {list(codebook.shape)}: "
            "expected a vector of floats"
        )
    if levels is not None and not _are_levels(levels, codebook):
        raise ValueError(
            f"tensor {name!r} has levels of {levels.dtype} {list(levels.shape)} and a codebook "
            f"of {codebook.dtype} {list(codebook.shape)}: expected a vector and a scale"
        )
    if labels.dtype != torch.uint8:
        raise ValueError(f"tensor {name!r} has labels of {labels.dtype}: expected torch.uint8")
    n_values = codebook.numel() if levels is None else levels.numel()
    if labels.numel() and int(labels.max()) > n_values:
        raise ValueError(f"tensor {name!r} has a label {int(labels.max())} of {n_values} values")

    def fetch() -> Patterns:
        with torch.no_grad():
            return torch_source(name, shared_weight(codebook, labels, levels)).fetch()

    parts = (part for part in (codebook, labels, levels) if part is not None)
    identity = tuple(torch_source(name, part).identity for part in parts)
    return Source(name, one.dtype, tuple(labels.shape), identity, fetch, is_shared=True)


def _are_levels(levels: Tensor, codebook: Tensor) -> bool:
    keeps_dtype = torch.result_type(codebook, levels) == codebook.dtype
    return levels.dim() == 1 and codebook.numel() == 1 and keeps_dtype


def share_weights(
    model: nn.Module,
    bits: int | Mapping[str, int] = 5,
    init: str = "kmeans",
    grid: str | None = None,
    exclude: str | Iterable[str] | None = None,
) -> nn.Module:
    """Turn each weight into a trainable codebook and fixed labels, in place.

    Weights that are zero stay zero. The codebooks are new parameters: make the optimizer after
    this, from ``model.parameters()``. `deepcomp.compress` takes the model as it is, and
    ``torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")`` makes a weight
    ordinary again.

    Parameters
    ----------
    model : nn.Module
        On a CPU or a CUDA device; pruned before. One that is to be wrapped, for distributed
        training say, is wrapped after this.
    bits : int or mapping of str to int, default 5
        1 to 8: up to ``2**bits`` values besides zero (255 at 8 bits), for all weights, or by
        patterns of names; `deepcomp.compress` says what weights are. A weight that has so few
        values already keeps exactly those.
    init : {"kmeans", "linear", "density"}, default "kmeans"
        How the codebook is found: the optimum of k-means, or Lloyd's iterations from values that
        are equally spaced, or that stand for equally many weights.
    grid : {None, "uniform", "ternary"}, optional
        "uniform": the values are ``scale * {-n .. -1, 1 .. n}`` with ``2 * n = 2**bits`` (254 at
        8 bits), and only the scale is trained. With one bit, weights are binary: ``-scale`` or
        ``scale``, which is their mean magnitude. "ternary", with two bits: weights are ``-scale``,
        0 or ``scale``; which ones become zero, and the scale, are those of the least squared error.
    exclude : str or iterable of str, optional
        Patterns of names of weights or modules that are left alone.

    Returns
    -------
    nn.Module
        The same model.

    Raises
    ------
    ValueError
        If a setting is out of range, a pattern matches nothing, there is nothing to share, or a
        weight is not finite or cannot be parametrized; the model is not changed then.

    References
    ----------
    Han, Mao, Dally, "Deep Compression", ICLR 2016, sections 3.1 to 3.3. Li, Zhang, Liu, "Ternary
    Weight Networks", 2016.

    Examples
    --------
    >>> import deepcomp, torch
    >>> model = deepcomp.share_weights(torch.nn.Linear(20, 10), bits=2)
    >>> model.weight.unique().numel()
    4
    >>> [tuple(p.shape) for p in model.parameters()]
    [(10,), (4,)]
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    """
    if init not in INITIAL:
        raise ValueError(f"init is {init!r}: expected one of {', '.join(INITIAL)}")
    if grid not in (None, "uniform", "ternary"):
        raise ValueError(f"grid is {grid!r}: expected None, 'uniform' or 'ternary'")
    check_is_unwrapped(model)
    check = check_bits if grid != "ternary" else _check_two
    sources, bits_of = choose("bits", bits, model, check, exclude)
    chosen = [source for source in sources if source.name in bits_of]
    places = _places(model, [source.name for source in chosen])
    for source in chosen:
        check_finite(source.weight())
    made = [_shared(source, bits_of[source.name], init, grid) for source in chosen]
    for where, parts in zip(places, made, strict=True):
        _register(where, parts)
    return model


def _check_two(what: str, name: str, value: Any) -> None:
    check_bits(what, name, value)
    if value != 2:
        raise ValueError(f"{what} of {name!r} is {value!r}: expected 2 with grid='ternary'")


def _shared(source: Source, bits: int, init: str, grid: str | None) -> tuple[Tensor, ...]:
    """Return the labels and the codebook of a weight, or its labels, scale and levels."""
    patterns, dtype = source.fetch(), source.dtype
    is_kept = patterns & patterns.dtype.type(magnitude_mask(patterns.itemsize)) != 0
    if grid == "ternary" and is_kept.any():
        magnitudes = np.abs(to_values(patterns, dtype))
        is_kept &= magnitudes >= codebooks.ternary_threshold(magnitudes[is_kept])
    labels = np.zeros(source.shape, np.uint8)
    levels = []
    if not is_kept.any():
        codebook = patterns[:0]
    elif grid is not None:
        values = to_values(patterns[is_kept], dtype)
        n_values = 2 if grid == "ternary" else min(1 << bits, 254)
        numbers = codebooks.grid_levels(n_values)
        codebook = to_patterns(np.array([codebooks.grid_scale(values, n_values)]), dtype)
        grid_values = to_values(codebook, dtype).astype(np.float64) * numbers
        labels.reshape(-1)[is_kept] = sharing.nearest_labels(values, grid_values) + 1
        levels = [torch.from_numpy(numbers).to(DTYPES[dtype])]
    else:
        codebook, kept_labels = _clustered(patterns[is_kept], dtype, min(1 << bits, 255), init)
        labels.reshape(-1)[is_kept] = kept_labels + 1
    values_of = torch.from_numpy(codebook.copy()).view(DTYPES[dtype])
    return (torch.from_numpy(labels), values_of, *levels)


def _clustered(kept: Patterns, dtype: str, n_values: int, init: str) -> tuple[Patterns, Labels]:
    """Return the codebook by rising value, and the label of each kept entry."""
    distinct = sharing.distinct_patterns(kept, n_values)
    if distinct is not None:
        order = np.argsort(to_values(distinct, dtype))
        rank = np.argsort(order).astype(np.uint8)
        return distinct[order], rank[sharing.pattern_labels(kept, distinct)]
    values = to_values(kept, dtype)
    codebook = to_patterns(INITIAL[init](values, n_values), dtype)
    return codebook, sharing.nearest_labels(values, to_values(codebook, dtype))


def _places(model: nn.Module, names: list[str]) -> list[list[tuple[nn.Module, str]]]:
    """Return for each parameter the modules that have it, and what they call it."""
    wanted = {id(model.get_parameter(name)): i for i, name in enumerate(names)}
    places: list[list[tuple[nn.Module, str]]] = [[] for _ in names]
    for module in model.modules():
        for own_name, parameter in module._parameters.items():
            i = wanted.get(id(parameter))
            if i is None:
                continue
            if isinstance(module, nn.RNNBase | parametrize.ParametrizationList):
                raise ValueError(
                    f"{names[i]!r} cannot be shared: a {type(module).__name__} does not let its "
                    f"weights be parametrized (exclude={escape(names[i])!r} leaves it out)"
                )
            places[i].append((module, own_name))
    return places


def _register(places: list[tuple[nn.Module, str]], parts: tuple[Tensor, ...]) -> None:
    """Register the parametrization in all modules that have the weight: one codebook for all."""
    old = getattr(*places[0])
    labels, codebook, *levels = (part.to(old.device) for part in parts)
    shared = SharedWeight(labels, codebook, *levels)
    first = None
    for module, name in places:
        parametrize.register_parametrization(module, name, shared, unsafe=True)
        own = module.parametrizations[name]
        if first is None:
            first = own.original0
        own.original0 = first
        own._register_load_state_dict_pre_hook(_resize_codebook, with_module=True)
    shared.initial = None
    mark_replaced(old, "share_weights")
