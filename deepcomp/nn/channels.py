"""Filters that were pruned, with all that belongs to them."""

from collections import Counter
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .constants import Constants, find_constants
from .coupling import OUTPUT, Bundle, Slot, double_copy, find_bundles, zero_filters
from .cutting import set_silent
from .probes import further_samples


def silence(model: nn.Module, example_inputs: Any) -> dict[str, int]:
    """Set to zero the bias and the batch norm of filters whose weights are all zero, in place.

    Filter pruning leaves a filter's bias, and the batch norm after it turns zeros into another
    constant. Both papers remove them with the filter; what the model puts out changes by that. The
    last layer, whose filters are the outputs of the model, is left alone.

    Call `deepcomp.shrink` right after it, which can remove these filters then, and train on after
    that: training between the two brings biases and batch norms back.

    Parameters
    ----------
    model : nn.Module
    example_inputs : Tensor, tuple or mapping
        As of `deepcomp.shrink`.

    Returns
    -------
    dict of str to int
        For each layer that has them, the number of filters that were silenced or had nothing to
        silence.

    Raises
    ------
    ImportError
        If torch-pruning is missing (the extra ``channels``).
    ValueError
        If a weight is no plain parameter, or the forward pass fails, cannot be traced, or takes
        numbers out of tensors that depend on the input. Nothing is changed then.

    References
    ----------
    Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient ConvNets", ICLR 2017,
    section 3. He, Liu, Wang, Hu, Yang, "Filter Pruning via Geometric Median", CVPR 2019.

    Examples
    --------
    >>> import deepcomp, torch
    >>> from deepcomp.nn import channels, criteria
    >>> conv = [torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()]
    >>> model = torch.nn.Sequential(*conv, torch.nn.Conv2d(8, 2, 3))
    >>> deepcomp.Pruner(model, {"0": 0.5}, criterion=criteria.l1_norm).remove()
    >>> x = torch.randn(1, 3, 9, 9)
    >>> channels.silence(model, x)
    {'0': 4}
    >>> deepcomp.shrink(model, x).rows[0]
    Row(layer='0', n_before=8, n_after=4, stays='')
    """
    twin, inputs = double_copy(model, example_inputs)
    others = [inputs, *(values for values, _ in further_samples(twin, inputs))]
    zero = {Slot(n, "out", int(i)) for n, z in zero_filters(twin).items() for i in z.nonzero()}
    bundles = [
        bundle
        for bundle in find_bundles(twin, inputs)
        if bundle.slots & zero and OUTPUT not in bundle.obstacles
    ]
    silenced = {slot for bundle in bundles for slot in bundle.slots & zero}
    counts = Counter(slot.layer for slot in silenced)
    more = silenced
    while more:  # a depthwise filter is known to have nothing left once what it reads is silent
        set_silent(twin, more)
        constants = find_constants(twin, inputs, others, only=silenced)
        more = {slot for b in bundles for slot in _idle(twin, b, constants)} - silenced
        silenced |= more
    set_silent(model, silenced)
    return {name: counts[name] for name, _ in model.named_modules() if name in counts}


def _idle(model: nn.Module, bundle: Bundle, constants: Constants) -> list[Slot]:
    """Return the channels of batch norms and grouped convolutions that only silent ones reach."""
    found = []
    for slot in bundle.slots:
        module = model.get_submodule(slot.layer)
        is_norm = isinstance(module, _BatchNorm)
        if slot.side != "out" or not (is_norm or getattr(module, "groups", 1) > 1):
            continue
        values = [constants.outputs[slot.layer][slot.channel]]
        if is_norm:  # one that multiplies by zero says nothing of what it reads
            values.append(constants.inputs[slot.layer][slot.channel])
        if all(value.isfinite() for value in values):
            found.append(slot)
    return found
