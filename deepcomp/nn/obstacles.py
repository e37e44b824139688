"""Why a weight stays dense."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from .layers import DTYPES

if TYPE_CHECKING:
    from ..model import CompressedModel

CONSIDERED = (nn.Linear, nn.modules.conv._ConvNd)
_LISTS = (nn.ParameterList, nn.ParameterDict)
_DTYPES = ("float32", "bfloat16", "float16")
_MADE = "its weight is made by a parametrization or is being pruned"
_STATE_HOOKS = (
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)


def obstacle_of(
    packed: "CompressedModel",
    name: str,
    module: nn.Module,
    layers: str,
    held: Mapping[int, str],
) -> str:
    """Return why a linear or convolutional layer has to stay dense; empty if it has not.

    Parameters
    ----------
    packed : CompressedModel
    name : str
    module : nn.Module
        One of `CONSIDERED`.
    layers : {"sparse", "auto"}
    held : mapping of int to str
        As of `owners.held_elsewhere`.
    """
    if not name:
        return "it is the whole model, and cannot be replaced in place"
    return (
        _of_kind(module)
        or _of_use(module, held.get(id(module), ""))
        or _of_file(packed, f"{name}.weight")
        or _of_numbers(module, layers)
    )


def other_weights(model: nn.Module, name: str, module: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the weights that a module other than those of `CONSIDERED` holds itself.

    Those are its parameters of two or more dimensions.

    Parameters
    ----------
    model : nn.Module
    name : str
        Of the module, in the model.
    module : nn.Module

    Yields
    ------
    weight : str
        Name of the module, or of the parameter if that is not called ``weight``.
    reason : str
    """
    owner, found, attribute = name.rpartition("parametrizations.")
    owner = owner.removesuffix(".")
    if found and "." not in attribute:  # a list of parametrizations, which holds what they need
        if not isinstance(model.get_submodule(owner), CONSIDERED):
            yield _label(owner, attribute), _MADE
        return
    kind = nn.utils.parametrize.type_before_parametrizations(module)
    is_layer = kind.__module__.startswith("torch.nn.") and kind not in _LISTS
    for attribute, parameter in module.named_parameters(recurse=False):
        if not nn.parameter.is_lazy(parameter) and parameter.dim() < 2:
            continue
        pruned = attribute.removesuffix("_orig")
        if pruned != attribute and f"{pruned}_mask" in module._buffers:
            yield _label(name, pruned), _MADE
        elif isinstance(module, torch.jit.ScriptModule):
            yield _label(name, attribute), "TorchScript has compiled it"
        elif attribute == "weight" or is_layer:
            yield _label(name, attribute), f"there is no sparse {kind.__name__}"
        else:
            yield _label(name, attribute), f"it is a bare parameter, of {kind.__name__}"


def _label(module: str, attribute: str) -> str:
    return module if attribute == "weight" else f"{module}.{attribute}".removeprefix(".")


def _of_kind(module: nn.Module) -> str:
    if nn.utils.parametrize.is_parametrized(module, "weight"):
        return _MADE
    if type(module) not in (nn.Linear, nn.Conv2d):
        return f"there is no sparse {type(module).__name__}"
    if getattr(module, "padding_mode", "zeros") != "zeros":
        return f"there is no padding with {module.padding_mode}"
    if "weight" not in module._parameters:
        return _MADE
    if "bias" not in module._parameters:
        return "its bias is made by a parametrization or is being pruned"
    more = {**module._parameters, **module._buffers, **module._modules}.keys() - {"weight", "bias"}
    if more:
        return f"it holds more than a weight and a bias: {', '.join(sorted(more))}"
    return ""


def _of_use(module: nn.Module, held: str) -> str:
    """Return what would be lost by another layer in its place, or would go on calling it."""
    if "forward" in vars(module):
        return "its forward has been replaced"
    if vars(module).get("_compiled_call_impl") is not None:
        return "it is compiled on its own"
    if any(getattr(module, hooks) for hooks in _STATE_HOOKS):
        return "it has hooks for its state_dict"
    return held


def _of_file(packed: "CompressedModel", name: str) -> str:
    tensor = packed.get(name)
    if tensor is None:
        return "its weight is not in the file"
    if tensor.dtype not in _DTYPES:
        return f"its weight is {tensor.dtype} in the file"
    if 0 in tensor.shape:
        return "its weight has no entries"
    return ""


def _of_numbers(module: nn.Module, layers: str) -> str:
    for parameter in module.parameters(recurse=False):
        if parameter.device.type != "cpu" or parameter.dtype not in DTYPES:
            return f"it is {parameter.dtype} on {parameter.device}: sparse layers are floats, CPU"
        if parameter.dtype != torch.float32 and layers == "auto":
            return f"it is {parameter.dtype}: what is faster was measured with float32 only"
    return ""
