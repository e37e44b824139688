"""Pruning with masks, step by step, in the user's own training loop."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..rules import Rule, assign, check_number, pruning_rule
from .convert import float_parameters
from .criteria import Criterion, magnitude
from .schedules import Schedule, once

Group = tuple[list[str], float]


class Pruner:
    """Keep pruned weights at exactly zero while a model trains.

    Weights stay ordinary parameters, and every optimizer will do: `step` puts back to zero what
    momentum or weight decay moved. What was pruned stays pruned.

    Settings are numbers for all weights (float parameters of two or more dimensions), or mappings
    from patterns of names, as of `deepcomp.compress`: ``{"conv*": 0.6, "fc3": None, "fc*": 0.9}``
    leaves fc3 alone. Without `sparsity`, `threshold` and `std`, the weights that are zero now are
    kept at zero: so a model that was pruned elsewhere is trained on.

    Parameters
    ----------
    model : nn.Module
        Its weights are changed in place.
    sparsity : float or mapping, optional
        Fraction of the entries (of the filters, if the criterion scores filters) to be zero in
        the end, in [0, 1).
    threshold : float or mapping, optional
        Prune what scores less.
    std : float or mapping, optional
        Prune what scores less than so many standard deviations of the weight as it is now.
    criterion : callable or mapping from patterns to callables, default criteria.magnitude
        A function from a weight to scores; see `deepcomp.nn.criteria`.
    scope : {"layer", "global"}, default "layer"
        Whether `sparsity` and `std` are counted in each weight, or over all weights of one number.
    schedule : callable, default schedules.once()
        From the number of steps to the fraction of the final sparsity (or threshold) that is
        reached; see `deepcomp.nn.schedules`.

    Attributes
    ----------
    masks : dict of str to Tensor of bool
        True where a weight is kept.
    n_steps : int
        Steps made so far.

    Raises
    ------
    ValueError
        If a setting is out of range, a pattern matches nothing, there is nothing to prune, or a
        weight would be left empty; the model is not changed then.

    References
    ----------
    Han, Pool, Tran, Dally, "Learning both Weights and Connections for Efficient Neural
    Networks", NIPS 2015, section 3. Han, Mao, Dally, "Deep Compression", ICLR 2016, section 2.

    Examples
    --------
    >>> import deepcomp, torch
    >>> from deepcomp.nn import schedules
    >>> model = torch.nn.Linear(20, 10)
    >>> optimizer = torch.optim.AdamW(model.parameters())
    >>> pruner = deepcomp.Pruner(model, sparsity=0.9, schedule=schedules.cubic(end=50))
    >>> for _ in range(60):
    ...     optimizer.zero_grad()
    ...     model(torch.randn(8, 20)).square().mean().backward()
    ...     optimizer.step()
    ...     pruner.step()
    >>> int(model.weight.count_nonzero())
    20
    >>> pruner.remove()
    """

    def __init__(
        self,
        model: nn.Module,
        sparsity: Rule = None,
        threshold: Rule = None,
        std: Rule = None,
        criterion: Criterion | Mapping[str, Criterion] = magnitude,
        scope: str = "layer",
        schedule: Schedule | None = None,
    ) -> None:
        what, rule = pruning_rule(sparsity, threshold, std, scope)
        sources = [source for source in float_parameters(model) if 0 not in source.shape]
        if not any(source.is_weight for source in sources) and not isinstance(rule, Mapping):
            raise ValueError(
                f"{type(model).__name__} has no weight to prune: no float parameter of two or more "
                "dimensions (prune before share_weights, which replaces weights by codebooks)"
            )
        amounts = assign(what, 0.0 if rule is None else rule, sources, check_number)
        if not amounts:
            raise ValueError(f"{what}={rule!r} leaves no weight to prune")
        criteria = assign("criterion", criterion, sources, _check_criterion)
        self.n_steps = 0
        self._model: nn.Module | None = model
        self._schedule = schedule or once()
        self._fraction = 0.0
        self._by_sparsity = what == "sparsity"
        self._criteria = {name: criteria.get(name, magnitude) for name in amounts}
        weights = {name: model.get_parameter(name).detach() for name in amounts}
        self.masks = {
            name: weight != 0 if rule is None else torch.ones_like(weight, dtype=torch.bool)
            for name, weight in weights.items()
        }
        self._groups = _groups(amounts, scope)
        if what == "std":
            self._groups = [(names, x * _deviation(weights, names)) for names, x in self._groups]
        if scope == "layer" and self._by_sparsity:
            self._fewer(weights, 1.0)  # what will be impossible in the end is refused now
        self._prune()

    def step(self) -> None:
        """Count a step, prune as the schedule says, and keep what is pruned at zero.

        To be called after each ``optimizer.step()``.

        Raises
        ------
        RuntimeError
            After `remove`, or if a weight is no longer a parameter of the model.
        ValueError
            If a weight would be left empty, or its scores are NaN; no weight is changed then.
        """
        self._weights()
        self.n_steps += 1
        self._prune()

    def mask_gradients(self) -> None:
        """Set the gradients of pruned weights to zero.

        To be called before the gradients are clipped, so that their norm is that of the kept
        weights; nothing else needs it.
        """
        for name, weight in self._weights().items():
            if weight.grad is not None:
                weight.grad.masked_fill_(~self._mask(name, weight), 0)

    def remove(self) -> None:
        """End pruning: the weights are ordinary again, and those that are zero may grow.

        Raises
        ------
        RuntimeError
            If it was called before.
        """
        self._apply(self._weights())
        self._model = None

    @property
    def sparsity(self) -> float:
        """Fraction of the entries of the pruned weights that are masked, 0 to 1."""
        n_kept = sum(int(mask.sum()) for mask in self.masks.values())
        return 1 - n_kept / sum(mask.numel() for mask in self.masks.values())

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on later: the masks and the number of steps.

        Settings are not in it: make a `Pruner` with the same ones, and load it there.
        """
        return {"n_steps": self.n_steps, "masks": dict(self.masks)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`; the model's own has to be loaded as well.

        Raises
        ------
        ValueError
            If its masks are not for these weights; nothing is changed then.
        """
        masks = state_dict["masks"]
        expected = {name: tuple(mask.shape) for name, mask in self.masks.items()}
        found = {name: tuple(mask.shape) for name, mask in masks.items()}
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise ValueError(
                    f"the mask of {name!r}: expected shape {expected.get(name)}, "
                    f"found {found.get(name)}"
                )
        self.masks = {name: masks[name].to(torch.bool).clone() for name in self.masks}
        self.n_steps = int(state_dict["n_steps"])
        self._fraction = self._schedule(self.n_steps)
        self._apply(self._weights())

    def __repr__(self) -> str:
        return (
            f"<Pruner of {len(self.masks)} weights, {100 * self.sparsity:.1f} % pruned "
            f"after {self.n_steps} steps>"
        )

    def _weights(self) -> dict[str, nn.Parameter]:
        if self._model is None:
            raise RuntimeError("this Pruner was removed: make a new one to go on pruning")
        try:
            return {name: self._model.get_parameter(name) for name in self.masks}
        except AttributeError as error:
            raise RuntimeError(
                f"a pruned weight is no longer a parameter of the model ({error}): call "
                "pruner.remove() before share_weights or another change of the model's weights"
            ) from None

    def _mask(self, name: str, weight: Tensor) -> Tensor:
        if self.masks[name].device != weight.device:
            self.masks[name] = self.masks[name].to(weight.device)
        return self.masks[name]

    @torch.no_grad()
    def _apply(self, weights: Mapping[str, Tensor]) -> None:
        for name, weight in weights.items():
            weight.masked_fill_(~self._mask(name, weight), 0)

    def _prune(self) -> None:
        weights = self._weights()
        fraction = self._schedule(self.n_steps)
        if fraction > self._fraction:
            self.masks = self._fewer(weights, fraction)
            self._fraction = fraction
        self._apply(weights)

    @torch.no_grad()
    def _fewer(self, weights: Mapping[str, Tensor], fraction: float) -> dict[str, Tensor]:
        """Return the masks for a fraction of what will be pruned in the end."""
        scores = {
            name: _score(name, self._criteria[name], weight, self._mask(name, weight))
            for name, weight in weights.items()
        }
        masks = {}
        for names, amount in self._groups:
            own = [scores[name] for name in names]
            if self._by_sparsity:
                removed = lowest(own, [weights[n].numel() for n in names], amount * fraction)
            else:
                removed = [score.double() < amount * fraction for score in own]
            for name, low in zip(names, removed, strict=True):
                masks[name] = self.masks[name] & ~low
                if not masks[name].any():
                    raise ValueError(
                        f"pruning would leave nothing of {name!r} (shape "
                        f"{list(weights[name].shape)}): give it a lower setting of its own, or "
                        "None to leave it alone"
                    )
        return masks


def lowest(scores: list[Tensor], numels: list[int], fraction: float) -> list[Tensor]:
    """Find the lowest scores of several weights taken together.

    Parameters
    ----------
    scores : list of Tensor
    numels : list of int
        Number of entries of each weight: a score stands for ``numel / scores.numel()`` of them.
    fraction : float
        Of equal scores, the last ones are taken first. If scores stand for different numbers of
        entries, as many are taken as stand for no more than the fraction of all entries.

    Returns
    -------
    list of Tensor of bool, shapes of `scores`
    """
    sizes = [numel // score.numel() for score, numel in zip(scores, numels, strict=True)]
    device = scores[0].device
    flat = torch.cat([score.to(device).flatten() for score in scores])
    is_low = torch.zeros_like(flat, dtype=torch.bool)
    if len(set(sizes)) == 1:
        k = round(fraction * flat.numel())
        if k > 0:
            cut = flat.kthvalue(k).values
            is_low = flat < cut
            ties = (flat == cut).nonzero().flatten()
            is_low[ties[ties.numel() - (k - int(is_low.sum())) :]] = True
    else:
        each = torch.cat([torch.full((s.numel(),), n) for s, n in zip(scores, sizes, strict=True)])
        order = flat.flip(0).argsort(stable=True).cpu()
        order = flat.numel() - 1 - order
        is_low[order[each[order].cumsum(0) <= fraction * sum(numels)]] = True
    parts = is_low.split([score.numel() for score in scores])
    return [p.view_as(s).to(s.device) for p, s in zip(parts, scores, strict=True)]


def _score(name: str, criterion: Criterion, weight: Tensor, mask: Tensor) -> Tensor:
    """Return the scores of a weight; what is pruned already scores least."""
    scores = criterion(weight)
    ok = isinstance(scores, Tensor) and scores.dim() == weight.dim()
    if not ok or any(n not in (1, m) for n, m in zip(scores.shape, weight.shape, strict=True)):
        found = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(
            f"the criterion scores {name!r} (shape {list(weight.shape)}) with {found}: expected "
            "as many dimensions, each of the same size or 1"
        )
    if scores.isnan().any():
        raise ValueError(f"the scores of {name!r} are NaN: is the weight still finite?")
    dims = [i for i, n in enumerate(scores.shape) if n == 1 and weight.shape[i] != 1]
    is_alive = mask.any(dim=dims, keepdim=True) if dims else mask
    wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
    return scores.to(wide).masked_fill(~is_alive, -torch.inf)


def _groups(amounts: dict[str, float], scope: str) -> list[Group]:
    """Return which weights are pruned together, and their setting."""
    if scope == "layer":
        return [([name], amount) for name, amount in amounts.items()]
    distinct = sorted(set(amounts.values()))
    return [([n for n, a in amounts.items() if a == amount], amount) for amount in distinct]


def _deviation(weights: Mapping[str, Tensor], names: list[str]) -> float:
    flat = torch.cat([weights[name].flatten().double().cpu() for name in names])
    return float(flat.std(correction=0))


def _check_criterion(what: str, name: str, value: Any) -> None:
    if not callable(value):
        raise ValueError(f"{what} of {name!r} is {value!r}: expected a function of a weight")
