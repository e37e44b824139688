"""Notice a pruner whose steps come before those of the optimizer."""

from collections.abc import Mapping
from functools import cache
from typing import Any
from weakref import WeakSet

from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook


class StepOrder:
    """Tells whether a backward pass has run since the last step of an optimizer.

    One who prunes between the two leaves weights that the optimizer moves again. Nothing is said
    where no optimizer has stepped (a step that GradScaler skips, gradients being accumulated, a
    loop that updates the weights by hand).
    """

    def __init__(self) -> None:
        self._weights: set[int] = set()  # ids
        self._handles: list[Any] = []
        self._stepped = False  # since the last `check`, an optimizer of these weights
        self._pending = False  # since the last step of any optimizer, gradients of these weights

    def __reduce__(self) -> tuple[Any, ...]:
        return StepOrder, ()  # a copy watches other weights, from its first `check` on

    def check(self, weights: Mapping[str, nn.Parameter]) -> None:
        """Raise RuntimeError if gradients wait for an optimizer that has stepped before."""
        wrong, self._stepped = self._stepped and self._pending, False
        if wrong:
            raise RuntimeError(
                "pruner.step() was called between backward() and optimizer.step(), which would "
                "move the pruned weights again: call it right after optimizer.step()"
            )
        if not self._weights:
            _watch_optimizers()
            self._weights = {id(weight) for weight in weights.values()}
            self._handles = [
                weight.register_post_accumulate_grad_hook(self._note_gradient)
                for weight in weights.values()
                if weight.requires_grad
            ]
            _watching.add(self)

    def remove(self) -> None:
        """Take the hooks off the weights."""
        _watching.discard(self)
        for handle in self._handles:
            handle.remove()

    def _note_gradient(self, weight: Tensor) -> None:
        self._pending = True

    def _note_step(self, optimizer: Optimizer) -> None:
        self._pending = False
        groups = (group["params"] for group in optimizer.param_groups)
        self._stepped |= any(id(p) in self._weights for group in groups for p in group)


_watching: WeakSet[StepOrder] = WeakSet()


def _note_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for order in list(_watching):
        order._note_step(optimizer)


@cache  # once, and not before it is needed: torch has such hooks for all optimizers only
def _watch_optimizers() -> None:
    register_optimizer_step_post_hook(_note_step)
