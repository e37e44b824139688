"""torch tensors <-> bit patterns and compressed tensors."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..arrays import Source, check_is_dense, check_shape
from ..decode import Patterns, pattern_dtype
from ..records import ITEMSIZE
from ..rules import Names, assign, excluded
from .weights import kinds_of

if TYPE_CHECKING:
    from ..tensor import CompressedTensor

DTYPES = {name: getattr(torch, name) for name in ITEMSIZE if hasattr(torch, name)}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_SIGNED = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def torch_source(name: str, tensor: torch.Tensor) -> Source:
    """Present a torch tensor as a source.

    Raises
    ------
    ValueError
        If its dtype or layout cannot be stored; the message names the tensor.
    """
    dtype = _NAMES.get(tensor.dtype)
    if torch.nn.parameter.is_lazy(tensor):
        raise ValueError(f"{name!r} is not initialized yet: run the model once before")
    if tensor.is_nested:
        raise ValueError(f"tensor {name!r} is nested: it has no shape")
    if dtype is None or tensor.is_quantized:
        raise ValueError(
            f"tensor {name!r} has dtype {tensor.dtype}: expected one of {', '.join(DTYPES)}"
        )
    if tensor.is_meta:
        raise ValueError(f"tensor {name!r} is on the meta device: it has no entries")
    check_shape(name, dtype, tuple(tensor.shape))
    if tensor.layout is not torch.strided:
        from .sparse import sparse_source

        return sparse_source(name, dtype, tensor)
    identity: tuple[object, ...] = (name,)
    if tensor.numel():
        pointer = tensor.untyped_storage().data_ptr() + tensor.storage_offset() * ITEMSIZE[dtype]
        place = (str(tensor.device), pointer, tensor.stride(), tensor.is_neg())
        identity = (*place, dtype, tuple(tensor.shape))
    return Source(name, dtype, tuple(tensor.shape), identity, lambda: _patterns(tensor))


def choose(
    what: str,
    setting: Any,
    model: torch.nn.Module,
    check: Callable[[str, str, Any], None],
    exclude: Names = None,
) -> tuple[list[Source], dict[str, Any]]:
    """Find the setting of each float parameter that can be pruned or shared.

    Returns
    -------
    sources : list of Source
        All that are not empty; tied ones once, by their first name.
    chosen : dict of str to number
        As of `rules.assign`; at least one.

    Raises
    ------
    TypeError
        If `model` is no module.
    ValueError
        If a pattern matches nothing, or a weight that is shared already; if nothing is left, or
        a layer computes from the compressed form.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"expected an nn.Module, not a {type(model).__name__}")
    check_is_dense(model)
    sources = [source for source in _float_parameters(model) if 0 not in source.shape]
    if not isinstance(setting, Mapping):
        sources = [source for source in sources if not source.is_shared]
    chosen: dict[str, Any] = assign(what, setting, sources, check)
    names = {s.name for s in sources} | {name for name, _ in model.named_parameters()}
    names |= {name for name, _ in model.named_buffers()}
    for name in excluded("exclude", exclude, names):
        chosen.pop(name, None)
    for source in sources:
        if source.is_shared and source.name in chosen:
            raise ValueError(
                f"{source.name!r} is shared already: prune before share_weights, and share once "
                "(torch.nn.utils.parametrize.remove_parametrizations makes it ordinary again)"
            )
    if not chosen:
        raise ValueError(
            f"{what}={setting!r} finds no weight in {type(model).__name__}: it needs a float "
            "weight of a linear, convolutional, embedding, recurrent or attention layer that is "
            "not shared already (prune before share_weights), or a pattern that names another "
            "parameter"
        )
    return sources, chosen


def _float_parameters(model: torch.nn.Module) -> list[Source]:
    """List the float parameters; a weight that is shared takes the place of its codebook."""
    result = []
    parameters = dict(model.named_parameters())
    kinds = kinds_of(model, parameters)
    for name, parameter in parameters.items():
        path = name.rpartition(".")[0]
        labels = None
        if "parametrizations." in path:
            labels = getattr(model.get_submodule(f"{path}.0"), "labels", None)
        if not parameter.is_floating_point():
            continue
        source = replace(torch_source(name, parameter), kind=kinds[name])
        if labels is not None:
            module, _, weight = path.rpartition("parametrizations.")
            shape = tuple(labels.shape)
            source = replace(source, name=module + weight, shape=shape, is_shared=True)
        result.append(source)
    return result


def _patterns(tensor: torch.Tensor) -> Patterns:
    return flat_patterns(tensor.detach().cpu().resolve_neg().contiguous())


def flat_patterns(tensor: torch.Tensor) -> Patterns:
    """Return the memory of a contiguous CPU tensor as patterns, shape (numel,)."""
    itemsize = tensor.element_size()
    flat = tensor.detach().reshape(-1).view(_SIGNED[itemsize]).numpy()
    return flat.view(pattern_dtype(itemsize))


def as_tensor(value: Any) -> torch.Tensor:
    """Return an array, or a source of a dtype of this torch, as a tensor on the CPU."""
    if not isinstance(value, Source):
        return torch.as_tensor(value)
    tensor = torch.empty(value.shape, dtype=DTYPES[value.dtype])
    flat_patterns(tensor)[:] = value.fetch()
    return tensor


def to_torch(tensor: "CompressedTensor", layout: torch.layout | None) -> torch.Tensor:
    """Decode a compressed tensor; see `CompressedTensor.to_torch`."""
    if layout not in (None, torch.strided, torch.sparse_csr):
        raise ValueError(f"layout is {layout}: expected torch.strided or torch.sparse_csr")
    if tensor.dtype not in DTYPES:
        raise ValueError(f"tensor {tensor.name!r}: this torch has no dtype {tensor.dtype}")
    dtype = DTYPES[tensor.dtype]
    if layout is torch.sparse_csr:
        csr = tensor.to_csr()
        values = torch.from_numpy(np.ascontiguousarray(csr.data)).to(dtype)
        indptr, indices = torch.from_numpy(csr.indptr), torch.from_numpy(csr.indices)
        return torch.sparse_csr_tensor(indptr, indices, values, csr.shape, check_invariants=True)
    tensor.check()  # before memory is taken for what the file claims
    dense = torch.empty(tensor.shape, dtype=dtype)
    tensor.decode_patterns(flat_patterns(dense))
    return dense
