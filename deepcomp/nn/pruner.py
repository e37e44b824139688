"""Pruning with masks, step by step, in the user's own training loop."""

import warnings
from collections.abc import Mapping
from math import ceil
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from ..rules import Names, Rule, assign, check_number, pruning_rule
from .convert import choose
from .criteria import Criterion, geometric_median, l1_norm, magnitude
from .order import StepOrder
from .ranking import least_kept, lowest, score, spare
from .schedules import Schedule, once

Group = tuple[list[str], float]


class Pruner:
    """Keep pruned weights at exactly zero while a model trains.

    Weights stay ordinary parameters, and every optimizer will do: `step` puts back to zero what
    momentum or weight decay moved. What was pruned stays pruned.

    Settings are numbers for all weights, or mappings from patterns of names:
    ``{"conv*": 0.6, "fc3": None, "fc*": 0.9}`` leaves fc3 alone. `deepcomp.compress` says what
    weights are. Without `sparsity`, `threshold` and `std`, the weights that are zero now are kept
    at zero: so a model that was pruned elsewhere is trained on.

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
    exclude : str or iterable of str, optional
        Patterns of names of weights or modules that are left alone.
    min_kept : float, optional
        With ``scope="global"``, the fraction of each weight's entries that is kept at least, the
        others giving more, so that no layer dies while the model trains. By default 0.005, or as
        many entries as the weight has rows, if that is more; with 0 it is one. A warning says,
        once, where it was needed.

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
        weight would be left empty, or with less than `min_kept`, now or in the end as far as that
        is known; the model is not changed then.

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
        exclude: Names = None,
        min_kept: float | None = None,
    ) -> None:
        what, rule = pruning_rule(sparsity, threshold, std, scope)
        _check_min_kept(min_kept, scope)
        setting = 0.0 if rule is None else rule
        sources, amounts = choose(what, setting, model, check_number, exclude)
        criteria = assign("criterion", criterion, sources, _check_criterion)
        if schedule is not None and not callable(schedule):
            raise ValueError(f"schedule is {schedule!r}: expected a function of a number of steps")
        self.n_steps = 0
        self._model: nn.Module | None = model
        self._schedule = schedule or once()
        self._fraction = 0.0
        self._by_sparsity = what == "sparsity"
        self._criteria = {name: criteria.get(name, magnitude) for name in amounts}
        weights = {name: model.get_parameter(name) for name in amounts}
        self.masks = {
            name: weight != 0 if rule is None else torch.ones_like(weight, dtype=torch.bool)
            for name, weight in weights.items()
        }
        self._groups = [] if rule is None else _groups(amounts, scope)
        shapes = {name: weight.shape for name, weight in weights.items() if scope == "global"}
        self._least = {name: least_kept(shape, min_kept) for name, shape in shapes.items()}
        self._has_warned = False
        if what == "std":
            self._groups = [(names, x * _deviation(weights, names)) for names, x in self._groups]
        if self._by_sparsity:
            self._check_final(weights)
        self._prune(weights)
        self._order = StepOrder()
        self._order.check(weights)

    def step(self) -> None:
        """Count a step, prune as the schedule says, and keep what is pruned at zero.

        To be called right after each ``optimizer.step()``. An average of the weights (EMA) is
        another model, to be multiplied by `masks`.

        Raises
        ------
        RuntimeError
            After `remove`; if a weight is no longer a parameter of the model, or has another
            shape; from the second call on, if it comes between ``backward()`` and
            ``optimizer.step()``. Nothing is changed then.
        ValueError
            If a weight would be left empty (by a threshold or a criterion, with
            ``scope="layer"``), or its scores are NaN; no weight is changed then.
        """
        weights = self._weights()
        self._order.check(weights)
        self.n_steps += 1
        self._prune(weights)

    def mask_gradients(self) -> None:
        """Set the gradients of pruned weights to zero.

        To be called before the gradients are clipped, so that their norm is that of the kept
        weights; nothing else needs it.
        """
        for name, weight in self._weights().items():
            if weight.grad is None:
                continue
            mask = self._mask(name, weight)
            if weight.grad.is_sparse:
                weight.grad = weight.grad.mul(mask.to(weight.dtype))
            else:
                weight.grad.masked_fill_(~mask, 0)

    def remove(self) -> None:
        """End pruning: the weights are ordinary again, and those that are zero may grow.

        A second call does nothing.

        Raises
        ------
        RuntimeError
            If a weight is no longer a parameter of the model, or has another shape.
        """
        if self._model is None:
            return
        self._apply(self._weights())
        self._order.remove()
        self._model = None

    @property
    def sparsity(self) -> float:
        """Fraction of the entries of the pruned weights that are masked, 0 to 1."""
        n_kept = sum(int(mask.sum()) for mask in self.masks.values())
        return 1 - n_kept / sum(mask.numel() for mask in self.masks.values())

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on later: masks, number of steps, thresholds.

        The other settings are not in it: make a `Pruner` with the same ones, and load it there.
        """
        amounts = [amount for _, amount in self._groups]
        return {"n_steps": self.n_steps, "masks": dict(self.masks), "amounts": amounts}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`.

        Make the `Pruner` first, as it prunes at once if its schedule says so; then load the states
        of the model, of the optimizer, and this one.

        Raises
        ------
        ValueError
            If it is not the state of a `Pruner` for these weights; nothing is changed then.
        """
        if not {"n_steps", "masks", "amounts"} <= state_dict.keys():
            raise ValueError("this is not the state_dict of a Pruner: n_steps, masks and amounts")
        masks = state_dict["masks"]
        expected = {name: list(mask.shape) for name, mask in self.masks.items()}
        found = {name: list(mask.shape) for name, mask in masks.items()}
        if expected != found:
            raise ValueError(f"the masks are for other weights: expected {expected}, found {found}")
        if len(state_dict["amounts"]) != len(self._groups):
            raise ValueError("the state is that of a Pruner with other settings")
        self.masks = {name: masks[name].to(torch.bool).clone() for name in self.masks}
        self.n_steps = int(state_dict["n_steps"])
        amounts = state_dict["amounts"]
        self._groups = [(names, x) for (names, _), x in zip(self._groups, amounts, strict=True)]
        self._fraction = self._scheduled()
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
            weights = {name: self._model.get_parameter(name) for name in self.masks}
        except AttributeError as error:
            raise RuntimeError(
                f"a pruned weight is no longer a parameter of the model ({error}): call "
                "pruner.remove() before share_weights or another change of the model's weights"
            ) from None
        for name, weight in weights.items():
            if weight.shape != self.masks[name].shape:
                raise RuntimeError(
                    f"{name!r} has another shape than when this Pruner was made: expected "
                    f"{list(self.masks[name].shape)}, found {list(weight.shape)}: call "
                    "pruner.remove() before shrink, and make a new Pruner to go on pruning"
                )
        return weights

    def _mask(self, name: str, weight: Tensor) -> Tensor:
        if self.masks[name].device != weight.device:
            self.masks[name] = self.masks[name].to(weight.device)
        return self.masks[name]

    @torch.no_grad()
    def _apply(self, weights: Mapping[str, Tensor]) -> None:
        for name, weight in weights.items():
            weight.masked_fill_(~self._mask(name, weight), 0)

    def _scheduled(self) -> float:
        fraction = self._schedule(self.n_steps)
        if not 0 <= fraction <= 1:
            raise ValueError(
                f"the schedule gives {fraction!r} at step {self.n_steps}: expected 0 to 1"
            )
        return fraction

    def _check_final(self, weights: Mapping[str, Tensor]) -> None:
        """Refuse now what will be impossible in the end."""
        for names, amount in self._groups:
            numels = {name: weights[name].numel() for name in names}
            if self._least:
                n = sum(numels.values())
                n_kept, least = n - round(amount * n), sum(self._least[name] for name in names)
                if n_kept < least:
                    raise ValueError(
                        f"sparsity {amount} leaves {n_kept:,} of {n:,} entries: at least "
                        f"{least:,} are kept in {len(names)} weights (min_kept): give a lower "
                        "sparsity, or min_kept"
                    )
                continue
            for name, n in numels.items():
                if self._criteria[name] in (l1_norm, geometric_median):  # scores of filters
                    n = len(weights[name])
                elif self._criteria[name] is not magnitude:
                    continue  # a criterion may have to see gradients before it scores anything
                if round(amount * n) == n:
                    raise _empty(name, weights[name])

    def _prune(self, weights: Mapping[str, Tensor]) -> None:
        fraction = self._scheduled()
        if fraction > self._fraction:
            self.masks, spared = self._fewer(weights, fraction)
            self._fraction = fraction
            if spared and not self._has_warned:
                self._has_warned = True
                warnings.warn(_spared(spared, weights, self.masks), stacklevel=3)
        self._apply(weights)

    @torch.no_grad()
    def _fewer(
        self, weights: Mapping[str, Tensor], fraction: float
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Return the masks for a fraction of the final sparsity, and which weights were spared."""
        scores = {
            name: score(name, self._criteria[name], weight, self._mask(name, weight))
            for name, weight in weights.items()
        }
        masks, spared = dict(self.masks), []
        for names, amount in self._groups:
            numels = [weights[name].numel() for name in names]
            own = [scores[name] for name in names]
            least = [
                ceil(self._least.get(name, 0) * s.numel() / n)
                for name, s, n in zip(names, own, numels, strict=True)
            ]

            def cut(
                scores: list[Tensor], numels: list[int] = numels, x: float = amount * fraction
            ) -> list[Tensor]:
                return lowest(scores, numels, x) if self._by_sparsity else _below(scores, x)

            removed, which = spare(cut, own, least)
            spared += [names[i] for i in which]
            for name, low in zip(names, removed, strict=True):
                masks[name] = self.masks[name] & ~low
                if not masks[name].any():
                    raise _empty(name, weights[name])
        return masks, spared


def _below(scores: list[Tensor], threshold: float) -> list[Tensor]:
    return [s.double() < threshold for s in scores]


def _check_min_kept(min_kept: Any, scope: str) -> None:
    if min_kept is None:
        return
    is_number = isinstance(min_kept, Real) and not isinstance(min_kept, bool)
    if not is_number or not 0 <= min_kept < 1:
        raise ValueError(f"min_kept is {min_kept!r}: expected a number in [0, 1)")
    if scope != "global":
        raise ValueError(f"min_kept is for scope='global', not for {scope!r}")


def _spared(spared: list[str], weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> str:
    names = ", ".join(
        f"{name!r} ({int(masks[name].sum()):,} of {weights[name].numel():,})" for name in spared[:3]
    )
    return (
        f"pruning all weights together would leave too little of {names}"
        f"{', ...' if spared[3:] else ''}: the best entries of each are kept (min_kept)"
    )


def _empty(name: str, weight: Tensor) -> ValueError:
    return ValueError(
        f"pruning would leave nothing of {name!r} (shape {list(weight.shape)}): give it a lower "
        "setting of its own, or None to leave it alone"
    )


def _groups(amounts: dict[str, float], scope: str) -> list[Group]:
    """Return which weights are pruned together, and their setting."""
    if scope == "layer":
        return [([name], amount) for name, amount in amounts.items()]
    distinct = sorted(set(amounts.values()))
    return [([n for n, a in amounts.items() if a == amount], amount) for amount in distinct]


def _deviation(weights: Mapping[str, Tensor], names: list[str]) -> float:
    flat = torch.cat([weights[name].detach().flatten().double().cpu() for name in names])
    return float(flat.std(correction=0))


def _check_criterion(what: str, name: str, value: Any) -> None:
    if not callable(value):
        raise ValueError(f"{what} of {name!r} is {value!r}: expected a function of a weight")
