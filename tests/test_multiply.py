"""Products from the compressed form: against float64, for every layout and instruction set."""

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import densities, generators

import deepcomp
from deepcomp import _kernels, decode, encode, layouts, multiply, threads
from deepcomp._native import cpu
from deepcomp.records import TensorRecord
from deepcomp.sections import encode_varint
from deepcomp.tensor import CompressedTensor

IS_NATIVE = _kernels.build_info()["kernels"] == "native"
ISAS = range(cpu.best_isa() + 1) if IS_NATIVE else [_kernels.ISA]


def matrix(rng, shape, density=0.1, n_values=31, dtype=np.float32):
    """Return a matrix with so many distinct values; 0: all are distinct."""
    weights = rng.standard_normal(shape)
    if n_values:
        weights = rng.standard_normal(n_values)[rng.integers(0, n_values, shape)]
    return np.where(rng.random(shape) < density, weights, 0).astype(dtype)


def compressed(weights):
    return deepcomp.compress({"w": weights}, bits=None)["w"]


def check(found, weights, x):
    expected = weights.astype(np.float64) @ x.astype(np.float64)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    # where products cancel out, no more can be asked for than that each of them is rounded once
    terms = np.abs(weights.astype(np.float64)) @ np.abs(x.astype(np.float64))
    allowed = max(1e-6 * np.abs(expected).max(initial=0), 2**-24 * terms.max(initial=0))
    assert np.abs(found - expected).max(initial=0) <= allowed


@st.composite
def problems(draw):
    rng = draw(generators())
    shape = draw(st.integers(1, 70)), draw(st.sampled_from((1, 2, 15, 17, 31, 64, 200)))
    n_values = draw(st.sampled_from((0, 1, 31, 32, 33, 63, 64, 256)))
    dtype = draw(st.sampled_from((np.float16, np.float32, np.float64)))
    weights = matrix(rng, shape, draw(densities), n_values, dtype)
    if draw(st.booleans()):
        weights[rng.random(shape[0]) < 0.5] = 0
    m = draw(st.sampled_from((None, 0, 1, 2, 5, 9, 17, 64)))
    x = rng.standard_normal(shape[1:] if m is None else (shape[1], m))
    return weights, x.astype(draw(st.sampled_from((np.float16, np.float32))))


@pytest.mark.parametrize("isa", ISAS)
@given(problem=problems())
def test_products_are_those_of_float64(isa, problem):
    weights, x = problem
    with mock.patch.object(_kernels, "ISA", isa):
        check(deepcomp.matmul(compressed(weights), x), weights, x)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n_values", [31, 63, 256])
@pytest.mark.parametrize(
    "shape", [(33, 70_001), (1, 4000), (4000, 1), (257, 1025)] if IS_NATIVE else [(9, 70_001)]
)
def test_large_shapes(isa, shape, n_values):
    rng = np.random.default_rng(0)
    weights = matrix(rng, shape, 0.02, n_values)
    tensor = compressed(weights)
    with mock.patch.object(_kernels, "ISA", isa):
        for m in (None, 3, 24):
            x = rng.standard_normal(shape[1:] if m is None else (shape[1], m)).astype(np.float32)
            check(deepcomp.matmul(tensor, x), weights, x)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n_values", [31, 63, 100, 0])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("m", [None, 1, 3, 8, 40])
def test_what_is_not_finite_reaches_only_rows_with_a_weight_there(isa, n_values, bad, m):
    rng = np.random.default_rng(1)
    weights = matrix(rng, (50, 77), 0.05, n_values)
    x = rng.standard_normal((77, m or 1)).astype(np.float32)
    columns = rng.permutation(77)[:3]
    x[columns, rng.integers(0, m or 1, 3)] = bad
    with np.errstate(invalid="ignore"):
        expected = np.array(
            [[(w[w != 0] * col[w != 0]).sum() for col in x.T] for w in weights], np.float64
        )
    with mock.patch.object(_kernels, "ISA", isa):
        found = deepcomp.matmul(compressed(weights), x if m else x[:, 0])
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_values", [31, 63, 0])
@pytest.mark.parametrize("m", [None, 3, 64])
@pytest.mark.parametrize("n_threads", [2, 3, 16])
def test_threads_change_nothing(n_values, m, n_threads):
    rng = np.random.default_rng(2)
    weights = matrix(rng, (150, 130), 0.3, n_values)
    x = rng.standard_normal(130 if m is None else (130, m)).astype(np.float32)
    tensor = compressed(weights)
    expected = deepcomp.matmul(tensor, x)
    with (
        mock.patch.object(threads, "WORK_A_THREAD", 10),
        mock.patch.object(multiply, "WORK_A_THREAD", 10),
    ):
        found = deepcomp.matmul(tensor, x, n_threads=n_threads)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("n_values", [1, 31])
