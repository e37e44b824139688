"""Other inputs than the example, and whether a model still does the same with all of them."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .coupling import call, map_tensors, tensors_of

TOLERANCE = 1e-5  # of the largest output

Sample = tuple[Any, list[Tensor]]  # inputs and outputs


def outputs_of(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Return what a copy puts out, as the model may keep what it computes."""
    with torch.no_grad():
        return [y.to(torch.float64) for y in tensors_of(call(copy.deepcopy(model), inputs))]


def difference(model: nn.Module, samples: list[Sample]) -> str:
    """Return in what the outputs differ from those of the samples; empty if they do not."""
    for inputs, expected in samples:
        found = outputs_of(model, inputs)
        if [y.shape for y in found] != [y.shape for y in expected]:
            return "its outputs have other shapes"
        pairs = [(a, b) for a, b in zip(found, expected) if a.numel()]
        largest = max((float(b.abs().max()) for _, b in pairs), default=0.0)
        for a, b in pairs:
            error = float((a - b).abs().max())
            if not error <= TOLERANCE * largest:  # NaN as well
                return f"its outputs differ by {error:.2g}"
    return ""


def further_samples(model: nn.Module, inputs: Any) -> list[Sample]:
    """Run a model with other inputs of the same form.

    Parameters
    ----------
    model : nn.Module
    inputs : Tensor, tuple or mapping
        The example. Of its floats the others are normal ones of several sizes, and the negative;
        of integers random ones of the same range (if it is one value, from zero on), and the
        example turned round.

    Returns
    -------
    list of Sample
        But for those with which the model fails, or puts out what is not finite.
    """
    draw = torch.Generator().manual_seed(0)

    def random(x: Tensor, scale: float) -> Tensor:
        if x.is_floating_point():
            return (scale * torch.randn(x.shape, generator=draw)).to(x)
        if x.is_complex() or not x.numel():
            return x
        low, high = int(x.long().min()), int(x.long().max())  # uint16 has no min
        if low == high:  # a step, a mask: below it is likely valid as well
            low, high = min(low, 0), max(high, 1)
        return torch.randint(low, high + 1, x.shape, generator=draw).to(x)

    def turned(x: Tensor) -> Tensor:
        return -x if x.is_floating_point() else x.flip(sorted({0, x.dim() - 1})[: x.dim()])

    changes = [lambda x, scale=scale: random(x, scale) for scale in (1.0, 1.0, 0.1, 10.0)]
    samples = []
    for change in [*changes, turned]:
        try:
            values = map_tensors(inputs, change)
            outputs = outputs_of(model, values)
        except Exception:  # of the user's own forward: not every input is valid
            continue
        if all(y.isfinite().all() for y in outputs):
            samples.append((values, outputs))
    return samples
