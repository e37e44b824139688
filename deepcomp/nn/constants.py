"""What is the same whatever comes in: channels that are constant, found with NaN as a tracer.

One pass in which every float of the input is NaN. Arithmetic hands NaN on, also where it is
multiplied by zero, so layers get new outputs here: a channel is NaN only if some input that it
gives weight to is. What is not NaN then depends on the weights alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.overrides import TorchFunctionMode

from .coupling import MIXING, by_group, call, map_tensors

NAN = float("nan")


class Constants(NamedTuple):
    """By layer, the value of each channel; NaN where it varies.

    Attributes
    ----------
    inputs, outputs : dict of str to Tensor, shape (n_channels,)
        Before and after each linear, convolutional, embedding and batch norm layer.
    """

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


def find_constants(model: nn.Module, inputs: Any) -> Constants:
    """Find the channels that do not depend on the input, in eval mode.

    Parameters
    ----------
    model : nn.Module
        Is called once.
    inputs : Tensor, tuple or mapping
        Floats only count by their shape. Integers stay what they are.

    Returns
    -------
    Constants

    Raises
    ------
    ValueError
        If a tensor of integers holds one value only: then what depends on it looks constant.
    """
    constants = Constants({}, {})
    handles = [
        module.register_forward_hook(_watch(name, constants))
        for name, module in model.named_modules()
        if isinstance(module, (*MIXING, _BatchNorm))
    ]
    try:
        with torch.no_grad(), _ZeroTimesAnything():
            call(model, map_tensors(inputs, _traced_input))
    finally:
        for handle in handles:
            handle.remove()
    return constants


class _ZeroTimesAnything(TorchFunctionMode):
    """Let zero times NaN be zero: NaN stands for a number. Else gates would hide what is zero."""

    products = (
        Tensor.mul,
        Tensor.mul_,
        Tensor.__mul__,
        Tensor.__rmul__,
        Tensor.__imul__,
        torch.mul,
    )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func not in self.products or len(args) != 2:
            return func(*args, **(kwargs or {}))
        is_zero = (args[0] == 0) | (args[1] == 0)
        result = func(*args, **(kwargs or {}))
        return result.masked_fill_(is_zero, 0) if torch.is_tensor(is_zero) else result


def _traced_input(x: Tensor) -> Tensor:
    if x.is_floating_point():
        return torch.full_like(x, NAN)
    if x.numel() > 1 and bool((x == x.flatten()[0]).all()):
        raise ValueError(
            f"an example input of shape {list(x.shape)} holds only {x.flatten()[0].item()}: "
            "expected integers that differ, as in real data"
        )
    return x


def _watch(name: str, constants: Constants) -> Callable[..., Tensor]:
    def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if isinstance(module, nn.Embedding):
            table: Any = module.weight
            values = torch.where((table == table[0]).all(0), table[0], NAN)
            after = values.expand_as(output)
        else:
            dim = _channel_dim(module)
            before = _constant(arguments[0], dim)
            _note(constants.inputs, name, before)
            if isinstance(module, _BatchNorm):
                values = _constant(output, dim)
                if module.weight is not None:
                    values = torch.where(module.weight == 0, module.bias, values)
            else:
                values = _outputs(module, before)
            shape = [1] * output.dim()
            shape[dim] = -1
            after = values.reshape(shape).expand_as(output)
        _note(constants.outputs, name, values)
        return after.clone()

    return hook


def _note(found: dict[str, Tensor], name: str, values: Tensor) -> None:
    """Keep the values; of a layer that is called several times those that are always the same."""
    same = torch.where(found[name] == values, values, NAN) if name in found else values
    found[name] = same


def _channel_dim(module: nn.Module) -> int:
    if isinstance(module, _BatchNorm):
        return 1
    return -1 if isinstance(module, nn.Linear) else -1 - len(module.kernel_size)


def _constant(x: Tensor, dim: int) -> Tensor:
    """Return the value of each channel, NaN where there are several."""
    flat = x.movedim(dim, 0).flatten(1)
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
