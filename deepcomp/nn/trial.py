"""Try other weights in a model, and put its own back."""

from collections.abc import Callable, Iterable, Mapping
from glob import escape
from math import isfinite, isnan
from numbers import Integral, Real
from typing import Any

import torch

from ..arrays import Source, sources
from ..pipeline import encode_model
from ..rules import Names, assign, excluded, listed
from ..tensor import CompressedTensor

SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
BITS = (1, 2, 3, 4, 5, 6, 7, 8)


class Trial:
    """A model that is evaluated with other weights than its own.

    After each evaluation, and also when it raises, all parameters and buffers are what they were,
    bit for bit, and so is the training mode of each module: every evaluation starts from the same
    state.

    Parameters
    ----------
    model : nn.Module
    evaluate : callable
        Is called with `model`, returns a number.
    names : str, iterable of str, or None
        Patterns of the tensors to change, as in `deepcomp.compress`; None: all weights.
    exclude : str, iterable of str, or None
        Patterns of those not to change.

    Attributes
    ----------
    names : list of str
        The tensors to change, in the order of the model.

    Raises
    ------
    TypeError
        If `model` is no module.
    ValueError
        If there is nothing to change, a pattern matches nothing, or a tensor cannot be changed.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        evaluate: Callable[[torch.nn.Module], Any],
        names: Names,
        exclude: Names = None,
    ) -> None:
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"expected an nn.Module, which can be evaluated, not {type(model)}")
        self._model, self._evaluate = model, evaluate
        self.names = _chosen(model, names, exclude)
        self._folded: dict[tuple[torch.nn.Module, str], Any] = {}
        self._own = {name: t.detach().clone() for name, t in _state(model).items()}
        self._modes = [(module, module.training) for module in model.modules()]
        state = model.state_dict(keep_vars=True)
        clones = {id(t): self._own[name] for name, t in _state(model).items()}
        self._sources = {name: _source(name, state, clones) for name in self.names}
        for name in self.names:
            if name not in state:  # its module has the product with the mask as an attribute
                owner, _, attribute = name.rpartition(".")
                module = model.get_submodule(owner)
                self._folded[module, attribute] = getattr(module, attribute)

    def source(self, name: str) -> Source:
        """Return the model's own tensor, whatever the model holds now."""
        return self._sources[name]

    def encode(self, name: str, sparsity: float | None, bits: int | None) -> CompressedTensor:
        """Return a tensor as it is in ``deepcomp.compress(model, bits, sparsity)``."""
        pattern = escape(name)
        bits_of = None if bits is None else {pattern: bits}
        sparsity_of = None if sparsity is None else {pattern: sparsity}
        tensors = [self.source(name)]
        [encoded] = encode_model(tensors, bits_of, sparsity_of, None, None, "layer")
        data = memoryview(b"".join(encoded.section))
        return CompressedTensor(encoded.record, lambda *_: data)

    def score(self, changed: Mapping[str, torch.Tensor]) -> float:
        """Evaluate the model with some tensors changed.

        Parameters
        ----------
        changed : mapping of str to torch.Tensor
            The dense values of tensors of `names`.

        Raises
        ------
        TypeError
            If the result is not a number.
        ValueError
            If the result is NaN.
        """
        try:
            state = self._model.state_dict(keep_vars=True)
            with torch.no_grad():
                for name, value in changed.items():
                    _target(state, name).copy_(value)
            return _number(self._evaluate(self._model))
        finally:
            self._put_back()

    def baseline(self) -> float:
        """Evaluate the model as it is.

        Raises
        ------
        ValueError
            If the score is not finite, and as `score`.
        """
        score = self.score({})
        if not isfinite(score):
            raise ValueError(f"evaluate returned {score} for the model as it is")
        return score

    def _put_back(self) -> None:
        with torch.no_grad():
            for name, tensor in _state(self._model).items():
                if name in self._own:
                    tensor.copy_(self._own[name])
        for (module, attribute), value in self._folded.items():
            setattr(module, attribute, value)
        for module, training in self._modes:
            module.training = training


