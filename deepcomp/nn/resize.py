"""Layers of other sizes: parameters and buffers take given shapes, and the attributes follow."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from .replace import mark_replaced

Shape = tuple[int, ...]

KINDS = (nn.Linear, _ConvNd, nn.Embedding, _BatchNorm, nn.LayerNorm)


class Resizing(NamedTuple):
    """What is to be changed of one layer.

    Attributes
    ----------
    name : str
    module : nn.Module
    shapes : dict of str to tuple of int
        New shapes of its parameters and buffers, by attribute.
    sizes : dict of str to int or tuple of int
        New values of other attributes, as ``in_features``.
    """

    name: str
    module: nn.Module
    shapes: dict[str, Shape]
    sizes: dict[str, Any]


def plan_resizing(
    model: nn.Module, shapes: Mapping[str, Shape]
) -> tuple[list[Resizing], list[str]]:
    """Find what has to change for parameters and buffers to take other shapes.

    Parameters
    ----------
    model : nn.Module
        Is not changed.
    shapes : mapping of str to tuple of int
        By name, as in the state_dict; what the model has not is passed over.

    Returns
    -------
    plan : list of Resizing
        Of the layers of which a shape differs.
    problems : list of str
        Which layers cannot change, and why. Tensors of another number of dimensions are in none
        of both.
    """
    state = model.state_dict(keep_vars=True)  # under all names of what is tied
    wanted = {id(state[name]): tuple(shape) for name, shape in shapes.items() if name in state}
    plan: list[Resizing] = []
    problems: list[str] = []
    for name, module in model.named_modules(remove_duplicate=False):
        own = {k: t for k, t in {**module._parameters, **module._buffers}.items() if t is not None}
        found = {key: wanted[id(t)] for key, t in own.items() if id(t) in wanted}
        differing = [key for key, shape in found.items() if own[key].shape != shape]
        if not differing or any(own[key].dim() != len(found[key]) for key in differing):
            continue
        try:
            plan.append(Resizing(name, module, found, _sizes(module, own, found)))
        except ValueError as error:
            problems.append(f"{name or 'the model'} ({type(module).__name__}): {error}")
    return plan, problems


def apply_plan(plan: list[Resizing], by: str) -> None:
    """Give layers the shapes of a plan, in place; the entries are not initialized.

    Parameters that are shared stay shared. The next step of an optimizer that has the old ones
    raises an error, which names the function `by` that the user called.
    """
    new: dict[int, Tensor] = {}
    for _, module, shapes, sizes in plan:
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for table in tables:
            for key, old in table.items():
                if old is None or key not in shapes or old.shape == shapes[key]:
                    continue
                if id(old) not in new:
                    new[id(old)] = torch.empty(shapes[key], dtype=old.dtype, device=old.device)
                    if isinstance(old, nn.Parameter):
                        new[id(old)] = nn.Parameter(new[id(old)], old.requires_grad)
                        mark_replaced(old, by)
                table[key] = new[id(old)]
        for key, size in sizes.items():
            setattr(module, key, size)


def _sizes(
    module: nn.Module, own: Mapping[str, Tensor], found: Mapping[str, Shape]
) -> dict[str, Any]:
    """Return the attributes of a layer whose tensors have these shapes.

    Raises
    ------
    ValueError
        If the shapes do not fit together, or the layer is of another kind.
    """
    shapes = {key: tuple(t.shape) for key, t in own.items()} | dict(found)
    sizes: dict[str, Any]
    if not isinstance(module, KINDS):
        raise ValueError("layers of this kind cannot be resized")
    if "weight" not in shapes and not isinstance(module, _BatchNorm):
        raise ValueError("its weight is made by a parametrization or is being pruned")
    if isinstance(module, nn.LayerNorm):
        sizes = {"normalized_shape": shapes["weight"]}
        expected = dict.fromkeys(shapes, shapes["weight"])
    elif isinstance(module, _BatchNorm):
        size = max(found.values(), key=len)  # a counter has no dimension
        sizes = {"num_features": size[0]}
        expected = {key: size if shape else () for key, shape in shapes.items()}
    elif isinstance(module, nn.Embedding):
        sizes = dict(zip(("num_embeddings", "embedding_dim"), shapes["weight"]))
        if module.padding_idx is not None and module.padding_idx >= sizes["num_embeddings"]:
            raise ValueError(f"there is no row for padding_idx={module.padding_idx}")
        expected = {}
    elif isinstance(module, nn.Linear):
        sizes = dict(zip(("out_features", "in_features"), shapes["weight"]))
        expected = {"bias": (sizes["out_features"],)}
    else:
        sizes = conv_sizes(module, shapes["weight"])
        expected = {"bias": (sizes["out_channels"],)}
    for key, shape in expected.items():
        if key in shapes and shapes[key] != shape:
            raise ValueError(f"expected {key} of shape {list(shape)}, found {list(shapes[key])}")
    return sizes


def conv_sizes(module: _ConvNd, shape: Shape) -> dict[str, Any]:
    """Return the attributes of a convolution with a weight of another shape.

    Of grouped convolutions it is groups that come and go, as long as the number of channels in a
    group can be the same: so it is with depthwise ones.

    Parameters
    ----------
    module : nn.Conv1d, nn.Conv2d, nn.Conv3d, or one of the transposed ones
    shape : tuple of int

    Returns
    -------
    dict
        ``in_channels``, ``out_channels``, ``groups``, ``kernel_size``.

    Raises
    ------
    ValueError
        If the channels cannot be cut into the groups.
    """
    first, second = module.out_channels, module.in_channels
    if isinstance(module, _ConvTransposeNd):
        first, second = second, first
    groups = module.groups
    if groups > 1 and shape[1] == second // groups and shape[0] % (first // groups) == 0:
        groups = shape[0] // (first // groups)
    if groups == 0 or shape[0] % groups:
        raise ValueError(
            f"{shape[0]} channels, found in the file, cannot be cut into {groups} groups"
        )
    kernel_size = shape[2:]
    is_padded_before = module.padding == "same" and module.padding_mode != "zeros"
    if is_padded_before and kernel_size != module.kernel_size:
        raise ValueError(f"expected kernels of {module.kernel_size}, found {kernel_size}")
    names = ("in_channels", "out_channels")
    if not isinstance(module, _ConvTransposeNd):
        names = names[::-1]
    sizes = dict(zip(names, (shape[0], shape[1] * groups)))
    return sizes | {"groups": groups, "kernel_size": kernel_size}
