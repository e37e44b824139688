"""A tensor in parts: the same cut, codebook and bytes as in one piece, wherever it is cut."""

import os
import subprocess
import sys
from itertools import pairwise
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import FLOAT_DTYPES, generators, to_patterns, weights

from deepcomp import _kernels, codebook_passes, counts, encode, pipeline, prune, sharing
from deepcomp.arrays import Source
from deepcomp.cut_passes import NotFiniteError, cut_passes
from deepcomp.encode import encode_part, encode_tensor, make_plan, record_of
from deepcomp.losses import add
from deepcomp.passes import drive, over
from deepcomp.records import MIN_BLOCK_NUMEL

small_blocks = mock.patch.multiple(
    encode, MAX_BLOCK_NUMEL=MIN_BLOCK_NUMEL, _DENSE_BLOCK=MIN_BLOCK_NUMEL
)
some = settings(max_examples=60, deadline=None)


@st.composite
def in_parts(draw, patterns, step=1):
    """Cut an array at up to five places, all multiples of `step`."""
    places = st.integers(0, patterns.size // step)
    bounds = sorted(step * n for n in draw(st.lists(places, max_size=5)))
    return [patterns[a:b] for a, b in pairwise([0, *bounds, patterns.size])]


@st.composite
def floats(draw):
    """Draw float values of a few distinct ones, or of many, some of them zero; and a dtype."""
    dtype, rng = draw(st.sampled_from(FLOAT_DTYPES)), draw(generators())
    values = rng.standard_normal(draw(st.integers(0, 3000)))
    if draw(st.booleans()):
        values = np.round(values, 1)
    values[rng.random(values.size) < draw(st.sampled_from((0.0, 0.5, 1.0)))] = 0
    return to_patterns(values, dtype), dtype


@some
@given(weights(sizes=st.integers(1, 30_000)), st.data())
def test_blocks_of_parts_put_together_are_the_section_of_the_whole(weight, data):
    with small_blocks:
        record, section = encode_tensor(weight)
        parts = data.draw(in_parts(weight.patterns, MIN_BLOCK_NUMEL))
        counted = [counts.count_entries(p, weight.dtype, MIN_BLOCK_NUMEL) for p in parts]
        plan = make_plan(counts.add(counted), weight.patterns.itemsize)
        encoded = [encode_part(p, plan) for p in parts]
    if record.layout == "raw":
        return
    joined = [plan.head(), *(d for d, _ in encoded), *(b for _, p in encoded for b in p)]
    assert b"".join(joined) == b"".join(section)
    assert record_of("w", weight.dtype, weight.shape, plan, record.section_nbytes).nnz == record.nnz


@some
@given(floats(), st.integers(1, 8), st.booleans(), st.data())
def test_parts_give_the_codebook_of_the_whole(drawn, bits, tally, data):
    patterns, dtype = drawn
    patterns = prune.keep_at_least(patterns, 0)
    parts = [(p, dtype) for p in data.draw(in_parts(patterns))]
    with mock.patch.object(sharing, "MAX_SORTED", 0 if tally else 1 << 15):
        passes = codebook_passes.codebook_passes(bits, dtype, patterns.size)
        fit = drive(passes, over(parts))
        whole = patterns.copy()
        loss = pipeline.share(whole, dtype, bits)
    losses = [
        codebook_passes.put_codebook(part, dtype, fit.codebook)
        for part, _ in parts
        if fit.codebook is not None
    ]
    assert patterns.tobytes() == whole.tobytes()
    assert (fit.loss or add(losses)) == pytest.approx(loss, rel=1e-12)


@some
@given(
    floats(),
    st.sampled_from([("sparsity", 0.5), ("sparsity", 0.97), ("std", 0.7), ("threshold", 0.4)]),
    st.data(),
)
def test_parts_are_cut_where_the_whole_is(drawn, rule, data):
    patterns, dtype = drawn
    # sums are those of chunks of 2**20 entries, here of 64
    with mock.patch.object(prune, "_CHUNK", 64):
        parts = data.draw(in_parts(patterns, 64))
        passes = cut_passes(*rule, [(dtype, p.size) for p in parts])
        cuts = drive(passes, over([(p, dtype) for p in parts]))
        source = Source("w", dtype, (patterns.size, 1), ("w",), lambda: patterns)
        whole = pipeline._cuts([source], rule[0], {"w": rule[1]}, "layer")["w"]
    expected = np.empty_like(patterns)
    loss = pipeline.put_cut(patterns, dtype, whole, expected)
    pruned = [np.empty_like(part) for part in parts]
    losses = map(pipeline.put_cut, parts, [dtype] * len(parts), cuts, pruned)
    assert add(losses) == pytest.approx(loss, rel=1e-12)
    assert np.concatenate(pruned).tobytes() == expected.tobytes()


@some
@given(st.lists(floats(), min_size=1, max_size=4), st.sampled_from((0.3, 0.9)), st.data())
def test_parts_of_many_tensors_are_cut_together_where_the_tensors_are(drawn, sparsity, data):
    sources = [
        Source(f"{i}", dtype, (p.size, 1), (i,), lambda p=p: p)
        for i, (p, dtype) in enumerate(drawn)
    ]
    numbers = dict.fromkeys((s.name for s in sources), sparsity)
    whole = pipeline._cuts(sources, "sparsity", numbers, "global")
    parts = [[(q, dtype) for q in data.draw(in_parts(p))] for p, dtype in drawn]
    flat = [part for of_one in parts for part in of_one]
    cuts = iter(drive(cut_passes("sparsity", sparsity, [(d, q.size) for q, d in flat]), over(flat)))
    for source, of_one in zip(sources, parts, strict=True):
        pruned = [prune.keep_at_least(q, *next(cuts)[:2]) for q, _ in of_one]
        expected = prune.keep_at_least(source.fetch(), *whole[source.name][:2])
        assert np.concatenate(pruned).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "rule", [("sparsity", 0.0), ("sparsity", 0.5), ("std", 1.0), ("threshold", 1.0)]
)
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "mixed"])
def test_a_tensor_that_is_not_finite_is_named_before_it_is_cut(dtype, bad, rule):
    names = ["whole", "broken", "broken"]
    dtypes = ["float16", "float64", "float64"] if dtype == "mixed" else [dtype] * 3
    values = np.array([[1.0, 2.0], [0.0, -3.0], [4.0, bad]])
    parts = [(to_patterns(v, d), d) for v, d in zip(values, dtypes, strict=True)]
    sizes = [(d, 2) for _, d in parts]
    with pytest.raises(NotFiniteError, match="tensor 'broken' has NaN or infinite entries"):
        drive(cut_passes(*rule, sizes, names), over(parts))
    parts[-1][0][1] = 0
    assert len(drive(cut_passes(*rule, sizes, names), over(parts))) == 3


