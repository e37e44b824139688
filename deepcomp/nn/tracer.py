"""NaN for what is not known: a mode in which it reaches all that depends on it.

Arithmetic hands NaN on by itself. Integers and booleans cannot be NaN, so those that depend on
what is not known are remembered, by their memory, and floats made of them become NaN.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .coupling import tensors_of

NAN = float("nan")
PRODUCTS = {"mul", "rmul", "imul", "multiply"}
SELECTIONS = {"where", "masked_fill"}
# What gives numbers for NaN, or moves it to another place.
# fmt: off
SWALLOWING = {
    "sign", "sgn", "heaviside", "copysign", "nan_to_num", "nansum", "nanmean", "nanmedian",
    "nanquantile", "fmin", "fmax", "frexp", "threshold", "hardshrink", "sort", "msort", "topk",
    "kthvalue", "grid_sample", "grid_sampler", "grid_sampler_2d", "grid_sampler_3d", "bernoulli",
    "histc",
}
# What makes Python's numbers and booleans: what these decide cannot be followed.
DECIDING = {
    "__bool__", "__int__", "__float__", "__index__", "__contains__", "__array__", "item", "tolist",
    "numpy", "equal", "allclose", "is_nonzero",
}
# fmt: on


class Tracer(TorchFunctionMode):
    """Let floats that depend on a NaN or on a tensor that is not known be NaN.

    Zero times NaN is zero: NaN stands for a number. Else gates would hide what is zero.

    Attributes
    ----------
    is_on : bool
        If not, functions do what they always do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_on = True
        self._unknown: dict[int, Tensor] = {}  # by address; held, so that it is not used again

    def forget(self, x: Tensor) -> None:
        """Let a tensor, and all that shares its memory, be unknown from now on."""
        if x.is_floating_point():
            x.fill_(NAN)
        else:
            self._unknown[x.untyped_storage().data_ptr()] = x

    def _is_unknown(self, x: Any) -> bool:
        if not isinstance(x, Tensor) or x.is_floating_point():
            return False
        return x.untyped_storage().data_ptr() in self._unknown

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.__name__.strip("_")
        if not self.is_on or name in ("get", "set"):  # of attributes
            return func(*args, **kwargs)
        tensors = tensors_of([args, kwargs])
        unknown = [x for x in tensors if self._is_unknown(x)]
        if name in PRODUCTS and len(args) == 2:
            return self._product(func, args, kwargs, bool(unknown))
        if func.__name__ in DECIDING and (unknown or _any_nan(tensors)):
            raise ValueError(f"{func.__name__} takes a number out of what depends on the input")
        is_selection = name in SELECTIONS and len(args) == 3 and not func.__name__.endswith("_")
        if is_selection and unknown and all(x.dtype == torch.bool for x in unknown):
            return self._selection(func, args, kwargs)
        had_nan = _any_nan(tensors)
        result = func(*args, **kwargs)
        for x in tensors_of(args[0] if name == "setitem" else result):
            is_integer = not x.is_floating_point()
            if had_nan and not unknown and is_integer and name != "setitem":
                x.fill_(x.dtype == torch.bool)  # an index in range, and a mask that selects
            if unknown or (had_nan and (is_integer or name in SWALLOWING)):
                self.forget(x)
        return result

    def _product(self, func: Any, args: Any, kwargs: Any, is_unknown: bool) -> Any:
        zeros = [False if self._is_unknown(x) else x == 0 for x in args]
        had_nan = _any_nan(tensors_of(args))
        result = func(*args, **kwargs)
        if is_unknown or (had_nan and not result.is_floating_point()):
            self.forget(result)
        is_zero = zeros[0] | zeros[1]
        if torch.is_tensor(is_zero) and result.is_floating_point():
            result.masked_fill_(is_zero, 0)
        return result

    def _selection(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Return what is the same whether unknown booleans are true or false, else NaN."""
        one, other = (
            func(*[torch.full_like(x, v) if self._is_unknown(x) else x for x in args], **kwargs)
            for v in (True, False)
        )
        if one.is_floating_point():
            return torch.where(one == other, one, NAN)
        self.forget(one)
        return one


def _any_nan(tensors: list[Tensor]) -> bool:
    return any(bool(x.isnan().any()) for x in tensors if x.is_floating_point())
