"""Bit patterns of floats as values to compute with, and back."""

import numpy as np
from numpy.typing import NDArray

from .prune import magnitude_mask
from .records import ITEMSIZE

Patterns = NDArray[np.unsignedinteger]


def to_values(patterns: Patterns, dtype: str) -> NDArray[np.floating]:
    """Return float patterns as float32 (float64 for float64); exact.

    Examples
    --------
    >>> to_values(np.array([0x3F80], np.uint16), "bfloat16")
    array([1.], dtype=float32)
    """
    if dtype == "bfloat16":
        return (patterns.astype(np.uint32) << np.uint32(16)).view(np.float32)
    values = patterns.view(dtype)
    return values.astype(np.float32) if dtype == "float16" else values


def to_patterns(values: NDArray[np.float64], dtype: str) -> Patterns:
    """Round float64 to a float dtype; return the distinct patterns by rising value.

    Examples
    --------
    >>> to_patterns(np.array([2.0, 1.0, 1.0]), "bfloat16")
    array([16256, 16384], dtype=uint16)
    """
    if dtype == "bfloat16":
        wide = values.astype(np.float32).view(np.uint32).astype(np.uint64)
        wide += 0x7FFF + (wide >> np.uint64(16) & np.uint64(1))  # to nearest, ties to even
        patterns = (wide >> np.uint64(16)).astype(np.uint16)
    else:
        patterns = values.astype(dtype).view(f"<u{ITEMSIZE[dtype]}")
    mask = patterns.dtype.type(magnitude_mask(patterns.itemsize))
    patterns = np.unique(np.where(patterns & mask, patterns, 0).astype(patterns.dtype))  # no -0.0
    return patterns[np.argsort(to_values(patterns, dtype))]
