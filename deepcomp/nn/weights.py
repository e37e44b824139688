"""What a weight of a module is: what is pruned and shared unless a pattern says otherwise.

The one rule of `compress`, `Pruner`, `share_weights`, `search` and `sensitivity`: weights are those
of layers that are known to have some, whatever their size. Tokens, tables of positions, scales and
magnitudes that are bare parameters are none, and neither is a parameter of a layer of one's own.
(Of a mapping, which has no layers, `arrays.Source.is_weight` goes by the shape.)
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

# Their subclasses too, and what they call their weights.
_NAMES: dict[type[nn.Module], str] = {
    nn.Linear: "weight",
    nn.Bilinear: "weight",
    nn.modules.conv._ConvNd: "weight",
    nn.Embedding: "weight",
    nn.EmbeddingBag: "weight",
    nn.RNNBase: r"weight_(ih|hh|hr)_l\d+(_reverse)?",
    nn.RNNCellBase: "weight_(ih|hh)",
    nn.MultiheadAttention: "(in|q|k|v)_proj_weight",
}
# What torch.nn.utils has in the place of a weight: prune and spectral_norm, and weight_norm, whose
# magnitude (`weight_g`) is none.
_INSTEAD = "(_orig|_v)?"


def kinds_of(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Say what a module has its tensors for.

    Parameters
    ----------
    model : nn.Module
    tensors : mapping of str to Tensor
        Its parameters, or its state_dict.

    Returns
    -------
    dict of str to str
        "weight", "parameter" for others that are trained, or "buffer". What cannot be found in the
        module is taken for a "parameter": it stays as it is unless a pattern names it. Tied tensors
        are weights if one of them is.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(3, 1, bias=False), nn.BatchNorm1d(1, affine=False))
    >>> list(kinds_of(model, model.state_dict()).values())
    ['weight', 'buffer', 'buffer', 'buffer']
    """
    # By their names, and by their memory: a state_dict may rename what is in it
    known: dict[object, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for kind, own in (("buffer", module._buffers), ("parameter", module._parameters)):
            for name, tensor in own.items():
                for key in (prefix + name, _memory(tensor)):
                    if known.get(key) != "weight":
                        known[key] = kind
        for name, tensor in _weights(module):
            known[prefix + name] = known[_memory(tensor)] = "weight"
    found = {}
    for name, tensor in tensors.items():
        kinds = (known.get(name), known.get(_memory(tensor)))
        found[name] = next((k for k in ("weight", "buffer") if k in kinds), "parameter")
    return found


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a layer, or what their parametrizations make them of."""
    names = _names(module)
    if names is None:
        return
    for name, parameter in module._parameters.items():
        if parameter is not None and re.fullmatch(names + _INSTEAD, name):
            yield name, parameter
    if not parametrize.is_parametrized(module):
        return
    for name, held in module.parametrizations.items():
        original = held._parameters.get(_original(held[0]))
        if original is not None and re.fullmatch(names, name):
            yield f"parametrizations.{name}.{_original(held[0])}", original


def _names(module: nn.Module) -> str | None:
    """Return the pattern of what a layer calls its weights; None if it is not known."""
    for layer, names in _NAMES.items():
        if isinstance(module, layer):
            return names
    scripted = getattr(torch.nn, str(getattr(module, "original_name", "")), None)
    if isinstance(scripted, type) and isinstance(module, torch.jit.ScriptModule):
        return next((names for c, names in _NAMES.items() if issubclass(scripted, c)), None)
    mine = type(module).__mro__
    is_conv1d = any(c.__name__ == "Conv1D" and "transformers" in c.__module__ for c in mine)
    return "weight" if is_conv1d else None


def _original(first: nn.Module) -> str:
    """Return what a parametrization makes a weight of; of weight_norm the direction alone."""
    if type(first).__name__ == "_WeightNorm":
        return "original1"
    return "original0" if hasattr(first, "labels") else "original"  # of share_weights: its codebook


def _memory(tensor: Any) -> object:
    """Return what is equal for tensors that are the same memory, as a detached parameter is."""
    is_plain = isinstance(tensor, Tensor) and not nn.parameter.is_lazy(tensor)
    if not is_plain or tensor.layout is not torch.strided or tensor.is_meta or not tensor.numel():
        return id(tensor)
    where = (tensor.untyped_storage().data_ptr(), tensor.storage_offset())
    return (str(tensor.device), *where, tuple(tensor.shape), tensor.stride())
