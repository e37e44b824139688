"""Pruning and sharing over a whole model: exact counts, exact thresholds, exact errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLOAT_DTYPES, generators, to_float64, to_patterns

from deepcomp import pipeline, prune
from deepcomp.arrays import Source, sources
from deepcomp.decode import TensorDecoder
from deepcomp.records import ITEMSIZE


def share(patterns, dtype, bits):
    patterns = prune.keep_at_least(patterns, 0)
    pipeline.share(patterns, dtype, bits)
    return patterns


float_dtypes = st.sampled_from(FLOAT_DTYPES)
all_dtypes = pytest.mark.parametrize("dtype", FLOAT_DTYPES)


def source(name, patterns, dtype, shape=None):
    if shape is None:  # of a layer with one input, whose weight is one all the same
        return Source(name, dtype, (patterns.size, 1), (name,), lambda: patterns, kind="weight")
    return Source(name, dtype, shape, (name,), lambda: patterns)


def encode_model(tensors, bits=None, sparsity=None, threshold=None, std=None, scope="layer"):
    return pipeline.encode_model(tensors, bits, sparsity, threshold, std, scope)


def compress(tensors, **settings):
    """Compress Sources or a mapping of arrays; return the patterns of each tensor, decoded."""
    if isinstance(tensors, dict):
        tensors = list(sources(tensors).values())
    result = {}
    for record, section, _ in encode_model(tensors, **settings):
        entries = np.empty(record.numel, f"u{record.itemsize}")
        TensorDecoder(record, memoryview(b"".join(section))).decode_into(entries)
        result[record.name] = entries
    return result


def compress_one(values, dtype="float32", **settings):
    """Compress one weight; return its values before and after as float64."""
    patterns = to_patterns(np.asarray(values), dtype)
    after = compress([source("w", patterns, dtype)], **settings)["w"]
    return to_float64(patterns, dtype), to_float64(after, dtype)


@st.composite
def values_with_ties(draw):
    rng, n = draw(generators()), draw(st.integers(1, 200))
    values = np.round(rng.standard_normal(n), draw(st.sampled_from((0, 1, 6))))
    return np.where(rng.random(n) < draw(st.sampled_from((0, 0.3))), 0, values)


# --- nothing asked for ---


@all_dtypes
def test_without_settings_every_bit_is_kept(dtype):
    patterns = to_patterns(np.array([0.0, -0.0, 1.5, np.nan, -np.inf, 2.0, 1e-40]), dtype)
    assert compress([source("w", patterns, dtype)])["w"].tolist() == patterns.tolist()


def test_tensors_without_a_setting_keep_every_bit():
    rng = np.random.default_rng(0)
    model = {
        "fc.weight": rng.standard_normal((30, 20)).astype(np.float32),
        "fc.bias": np.array([np.nan, -0.0, np.inf, 1e-3], np.float32),
        "steps": np.arange(6).reshape(2, 3),
    }
    before = {name: array.copy() for name, array in model.items()}
    after = compress(model, bits=2, sparsity=0.5)
    assert list(after) == list(model)
    for name in ("fc.bias", "steps"):
        expected = model[name].reshape(-1).view(f"u{model[name].itemsize}")
        assert after[name].tolist() == expected.tolist()
    for name in model:  # what the user handed over is not written to
        np.testing.assert_array_equal(model[name], before[name])


def test_one_dimensional_tensors_are_compressed_if_a_pattern_names_them():
    model = {"a.weight": np.ones((2, 2), np.float32), "norm": np.arange(4, dtype=np.float32)}
    after = compress(model, threshold={"norm": 2.5})
    assert after["norm"].view(np.float32).tolist() == [0, 0, 0, 3]
    assert after["a.weight"].view(np.float32).tolist() == [1] * 4


# --- sparsity ---


@given(values_with_ties(), float_dtypes, st.floats(0, 1, exclude_max=True))
def test_sparsity_removes_exactly_that_many_of_the_smallest(values, dtype, sparsity):
    before, after = compress_one(values, dtype, sparsity=sparsity)
    k = round(sparsity * before.size)
    n_zeros = np.count_nonzero(before == 0)
    assert np.count_nonzero(after == 0) == max(k, n_zeros)
    is_kept = after != 0
    assert (after[is_kept] == before[is_kept]).all()
    removed = np.abs(before[~is_kept])
    assert removed.max(initial=0) <= np.abs(before[is_kept]).min(initial=np.inf)


@given(values_with_ties(), st.floats(0, 0.99), st.integers(1, 5))
def test_global_sparsity_counts_all_tensors_together(values, sparsity, n_tensors):
    parts = np.array_split(values.astype(np.float32), n_tensors)
    tensors = [source(f"w{i}", p.view(np.uint32), "float32") for i, p in enumerate(parts)]
    after = compress(tensors, sparsity=sparsity, scope="global")
    joined = np.concatenate([after[f"w{i}"] for i in range(n_tensors)]).view(np.float32)
    [alone] = compress(
        [source("w", to_patterns(values, "float32"), "float32")], sparsity=sparsity
    ).values()
    assert joined.tolist() == alone.view(np.float32).tolist()


def test_global_sparsity_takes_from_where_the_small_weights_are():
    small, large = np.arange(1, 11, dtype=np.float32), np.arange(101, 111, dtype=np.float32)
    model = {"small": small.reshape(2, 5), "large": large.reshape(2, 5)}
    by_layer = compress(model, sparsity=0.5)
    assert [np.count_nonzero(p) for p in by_layer.values()] == [5, 5]
    together = compress(model, sparsity=0.5, scope="global")
    assert [np.count_nonzero(p) for p in together.values()] == [0, 10]


@given(generators(), st.floats(0, 0.99), st.booleans())
def test_global_sparsity_is_exact_over_tensors_of_different_dtypes(rng, sparsity, has_ties):
    tensors, before = [], []
    for i, dtype in enumerate(FLOAT_DTYPES):
        values = rng.standard_normal(rng.integers(1, 60))
        patterns = to_patterns(np.round(values, 1) if has_ties else values, dtype)
        tensors.append(source(f"w{i}", patterns, dtype))
        before.append(to_float64(patterns, dtype))
    after = compress(tensors, sparsity=sparsity, scope="global")
    joined = np.concatenate([to_float64(after[t.name], t.dtype) for t in tensors])
    before = np.concatenate(before)
    n_zeros = np.count_nonzero(before == 0)
    assert np.count_nonzero(joined == 0) == max(round(sparsity * before.size), n_zeros)
    is_kept = joined != 0
    assert (joined[is_kept] == before[is_kept]).all()
    assert np.abs(before[~is_kept]).max(initial=0) <= np.abs(before[is_kept]).min(initial=np.inf)


def test_global_scope_pools_the_tensors_that_have_the_same_number():
    model = {name: np.arange(1, 11, dtype=np.float32).reshape(2, 5) for name in "abc"}
    model["b"] = model["b"] * 100
    after = compress(model, sparsity={"[ab]": 0.5, "c": 0.2}, scope="global")
    assert [np.count_nonzero(after[name]) for name in "abc"] == [0, 10, 8]


def test_of_equal_magnitudes_the_last_ones_are_removed():
    _, after = compress_one([1, -1, 1, 2, 1], sparsity=0.4)
    assert after.tolist() == [1, -1, 0, 2, 0]
    model = {"a": np.ones((2, 2), np.float32), "b": np.ones((2, 2), np.float32)}
    after = compress(model, sparsity=0.625, scope="global")
    assert [np.count_nonzero(p) for p in after.values()] == [3, 0]


def test_sparsity_0_keeps_all_and_only_takes_the_sign_of_zeros():
    patterns = to_patterns(np.array([-0.0, 0.0, -1e-30, 4.0]), "float32")
    after = compress([source("w", patterns, "float32")], sparsity=0)["w"]
    assert after.tolist() == [0, 0, patterns[2], patterns[3]]


def test_sparsity_below_that_of_the_tensor_removes_nothing():
    before, after = compress_one([0, 0, 0, 5, -6, 0.125], sparsity=0.4)
    assert (after == before).all()


def test_an_empty_weight_can_be_pruned_and_shared():
    model = {"empty": np.empty((0, 3), np.float32), "full": np.ones((2, 2), np.float32)}
    for settings in ({"sparsity": 0.5}, {"std": 1}, {"threshold": 1}, {"bits": 1}):
        for scope in ("layer", "global"):
            assert compress(model, scope=scope, **settings)["empty"].size == 0


# --- threshold and std ---


@given(values_with_ties(), float_dtypes, st.sampled_from((0.1, 0.5, 1.0, 1.3, 1e-9, 1e30)))
def test_threshold_removes_what_is_below_and_keeps_what_is_equal(values, dtype, threshold):
    before, after = compress_one(values, dtype, threshold=threshold)
    assert (after == np.where(np.abs(before) < threshold, 0, before)).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_threshold_is_compared_exactly_not_rounded_to_the_dtype(dtype):
    pattern = to_patterns(np.array([1.0]), dtype)
    above = float(to_float64(pattern + pattern.dtype.type(1), dtype)[0])
    _, after = compress_one([1, -1, above, -above], dtype, threshold=np.nextafter(1.0, 2.0))
    assert after.tolist() == [0, 0, above, -above]


@all_dtypes
@pytest.mark.parametrize("zero", [0, 0.0, -0.0])
@pytest.mark.parametrize("what", ["threshold", "std", "sparsity"])
def test_a_cut_of_zero_of_either_sign_keeps_every_entry(dtype, zero, what):
    before, after = compress_one([1, -2, 0, 1e-6], dtype, **{what: zero})
    assert (after == before).all()


@all_dtypes
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_std_cuts_at_standard_deviations(dtype, scope):
    rng = np.random.default_rng(1)
    drawn = [to_patterns(scale * rng.standard_normal(500) + 0.1, dtype) for scale in (1, 5)]
    tensors = [source(f"w{i}", p, dtype) for i, p in enumerate(drawn)]
    before = [to_float64(p, dtype) for p in drawn]
    after = compress(tensors, std=0.75, scope=scope)
    for i in range(2):
        over = before[i] if scope == "layer" else np.concatenate(before)
        expected = np.where(np.abs(before[i]) < 0.75 * over.std(), 0, before[i])
        assert (to_float64(after[f"w{i}"], dtype) == expected).all()


def test_std_of_equal_entries_is_0():
    before, after = compress_one([3.0] * 10, std=2)
    assert (after == before).all()


def test_settings_may_differ_by_tensor():
    model = {name: np.arange(1, 9, dtype=np.float32).reshape(2, 4) for name in "abc"}
    after = compress(model, threshold={"a": 3, "b": 5.5})
    assert [np.count_nonzero(p) for p in after.values()] == [6, 3, 8]


# --- sharing ---


@given(generators(), float_dtypes, st.integers(1, 8), st.sampled_from((0.1, 0.9, 1.0)))
def test_share_leaves_few_values_near_the_entries_and_zeros_zero(rng, dtype, bits, density):
    n = int(rng.integers(1, 2000))
    values = np.where(rng.random(n) < density, rng.standard_normal(n), 0)
    before, after = compress_one(values, dtype, bits=bits)
    assert np.unique(after[after != 0]).size <= 1 << bits
    assert (after[before == 0] == 0).all()
    assert np.abs(after).max() <= np.abs(before).max()
    # every entry has got the nearest of the values
    shared = np.unique(after[before != 0]) if density < 1 else np.unique(after)
    if shared.size:
        kept, got = before[before != 0], after[before != 0]
        nearest = np.abs(kept[:, None] - shared).min(axis=1)
        np.testing.assert_array_equal(np.abs(kept - got), nearest)


@given(generators(), float_dtypes, st.integers(1, 8), st.sampled_from((0.1, 1.0)))
def test_sharing_twice_changes_nothing(rng, dtype, bits, density):
    values = np.where(rng.random(1000) < density, rng.standard_normal(1000), 0)
    once = share(to_patterns(values, dtype), dtype, bits)
    assert share(once, dtype, bits).tolist() == once.tolist()


@all_dtypes
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_entries_that_are_few_enough_values_already_are_kept(dtype, bits):
    values = np.linspace(-2, 3, 1 << bits)
    values[values == 0] = 5
    patterns = np.unique(to_patterns(values, dtype))
    assert patterns.size == 1 << bits
    patterns = np.concatenate((patterns, patterns[::-1], [0, 0])).astype(patterns.dtype)
    assert share(patterns, dtype, bits).tolist() == patterns.tolist()


@all_dtypes
@pytest.mark.parametrize("n", [2000, 50_000])  # sorted, and counted in a tally
def test_zeros_have_no_part_in_the_values(dtype, n):
    values = np.abs(np.random.default_rng(3).standard_normal(n)) + 0.01
    patterns = to_patterns(values, dtype)
    with_zeros = np.insert(patterns, np.arange(0, n, 5), 0)
    after = share(with_zeros, dtype, 5)
    assert (after[after != 0] == share(patterns, dtype, 5)).all() and (after != 0).sum() == n


@all_dtypes
def test_eight_bits_with_zeros_leave_at_most_256_values_with_zero_among_them(dtype):
    rng = np.random.default_rng(2)
    values = rng.standard_normal(20_000)
    values[::7] = 0
    after = share(to_patterns(values, dtype), dtype, 8)
    n_values = np.unique(after).size
    assert n_values <= 256
    assert n_values > 200  # and most of them are used
    assert (after == 0).tolist() == (to_patterns(values, dtype) == 0).tolist()


@all_dtypes
def test_eight_bits_without_zeros_leave_at_most_256_values(dtype):
    values = np.random.default_rng(3).uniform(1, 2, 20_000)
    after = share(to_patterns(values, dtype), dtype, 8)
    assert 120 < np.unique(after).size <= 256  # bfloat16 has 129 from 1 to 2


@all_dtypes
def test_negative_zeros_become_zeros_when_sharing(dtype):
    patterns = to_patterns(np.array([-0.0, 1.0, -0.0, 2.0, 0.0]), dtype)
    after = share(patterns, dtype, 1)
    assert after.tolist() == [0, patterns[1], 0, patterns[3], 0]


@given(generators(), float_dtypes, st.integers(1, 7))
def test_another_bit_lowers_the_error(rng, dtype, bits):
    values = rng.standard_normal(600)
    errors = []
    for b in (bits, bits + 1):
        before, after = compress_one(values, dtype, bits=b)
        errors.append(np.sum((before - after) ** 2))
    assert errors[1] <= errors[0]


@all_dtypes
def test_a_symmetric_cluster_around_zero_is_not_given_to_a_far_value(dtype):
    before, after = compress_one([-1, 1, -2, 2, -3, 3, 1000], dtype, bits=1)
    assert np.abs(after[:-1]).max() <= 3
    assert after[-1] == before[-1]


@all_dtypes
def test_values_too_small_to_average_are_shared_all_the_same(dtype):
    smallest = np.array([1, 2, 3, 4, 5, 6, 7], f"u{ITEMSIZE[dtype]}")  # subnormal
    after = share(smallest, dtype, 1)
    assert np.unique(after).size <= 2
    assert after.max() <= 7


@all_dtypes
def test_the_largest_finite_values_do_not_become_infinite(dtype):
    infinity = int(to_patterns(np.array([np.inf]), dtype)[0])
    sign = 1 << (8 * ITEMSIZE[dtype] - 1)
    largest = range(infinity - 5, infinity)
    patterns = np.array([*largest, *(p | sign for p in largest)], f"u{ITEMSIZE[dtype]}")
    after = to_float64(share(patterns, dtype, 1), dtype)
    assert np.isfinite(after).all()
    assert (np.sign(after) == np.sign(to_float64(patterns, dtype))).all()


@all_dtypes
def test_to_values_is_exact(dtype):
    rng = np.random.default_rng(4)
    patterns = rng.integers(0, 1 << (8 * ITEMSIZE[dtype]), 3000, f"u{ITEMSIZE[dtype]}")
    values = pipeline.to_values(patterns, dtype)
    assert values.dtype == (np.float64 if dtype == "float64" else np.float32)
    with np.errstate(invalid="ignore"):  # signalling NaN
        values = values.astype(np.float64)
    np.testing.assert_array_equal(values, to_float64(patterns, dtype))


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_means_are_rounded_to_the_nearest_bfloat16(value):
    [pattern] = pipeline.to_patterns(np.array([value]), "bfloat16")
    around = pattern + np.array([-1, 0, 1]).astype(np.uint16)
    below, got, above = to_float64(around, "bfloat16")
    for other in (below, above):
        if np.isfinite(other) and np.isfinite(got) and got != 0:
            assert abs(got - value) <= abs(other - value)
            if abs(got - value) == abs(other - value) != 0:
                assert pattern % 2 == 0  # to even


def test_means_halfway_between_two_bfloat16_are_rounded_to_even():
    wide = np.array([0x3F808000, 0x3F818000, 0x3F828000, 0x3F828001], np.uint32)
    patterns = pipeline.to_patterns(wide.view(np.float32).astype(np.float64), "bfloat16")
    assert patterns.tolist() == [0x3F80, 0x3F82, 0x3F83]


def test_pruning_comes_before_sharing():
    rng = np.random.default_rng(5)
    before, after = compress_one(rng.standard_normal(2000), bits=2, sparsity=0.9)
    assert np.count_nonzero(after) == 200
    kept = np.sort(np.abs(before))[-200:]
    assert np.abs(after[after != 0]).min() >= kept.min()


# --- what is refused, and with which words ---


def model(**changes):
    arrays = {
        "fc1.weight": np.ones((3, 4), np.float32),
        "fc2.weight": np.ones((2, 3), np.float32),
        "steps": np.ones((2, 2), np.int64),
    }
    return list(sources(arrays | changes).values())


@all_dtypes
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "settings",
    [
        {"bits": 5},
        {"sparsity": 0.5},
        {"sparsity": 0.5, "scope": "global"},
        {"threshold": 1},
        {"std": 1},
        {"std": 1, "scope": "global"},
    ],
)
def test_nan_and_infinity_cannot_be_pruned_or_shared(dtype, value, settings):
    good = source("good", to_patterns(np.ones(6), dtype), dtype)
    bad = source("fc2.weight", to_patterns(np.array([1, value, 2]), dtype), dtype)
    with pytest.raises(ValueError, match=r"'fc2\.weight' has NaN or infinite entries"):
        encode_model([good, bad], **settings)


def test_nan_in_a_tensor_that_gets_no_setting_is_no_error():
    bad = source("fc2.weight", to_patterns(np.array([1, np.nan]), "float32"), "float32")
    good = source("good", to_patterns(np.ones(6), "float32"), "float32")
    assert len(list(encode_model([good, bad], bits={"good": 1}, sparsity={"good": 0.1}))) == 2


@pytest.mark.parametrize("bits", [0, 9, -1, 256, True, False, 2.5, 5.0, "5", np.nan])
@pytest.mark.parametrize("in_mapping", [False, True])
def test_bits_must_be_an_integer_from_1_to_8(bits, in_mapping):
    with pytest.raises(
        ValueError, match=r"bits of 'fc1(\.weight)?' is .*: expected an integer"
    ) as info:
        encode_model(model(), bits={"fc1": bits} if in_mapping else bits)
    assert repr(bits) in str(info.value)


@pytest.mark.parametrize("sparsity", [1, 1.0, 1.5, -0.1, np.nan, np.inf, True, "0.5"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_sparsity_must_be_at_least_0_and_below_1(sparsity, scope):
    message = r"sparsity of 'fc2' is .*: expected a number in \[0, 1\)"
    with pytest.raises(ValueError, match=message) as info:
        encode_model(model(), sparsity={"fc2": sparsity}, scope=scope)
    assert repr(sparsity) in str(info.value)


@pytest.mark.parametrize("what", ["threshold", "std"])
@pytest.mark.parametrize("value", [-0.1, -1, np.nan, np.inf, True, "1", [1.0]])
def test_threshold_and_std_must_be_finite_and_not_negative(what, value):
    message = f"{what} of 'fc1.weight' is .*: expected a number finite and not negative"
    with pytest.raises(ValueError, match=message):
        encode_model(model(), **{what: value})


@pytest.mark.parametrize(
    "settings",
    [
        {"sparsity": 0.5, "threshold": 0.1},
        {"sparsity": 0.0, "std": 0.0},
        {"threshold": 0.1, "std": {"fc1": 1}},
        {"sparsity": 0.5, "threshold": 0.1, "std": 1},
    ],
)
def test_at_most_one_way_to_prune_can_be_given(settings):
    with pytest.raises(ValueError, match="at most one of them can be") as info:
        encode_model(model(), **settings)
    assert all(what in str(info.value) for what in settings)


@pytest.mark.parametrize("what", ["bits", "sparsity", "threshold", "std"])
@pytest.mark.parametrize("pattern", ["fc3.weight", "steps"])
def test_a_pattern_that_matches_nothing_is_refused(what, pattern):
    number = 4 if what == "bits" else 0.5
    with pytest.raises(
        ValueError, match=f"{what}: the pattern '{pattern}' matches no float tensor"
    ):
        encode_model(model(), **{what: {pattern: number}})


@pytest.mark.parametrize("scope", ["model", "", None, "Layer"])
@pytest.mark.parametrize("sparsity", [None, 0.5])
def test_scope_must_be_layer_or_global(scope, sparsity):
    with pytest.raises(ValueError, match=f"scope is {scope!r}: expected 'layer' or 'global'"):
        encode_model(model(), sparsity=sparsity, scope=scope)


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e200])
def test_std_is_right_for_values_whose_squares_are_out_of_range(scale):
    values = np.random.default_rng(0).normal(size=(40, 50)) * scale
    packed = compress({"w": values}, bits=None, std=1.0)
    assert np.count_nonzero(packed["w"]) == np.count_nonzero(
        np.abs(values / scale) >= (values / scale).std()
    )


def test_std_does_not_suffer_from_a_large_mean():
    values = 1e9 + np.random.default_rng(0).normal(size=(40, 50))
    packed = compress({"w": values}, bits=None, std=1.0)
    assert np.count_nonzero(packed["w"]) == values.size


@pytest.mark.parametrize("value", [10**400, np.complex64(1)], ids=["10**400", "complex"])
def test_numbers_that_are_no_float64_are_refused(value):
    with pytest.raises(ValueError, match="threshold of 'w' is"):
        compress({"w": np.eye(3)}, threshold=value)
