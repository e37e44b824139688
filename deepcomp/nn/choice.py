"""Which layers of a model compute from the compressed form, and why."""

from typing import TYPE_CHECKING, NamedTuple, NoReturn

import torch

from .. import _kernels
from .layers import SparseConv2d, SparseLayer, SparseLinear
from .obstacles import CONSIDERED, obstacle_of, other_weights
from .owners import held_elsewhere
from .replace import replace_modules

if TYPE_CHECKING:
    from ..model import CompressedModel
    from ..tensor import CompressedTensor

_LEAST_GAIN = 1.2  # below, a layer stays dense: what was measured varies by so much
_CACHE_WEIGHTS = 1 << 22  # a dense float32 matrix that is larger is read from memory each time

# Nanoseconds a weight and vector, for up to 4, up to 16, and more vectors: dense, and sparse as a
# line over the density.
_DENSE, _DENSE_LARGE = (0.072, 0.042, 0.027), (0.19, 0.066, 0.026)
_SPARSE = {
    "portable": ((0.001, 0.43), (0.001, 0.19), (0.001, 0.17)),
    "avx2": ((0.013, 0.27), (0.0005, 0.07), (0.0005, 0.03)),
    "avx512": ((0.007, 0.051), (0.0007, 0.05), (0.001, 0.0235)),
}


class Choice(NamedTuple):
    """What was chosen for a weight.

    Attributes
    ----------
    layer : str
        Name of the module whose ``weight`` it is; of a parameter with another name, that name.
    is_sparse : bool
    reason : str
    """

    layer: str
    is_sparse: bool
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.layer or 'the model'}: {'sparse' if self.is_sparse else 'dense'}, {self.reason}"
        )


def choose_layers(
    packed: "CompressedModel", model: torch.nn.Module, layers: str, batch: int
) -> list[Choice]:
    """Choose for each linear and convolutional layer of a module, and list the other weights.

    Parameters
    ----------
    packed : CompressedModel
    model : nn.Module
    layers : {"sparse", "auto"}
        Every layer that can be sparse, or those that are expected to gain by it.
    batch : int
        Number of vectors or images at a time.

    Returns
    -------
    list of Choice
        In the order of the model.
    """
    held = held_elsewhere(model)
    choices = []
    for name, module in model.named_modules():
        if not isinstance(module, CONSIDERED):
            others = other_weights(model, name, module)
            choices += [Choice(weight, False, reason) for weight, reason in others]
            continue
        obstacle = obstacle_of(packed, name, module, layers, held)
        if obstacle:
            choices.append(Choice(name, False, obstacle))
            continue
        tensor = packed[f"{name}.weight"]
        kept = "" if tensor.density is None else f"{100 * tensor.density:.1f} % kept, "
        gain = expected_gain(tensor, batch)
        is_sparse = layers == "sparse" or gain >= _LEAST_GAIN
        choices.append(
            Choice(name, is_sparse, f"{kept}expected {gain:.1f} times as fast at batch {batch}")
        )
    return choices


def expected_gain(tensor: "CompressedTensor", batch: int) -> float:
    """Estimate how many times as fast as the dense layer a sparse one is, on one thread.

    By what was measured with float32 on a Zen 4 core, ResNet-20 for convolutions included; the
    crossover is where the result is 1.

    Parameters
    ----------
    tensor : CompressedTensor
    batch : int

    Returns
    -------
    float
    """
    density = 1.0 if tensor.density is None else tensor.density
    if len(tensor.shape) == 4:
        return 0.0105 / (0.020 * density + 0.0004)
    isa = _kernels.ISA_NAMES[_kernels.ISA]
    n_values = tensor.record.codebook
    if batch <= 4 and (n_values is None or n_values > (63 if isa == "avx512" else 32)):
        isa = "portable"  # entry by entry
    which = 0 if batch <= 4 else 1 if batch <= 16 else 2
    dense = (_DENSE_LARGE if tensor.record.numel > _CACHE_WEIGHTS else _DENSE)[which]
    fixed, each = _SPARSE[isa][which]
    return dense / (fixed + each * density)


def replace_layers(
    packed: "CompressedModel", model: torch.nn.Module, choices: list[Choice]
) -> None:
    """Put sparse layers in the places of those that were chosen, in place.

    Parameters
    ----------
    packed : CompressedModel
    model : nn.Module
    choices : list of Choice
    """
    modules = dict(model.named_modules())
    new = {
        id(modules[c.layer]): _sparse_layer(packed[f"{c.layer}.weight"], modules[c.layer])
        for c in choices
        if c.is_sparse
    }
    replace_modules(model, new)
    for module in model.modules() if new else ():
        if callable(getattr(module, "save_pretrained", None)):
            module.save_pretrained = _refuse_to_save


def _refuse_to_save(*args: object, **kwargs: object) -> NoReturn:
    """Stand in for what transformers saves a model with: it would leave half of a layer out."""
    raise ValueError(
        "this model has layers that compute from the compressed form, which safetensors cannot "
        "hold: save the model that layers='dense' gives, or the CompressedModel it came from"
    )


def _sparse_layer(tensor: "CompressedTensor", old: torch.nn.Module) -> SparseLayer:
    bias = old._parameters["bias"]
    if isinstance(old, torch.nn.Conv2d):
        return SparseConv2d(tensor, bias, old.stride, old.padding, old.dilation, old.groups)
    return SparseLinear(tensor, bias)