@pytest.mark.parametrize("m", [None, 20])
def test_blocks_that_are_walked_in_several_calls(n_values, m):
    weights = matrix(np.random.default_rng(4), (90, 200), 0.3, n_values)
    x = np.arange(200 * (m or 1), dtype=np.float32).reshape(200 if m is None else (200, m))
    with mock.patch.object(encode, "MAX_BLOCK_NUMEL", 4096):
        tensor = compressed(weights)
    assert len(tensor.parts().blocks) == 5
    few = mock.patch.object(decode, "MAX_TABLE", 2), mock.patch.object(layouts, "MAX_TABLE", 2)
    with few[0], few[1]:
        found = deepcomp.matmul(tensor, x)
    np.testing.assert_array_equal(found, deepcomp.matmul(compressed(weights), x))


def test_many_threads_share_one_tensor():
    rng = np.random.default_rng(3)
    weights = matrix(rng, (90, 200))
    tensor, xs = compressed(weights), rng.standard_normal((32, 200, 9)).astype(np.float32)
    xs[::2, :, 1:] = 0
    with ThreadPoolExecutor(4) as pool:
        for x, y in zip(xs, pool.map(lambda x: deepcomp.matmul(tensor, x), xs), strict=True):
            check(y, weights, x)


def test_stored_layouts_all_work():
    rng = np.random.default_rng(4)
    x = rng.standard_normal(60).astype(np.float32)
    stored = set()
    for density, n_values, n_rows in [(0.1, 31, 400), (0.1, 0, 400), (1, 31, 400), (1, 0, 2)]:
        weights = matrix(rng, (n_rows, 60), density, n_values)
        tensor = compressed(weights)
        stored.add((tensor.record.layout, tensor.record.codebook is None))
        check(deepcomp.matmul(tensor, x), weights, x)
    assert {("sparse", False), ("sparse", True), ("dense", False)} <= stored
    for dtype in ("int8", "bool", "int32"):
        weights = rng.integers(0, 2, (30, 60)).astype(dtype)
        check(deepcomp.matmul(compressed(weights), x), weights, x)


def test_zeros_with_signs_are_not_kept():
    weights = np.where(np.eye(40, dtype=np.float32) != 0, 2, -0.0).astype(np.float32)
    x = np.full(40, np.inf, np.float32)
    np.testing.assert_array_equal(deepcomp.matmul(compressed(weights), x), x)


def test_an_outer_product_of_nothing():
    tensor = compressed(np.zeros((5, 0), np.float32))
    assert deepcomp.matmul(tensor, np.zeros(0, np.float32)).tolist() == [0] * 5
    assert deepcomp.matmul(tensor, np.zeros((0, 3), np.float32)).tolist() == [[0] * 3] * 5
    tensor = compressed(np.zeros((0, 5), np.float32))
    assert deepcomp.matmul(tensor, np.zeros(5, np.float32)).shape == (0,)
    tensor = compressed(np.zeros((4, 5), np.float32))
    assert deepcomp.matmul(tensor, np.full(5, np.nan, np.float32)).tolist() == [0] * 4