def check_sparsities(sparsities: Iterable[float] | None) -> list[float]:
    """Return sparsities in rising order, each once; none for None.

    Raises
    ------
    ValueError
        If one is not a number in [0, 1).
    """
    found: list[Any] = [] if sparsities is None else list(sparsities)
    for value in found:
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not is_number or not 0 <= value < 1:
            raise ValueError(f"sparsities: {value!r} is not possible, expected numbers in [0, 1)")
    return sorted({float(value) for value in found})


def check_bits(bits: Iterable[int] | None) -> list[int]:
    """Return widths in bits in rising order, each once; none for None.

    Raises
    ------
    ValueError
        If one is not an integer from 1 to 8.
    """
    found: list[Any] = [] if bits is None else list(bits)
    for value in found:
        is_integer = isinstance(value, Integral) and not isinstance(value, bool)
        if not is_integer or not 1 <= value <= 8:
            raise ValueError(f"bits: {value!r} is not possible, expected integers from 1 to 8")
    return sorted({int(value) for value in found})


def align(head: list[str], lines: list[list[str]]) -> str:
    """Lay out a table: the first column to the left, the others to the right."""
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    rows = []
    for first, *rest in [head, *lines]:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        rows.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([rows[0], rule, *rows[1:]])


def _state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    # with the buffers that are not in the state_dict; looked up each time, for evaluate may have
    # moved the model, which replaces buffers
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _target(state: Mapping[str, Any], name: str) -> Any:
    """Return the tensor to write to; of ``torch.nn.utils.prune`` the one under the mask."""
    return state.get(name, state.get(f"{name}_orig"))


def _source(name: str, state: Mapping[str, Any], clones: dict[int, torch.Tensor]) -> Source:
    """Return a tensor of clones; masked if the model is under ``torch.nn.utils.prune``."""
    keys = [name] if name in state else [f"{name}_orig", f"{name}_mask"]
    if not all(id(state.get(key)) in clones for key in keys):
        raise ValueError(
            f"tensor {name!r} is made of other tensors of the model (parametrized or shared): "
            "only plain weights can be tried"
        )
    if not torch.isfinite(_target(state, name)).all():
        raise ValueError(
            f"tensor {name!r} has NaN or infinite entries: it cannot be pruned or shared "
            f"(exclude={escape(name)!r} leaves it as it is)"
        )
    source = sources({key: clones[id(state[key])] for key in keys})[name]
    assert isinstance(source, Source)
    return source


def _chosen(model: torch.nn.Module, names: Names, exclude: Names) -> list[str]:
    own = [s for s in sources(model).values() if isinstance(s, Source)]
    left = excluded("exclude", exclude, [s.name for s in own])
    tensors = [s for s in own if 0 not in s.shape]
    if names is None:
        chosen = [s.name for s in tensors if s.is_weight and s.name not in left]
        if not chosen:
            raise ValueError("the model has no weights, or exclude leaves none (see compress)")
        return chosen
    wanted: dict[str, int] = dict.fromkeys(listed(names), 1)
    assigned: dict[str, int] = assign("names", wanted, tensors, lambda *_: None)
    chosen = [s.name for s in tensors if s.name in assigned and s.name not in left]
    if not chosen:
        raise ValueError(
            "names is empty, or exclude leaves none: expected names or patterns, or None for all "
            "weights"
        )
    return chosen


def _number(score: Any) -> float:
    if getattr(score, "ndim", None) == 0:  # of NumPy or torch
        score = score.item()
    if isinstance(score, bool) or not isinstance(score, Real):
        raise TypeError(f"evaluate returned {score!r:.60}: expected a number")
    if isnan(score):
        raise ValueError("evaluate returned NaN: expected a number, higher for a better model")
    return float(score)
