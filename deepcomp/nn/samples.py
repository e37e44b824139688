"""Samples of a layer's outputs, each as the sum of what single channels contribute."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from .coupling import call

_N_AT_ONCE = 512  # samples, each with the patch and the kernel of all channels


def contributions(
    model: nn.Module,
    layer: str,
    places: list[list[int]],
    batches: list[Any],
    n_samples: int,
    generator: torch.Generator,
) -> Tensor:
    """Draw outputs of a linear or convolutional layer, at random, and take them apart.

    Parameters
    ----------
    model : nn.Module
        Is called with each batch.
    layer : str
        Name of the layer; one group, not transposed.
    places : list of list of int
        For each channel its places among the inputs of the layer: several after a flatten.
    batches : list of Tensor, tuple or mapping
    n_samples : int
        Outputs to draw, as many from each batch.
    generator : torch.Generator

    Returns
    -------
    Tensor of float64, shape (n_samples, n_channels), on the CPU
        What each channel adds to an output; biases and other channels are left out.

    Raises
    ------
    ValueError
        If a batch does not fit the model, the layer's input is not finite, or there are fewer
        outputs than channels.
    """
    if n_samples < len(places):
        raise ValueError(
            f"n_samples is {n_samples}: expected {len(places)} or more, the number of channels "
            f"that {layer!r} reads"
        )
    parts, n_outputs = [], 0
    for i, batch in enumerate(batches):
        x = _input(model, layer, i, batch)
        n = n_samples // len(batches) + (i < n_samples % len(batches))
        for start in range(0, n, _N_AT_ONCE):
            m = min(_N_AT_ONCE, n - start)
            rows, n_there = _draw(model.get_submodule(layer), x, m, generator)
            parts.append(torch.stack([rows[:, place].sum(1) for place in places], 1).cpu())
        n_outputs += n_there if n else 0
    if n_outputs < len(places):
        raise ValueError(
            f"too few samples: the batches give {n_outputs} outputs of {layer!r}, expected "
            f"{len(places)} or more, the number of channels that it reads"
        )
    return torch.cat(parts)


def _input(model: nn.Module, layer: str, i: int, batch: Any) -> Tensor:
    """Return what comes into a layer when the model is called with a batch."""
    seen: list[Tensor] = []
    module = model.get_submodule(layer)
    handle = module.register_forward_pre_hook(
        lambda _, arguments: seen.append(arguments[0].clone())
    )
    try:
        call(model, batch)
    except Exception as error:
        raise ValueError(f"the model cannot be called with batches[{i}]: {error}") from error
    finally:
        handle.remove()
    if len(seen) != 1:
        raise ValueError(f"{layer!r} is called {len(seen)} times in a pass: expected once")
    if not seen[0].isfinite().all():
        raise ValueError(f"the input of {layer!r} has NaN or infinite entries for batches[{i}]")
    return seen[0]


def _draw(module: Any, x: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """Draw `n` outputs; return each input's part of them, (n, n_inputs), and how many there are."""
    weight = module.weight.double()
    if not isinstance(module, _ConvNd):
        x = x.reshape(-1, x.shape[-1])
        at = _random(len(x), n, generator, x)
        out = _random(len(weight), n, generator, x)
        return x[at].double() * weight[out], len(x) * len(weight)
    n_dims = len(module.kernel_size)
    x = x if x.dim() == n_dims + 2 else x[None]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    index: list[Any] = [_random(len(x), n, generator, x).reshape(n, *[1] * n_dims), slice(None)]
    n_outputs = len(x) * len(weight)
    for d in range(n_dims):
        reach = module.dilation[d] * (module.kernel_size[d] - 1) + 1
        n_steps = (x.shape[2 + d] - reach) // module.stride[d] + 1
        n_outputs *= n_steps
        shape = [n] + [module.kernel_size[d] if other == d else 1 for other in range(n_dims)]
        taps = torch.arange(module.kernel_size[d], device=x.device) * module.dilation[d]
        at = _random(n_steps, n, generator, x) * module.stride[d]
        index.append((at[:, None] + taps).reshape(shape))
    patches = x[tuple(index)].reshape(n, -1, x.shape[1])  # channels come last: torch's rule
    kernels = weight[_random(len(weight), n, generator, x)].flatten(2)
    return (patches.double() * kernels.mT).sum(1), n_outputs


def _random(below: int, n: int, generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.randint(max(below, 1), (n,), generator=generator).to(like.device)
