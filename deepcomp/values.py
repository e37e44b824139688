"""Bit patterns as NumPy arrays: of the dtype of each or its stand-in, or as floats."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .decode import Patterns
from .records import TensorRecord

_SMALLEST_E4M3 = 2.0**-9
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
        patterns = patterns.astype(np.uint32)
        patterns <<= np.uint32(16)
    return patterns.view(numpy_dtype(dtype))


def numbers(patterns: Patterns, dtype: str) -> NDArray[np.floating]:
    """Return entries as floats that hold every value of their dtype exactly.

    Parameters
    ----------
    patterns : ndarray of uint8, uint16, uint32 or uint64, shape (n,)
    dtype : str

    Returns
    -------
    ndarray of float64, or longdouble for integers of 64 bits, shape (n,)

    Examples
    --------
    >>> numbers(np.array([0x3FC0], np.uint16), "bfloat16")
    array([1.5])
    >>> numbers(np.array([0x38, 0x7E, 0x7F], np.uint8), "float8_e4m3fn")
    array([  1., 448.,  nan])
    """
    if dtype == "float8_e4m3fn":
        return _e4m3_values()[patterns]
    if dtype == "float8_e5m2":  # the upper half of a float16
        patterns, dtype = patterns.astype(np.uint16) << np.uint16(8), "float16"
    exact = np.longdouble if dtype in ("int64", "uint64") else np.float64
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        return to_values(patterns, dtype).astype(exact)


def _e4m3_values() -> NDArray[np.float64]:
    """Return the value of each pattern: 4 bits of exponent, 3 of mantissa, no infinity."""
    exponent, mantissa = np.divmod(np.arange(128), 8)
    values = np.where(
        exponent == 0, mantissa * _SMALLEST_E4M3, np.ldexp(8.0 + mantissa, exponent - 10)
    )
    values[127] = np.nan
    return np.concatenate((values, -values))


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
