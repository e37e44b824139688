"""Which channels belong together: removed from one layer, they have to go from all."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ..arrays import check_is_dense
from .owners import owners_of

# What has one input and one output channel side; batch norm has one side, called "out".
MIXING = (nn.Linear, _ConvNd, nn.Embedding)

OUTPUT = "an output of the model"  # an obstacle


class Slot(NamedTuple):
    """A channel at one side of a layer.

    Attributes
    ----------
    layer : str
    side : {"in", "out"}
    channel : int
    """

    layer: str
    side: str
    channel: int


@dataclass(eq=False)
class Bundle:
    """Channels that have to be removed together.

    Attributes
    ----------
    slots : set of Slot
    obstacles : list of str
        Why they cannot be removed, whatever they hold; empty if nothing is known.
    """

    slots: set[Slot]
    obstacles: list[str] = field(default_factory=list)

    @property
    def sides(self) -> frozenset[tuple[str, str]]:
        """The sides of layers that are touched."""
        return frozenset((slot.layer, slot.side) for slot in self.slots)


def n_channels(module: nn.Module, side: str) -> int:
    """Return the number of channels at one side of a layer."""
    if isinstance(module, nn.Linear):
        return module.in_features if side == "in" else module.out_features
    if isinstance(module, _ConvNd):
        return module.in_channels if side == "in" else module.out_channels
    if isinstance(module, nn.Embedding):
        return module.embedding_dim
    assert isinstance(module, _BatchNorm)
    return module.num_features


def by_group(module: nn.Module) -> Tensor:
    """Return the weight of a layer, shape (groups, n_out / groups, n_in / groups, kernel size)."""
    weight: Any = module.weight
    n_groups: Any = getattr(module, "groups", 1)
    if isinstance(module, nn.Embedding):
        return weight.T[None, :, :, None]
    parts = weight.reshape(n_groups, -1, weight.shape[1], weight[0, 0].numel())
    return parts.transpose(1, 2) if isinstance(module, _ConvTransposeNd) else parts


def zero_filters(model: nn.Module) -> dict[str, Tensor]:
    """Return for each layer which filters have weights that are all zero, bool, shape (n_out,)."""
    return {
        name: ~by_group(module).flatten(2).any(2).flatten()
        for name, module in model.named_modules()
        if isinstance(module, MIXING)
    }


def call(model: nn.Module, inputs: Any) -> Any:
    """Call a model with a tensor, with the items of a tuple or list, or of a mapping by name."""
    inputs = map_tensors(inputs, Tensor.clone)  # it may work in place
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, list) else model(inputs)


def map_tensors(value: Any, change: Any) -> Any:
    """Return tuples, lists and mappings with each tensor replaced by ``change(tensor)``."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(item, change) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [map_tensors(item, change) for item in value]
    return value


def tensors_of(value: Any) -> list[Tensor]:
    """List the tensors in an output."""
    found: list[Tensor] = []
    map_tensors(value, found.append)
    return found


