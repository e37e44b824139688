"""Models, state_dicts and mappings of arrays -> named tensors, one at a time.

Tensors that share their memory are found here (tied weights), and models pruned with
``torch.nn.utils.prune`` are folded: ``weight_orig * weight_mask`` becomes ``weight``.
"""

import reprlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from .decode import Patterns, pattern_dtype
from .encode import Weight
from .records import ITEMSIZE, MAX_DIMENSIONS, MAX_INTEGER, SHARED_DTYPES

# The pattern of 1 in the dtypes that are not integers.
_ONE = {
    "float8_e4m3fn": 0x38,
    "float8_e5m2": 0x3C,
    "float16": 0x3C00,
    "bfloat16": 0x3F80,
    "float32": 0x3F800000,
    "float64": 0x3FF0000000000000,
}


@dataclass(frozen=True)
class Source:
    """A tensor that can be fetched.

    Attributes
    ----------
    name : str
    dtype : str
        A key of ``records.ITEMSIZE``.
    shape : tuple of int
    identity : tuple
        Equal for tensors that are the same memory.
    fetch : callable
        Returns the entries as a contiguous array of patterns, shape (numel,).
    is_shared : bool
        Whether `deepcomp.share_weights` gave it its codebook.
    kind : {"weight", "parameter", "buffer"} or None
        What a module has it for (`nn.weights`); None of a mapping, which does not say.
    location : (str, int) or None
        The file that has the entries as they are, and at which byte they begin, if one has.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    identity: tuple[Any, ...] = field(repr=False)
    fetch: Callable[[], Patterns] = field(repr=False)
    is_shared: bool = False
    kind: str | None = None
    location: tuple[str, int] | None = field(default=None, repr=False)

    @property
    def is_float(self) -> bool:
        """Whether its dtype can be pruned and shared."""
        return self.dtype in SHARED_DTYPES

    @property
    def is_matrix(self) -> bool:
        """Whether it looks like a weight: a token of shape (1, 1, n) does not, nor does a scale."""
        return self.is_float and sum(extent > 1 for extent in self.shape) >= 2

    @property
    def is_weight(self) -> bool:
        """Whether it is pruned and shared unless a pattern says otherwise."""
        return self.is_matrix if self.kind is None else self.is_float and self.kind == "weight"

    def weight(self) -> Weight:
        """Fetch the entries; raise ValueError if a bool is neither 0 nor 1."""
        patterns = self.fetch()
        check_bools(self.name, self.dtype, patterns)
        return Weight(self.name, self.dtype, self.shape, patterns)

    def renamed(self, name: str) -> "Source":
        """Return the same tensor under another name."""
        return self if name == self.name else replace(self, name=name)


def sources(model: Any) -> dict[str, Source | str]:
    """List the tensors of a model, in its order.

    Parameters
    ----------
    model : nn.Module, or mapping of str to torch.Tensor, ndarray, SciPy sparse array or Source

    Returns
    -------
    dict of str to Source or str
        By name; a string is the earlier name of the same memory (tied weights).

    Raises
    ------
    TypeError
        If `model` is something else.
    ValueError
        If a tensor has a dtype or a name that a ``.dcz`` file cannot hold.
    """
    kinds: dict[str, str] = {}
    if callable(getattr(model, "state_dict", None)):
        check_is_dense(model)
        _refuse_stacked(model)
        module, model = model, model.state_dict()
        kinds = _kinds(module, model)
    if not isinstance(model, Mapping):
        raise TypeError(
            f"expected an nn.Module, a state_dict or a mapping of arrays, not {type(model)}"
        )
    entries: dict[str, Source | str] = {}
    first_names: dict[tuple[Any, ...], str] = {}
    try:
        folded = _folded(model, kinds)
    except ValueError as error:
        if not any(isinstance(value, Mapping) for value in model.values()):
            raise
        raise ValueError(
            f"{error}: of a checkpoint pass the state_dict alone, as checkpoint['state_dict'], or "
            "deepcomp.importers.read_checkpoint(path).tensors"
        ) from None
    for source in folded:
        first = first_names.setdefault(source.identity, source.name)
        entries[source.name] = source if first == source.name else first
    return entries


def _kinds(module: Any, state: Any) -> dict[str, str]:
    """Say what a module has its tensors for; nothing if it is another thing with a state_dict."""
    torch = sys.modules.get("torch")  # whoever has a module has imported it
    if torch is None or not isinstance(module, torch.nn.Module) or not isinstance(state, Mapping):
        return {}
    from .nn.weights import kinds_of

    return kinds_of(module, state)


def _folded(model: Mapping[str, Any], kinds: Mapping[str, str]) -> list[Source]:
    """Turn ``x_orig`` and ``x_mask`` into ``x``, and codebooks with their labels into weights."""
    result = []
    for name in model:
        if not isinstance(name, str):
            raise ValueError(f"tensor names must be strings, not {reprlib.repr(name)}")
        start = name.removesuffix("_extra_state")
        if start != name and f"{start}section" in model:  # as of SparseLinear
            _refuse_sparse(f"layer {start.removesuffix('.')!r}")
        base = name.removesuffix("_orig")
        if name != base and f"{base}_mask" in model:
            if base in model:
                raise ValueError(f"tensor {base!r} is there twice: as it is and as {name!r}")
            original = replace(_source(name, model[name]), kind=kinds.get(name))
            result.append(_masked(base, original, model[f"{base}_mask"]))
        elif name.endswith("_mask") and name.removesuffix("_mask") + "_orig" in model:
            continue
        elif name.endswith(".original0") and _is_shared(name.removesuffix("original0"), model):
            shared = _shared(name.removesuffix("original0"), model)
            result.append(replace(shared, kind=kinds.get(name)))
        elif ".0." in name and _is_shared(name.rpartition("0.")[0], model):
            continue
        else:
            result.append(replace(_source(name, model[name]), kind=kinds.get(name)))
    return result


def _is_shared(prefix: str, model: Mapping[str, Any]) -> bool:
    """Whether names with this prefix are what `share_weights` made of a weight."""
    is_one = "parametrizations." in prefix and f"{prefix}original0" in model
    return is_one and f"{prefix}0.labels" in model


def check_is_dense(model: Any) -> None:
    """Raise ValueError if a layer of a module computes from the compressed form.

    Its weight is no parameter, so that it can neither be changed nor found in the state_dict.
    """
    layers = sys.modules.get("deepcomp.nn.layers")  # whoever has such a layer has imported it
    for name, module in getattr(model, "named_modules", dict)():
        if layers is not None and isinstance(module, layers.SparseLayer):
            _refuse_sparse(f"layer {name!r} ({type(module).__name__})")


def _refuse_sparse(what: str) -> NoReturn:
    raise ValueError(
        f"{what} computes from the compressed form: save the CompressedModel that it came from, "
        "or restore that into a network built anew, with layers='dense'"
    )


def _refuse_stacked(model: Any) -> None:
    """Raise ValueError where something is computed from a shared weight before it is used."""
    for name, module in getattr(model, "named_modules", dict)():
        is_list = name.rpartition(".")[0].endswith("parametrizations")
        if is_list and len(module) > 1 and hasattr(module[0], "labels"):
            raise ValueError(f"{name!r}: a shared weight has another parametrization on top")


def _shared(prefix: str, model: Mapping[str, Any]) -> Source:
    from .nn.shared import shared_source

    module, _, weight = prefix.rpartition("parametrizations.")
    parts = (model.get(prefix + name) for name in ("original0", "0.labels", "0.levels"))
    return shared_source((module + weight).removesuffix("."), *parts)


def _masked(name: str, original: Source, mask: Any) -> Source:
    mask_source = _source(f"{name}_mask", mask)
    if mask_source.shape != original.shape:
        raise ValueError(
            f"{mask_source.name!r} has shape {mask_source.shape}: expected {original.shape}"
        )

    def fetch() -> Patterns:
        mask_patterns = mask_source.fetch()
        is_kept = mask_patterns == _ONE.get(mask_source.dtype, 1)
        if (mask_patterns[~is_kept] != 0).any():
            raise ValueError(f"tensor {mask_source.name!r} is a mask: expected only 0 and 1")
        # what is not kept is +0.0, not the -0.0 of a multiplication
        return original.fetch() * is_kept

    identity = (original.identity, mask_source.identity)
    return Source(name, original.dtype, original.shape, identity, fetch, kind=original.kind)


def _source(name: str, value: Any) -> Source:
    if isinstance(value, Source):  # of a checkpoint
        return value.renamed(name)
    torch = sys.modules.get("torch")  # whoever has a tensor has imported it
    if torch is not None and isinstance(value, torch.Tensor):
        from .nn.convert import torch_source

        return torch_source(name, value)
    scipy_sparse = sys.modules.get("scipy.sparse")
    if scipy_sparse is not None and scipy_sparse.issparse(value):
        from .sparse import scipy_source

        return scipy_source(name, value)
    if not isinstance(value, np.ndarray | np.generic):
        raise ValueError(f"tensor {name!r} is a {type(value).__name__}: expected an array")
    array = np.asarray(value)
    dtype = array.dtype.name
    check_dtype(name, dtype)
    check_shape(name, dtype, array.shape)
    pointer = array.__array_interface__["data"][0]
    identity = (pointer, dtype, array.shape, array.strides) if array.size else (name,)
    return Source(name, dtype, array.shape, identity, lambda: patterns_of(array))


def patterns_of(array: NDArray[Any]) -> Patterns:
    """Return the entries of an array of any byte order as patterns, shape (numel,)."""
    native = np.require(array, requirements=("C", "ALIGNED")).reshape(-1)
    if native.dtype.byteorder == ">":
        native = native.astype(native.dtype.newbyteorder("<"))
    return native.view(pattern_dtype(native.itemsize))


def check_bools(name: str, dtype: str, patterns: Patterns) -> None:
    """Raise ValueError if a bool is neither 0 nor 1."""
    if dtype == "bool" and patterns.max(initial=0) > 1:
        raise ValueError(f"tensor {name!r}: an entry of a bool tensor is {int(patterns.max())}")


def check_dtype(name: str, dtype: str) -> None:
    """Raise ValueError if a file cannot hold a tensor of this dtype."""
    if dtype not in ITEMSIZE:
        expected = ", ".join(ITEMSIZE)
        raise ValueError(f"tensor {name!r} has dtype {dtype}: expected one of {expected}")


def check_shape(name: str, dtype: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError if a file cannot describe a tensor of this shape."""
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"tensor {name!r} has {len(shape)} dimensions: at most {MAX_DIMENSIONS}")
    # empty ones as well: an array cannot have the shape (2**62, 0) either
    if prod(extent or 1 for extent in shape) * ITEMSIZE[dtype] > MAX_INTEGER:
        raise ValueError(
            f"tensor {name!r} has shape {reprlib.repr(list(shape))}: "
            "more entries than an array can have"
        )
