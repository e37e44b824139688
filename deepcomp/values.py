"""Bit patterns as NumPy arrays: the dtype of each, or its stand-in."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .decode import Patterns
from .records import TensorRecord

_STAND_INS = {"bfloat16": "float32", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the dtype in which NumPy gets a tensor; it has no bfloat16 and no float8.

    Examples
    --------
    >>> numpy_dtype("int8"), numpy_dtype("bfloat16")
    (dtype('int8'), dtype('float32'))
    """
    return np.dtype(_STAND_INS.get(name, name))


def to_values(patterns: Patterns, dtype: str) -> NDArray[Any]:
    """Return patterns as an array of `numpy_dtype`.

    Examples
    --------
    >>> to_values(np.array([0x3F80], np.uint16), "bfloat16")
    array([1.], dtype=float32)
    """
    if dtype == "bfloat16":
        patterns = patterns.astype(np.uint32) << np.uint32(16)
    return patterns.view(numpy_dtype(dtype))


def check_out(record: TensorRecord, out: NDArray[Any]) -> None:
    """Raise ValueError if a dense tensor cannot be written into an array."""
    dtype = numpy_dtype(record.dtype)
    if out.shape != record.shape or out.dtype != dtype:
        raise ValueError(
            f"tensor {record.name!r}: out is {out.dtype} {list(out.shape)}, "
            f"expected {dtype} {list(record.shape)}"
        )
    if not out.flags.carray:
        raise ValueError(f"tensor {record.name!r}: out must be C-contiguous, aligned and writable")