def double_copy(model: nn.Module, inputs: Any) -> tuple[nn.Module, Any]:
    """Copy a model and its inputs in float64, so that equal means equal; in eval mode.

    Raises
    ------
    TypeError
        If `model` is no module.
    ValueError
        If a layer's weight is no plain parameter, or has no entries; the message says what to do.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected an nn.Module, not a {type(model).__name__}")
    check_is_dense(model)
    for name, module in model.named_modules():
        what = f"layer {name!r} ({type(module).__name__})"
        if isinstance(module, MIXING) and not isinstance(
            module._parameters.get("weight"), nn.Parameter
        ):
            raise ValueError(
                f"{what}: expected a weight that is a plain parameter, found one that is made of "
                "others: call torch.nn.utils.prune.remove or remove_parametrizations first, and "
                "share weights afterwards"
            )
        if any(isinstance(p, nn.UninitializedParameter) for p in module.parameters(False)):
            raise ValueError(f"{what} is not initialized yet: run the model once before")
        if any(t.is_meta for t in (*module.parameters(False), *module.buffers(False))):
            raise ValueError(f"{what} is on the meta device: it has no entries")
    twin = copy.deepcopy(model).double().eval()
    for parameter in twin.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    inputs = map_tensors(inputs, lambda x: x.detach().double() if x.is_floating_point() else x)
    return twin, inputs


def find_bundles(model: nn.Module, inputs: Any) -> list[Bundle]:
    """Follow the channels of every layer through a model.

    Parameters
    ----------
    model : nn.Module
        Of `double_copy`: all parameters need gradients, by which the graph is traced.
    inputs : Tensor, tuple or mapping

    Returns
    -------
    list of Bundle
        For each output channel of a layer that was reached, once.

    Raises
    ------
    ImportError
        If torch-pruning is missing.
    ValueError
        If the forward pass fails, or cannot be traced.

    References
    ----------
    Fang, Ma, Song, Mi, Wang, "DepGraph: Towards Any Structural Pruning", CVPR 2023.
    """
    graph = _trace(model, inputs)
    names = {module: name for name, module in model.named_modules()}
    bundles = _Bundles()
    for module in [m for m in graph.module2node if isinstance(m, MIXING)]:
        name = names[module]
        _tie_groups(bundles, name, module)
        for node, is_out, index, root in _reached(graph, module):
            bundle = bundles.of(Slot(name, "out", root))
            obstacle = _obstacle(node, names, index, is_out)
            if obstacle:
                bundle.obstacles.append(obstacle)
            elif isinstance(node.module, (*MIXING, _BatchNorm)):
                side = "out" if is_out else "in"
                bundles.merge(bundle, Slot(names[node.module], side, index))
    _forbid_tied(model, bundles)
    return sorted(set(bundles.by_slot.values()), key=lambda bundle: min(bundle.slots))


class _Bundles:
    """A partition of slots."""

    def __init__(self) -> None:
        self.by_slot: dict[Slot, Bundle] = {}

    def of(self, slot: Slot) -> Bundle:
        if slot not in self.by_slot:
            self.by_slot[slot] = Bundle({slot})
        return self.by_slot[slot]

    def merge(self, bundle: Bundle, slot: Slot) -> None:
        other = self.of(slot)
        if other is bundle:
            return
        if len(other.slots) > len(bundle.slots):
            bundle, other = other, bundle
        bundle.slots |= other.slots
        bundle.obstacles += other.obstacles
        self.by_slot.update(dict.fromkeys(other.slots, bundle))


def _trace(model: nn.Module, inputs: Any) -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        raise ImportError(
            f"following channels needs torch-pruning: pip install 'deepcomp[channels]' ({error})",
            name=error.name,
        ) from error
    graph = torch_pruning.DependencyGraph()
    try:
        with torch.enable_grad():
            return graph.build_dependency(
                model, inputs, forward_fn=call, output_transform=_traced, verbose=False
            )
    except Exception as error:
        raise ValueError(
            f"the forward pass of {type(model).__name__} cannot be traced with these inputs in "
            f"float64: {error}"
        ) from error


def _reached(graph: Any, module: nn.Module) -> list[tuple[Any, bool, int, int]]:
    """List where output channels of a layer go: node, side, channel there, channel of the layer.

    The node is None for a layer that torch-pruning has no answer for.
    """
    every = list(range(n_channels(module, "out")))
    try:
        fn = graph.get_pruner_of_module(module).prune_out_channels
        group = graph.get_pruning_group(module, fn, every).items
    except Exception:  # of its index mappings: it is not made for every network
        return [(None, True, i, i) for i in every]
    return [
        (item.dep.target, graph.is_out_channel_pruning_fn(item.dep.handler), index, root)
        for item in group
        for index, root in zip(item.idxs, item.root_idxs)
    ]


def _traced(output: Any) -> list[Tensor]:
    found = [tensor for tensor in tensors_of(output) if tensor.grad_fn is not None]
    if not found:
        raise ValueError("no output depends on a parameter: is it under no_grad?")
    return [tensor * 1 for tensor in found]  # a node of its own, that only the output reaches


def _obstacle(node: Any, names: dict[nn.Module, str], index: int, is_out: bool) -> str:
    """Return why a channel that reaches a node cannot be removed; empty if it can."""
    if node is None:
        return "it cannot be followed"
    module = node.module
    if type(module).__name__ == "_OutputOp":
        return OUTPUT
    if isinstance(module, nn.Parameter):
        return "it meets a parameter that is no layer's"
    what = f"{names.get(module, '')} ({type(module).__name__})"
    if isinstance(module, (*MIXING, _BatchNorm)):
        in_range = index < n_channels(module, "out" if is_out else "in")
        return "" if in_range else f"it cannot be followed into {what}"
    has_parameters = next(iter(module.parameters()), None) is not None
    if has_parameters and type(module).__module__.startswith("torch.nn.modules"):
        is_same_for_all = isinstance(module, nn.PReLU) and module.num_parameters == 1
        return "" if is_same_for_all else f"no channel of {what} can be removed"
    padding = getattr(node.grad_fn, "_saved_pad", ())
    if len(padding) >= 6 and any(padding[4:6]):  # pairs from the last dimension on: channels
        return "channels are padded"
    return ""


def _tie_groups(bundles: _Bundles, name: str, module: nn.Module) -> None:
    """Let the inputs and outputs of each group of a convolution go together, or not at all."""
    n_groups = getattr(module, "groups", 1)
    if n_groups == 1:
        return
    for side in ("out", "in"):
        n = n_channels(module, side)
        for i in range(n):
            first = bundles.of(
                Slot(name, "out", i * n_groups // n * (n_channels(module, "out") // n_groups))
            )
            bundles.merge(first, Slot(name, side, i))


def _forbid_tied(model: nn.Module, bundles: _Bundles) -> None:
    owners = owners_of(model).values()
    tied = {name: names for names in owners if len(names) > 1 for name in names}
    for bundle in set(bundles.by_slot.values()):
        for slot in bundle.slots:
            if slot.layer in tied:
                bundle.obstacles.append(f"{' and '.join(tied[slot.layer])} share a parameter")
                break
