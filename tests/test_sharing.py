"""Weight sharing: codebooks next to the k-means optimum, nearest labels, distinct patterns."""

from fractions import Fraction
from itertools import pairwise
from unittest import mock

import kmeans1d
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.cluster import KMeans

from deepcomp import _kernels, kmeans, sharing
from deepcomp import _reference_kmeans as reference
from deepcomp._native import kmeans as native

KERNELS = [name for name in dir(reference) if name.endswith("_into")]
PATTERN_DTYPES = [np.uint8, np.uint16, np.uint32, np.uint64]
FLOAT_DTYPES = [np.float32, np.float64]
few_examples = settings(deadline=None, max_examples=60)

float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)
float64s = st.floats(allow_nan=False, allow_infinity=False)
any_values = st.one_of(
    arrays(np.float32, st.integers(1, 40), elements=float32s),
    arrays(np.float64, st.integers(1, 40), elements=float64s),
    arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([-2.0, -1.0, 1.0, 3.0])),
)
# halves: sums and squares are exact, and the least inertia is not spoilt by rounding
tame_values = st.lists(st.integers(-2000, 2000), min_size=1, max_size=12).map(
    lambda halves: np.array(halves, np.float32) / 2
)


def way(tally):
    """Let any number of values take the way of many, or of few."""
    return mock.patch.object(sharing, "MAX_SORTED", 0 if tally else 1 << 40)


def use_kernels(module):
    return mock.patch.multiple(_kernels, **{name: getattr(module, name) for name in KERNELS})


def weights(kind, n=50_000, dtype=np.float32):
    rng = np.random.default_rng(7)
    if kind == "pruned":
        w = rng.standard_normal(12 * n)
        w = w[np.abs(w) > 1.6][:n]
    elif kind == "clipped":
        w = np.clip(rng.standard_normal(n), -1, 1.5)
    elif kind == "near one":
        w = 1 + 1e-5 * rng.standard_normal(n)
    elif kind == "two ranges":
        w = np.where(rng.random(n) < 0.5, 1e-4, 100.0) * rng.standard_normal(n)
    elif kind == "half":
        w = rng.standard_normal(n).astype(np.float16)
    elif kind == "t":
        w = rng.standard_t(3, n)
    else:
        w = getattr(rng, kind)(size=n)
    return w.astype(dtype)


KINDS = ["normal", "laplace", "t", "pruned", "clipped", "half", "near one", "two ranges"]


def inertia(values, codebook):
    """Return the squared error, each value at the entry nearest to it."""
    values = values.astype(np.float64)
    at = np.searchsorted((codebook[1:] + codebook[:-1]) / 2, values)
    return float(np.sum((values - codebook[at]) ** 2))


def optimum(values, k):
    """Return the least inertia, by the textbook recurrence in exact arithmetic."""
    x = [Fraction(float(v)) for v in np.sort(values)]

    def alone(i, j):
        mean = sum(x[i:j]) / (j - i)
        return sum((v - mean) ** 2 for v in x[i:j])

    best = [alone(0, j) if j else Fraction(0) for j in range(len(x) + 1)]
    for _ in range(k - 1):
        best = [
            min([best[i] + alone(i, j) for i in range(j)], default=Fraction(0))
            for j in range(len(x) + 1)
        ]
    return best[-1]


# ------------------------------------------------------------------------------ fit_codebook


@few_examples
@given(any_values, st.integers(1, 256), st.booleans())
@example(np.array([3.4e38, -3.4e38, 1.0, 2.0], np.float32), 2, True)
@example(np.array([1.7e308, -1.7e308, 1e-300, 5e-324]), 3, True)
@example(np.array([5e-324, 1e-323, 1.5e-323]), 2, True)
@example(np.array([1.0, np.nextafter(1, 2), np.nextafter(1, 0)]), 2, False)
def test_codebook_increases_strictly_within_the_values(values, n_values, tally):
    with way(tally):
        codebook = sharing.fit_codebook(values, n_values)
    assert codebook.dtype == np.float64
    assert 1 <= codebook.size <= min(n_values, np.unique(values).size)
    assert (np.diff(codebook) > 0).all()
    assert values.min() <= codebook[0] and codebook[-1] <= values.max()