def n_passes(passes, part, dtype):
    """Run passes over a part; return their result, and how many there were."""
    asked = []

    def evaluate(one):
        asked.append(one)
        return over([(part, dtype)])(one)

    return drive(passes, evaluate), len(asked)


@pytest.mark.parametrize(("dtype", "n"), [("bfloat16", 1), ("float16", 1), ("float32", 2)])
def test_to_cut_at_a_fraction_and_to_check_takes_one_pass_for_each_16_bits(dtype, n):
    part = to_patterns(np.arange(100.0), dtype)
    [cut], found = n_passes(cut_passes("sparsity", 0.25, [(dtype, 100)], ["w"]), part, dtype)
    assert found == n
    assert prune.keep_at_least(part, *cut[:2]).nonzero()[0].tolist() == list(range(25, 100))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_codebook_of_16_bits_takes_one_pass(dtype):
    part = to_patterns(np.linspace(-1, 1, 1000), dtype)
    fit, found = n_passes(codebook_passes.codebook_passes(5, dtype, 1000), part, dtype)
    assert (fit.codebook.size, found) == (32, 1)


PASSES = """
import resource, numpy as np
from deepcomp import codebook_passes, counts, cut_passes, prune, sharing
rng = np.random.default_rng(0)
weights = rng.standard_normal(1 << 21, np.float32)
patterns = (weights.view(np.uint32) >> 16).astype(np.uint16)
codebook = np.array([0xBF80, 0x3F80], np.uint16)
def pass_over():
    cut_passes._largest_magnitude(patterns, "bfloat16")
    cut_passes._count_digits(patterns, "bfloat16", "bfloat16", 0, -1)
    prune.keep_at_least(patterns, 0x3F00, 100, out=patterns)
    codebook_passes._count_patterns(patterns, "bfloat16")
    codebook_passes.put_codebook(patterns, "bfloat16", codebook)
    counts.count_entries(patterns, "bfloat16")
pass_over()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    pass_over()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or _kernels.build_info()["kernels"] != "native",
    reason="about malloc of glibc, and the twins make large arrays",
)
def test_passes_take_few_new_pages_where_malloc_keeps_none():
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"}  # as for the workers of Dask
    command = [sys.executable, "-c", PASSES]
    found = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert int(found.stdout) < 4 * 2000  # of 4 KiB; the part has 1024
