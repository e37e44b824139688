"""How much tensors differ: the same as one finds entry by entry, for every dtype."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from deepcomp.decode import pattern_dtype
from deepcomp.difference import difference
from deepcomp.records import ITEMSIZE, SIGNED_DTYPES
from deepcomp.values import numbers


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_integers_of_64_bits_are_compared_exactly(dtype):
    a, b = (np.array([n], dtype).view(np.uint64) for n in (1 << 60, (1 << 60) + 1))
    assert difference([a], [b], dtype).largest == 1


@st.composite
def pairs(draw):
    dtype = draw(st.sampled_from(sorted(set(SIGNED_DTYPES) - {"float64"})))
    itemsize = ITEMSIZE[dtype]
    entry = st.integers(0, (1 << (8 * itemsize)) - 1)
    entry |= st.sampled_from([0, 1 << (8 * itemsize - 1)])  # both zeros
    first = draw(st.lists(entry, max_size=12))
    second = [draw(st.one_of(st.just(e), entry)) for e in first]
    return dtype, *(np.array(p, pattern_dtype(itemsize)) for p in (first, second))


@given(pairs())
def test_it_is_what_a_loop_finds(pair):
    dtype, first, second = pair
    n_different = n_zeros = 0
    distances = [0.0]
    for a, b in zip(first, second, strict=True):
        x, y = (float(numbers(np.array([p]), dtype)[0]) for p in (a, b))
        n_different += bool(a != b)
        n_zeros += (x == 0) != (y == 0)
        distances.append(0.0 if a == b else abs(x - y))
    found = difference([first], [second], dtype)
    assert (found.n_entries, found.n_different, found.n_zeros) == (first.size, n_different, n_zeros)
    largest = math.nan if any(map(math.isnan, distances)) else max(distances)
    assert found.largest == pytest.approx(largest, nan_ok=True)
    with np.errstate(over="ignore"):
        mean = float((np.array(distances) ** 2).sum()) / max(first.size, 1)
    assert found.mean_square == pytest.approx(mean, rel=1e-12, nan_ok=True)


def test_other_dtypes_are_compared_by_value():
    narrow = np.array([0x3F80, 0x8000, 0x7FC0, 0x4000], np.uint16)  # 1, -0, NaN, 2
    wide = np.array([1, 0, np.nan, 2.5], np.float32).view(np.uint32)
    found = difference([narrow], [wide], "bfloat16", "float32")
    assert (found.n_different, found.n_zeros, found.largest) == (1, 0, 0.5)


@given(st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)))
def test_parts_may_be_cut_anywhere(cuts, other_cuts):
    first = np.array([0, 1, 2, 3, 0, 5, 6, 7, 8], np.uint8)
    second = first[::-1].copy()
    parts = [np.split(a, sorted(c)) for a, c in ((first, cuts), (second, other_cuts))]
    assert difference(*parts, "uint8") == difference([first], [second], "uint8")


def test_no_entries_are_no_difference():
    nothing = np.zeros(0, np.uint32)
    assert difference([nothing], [nothing], "float32").mean_square == 0
