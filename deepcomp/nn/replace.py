"""Put modules and parameters in the places of others."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

_REPLACED_BY = "_deepcomp_replaced_by"
_HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook"),
)


def replace_modules(model: nn.Module, new: Mapping[int, nn.Module]) -> None:
    """Put modules in the places of others, in place; they take over mode and hooks.

    A module that stands in several places is replaced in all of them.

    Parameters
    ----------
    model : nn.Module
    new : mapping of int to nn.Module
        By the id of the module that goes; never that of `model` itself.
    """
    for parent in list(model.modules()):
        for name, old in list(parent._modules.items()):
            if old is None or id(old) not in new:
                continue
            module = new[id(old)]
            module.train(old.training)
            for hooks in _HOOKS:  # the same dict, so that a handle takes its hook off
                setattr(module, hooks, getattr(old, hooks))
            setattr(parent, name, module)
            if isinstance(parent, nn.TransformerEncoderLayer):
                # else it would hand the dense weights of its parts to a kernel of its own
                parent.activation_relu_or_gelu = 0
    for parent in model.modules():
        if isinstance(parent, nn.TransformerEncoder) and new:
            parent.use_nested_tensor = False


def check_is_unwrapped(model: nn.Module) -> None:
    """Raise ValueError where new parameters would be missed by what wraps the model."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise ValueError(
            "change model.module, and wrap it again: DistributedDataParallel knows the "
            "parameters only that a model has when it is wrapped"
        )


def mark_replaced(parameter: nn.Parameter, by: str) -> None:
    """Let the next step of an optimizer that has this parameter say that it is no longer used.

    Parameters
    ----------
    parameter : nn.Parameter
    by : str
        The function that put others in its place.
    """
    _watch_optimizers()
    setattr(parameter, _REPLACED_BY, by)


@cache  # once, and not before it is needed: torch has such hooks for all optimizers only
def _watch_optimizers() -> None:
    register_optimizer_step_pre_hook(_refuse_replaced)


def _refuse_replaced(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Raise RuntimeError where an optimizer still has parameters that were replaced."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            by = getattr(parameter, _REPLACED_BY, None)
            if by:
                raise RuntimeError(
                    f"this optimizer was made before {by}: it has weights that the model no "
                    f"longer uses, and lacks the new ones. Make it after {by}, from "
                    f"model.parameters() (and give {by} the whole model, if weights are tied)"
                )