@few_examples
@given(tame_values, st.integers(1, 6), st.sampled_from(FLOAT_DTYPES), st.booleans())
def test_codebook_of_few_values_is_the_optimum(values, n_values, dtype, tally):
    with way(tally):
        codebook = sharing.fit_codebook(values.astype(dtype), n_values)
    assert inertia(values, codebook) <= float(optimum(values, n_values)) * (1 + 1e-9) + 1e-9


@few_examples
@given(any_values, st.sampled_from([False, True]))
def test_few_distinct_values_are_kept_exactly(values, tally):
    with way(tally):
        codebook = sharing.fit_codebook(values, 256)
    assert np.array_equal(codebook, np.unique(values).astype(np.float64))


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_a_shared_weight_keeps_its_values(dtype):
    shared = np.random.default_rng(0).standard_normal(200).astype(dtype)
    values = np.random.default_rng(1).choice(shared, 40_000)
    values[:3] = 0.0, -0.0, 0.0
    codebook = sharing.fit_codebook(values, 256)
    assert np.array_equal(codebook, np.unique(values))
    labels = sharing.nearest_labels(values, codebook)
    assert np.array_equal(codebook[labels], values)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("n", [5_000, 50_000])
def test_order_does_not_matter(n, dtype):
    values = weights("laplace", n, dtype)
    codebook = sharing.fit_codebook(values, 32)
    for other in (np.sort(values), np.random.default_rng(1).permutation(values)):
        assert sharing.fit_codebook(other, 32).tobytes() == codebook.tobytes()


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_tallies_of_parts_add_up_to_that_of_the_whole(dtype):
    bits = weights("t", 50_000, dtype).view(np.uint32 if dtype == np.float32 else np.uint64)
    passes = []

    def in_parts(bits, tree, tallies):
        whole = np.zeros_like(tallies)
        native.tally_into(bits, tree, whole)
        for part in np.split(bits, [1, 777, 30_000]):
            native.tally_into(part, tree, tallies)
        passes.append(np.array_equal(whole, tallies))
        return 0

    with mock.patch.object(_kernels, "tally_into", in_parts):
        kmeans.tally(bits, 32)
    assert len(passes) >= 2 and all(passes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_values", [2, 8, 32])
def test_inertia_is_within_a_fiftieth_of_a_percent_of_the_optimum(kind, n_values):
    values = weights(kind, 25_000)
    centred = (values - np.median(values)).astype(np.float64)
    clusters = kmeans1d.cluster(centred, n_values)
    best = inertia(centred, np.unique(clusters.centroids))
    for tally in (False, True):
        with way(tally):
            codebook = sharing.fit_codebook(values, n_values)
        assert inertia(values, codebook) <= best * 1.0002


@pytest.mark.parametrize("kind", ["pruned", "t"])
def test_eight_bits_are_as_near_the_optimum(kind):
    values = weights(kind, 17_000)
    best = inertia(values, np.unique(kmeans1d.cluster(values, 256).centroids))
    for tally in (False, True):
        with way(tally):
            assert inertia(values, sharing.fit_codebook(values, 256)) <= best * 1.0002


@pytest.mark.parametrize("kind", ["normal", "pruned", "laplace", "t"])
def test_never_worse_than_scikit_learn(kind):
    values = weights(kind, 17_000)
    rival = KMeans(8, n_init=1, tol=0, random_state=0).fit(values[:, None])
    centres = np.sort(rival.cluster_centers_[:, 0]).astype(np.float64)
    theirs = inertia(values, centres)
    with way(tally=False):
        assert inertia(values, sharing.fit_codebook(values, 8)) <= theirs * (1 + 1e-9)
    with way(tally=True):  # may miss the best place of a split by one leaf
        assert inertia(values, sharing.fit_codebook(values, 8)) <= theirs * (1 + 1e-5)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("n", [5_000, 50_000])
@pytest.mark.parametrize("outliers", [[1e6], [-1e6], [1e30], [-1e30], [-1e12, 1e9, 3e20]])
def test_outliers_cost_an_entry_each_and_no_more(outliers, n, dtype):
    values = weights("normal", n, dtype)
    without = inertia(values, sharing.fit_codebook(values, 32))
    together = np.append(values, np.array(outliers, dtype))
    codebook = sharing.fit_codebook(together, 32 + len(outliers))
    assert inertia(values, codebook) <= without * 1.001
    far = np.array(outliers, dtype).astype(np.float64)
    nearest = codebook[sharing.nearest_labels(far, codebook)]
    np.testing.assert_allclose(nearest, far, rtol=0 if dtype == np.float32 else 1e-9)


@pytest.mark.parametrize(
    "values",
    [
        np.geomspace(1e-320, 1e308, 40_000) * np.resize([1, -1], 40_000),
        np.append(np.arange(1, 40_000) * 1e-300, 1e300),
        np.arange(1, 40_000) * 5e-324,
        np.linspace(-1, 1, 40_000) * 1.7e308,
        (np.linspace(-1, 1, 40_000) * 3.4e38).astype(np.float32),
        np.arange(1, 40_000, dtype=np.uint32).view(np.float32),  # denormals
        np.nextafter(np.ones(40_000), 2),
        1 + np.arange(40_000) * 2.0**-52,
    ],
)
def test_extreme_values_are_taken(values):
    codebook = sharing.fit_codebook(values, 16)
    assert np.isfinite(codebook).all() and (np.diff(codebook) > 0).all()
    assert values.min() <= codebook[0] and codebook[-1] <= values.max()


def test_evenly_spaced_values_get_an_even_codebook_at_any_scale():
    for scale in (1e-318, 1e-30, 1.0, 1e30, 4e303):
        codebook = sharing.fit_codebook(scale * np.arange(1.0, 40_001), 8) / scale
        np.testing.assert_allclose(codebook, 2500.5 + 5000 * np.arange(8), rtol=0.01)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n", [10, 40_000])
@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_values_that_are_not_finite_are_refused(value, n, few, dtype):
    values = np.ones(n, dtype) if few else weights("normal", n, dtype)
    values[n // 2] = value
    with pytest.raises(ValueError, match="finite"):
        sharing.fit_codebook(values, 4)


@pytest.mark.parametrize(
    ("values", "n_values", "message"),
    [
        (np.ones(3), 0, "n_values is 0"),
        (np.ones(3), 257, "n_values is 257"),
        (np.ones(0), 2, "empty"),
        (np.ones((2, 2)), 2, "shape"),
        (np.ones(6)[::2], 2, "contiguous"),
        (np.ones(3, np.float16), 2, "float16"),
        (np.ones(3, np.int64), 2, "int64"),
        (np.ones(3, ">f4"), 2, ">f4"),
    ],
)
def test_fit_codebook_refuses_bad_arguments(values, n_values, message):
    with pytest.raises(ValueError, match=message):
        sharing.fit_codebook(values, n_values)


# ---------------------------------------------------------------------------- nearest_labels


def nearest(value, codebook):
    """Return the label in exact arithmetic; of two as near, the lower one."""
    distances = [abs(Fraction(float(value)) - Fraction(float(entry))) for entry in codebook]
    return distances.index(min(distances))


@few_examples
@given(
    st.lists(st.integers(-4000, 4000), min_size=1, max_size=60),
    st.sets(st.integers(-1000, 1000), min_size=1, max_size=256),
    st.integers(-30, 30),
    st.sampled_from(FLOAT_DTYPES),
)
def test_labels_are_the_nearest_and_of_two_the_lower(quarters, entries, exponent, dtype):
    values = np.ldexp(np.array(quarters, dtype) / 4, exponent)
    codebook = np.ldexp(np.array(sorted(entries), np.float64), exponent)
    labels = sharing.nearest_labels(values, codebook)
    assert labels.dtype == np.uint8
    assert labels.tolist() == [nearest(v, codebook) for v in values]


@few_examples
@given(any_values)
def test_entries_of_the_codebook_are_their_own_nearest(values):
    codebook = np.unique(values).astype(np.float64)
    labels = sharing.nearest_labels(values, codebook)
    assert np.array_equal(codebook[labels], values)


def test_neighbouring_floats_are_told_apart():
    for dtype in FLOAT_DTYPES:
        for start in (1.0, -1.0, 1e-310 if dtype == np.float64 else 1e-42):
            entries = [dtype(start)]
            while len(entries) < 256:
                entries.append(np.nextafter(entries[-1], dtype(np.inf)))
            values = np.array(entries, dtype)
            labels = sharing.nearest_labels(values, values.astype(np.float64))
            assert np.array_equal(labels, np.arange(256))


def test_a_codebook_beyond_the_range_of_float32_has_labels():
    values = np.array([-3e38, -1.0, -0.0, 0.0, 1.0, 3e38], np.float32)
    codebook = np.array([-1e300, -1e39, 0.0, 1e39, 1e300])
    assert sharing.nearest_labels(values, codebook).tolist() == [2] * 6
    assert sharing.nearest_labels(values, np.array([1.7e308])).tolist() == [0] * 6
    wide = sharing.nearest_labels(np.array([-1.6e308, 1.0]), np.array([-1.7e308, 1.7e308]))
    assert wide.tolist() == [0, 1]


def test_both_zeros_get_the_same_label():
    values = np.array([-0.0, 0.0, 5e-324])
    assert sharing.nearest_labels(values, np.array([-1.0, 1.0])).tolist() == [0, 0, 1]
    assert sharing.nearest_labels(values, np.array([-0.0, 5e-324])).tolist() == [0, 0, 1]
    assert sharing.nearest_labels(values, np.array([-5e-324, -0.0, 5e-324])).tolist() == [1, 1, 2]


def test_labels_go_where_they_are_wanted():
    values, out = np.array([1.0, 2.0]), np.full(2, 9, np.uint8)
    assert sharing.nearest_labels(values, np.array([1.0, 2.0]), out) is out
    assert out.tolist() == [0, 1]
    patterns = np.array([4, 3], np.uint16)
    assert sharing.pattern_labels(patterns, np.array([3, 4], np.uint16), out) is out
    assert out.tolist() == [1, 0]


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("values", "codebook", "out", "message"),
    [
        (np.ones(2, np.int32), np.ones(1), None, "int32"),
        (np.ones(4)[::2], np.ones(1), None, "contiguous"),
        (np.ones(2), np.ones(0), None, "codebook has shape"),
        (np.ones(2), np.arange(257.0), None, "codebook has shape"),
        (np.ones(2), np.ones((1, 1)), None, "codebook has shape"),
        (np.ones(2), np.array([1.0, 1.0]), None, "strictly increasing"),
        (np.ones(2), np.array([2.0, 1.0]), None, "strictly increasing"),
        (np.ones(2), np.array([1.0, np.inf]), None, "finite"),
        (np.ones(2), np.array([np.nan]), None, "finite"),
        (np.ones(2), np.ones(1), np.zeros(3, np.uint8), "out has 3 entries"),
        (np.ones(2), np.ones(1), np.zeros(2, np.int8), "out is int8"),
        (np.ones(2), np.ones(1), read_only(np.zeros(2, np.uint8)), "writeable"),
    ],
)
def test_nearest_labels_refuses_bad_arguments(values, codebook, out, message):
    with pytest.raises(ValueError, match=message):
        sharing.nearest_labels(values, codebook, out)


# --------------------------------------------------------------------------------- patterns


def slot_of(patterns):
    """Return the slots of kmeans.pyx, to find patterns that collide."""
    with np.errstate(over="ignore"):
        return (patterns * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(52)


def colliding_patterns():
    candidates = np.random.default_rng(3).integers(1, 2**63, 2_000_000).astype(np.uint64)
    slots = slot_of(candidates)
    return np.concatenate([candidates[slots == slot][:80] for slot in (0, 1, 4095)])


@few_examples
@given(st.data(), st.sampled_from(PATTERN_DTYPES), st.integers(1, 256))
def test_distinct_patterns_are_those_of_numpy(data, dtype, limit):
    elements = st.integers(0, np.iinfo(dtype).max) | st.integers(0, 5)
    patterns = data.draw(arrays(dtype, st.integers(0, 300), elements=elements))
    expected = np.setdiff1d(patterns, [0]).astype(dtype)
    found = sharing.distinct_patterns(patterns, limit)
    if expected.size > limit:
        assert found is None
    else:
        assert found.dtype == dtype and np.array_equal(found, expected)


@pytest.mark.parametrize("dtype", PATTERN_DTYPES)
def test_the_limit_is_exact(dtype):
    n = min(256, np.iinfo(dtype).max)
    patterns = np.random.default_rng(0).permutation(np.arange(n + 1, dtype=dtype))
    assert np.array_equal(sharing.distinct_patterns(patterns, n), np.arange(1, n + 1))
    assert sharing.distinct_patterns(patterns, n - 1) is None
    assert sharing.distinct_patterns(np.zeros(9, dtype), 1).size == 0


def test_patterns_that_collide_are_told_apart():
    distinct = np.sort(colliding_patterns())
    assert distinct.size == 240
    patterns = np.random.default_rng(0).choice(np.append(distinct, np.uint64(0)), 20_000)
    assert np.array_equal(sharing.distinct_patterns(patterns, 240), distinct)
    assert sharing.distinct_patterns(patterns, 239) is None
    kept = patterns[patterns != 0]
    assert np.array_equal(sharing.pattern_labels(kept, distinct), np.searchsorted(distinct, kept))
    for missing in distinct[[0, 100, -1]]:
        with pytest.raises(ValueError, match=hex(missing)):
            sharing.pattern_labels(kept, distinct[distinct != missing])


@few_examples
@given(st.data(), st.sampled_from(PATTERN_DTYPES))
def test_pattern_labels_are_places_among_the_distinct(data, dtype):
    elements = st.integers(0, np.iinfo(dtype).max) | st.integers(0, 9)
    distinct = np.unique(data.draw(arrays(dtype, st.integers(1, 256), elements=elements)))
    which = data.draw(arrays(np.uint8, st.integers(0, 50), elements=st.integers(0, 255)))
    which = which % distinct.size
    labels = sharing.pattern_labels(distinct[which], distinct)
    assert labels.dtype == np.uint8 and np.array_equal(labels, which)


@pytest.mark.parametrize("limit", [0, 257, -1])
def test_distinct_patterns_refuses_a_bad_limit(limit):
    with pytest.raises(ValueError, match=f"limit is {limit}"):
        sharing.distinct_patterns(np.ones(3, np.uint8), limit)


def test_distinct_patterns_refuses_bad_patterns():
    for patterns in (np.ones(3, np.int32), np.ones((2, 2), np.uint8), np.ones(6, np.uint8)[::2]):
        with pytest.raises(ValueError, match="patterns is"):
            sharing.distinct_patterns(patterns, 2)


@pytest.mark.parametrize(
    ("patterns", "distinct", "message"),
    [
        (np.ones(2, np.uint8), np.ones(1, np.uint16), "expected at most 256 of uint8"),
        (np.ones(2, np.uint16), np.arange(257, dtype=np.uint16), "is 257 of uint16"),
        (np.ones(2, np.uint8), np.array([2, 1], np.uint8), "strictly increasing"),
        (np.ones(2, np.uint8), np.array([1, 1], np.uint8), "strictly increasing"),
        (np.ones(2, np.uint8), np.zeros(0, np.uint8), "0x1 is not in"),
        (np.array([1, 0x2A], np.uint8), np.ones(1, np.uint8), "0x2a is not in"),
        (np.array([1, 0], np.uint8), np.ones(1, np.uint8), "0x0 is not in"),
        (np.ones(2, np.int8), np.ones(1, np.int8), "int8"),
    ],
)
def test_pattern_labels_refuses_bad_arguments(patterns, distinct, message):
    with pytest.raises(ValueError, match=message):
        sharing.pattern_labels(patterns, distinct)


def test_no_patterns_have_no_labels():
    nothing = np.zeros(0, np.uint32)
    assert sharing.pattern_labels(nothing, nothing).size == 0
    assert sharing.distinct_patterns(nothing, 3).size == 0
    assert sharing.nearest_labels(np.zeros(0), np.ones(1)).size == 0


# ---------------------------------------------------------------- native and twin, bit for bit


def test_native_kernels_and_twins_have_the_same_names():
    assert [name for name in dir(native) if name.endswith("_into")] == KERNELS


@few_examples
@given(any_values, st.integers(1, 40), st.booleans())
def test_few_values_give_the_same_with_native_and_twin(values, n_values, tally):
    results = []
    for module in (native, reference):
        with way(tally), use_kernels(module):
            codebook = sharing.fit_codebook(values, n_values)
            results.append((codebook.tobytes(), sharing.nearest_labels(values, codebook).tobytes()))
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_many_values_give_the_same_with_native_and_twin(kind, dtype):
    values = weights(kind, 20_000, dtype)
    for n_values, tally in ((1, True), (2, True), (31, True), (31, False)):
        results = []
        for module in (native, reference):
            with way(tally), use_kernels(module):
                codebook = sharing.fit_codebook(values, n_values)
                labels = sharing.nearest_labels(values, codebook)
                results.append((codebook.tobytes(), labels.tobytes()))
        assert results[0] == results[1]


@pytest.mark.parametrize("dtype", PATTERN_DTYPES)
def test_patterns_give_the_same_with_native_and_twin(dtype):
    rng = np.random.default_rng(0)
    distinct = np.unique(rng.integers(1, np.iinfo(dtype).max, 250, dtype))
    patterns = rng.choice(distinct, 5_000)
    results = []
    for module in (native, reference):
        found, labels = np.zeros(256, dtype), np.zeros(patterns.size, np.uint8)
        n = module.distinct_into(patterns, found)
        missing = module.pattern_labels_into(patterns, distinct[:-9], labels)
        results.append((n, missing, found.tobytes(), labels.tobytes()))
    assert results[0] == results[1]


def test_partition_by_native_and_twin_is_optimal_with_ties():
    points = np.array([0, 0.5, 0.5, 1, 4, 4.5, 5, 9, 9, 9.5])
    prefix = np.zeros((points.size + 1, 3))
    prefix[1:] = np.cumsum(np.stack((np.ones_like(points), points, points**2), axis=1), axis=0)
    for k in range(1, points.size + 1):
        found = []
        for module in (native, reference):
            splits, n = np.zeros(k + 1, np.int64), points.size + 1
            module.partition_into(prefix, np.zeros((2, n)), np.zeros((k, n), np.int32), splits)
            found.append(splits.tolist())
        assert found[0] == found[1]
        parts = [points[i:j] for i, j in pairwise(found[0])]
        total = sum(((part - part.mean()) ** 2).sum() for part in parts)
        assert total == pytest.approx(float(optimum(points, k)), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("module", [native, reference])
def test_polish_moves_splits_for_a_gain_alone(module):
    points = np.array([0.0, 1.0, 2.0, 9.0])
    prefix = np.zeros((5, 3))
    prefix[1:] = np.cumsum(np.stack((np.ones(4), points, points**2), axis=1), axis=0)
    for start, end in (([0, 1, 3, 4], None), ([0, 2, 3, 4], None), ([0, 1, 2, 4], [0, 1, 3, 4])):
        splits = np.array(start)
        scratch = np.zeros((2, 9)), np.zeros((4, 9), np.uint8)
        assert module.polish_into(prefix, np.array([0, 1, 1, 0]), *scratch, splits) == bool(end)
        assert splits.tolist() == (end or start)
