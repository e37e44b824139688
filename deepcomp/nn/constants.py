"""What is the same whatever comes in: channels that are constant, found with NaN as a tracer.

One pass in which every float of the input is NaN, and no integer is known. Layers get new outputs
here: a channel is NaN only if some input that it gives weight to is. What is not NaN then depends
on the weights alone. Passes with other inputs drop what the tracer got wrong.
"""

import copy
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from .coupling import MIXING, Slot, by_group, call, map_tensors
from .tracer import NAN, Tracer

PRECISION = 1e-9  # of the largest value of a layer, in float64


class Constants(NamedTuple):
    """By layer, the value of each channel; NaN where it varies.

    Attributes
    ----------
    inputs, outputs : dict of str to Tensor, shape (n_channels,)
        Before and after each linear, convolutional, embedding and batch norm layer.
    """

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


def find_constants(
    model: nn.Module, inputs: Any, others: Iterable[Any] = (), only: set[Slot] | None = None
) -> Constants:
    """Find the channels that do not depend on the input, in eval mode.

    Parameters
    ----------
    model : nn.Module
        Copies of it are called.
    inputs : Tensor, tuple or mapping
        Count by their shape and dtype alone.
    others : iterable of Tensor, tuple or mapping
        What is not the same with these either is no constant.
    only : set of Slot, optional
        The layers' outputs that are known at all: what depends on any other is no constant.

    Returns
    -------
    Constants

    Raises
    ------
    ValueError
        If the forward pass fails on NaN, or takes numbers out of tensors.
    """
    constants = Constants({}, {})
    tracer = Tracer()

    def unknown(x: Tensor) -> Tensor:
        x = x.clone()
        tracer.forget(x)
        return x

    traced = _hooked(model, lambda name: _watch(name, constants, tracer, only))
    traced_inputs = map_tensors(inputs, unknown)
    try:
        with torch.no_grad(), tracer:
            call(traced, traced_inputs)
    except Exception as error:  # of the user's own forward
        raise ValueError(
            f"the forward pass of {type(model).__name__} cannot be followed with NaN as input: "
            f"{error}. Leave out checks of values, item() and the like, or pass the part of the "
            "model that has none"
        ) from error
    for values in others:
        with torch.no_grad():
            call(_hooked(model, lambda name: _verify(name, constants)), values)
    return constants


def _hooked(model: nn.Module, make_hook: Callable[[str], Any]) -> nn.Module:
    """Return a copy, which may keep what it computes, with hooks."""
    model = copy.deepcopy(model)
    for name, module in model.named_modules():
        if isinstance(module, (*MIXING, _BatchNorm)):
            module.register_forward_hook(make_hook(name), with_kwargs=True)
    return model


def _verify(name: str, constants: Constants) -> Callable[..., None]:
    """Make a hook that drops the values that are others here."""

    def hook(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        pairs = [(constants.outputs, output)]
        if not isinstance(module, nn.Embedding):
            pairs.append((constants.inputs, [*args, *kwargs.values()][0]))
        for found, x in pairs:
            if name not in found or not x.numel():
                continue
            flat = x.movedim(_channel_dim(module), 0).flatten(1)
            error = (flat - found[name][:, None]).abs().amax(1)
            is_same = error <= PRECISION * flat.abs().max()  # false of NaN
            found[name] = torch.where(is_same, found[name], NAN)

    return hook


def _watch(
    name: str, constants: Constants, tracer: Tracer, only: set[Slot] | None
) -> Callable[..., Tensor]:
    def hook(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        tracer.is_on = False
        x = [*args, *kwargs.values()][0]
        if isinstance(module, nn.Embedding):
            table: Any = module.weight
            values = torch.where((table == table[0]).all(0), table[0], NAN)
        else:
            before = _constant(x, _channel_dim(module)).to(output.dtype)
            if not x.is_floating_point():  # a layer of one's own
                before = torch.full_like(before, NAN)
            _note(constants.inputs, name, before)
            if isinstance(module, _BatchNorm):
                values = _constant(output, 1)
                if module.weight is not None:
                    values = torch.where(module.weight == 0, module.bias, values)
            else:
                values = _outputs(module, before)
        _note(constants.outputs, name, values)
        if only is not None:
            known = [Slot(name, "out", i) in only for i in range(len(values))]
            values = torch.where(torch.tensor(known, device=values.device), values, NAN)
        shape = [1] * output.dim()
        shape[_channel_dim(module)] = -1
        after = values.reshape(shape).expand_as(output).clone()
        tracer.is_on = True
        return after

    return hook


def _note(found: dict[str, Tensor], name: str, values: Tensor) -> None:
    """Keep the values; of a layer that is called several times those that are always the same."""
    same = torch.where(found[name] == values, values, NAN) if name in found else values
    found[name] = same


def _channel_dim(module: nn.Module) -> int:
    if isinstance(module, _BatchNorm):
        return 1
    return -1 if isinstance(module, nn.Linear | nn.Embedding) else -1 - len(module.kernel_size)


def _constant(x: Tensor, dim: int) -> Tensor:
    """Return the value of each channel, NaN where there are several."""
    flat = x.movedim(dim, 0).flatten(1)
    if not flat.shape[1]:
        return torch.full((len(flat),), NAN, dtype=x.dtype, device=x.device)
    first = flat[:, 0]
    return torch.where((flat == first[:, None]).all(1), first, NAN)


def hands_on_constants(module: nn.Module) -> bool:
    """Return whether constant inputs give constant outputs: not where zeros are padded beside."""
    if not isinstance(module, _ConvNd):
        return isinstance(module, nn.Linear)
    is_padded = module.padding != "valid" and any(p != 0 for p in module.padding)
    return not is_padded and not isinstance(module, _ConvTransposeNd)


def _outputs(module: nn.Module, before: Tensor) -> Tensor:
    """Return the constant outputs of a linear or convolutional layer."""
    weight = by_group(module)
    before = before.reshape(len(weight), -1, 1)
    varies = before.isnan() if hands_on_constants(module) else before != 0  # true of NaN as well
    sums = (weight.sum(3) @ before.masked_fill(varies, 0)).flatten()
    sums[(weight.any(3) & varies.mT).any(2).flatten()] = NAN
    return sums if module.bias is None else sums + module.bias
