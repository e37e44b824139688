"""Remove channels from layers, or what they put out."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from .constants import Constants
from .coupling import Bundle, Slot, by_group, n_channels
from .resize import apply_plan, plan_resizing


def cut(model: nn.Module, bundles: list[Bundle], constants: Constants) -> None:
    """Remove channels from the layers of a model, in place."""
    gone: dict[str, dict[str, set[int]]] = {}
    for bundle in bundles:
        for layer, side, channel in bundle.slots:
            gone.setdefault(layer, {"in": set(), "out": set()})[side].add(channel)
    with torch.no_grad():
        new: dict[str, Tensor] = {}
        for layer, sides in gone.items():
            module = model.get_submodule(layer)
            _move_constants(module, sorted(sides["in"]), constants.inputs.get(layer))
            new |= {f"{layer}.{key}": value for key, value in _kept(module, sides).items()}
        plan, problems = plan_resizing(model, {name: tuple(t.shape) for name, t in new.items()})
        if problems:
            raise ValueError("; ".join(problems))
        apply_plan(plan, "shrink")
        for name, value in new.items():
            layer, _, key = name.rpartition(".")
            getattr(model.get_submodule(layer), key).copy_(value)


def _kept(module: nn.Module, gone: dict[str, set[int]]) -> dict[str, Tensor]:
    """Return what is left of the tensors of a layer."""
    dims: dict[str, int] = {"out": 0, "in": 1}
    if isinstance(module, nn.Embedding):
        dims = {"out": 1}
    elif getattr(module, "groups", 1) > 1:  # the second dimension is of a single group
        dims = {"in": 0} if isinstance(module, _ConvTransposeNd) else {"out": 0}
    elif isinstance(module, _ConvTransposeNd):
        dims = {"in": 0, "out": 1}
    result = {}
    for key, tensor in {**module._parameters, **module._buffers}.items():
        if tensor is None or tensor.dim() == 0:
            continue
        is_weight = key == "weight" and not isinstance(module, _BatchNorm)
        for side, dim in (dims if is_weight else {"out": 0}).items():
            kept = [i for i in range(n_channels(module, side)) if i not in gone[side]]
            tensor = tensor.index_select(dim, torch.tensor(kept, device=tensor.device))
        result[key] = tensor
    return result


def _move_constants(module: Any, indices: list[int], inputs: Tensor | None) -> None:
    """Add what constant inputs contribute to the bias."""
    if not indices or inputs is None or getattr(module, "groups", 1) > 1:
        return
    values = inputs[indices]
    columns = by_group(module)[0, :, indices].sum(2).double()
    sums = (columns * values.nan_to_num(0.0)).sum(1)  # what is NaN meets weights of zero
    if sums.any():
        module.bias.copy_(module.bias.double() + sums)


def set_silent(model: nn.Module, slots: set[Slot]) -> None:
    """Set the bias and the batch norm of output channels to zero, in place."""
    with torch.no_grad():
        for layer, _, channel in slots:
            module: Any = model.get_submodule(layer)
            tensors = [getattr(module, "bias", None)]
            if isinstance(module, _BatchNorm):
                tensors += [module.weight, module.running_mean]
            for tensor in tensors:
                if tensor is not None:
                    tensor[channel] = 0
