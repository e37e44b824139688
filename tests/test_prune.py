"""Thresholds, ranks and ties on bit patterns, against sorting and comparing floats."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLOAT_DTYPES, generators, to_float64, to_patterns

from deepcomp import prune
from deepcomp.records import ITEMSIZE

INFINITY = {dtype: int(to_patterns(np.inf, dtype)) for dtype in FLOAT_DTYPES}
float_dtypes = st.sampled_from(FLOAT_DTYPES)


@st.composite
def float_weights(draw, dtypes=FLOAT_DTYPES, fewest=1):
    """Draw finite floats with ties, zeros of both signs and very small values."""
    dtype, rng = draw(st.sampled_from(dtypes)), draw(generators())
    values = rng.standard_normal(draw(st.integers(fewest, 200)))
    values = np.round(values, draw(st.sampled_from((0, 1, 8)))) * 10.0 ** draw(
        st.sampled_from((-8, -5, 0, 4))
    )
    return dtype, to_patterns(values, dtype)


def magnitudes(patterns, dtype):
    return np.abs(to_float64(patterns, dtype))


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_magnitude_mask_is_every_bit_but_the_sign(dtype):
    minus_two = int(to_patterns(np.array([-2.0]), dtype)[0])
    two = int(to_patterns(np.array([2.0]), dtype)[0])
    assert minus_two & prune.magnitude_mask(ITEMSIZE[dtype]) == two


# --- the k-th magnitude ---


@given(float_weights(), st.data())
def test_kth_magnitude_is_the_kth_of_the_sorted(drawn, data):
    dtype, patterns = drawn
    k = data.draw(st.integers(1, patterns.size))
    cuts = sorted(data.draw(st.lists(st.integers(0, patterns.size), max_size=3)))
    found = prune.kth_magnitude(np.split(patterns, cuts), k)  # of several tensors together
    expected = np.sort(magnitudes(patterns, dtype))[k - 1]
    assert to_float64(np.array([found], patterns.dtype), dtype)[0] == expected


@given(generators(), st.sampled_from((2, 4, 8)), st.data())
def test_kth_magnitude_looks_at_every_bit(rng, itemsize, data):
    patterns = rng.integers(0, 1 << (8 * itemsize), 50, f"u{itemsize}")
    patterns[:25] = patterns[0] ^ rng.integers(0, 4, 25, f"u{itemsize}")  # differ in the last bits
    k = data.draw(st.integers(1, 50))
    ranked = np.sort(patterns & patterns.dtype.type(prune.magnitude_mask(itemsize)))
    assert prune.kth_magnitude([patterns], k) == int(ranked[k - 1])


@pytest.mark.parametrize("itemsize", [4, 8])
def test_kth_magnitude_of_numbers_that_begin_with_zeros(itemsize):
    low, high = [0, 3, 5, 9], [0x1_0002, 0x1_0004, 0x7FFF_0001]
    patterns = np.array(high + low, f"u{itemsize}")
    for k, expected in enumerate(sorted(low + high), 1):
        assert prune.kth_magnitude([patterns[:2], patterns[2:]], k) == expected


@pytest.mark.parametrize("k", [0, -1, 4])
def test_kth_magnitude_rejects_a_rank_that_is_not_there(k):
    with pytest.raises(ValueError, match=f"k is {k}: expected 1 to 3"):
        prune.kth_magnitude([np.array([1, 2, 3], np.uint32)], k)


# --- threshold_pattern ---


@given(
    float_dtypes,
    st.one_of(
        st.floats(0, 1e6),
        st.floats(0, 1e-300),
        st.floats(0, allow_infinity=False),
        st.sampled_from((5e-324, 2.0**-24, 2.0**-25, 2.0**-149, 65504.0, 65505.0, 3.4e38, 1e39)),
    ),
)
def test_threshold_pattern_is_the_least_that_is_not_below(dtype, threshold):
    pattern = prune.threshold_pattern(threshold, dtype)
    around = np.array([pattern, max(pattern - 1, 0)], f"u{ITEMSIZE[dtype]}")
    at, before = to_float64(around, dtype)
    assert at >= threshold
    assert pattern == 0 or before < threshold
    assert pattern <= INFINITY[dtype]


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_threshold_pattern_of_a_value_is_its_own(dtype):
    patterns = to_patterns(np.array([0.5, 1.25, 3.0, 2.0**-14]), dtype)
    values = to_float64(patterns, dtype)
    found = [prune.threshold_pattern(float(v), dtype) for v in values]
    assert found == patterns.tolist()


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_threshold_pattern_of_either_zero_is_0(dtype):
    assert prune.threshold_pattern(0.0, dtype) == 0
    assert prune.threshold_pattern(-0.0, dtype) == 0


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_threshold_pattern_of_infinity_is_infinity(dtype):
    assert prune.threshold_pattern(np.inf, dtype) == INFINITY[dtype]


# --- keeping and counting ---


@given(float_weights(fewest=0), st.floats(0, 3))
def test_keep_at_least_removes_exactly_what_is_below_the_threshold(drawn, threshold):
    dtype, patterns = drawn
    before = patterns.copy()
    kept = prune.keep_at_least(patterns, prune.threshold_pattern(threshold, dtype))
    is_kept = (magnitudes(patterns, dtype) >= threshold) & (magnitudes(patterns, dtype) > 0)
    assert (kept == np.where(is_kept, patterns, 0)).all()
    assert kept.dtype == patterns.dtype
    assert (patterns == before).all()


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_keep_at_least_of_pattern_0_only_takes_the_sign_from_zeros(dtype):
    patterns = to_patterns(np.array([-0.0, 0.0, -1.0, 1e-7]), dtype)
    kept = prune.keep_at_least(patterns, 0)
    assert kept.tolist() == [0, 0, patterns[2], patterns[3]]


@given(float_weights(), st.data())
def test_ties_are_removed_from_the_end(drawn, data):
    dtype, patterns = drawn
    sizes = magnitudes(patterns, dtype)
    value = data.draw(st.sampled_from(sizes.tolist()))
    ties = np.flatnonzero(sizes == value)
    n_ties = data.draw(st.integers(0, ties.size + 1))  # more than there are: all of them
    kept = prune.keep_at_least(patterns, prune.threshold_pattern(value, dtype), n_ties)
    is_kept = (sizes >= value) & (sizes > 0)
    is_kept[ties[max(ties.size - n_ties, 0) :]] = False
    assert (kept == np.where(is_kept, patterns, 0)).all()


@given(float_weights())
def test_largest_magnitude_is_that_of_the_largest_entry(drawn):
    dtype, patterns = drawn
    largest = np.array([prune.largest_magnitude(patterns)], patterns.dtype)
    assert to_float64(largest, dtype)[0] == magnitudes(patterns, dtype).max()


def test_largest_magnitude_of_nothing_is_0():
    assert prune.largest_magnitude(np.empty(0, np.uint32)) == 0


def test_arrays_of_several_chunks_are_handled_whole():
    rng = np.random.default_rng(3)
    patterns = to_patterns(rng.standard_normal(prune._CHUNK + 1000), "float16")
    patterns[-1] = to_patterns(np.array([-100.0]), "float16")[0]
    sizes = np.abs(patterns.view(np.float16))
    one = prune.threshold_pattern(1.0, "float16")
    patterns[[5, -2]] = one
    sizes[[5, -2]] = 1
    assert [part.size for part in prune.chunks(patterns)] == [prune._CHUNK, 1000]
    assert prune.largest_magnitude(patterns) == prune.threshold_pattern(100.0, "float16")
    kept = prune.keep_at_least(patterns, one, n_ties_to_remove=1)
    expected = np.where(sizes >= 1, patterns, 0)
    expected[-2] = 0  # the last of the ties
    assert (kept == expected).all()


@pytest.mark.parametrize("n_ties", [0, 1, 2, 5, 9, 12, 13])
def test_ties_in_several_chunks_go_from_the_end_and_no_more_of_them(n_ties):
    n, step = 3 * prune._SMALL_CHUNK + 7, prune._SMALL_CHUNK
    patterns = np.full(n, 9, np.uint32)
    places = np.array([0, 5, step - 1, step, step + 1, 2 * step - 1, 2 * step, n - 8, n - 7, n - 6,
                       n - 2, n - 1])  # fmt: skip
    patterns[places] = 7
    expected = patterns.copy()
    expected[places[max(places.size - n_ties, 0) :]] = 0
    np.testing.assert_array_equal(prune.keep_at_least(patterns, 7, n_ties), expected)