def test_out_and_inputs_of_any_layout_in_memory():
    rng = np.random.default_rng(5)
    weights = matrix(rng, (20, 30))
    tensor, x = compressed(weights), rng.standard_normal((30, 12)).astype(np.float32)
    out = np.full((20, 12), np.nan, np.float32)
    assert deepcomp.matmul(tensor, x, out=out) is out
    check(out, weights, x)
    for view in (np.asfortranarray(x), x[:, ::2], x[:, ::-1], x.astype(">f4").astype("f4")):
        check(deepcomp.matmul(tensor, view), weights, view)
    x.flags.writeable = False
    check(deepcomp.matmul(tensor, x), weights, x)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros(4, np.float32), r"x has shape \(4,\): expected \(5,\) or \(5, m\)"),
        (np.zeros((3, 5), np.float32), r"x has shape \(3, 5\)"),
        (np.zeros((5, 1, 1), np.float32), r"x has shape \(5, 1, 1\)"),
        (np.float32(1), r"x is float32"),
        (np.zeros(5), "x is float64: expected an array of float32 or float16"),
        (np.zeros(5, np.int64), "x is int64"),
        ([0.0] * 5, "x is list"),
    ],
)
def test_a_wrong_input_is_a_clear_error(x, message):
    with pytest.raises(ValueError, match=message):
        deepcomp.matmul(compressed(np.eye(5, dtype=np.float32)), x)


def test_other_wrong_arguments_are_clear_errors():
    tensor, x = compressed(np.eye(5, dtype=np.float32)), np.ones(5, np.float32)
    with pytest.raises(TypeError, match="expected a CompressedTensor, not ndarray"):
        deepcomp.matmul(np.eye(5), x)
    for shape in ((5,), (5, 5, 1)):
        with pytest.raises(ValueError, match="expected two dimensions"):
            deepcomp.matmul(compressed(np.zeros(shape, np.float32)), x)
    outs = np.zeros(5), np.zeros(6, np.float32), np.zeros(10, np.float32)[::2], None
    for out, message in zip(
        outs, ("out is float64", "out is float32", "C-contiguous"), strict=False
    ):
        with pytest.raises(ValueError, match=message):
            deepcomp.matmul(tensor, x, out=out)
    with pytest.raises(ValueError, match="out overlaps x"):
        deepcomp.matmul(tensor, x, out=x)
    for n_threads in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="n_threads"):
            deepcomp.matmul(tensor, x, n_threads=n_threads)


def test_layouts_are_made_when_needed_and_are_small():
    weights = matrix(np.random.default_rng(6), (512, 2048), 0.09)
    tensor = compressed(weights)
    assert tensor._matrix.nbytes == 0
    x = np.ones((2048, 64), np.float32)
    deepcomp.matmul(tensor, x[:, 0])
    one = tensor._matrix.nbytes
    assert 0 < one <= 0.31 * weights.size
    deepcomp.matmul(tensor, x)
    assert one <= tensor._matrix.nbytes <= 0.7 * weights.size


def test_damage_in_a_file_is_reported_with_its_name(tmp_path):
    path = tmp_path / "m.dcz"
    deepcomp.save({"w": matrix(np.random.default_rng(7), (300, 300))}, path)
    data = bytearray(path.read_bytes())
    data[200] ^= 4
    path.write_bytes(data)
    with pytest.raises(deepcomp.DczError, match=r"m\.dcz.*'w'"):
        deepcomp.matmul(deepcomp.load(path)["w"], np.ones(300, np.float32))


def test_a_copy_of_a_tensor_that_was_used_makes_layouts_of_its_own():
    tensor = deepcomp.compress({"w": np.eye(40, dtype=np.float32)}, bits=2)["w"]
    x = np.arange(40, dtype=np.float32)
    assert (deepcomp.matmul(tensor, x) == x).all()
    other = copy.deepcopy(tensor)
    del tensor
    assert (deepcomp.matmul(other, x) == x).all()


@pytest.mark.filterwarnings("error")
def test_signalling_nans_are_multiplied_without_a_warning():
    weights = np.ones((3, 4))
    weights[1, 2] = np.uint64(0x7FF0000000000001).view(np.float64)  # found by fuzzing
    packed = deepcomp.compress({"w": weights}, bits=None)
    product = deepcomp.matmul(packed["w"], np.ones(4, np.float32))
    np.testing.assert_array_equal(product, [4, np.nan, 4])


