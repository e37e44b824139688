"""Rows of a tensor: the same as those of the dense array, from the blocks that hold them alone."""

import io
import tracemalloc
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from independent import FORMATS
from strategies import weights

import deepcomp
from deepcomp import _kernels, encode
from deepcomp.container import PAGE, Reader
from deepcomp.decode import TensorDecoder
from deepcomp.encode import Weight, encode_tensor
from deepcomp.records import MIN_BLOCK_NUMEL
from deepcomp.sections import read_section
from deepcomp.storage import model_of
from deepcomp.tensor import CompressedTensor, view


def in_small_blocks(weight):
    """Encode a tensor in blocks of 4096 entries, the smallest that there are."""
    with (
        mock.patch.object(encode, "MAX_BLOCK_NUMEL", MIN_BLOCK_NUMEL),
        mock.patch.object(encode, "_DENSE_BLOCK", MIN_BLOCK_NUMEL),
    ):
        record, parts = encode_tensor(weight)
    return CompressedTensor(record, lambda *_: view(b"".join(parts)))


@st.composite
def matrices(draw):
    """Draw a tensor of any dtype, of up to some blocks, of one to three dimensions."""
    weight = draw(weights(sizes=st.integers(0, 20_000)))
    width = draw(st.sampled_from((1, 3, 100, 5000)))
    rest = draw(st.sampled_from([(), (width,), (width, 1), (1, width)])) if width > 1 else ()
    rows = weight.patterns.size // int(np.prod(rest, dtype=int))
    patterns = weight.patterns[: rows * int(np.prod(rest, dtype=int))]
    return Weight("w", weight.dtype, (rows, *rest), patterns)


def check_rows(tensor, dense, start, stop):
    found = tensor.rows(start, stop)
    expected = dense[start:stop]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


@given(matrices(), st.data())
def test_rows_are_those_of_the_dense_array_bit_for_bit(weight, data):
    tensor = in_small_blocks(weight)
    dense = tensor.to_dense()
    for _ in range(4):
        start = data.draw(st.integers(0, weight.shape[0]))
        stop = data.draw(st.integers(start, weight.shape[0]))
        check_rows(tensor, dense, start, stop)
        check_rows(CompressedTensor(tensor.record, tensor._fetch), dense, start, stop)


@pytest.mark.parametrize("open_it", [str, lambda path: io.BytesIO(path.read_bytes())])
def test_all_pairs_of_bounds_around_the_ends_of_blocks(tmp_path, open_it):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3 * MIN_BLOCK_NUMEL + 5)) * (
        rng.random(3 * MIN_BLOCK_NUMEL + 5) < 0.3
    )
    packed = in_small_blocks(Weight("w", "float32", values.shape, values.astype("f4").view("u4")))
    assert packed.record.layout == "sparse" and packed.record.block_numel == MIN_BLOCK_NUMEL
    deepcomp.save(deepcomp.CompressedModel({"w": packed}), tmp_path / "m.dcz")
    ends = [0, 1, values.size - 1, values.size]
    ends += [i * MIN_BLOCK_NUMEL + k for i in (1, 2, 3) for k in (-1, 0, 1)]
    dense = packed.to_dense()
    for start in ends:
        for stop in ends:
            if start <= stop:
                check_rows(deepcomp.load(open_it(tmp_path / "m.dcz"))["w"], dense, start, stop)


