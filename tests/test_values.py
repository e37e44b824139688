"""What bit patterns mean as numbers: what torch says, for every dtype."""

import numpy as np
import pytest
import torch

from deepcomp.decode import pattern_dtype
from deepcomp.records import ITEMSIZE
from deepcomp.values import numbers


def all_patterns(dtype):
    """Return every pattern of a small dtype, and random ones of a large one."""
    itemsize = ITEMSIZE[dtype]
    if dtype == "bool":
        return np.array([0, 1], np.uint8)
    if itemsize <= 2:
        return np.arange(1 << (8 * itemsize), dtype=pattern_dtype(itemsize))
    rng = np.random.default_rng(0)
    return rng.integers(0, 1 << (8 * itemsize), 5000, dtype=pattern_dtype(itemsize))


@pytest.mark.parametrize("dtype", [d for d in ITEMSIZE if "64" not in d and d[0] != "u"])
def test_numbers_are_those_of_torch(dtype):
    patterns = all_patterns(dtype)
    expected = torch.from_numpy(patterns.view(f"i{patterns.itemsize}"))
    expected = expected.view(getattr(torch, dtype)).double().numpy()
    np.testing.assert_array_equal(numbers(patterns, dtype), expected)