@pytest.mark.parametrize("density", [0.02, 0.4])
@pytest.mark.parametrize("n_values", [31, 63])
def test_a_block_is_laid_out_in_pieces(density, n_values):
    weights = matrix(np.random.default_rng(5), (300, 700), density, n_values)
    weights[40:90] = 0  # whole groups of rows are empty
    tensor = compressed(weights)
    assert len(tensor.parts().blocks) == 1
    x = np.random.default_rng(6).standard_normal(700).astype(np.float32)
    for isa in ISAS:
        with mock.patch.object(_kernels, "ISA", isa):
            check(deepcomp.matmul(compressed(weights), x), weights, x)


@pytest.mark.skipif(_kernels.ISA < 1, reason="there are no windows without AVX2")
def test_windows_of_a_section_are_those_of_its_entries():
    weights = matrix(np.random.default_rng(7), (333, 500), 0.2, 31)
    tensor = compressed(weights)
    found = layouts.decode_windows(tensor._decoder)
    expected = layouts.to_windows(tensor._entries(), found.kind)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(_kernels.ISA < 1, reason="there are no windows without AVX2")
@pytest.mark.parametrize("zeros", [(0, 4000), (1000, 4096), (2500, 6000), (4000, 4097)])
@pytest.mark.parametrize("density", [0.1, 0.3, 0.5])
def test_a_section_whose_blocks_end_with_rows_of_zeros_becomes_the_same_windows(zeros, density):
    weights = matrix(np.random.default_rng(3), (8192, 32), density, 31)
    weights[slice(*zeros)] = 0
    with mock.patch.multiple(encode, MAX_BLOCK_NUMEL=1 << 17, MAX_WHOLE_NUMEL=0):
        tensor = compressed(weights)
    assert tensor.record.layout == "sparse"
    assert tensor.record.block_numel == 1 << 17
    found = layouts.decode_windows(tensor._decoder)
    expected = layouts.to_windows(tensor._entries(), found.kind)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


# --- at the edges of what the layouts hold ---


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n_values", [31, 32, 33, 62, 63, 64, 65, 255, 256])
@pytest.mark.parametrize("density", [0.04, 1])
def test_codebooks_that_just_fit_or_just_do_not_are_all_used(isa, n_values, density):
    values = np.arange(1, n_values + 1, dtype=np.float32)
    weights = np.zeros((37, 70 if density == 1 else 1750), np.float32)
    places = np.random.default_rng(0).permutation(weights.size)[: round(density * weights.size)]
    weights.reshape(-1)[places] = np.resize(values, places.size)
    tensor = compressed(weights)
    assert np.setdiff1d(values, weights).size == 0 and tensor.record.codebook - n_values in (0, 1)
    with mock.patch.object(_kernels, "ISA", isa):
        for m in (None, 3, 24):
            x = np.ones(weights.shape[1:] if m is None else (weights.shape[1], m), np.float32)
            np.testing.assert_array_equal(deepcomp.matmul(tensor, x), weights @ x)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n_values", [3, 40, 100])
@pytest.mark.parametrize("bad", [np.inf, np.nan])
@pytest.mark.parametrize("m", [None, 3, 24])
def test_a_first_value_that_is_not_finite_reaches_only_its_own_rows(isa, n_values, bad, m):
    weights = np.zeros((40, 100), np.float32)  # of some rows a window has fewer entries than slots
    weights[::3, ::9] = np.resize(-np.arange(1, n_values, dtype=np.float32), (14, 12))
    weights[1, 5] = bad  # its pattern is below those of negative values
    tensor = compressed(weights)
    x = np.ones(100 if m is None else (100, m), np.float32)
    assert not np.isfinite(tensor._entries().values[0])
    with mock.patch.object(_kernels, "ISA", isa):
        found = deepcomp.matmul(tensor, x)
    expected = weights @ np.ones(100) if m is None else weights @ np.ones((100, m))
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(np.delete(found, 1, axis=0)).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n_values", [3, 40, 100])
@pytest.mark.parametrize("bad", [np.inf, np.nan])
@pytest.mark.parametrize("m", [None, 3, 24])
def test_an_input_that_is_not_finite_reaches_no_row_that_has_fewer_weights(isa, n_values, bad, m):
    """Where a window begins with it, the places that other rows do not use must not read it."""
    weights = np.zeros((112, 112), np.float32)
    np.fill_diagonal(weights, np.resize(np.arange(1, n_values + 1), 112))
    x = np.ones(112 if m is None else (112, m), np.float32)
    x[::8] = bad
    with mock.patch.object(_kernels, "ISA", isa):
        found = deepcomp.matmul(compressed(weights), x)
    np.testing.assert_array_equal(found.T, np.diag(weights) * x.T)