def test_only_the_blocks_that_hold_the_rows_are_decoded():
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 3, 10 * MIN_BLOCK_NUMEL, np.uint8)
    tensor = in_small_blocks(Weight("w", "uint8", (10 * 8, 512), patterns))
    assert len(tensor.record.block_sizes) == 10
    for start, stop, n_blocks in [
        (0, 0, 0),
        (0, 1, 1),
        (7, 9, 2),
        (8, 16, 1),
        (9, 39, 4),
        (0, 80, 10),
    ]:
        decoded = []
        original = TensorDecoder._decode_blocks

        def spy(self, out, which, scratch, decoded=decoded, original=original):
            decoded.extend(which)
            original(self, out, which, scratch)

        with mock.patch.object(TensorDecoder, "_decode_blocks", spy):
            tensor.rows(start, stop)
        assert decoded == list(range(start // 8, start // 8 + n_blocks))


@pytest.mark.skipif(
    _kernels.build_info()["kernels"] != "native", reason="the twins take memory for themselves"
)
def test_blocks_that_are_wanted_as_a_whole_are_decoded_in_place():
    patterns = np.random.default_rng(0).integers(0, 3, 100 * MIN_BLOCK_NUMEL, np.uint8)
    tensor = in_small_blocks(Weight("w", "uint8", (100 * 8, 512), patterns))
    tensor.check()
    tracemalloc.start()
    rows = tensor.rows(1, 799)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.25 * rows.nbytes


@pytest.mark.parametrize("n_before", [0, 12, 100, 1000, 3000])
def test_a_head_that_goes_on_on_the_next_page_is_fetched(tmp_path, n_before):
    rng = np.random.default_rng(0)
    weight = rng.integers(0, 256, (90, 100)).astype(np.float64)
    before = rng.integers(0, 256, PAGE - 12 - n_before, np.uint8)
    packed = deepcomp.compress({"before": before, "w": weight}, bits=8)
    deepcomp.save(packed, tmp_path / "m.dcz")
    tensor = deepcomp.load(io.BytesIO((tmp_path / "m.dcz").read_bytes()))["w"]
    assert tensor.record.codebook == 256
    np.testing.assert_array_equal(tensor.rows(3, 5), weight[3:5])


def test_only_the_pages_of_these_blocks_and_of_the_head_are_checked(tmp_path):
    rng = np.random.default_rng(0)
    model = {
        "w": rng.integers(0, 200, (1000, 2000), np.uint8),
        "raw": rng.integers(0, 256, (1000, 500), np.uint8),
    }
    deepcomp.save(deepcomp.compress(model), tmp_path / "m.dcz")
    reader = Reader(tmp_path / "m.dcz")
    packed = model_of(reader)
    assert [packed[name].record.layout for name in model] == ["dense", "raw"]
    packed["w"].rows(999, 1000)
    checked = [page for page in range(reader.n_pages) if reader.pages.checked[page]]
    last_of_w = (12 + packed["w"].nbytes) // PAGE
    assert checked[0] == 0 and checked[1] > 2 * last_of_w / 3 and checked[-1] == last_of_w
    packed["raw"].rows(999, 1000)
    assert list(np.flatnonzero(reader.pages.checked))[len(checked) :] == [reader.n_pages - 1]


def test_a_damaged_page_matters_to_its_rows_only_and_is_named(tmp_path):
    path = tmp_path / "m.dcz"
    weight = np.random.default_rng(0).integers(0, 200, (1000, 2000), np.uint8)
    deepcomp.save(deepcomp.compress({"w": weight}), path)
    data = bytearray(path.read_bytes())
    data[12 * PAGE] ^= 1
    path.write_bytes(data)
    for file in (path, io.BytesIO(data)):
        tensor = deepcomp.load(file)["w"]
        np.testing.assert_array_equal(tensor.rows(0, 3), weight[:3])
        with pytest.raises(deepcomp.DczError, match=rf"tensor 'w': the page of bytes {12 * PAGE} "):
            tensor.rows(0, 1000)
        with pytest.raises(deepcomp.DczError, match=r"tensor 'w': the page of"):
            tensor.to_dense()
        np.testing.assert_array_equal(tensor.rows(990, 1000), weight[990:])


@pytest.mark.parametrize("bounds", [(-1, 2), (0, 4), (2, 1), (3, 4), (0, 2**70)])
def test_rows_that_are_not_there_are_an_index_error_that_names_the_tensor(bounds):
    tensor = deepcomp.compress({"w": np.ones((3, 5))})["w"]
    with pytest.raises(IndexError, match=r"tensor 'w': rows from .* expected 0 <= .* <= 3"):
        tensor.rows(*bounds)


def test_a_tensor_without_dimensions_has_no_rows():
    with pytest.raises(IndexError, match="tensor 'n' has no dimensions"):
        deepcomp.compress({"n": np.array(3)})["n"].rows(0, 1)


def test_bounds_must_be_integers_of_any_kind():
    tensor = deepcomp.compress({"w": np.ones((3, 5))})["w"]
    assert tensor.rows(np.int64(1), np.uint8(3)).shape == (2, 5)
    with pytest.raises(TypeError):
        tensor.rows(0, 1.0)


@pytest.mark.parametrize("shape", [(5, 0), (0, 5), (0,), (3, 0, 2)])
def test_empty_tensors_have_empty_rows(shape):
    tensor = deepcomp.compress({"w": np.ones(shape, np.float16)})["w"]
    check_rows(tensor, np.ones(shape, np.float16), 0, shape[0])


def test_rows_of_the_vectors_are_accepted_and_refused_as_the_dense_array_is():
    n_refused = 0
    for path in sorted((FORMATS / "vectors").glob("*valid/*.dcz")):
        try:
            packed = deepcomp.load(path)
        except deepcomp.DczError:
            continue
        for name, tensor in packed.items():
            if not tensor.shape:
                continue
            try:
                dense = tensor.to_dense()
            except deepcomp.DczError:
                with pytest.raises(deepcomp.DczError, match=rf"{path.name}: tensor "):
                    deepcomp.load(path)[name].rows(0, tensor.shape[0])
                n_refused += 1
            else:
                check_rows(deepcomp.load(path)[name], dense, 0, tensor.shape[0])
                check_rows(deepcomp.load(path)[name], dense, tensor.shape[0] // 2, tensor.shape[0])
    assert n_refused > 100


def check_head(tensor):
    parts = tensor.parts()
    if parts is not None:
        found = parts.codebook_nbytes + parts.codes_nbytes + parts.directory_nbytes
        assert found <= tensor.record.head_nbytes <= tensor.record.section_nbytes
        assert read_section(tensor.record, tensor.section()[: tensor.record.head_nbytes]) == parts


@given(matrices())
def test_codebook_codes_and_directory_are_in_the_head(weight):
    check_head(in_small_blocks(weight))


def test_codebook_codes_and_directory_of_the_vectors_are_in_the_head():
    for path in sorted((FORMATS / "vectors").glob("valid/*.dcz")):
        for tensor in deepcomp.load(path).values():
            check_head(tensor)


def test_rows_of_a_raw_tensor_are_a_copy():
    weight = np.random.default_rng(0).integers(0, 256, (20, 10), np.uint8)
    tensor = deepcomp.compress({"w": weight})["w"]
    assert tensor.record.layout == "raw"
    rows = tensor.rows(3, 7)
    rows[:] = 0
    np.testing.assert_array_equal(tensor.rows(3, 7), weight[3:7])