@pytest.mark.parametrize("said", [-3, -1, 1])
def test_a_dense_block_that_keeps_more_or_fewer_than_it_says_is_refused(said):
    tensor = compressed(np.arange(72, dtype=np.float32).reshape(8, 9) % 8)
    record, parts, section = tensor.record, tensor.parts(), bytearray(tensor.section())
    directory = parts.codebook_nbytes + parts.codes_nbytes
    assert (record.layout, record.nnz, section[directory]) == ("dense", 63, 63)
    section[directory] += said
    other = CompressedTensor(replace(record, nnz=63 + said), lambda *_: memoryview(bytes(section)))
    for x in (np.ones(9, np.float32), np.ones((9, 20), np.float32)):
        with pytest.raises(deepcomp.DczError, match=f"does not keep {63 + said}"):
            deepcomp.matmul(other, x)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("m", [None, 20])
def test_a_last_gap_that_leads_out_of_the_matrix_is_refused_wherever_it_is(isa, m):
    for n_kept in range(1, 131):  # a gap of one before each: two columns an entry
        section = np.float32(2).tobytes() + bytes([1, 1, 1, 0])
        section += encode_varint(n_kept) + bytes(1)
        for n_columns in (2 * n_kept, 2 * n_kept - 1):
            record = TensorRecord(
                "w", "float32", (1, n_columns), "sparse", len(section), n_kept, 1, gap_bits=2
            )
            tensor = CompressedTensor(record, lambda *_, s=section: memoryview(s))
            x = np.ones(n_columns if m is None else (n_columns, m), np.float32)
            with mock.patch.object(_kernels, "ISA", isa):
                if n_columns % 2:
                    with pytest.raises(deepcomp.DczError, match="gaps lead out of the block"):
                        deepcomp.matmul(tensor, x)
                else:
                    assert (deepcomp.matmul(tensor, x) == 2 * n_kept).all()


def test_what_becomes_zero_in_float32_is_not_kept():
    weights = np.zeros((3, 400))
    weights[0] = 1e-300 * np.arange(1, 401)
    weights[1], weights[2, ::2] = np.arange(1, 401), 1e-300
    tensor = compressed(weights)
    for m in (1, 20):
        found = deepcomp.matmul(tensor, np.full((400, m), np.inf, np.float32))
        np.testing.assert_array_equal(found, [[0] * m, [np.inf] * m, [0] * m])


def test_more_columns_than_a_kernel_counts_are_refused():
    multiply.CompressedMatrix(lambda: None, (1, (1 << 31) - 1))
    with pytest.raises(ValueError, match="2147483648 columns are too many: expected at most"):
        multiply.CompressedMatrix(lambda: None, (1, 1 << 31))


@pytest.mark.parametrize("first", range(-4, 5))
def test_an_output_that_overlaps_the_input_anywhere_is_refused(first):
    tensor, memory = compressed(np.eye(5, dtype=np.float32)), np.ones(13, np.float32)
    with pytest.raises(ValueError, match="out overlaps x"):
        deepcomp.matmul(tensor, memory[4:9], out=memory[4 + first : 9 + first])
    assert (memory == 1).all()


def test_an_output_beside_the_input_is_taken():
    tensor, memory = compressed(np.eye(5, dtype=np.float32)), np.ones(10, np.float32)
    deepcomp.matmul(tensor, memory[:5], out=memory[5:])
    assert (memory == 1).all()
