"""Rows of zeros are not stored where that is smaller, and every reader puts them back."""

import io
import tracemalloc
from contextlib import nullcontext
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from independent import dcz_decoder
from strategies import generators, weights

import deepcomp
from deepcomp import encode, kept_rows, report
from deepcomp.cli import inspect_main, main
from deepcomp.difference import difference
from deepcomp.encode import Weight, encode_tensor
from deepcomp.figures import code_lengths, histogram, zeros
from deepcomp.kept_rows import RowsDecoder, decoder_of
from deepcomp.records import MAX_BLOCK_NUMEL, MIN_BLOCK_NUMEL, TensorRecord
from deepcomp.tensor import CompressedTensor, view

small_blocks = mock.patch.multiple(
    encode, MAX_BLOCK_NUMEL=MIN_BLOCK_NUMEL, _DENSE_BLOCK=MIN_BLOCK_NUMEL
)
always = mock.patch.multiple(encode, _WORTH_MOVING=0, _KEPT_ROWS_NBYTES=0)


few = st.integers(1, 300)
many = st.integers(1, 20_000)  # entries: several blocks


@st.composite
def matrices(draw, sizes=few):
    """Draw a tensor of any dtype with rows of zeros: none of them, some, or all."""
    weight = draw(weights(sizes=sizes))
    width = draw(st.sampled_from((1, 2, 7, 40, 5000)))
    n_rows = max(1, weight.patterns.size // width)
    patterns = np.resize(weight.patterns, n_rows * width).reshape(n_rows, width)
    patterns[draw(generators()).random(n_rows) < draw(st.sampled_from((0, 0.3, 0.9, 1)))] = 0
    shape = draw(st.sampled_from([(n_rows, width), (n_rows, 1, width), (n_rows, width, 1, 1)]))
    return Weight("w", weight.dtype, shape, patterns.reshape(-1))


def encoded(weight):
    """Encode a tensor in small blocks; its rows of zeros are left out wherever that is allowed."""
    # of the whole tensor a plan is made that is larger than any other
    with small_blocks, always, mock.patch.object(encode, "make_plan", larger(encode.make_plan)):
        record, section = encode_tensor(weight)
    return CompressedTensor(record, lambda *_: view(b"".join(section)))


def larger(make_plan):
    return lambda *arguments: replace(make_plan(*arguments), nbytes=1 << 40)


def bits_of(array):
    return np.ascontiguousarray(array).tobytes()


def n_nonzero_rows(weight):
    return int(weight.patterns.reshape(weight.shape[0], -1).any(axis=1).sum())


# --- what comes back ---


@given(matrices(many))
def test_every_dtype_shape_and_layout_comes_back_bit_for_bit(weight):
    tensor = encoded(weight)
    n_kept, n_rows = n_nonzero_rows(weight), weight.shape[0]
    if tensor.record.kept_rows is not None:
        assert tensor.record.kept_rows == n_kept
    elif 0 < n_kept < n_rows:  # fewer entries than byte planes are for
        assert n_kept * (weight.patterns.size // n_rows) < 64
    expected = weight.patterns.tobytes()
    assert tensor.decode_patterns().tobytes() == expected
    assert tensor.decode_patterns(n_threads=3).tobytes() == expected
    assert b"".join(entries.tobytes() for entries in tensor.decode_blocks()) == expected
    tensor.verify()


@pytest.mark.parametrize("kept", [[1], [0, 2], [1, 2, 3], [0, 1, 5], [6], [0, 1, 2, 3, 4, 5]])
@pytest.mark.parametrize("moved", [1, 14, 1 << 18])
def test_each_row_comes_to_its_own_place(kept, moved):
    """Whatever rows are zero, at the beginning, at the end or between, and in however few steps."""
    rows = np.zeros((7, 7), np.uint8)
    rows[kept] = 1 + np.arange(7 * len(kept)).reshape(-1, 7) % 5
    tensor = encoded(Weight("w", "uint8", rows.shape, rows.reshape(-1)))
    assert tensor.record.kept_rows == len(kept)
    with mock.patch.object(kept_rows, "_MOVED", moved):
        np.testing.assert_array_equal(tensor.to_dense(), rows)
    np.testing.assert_array_equal(tensor.to_csr().indices, np.nonzero(rows)[1])
    for start in range(8):
        for stop in range(start, 8):
            np.testing.assert_array_equal(tensor.rows(start, stop), rows[start:stop])
    positions, patterns = tensor.decode_with(lambda decoder: decoder.kept())
    np.testing.assert_array_equal(positions, np.flatnonzero(rows))
    np.testing.assert_array_equal(patterns, rows[rows != 0])


@given(matrices())
def test_the_independent_decoder_agrees(weight):
    tensor, file = encoded(weight), io.BytesIO()
    with mock.patch("deepcomp.writer.replacement", lambda *_: Unsynced(file)):
        deepcomp.save(deepcomp.CompressedModel({"w": tensor}), "m.dcz")
    [found] = dcz_decoder.decode(file.getvalue())[1]
    assert (found.shape, found.patterns) == (weight.shape, weight.patterns.tobytes())


class Unsynced:
    """A file in memory in the place of a `Replacement`."""

    def __init__(self, file):
        self.write = file.write
        self._file = file

    def rewrite(self, offset, data):
        self._file.getbuffer()[offset : offset + len(data)] = data

    def sync(self):
        pass

    commit = close = sync


@given(matrices(many), st.data())
def test_rows_are_those_of_the_whole_tensor(weight, data):
    tensor, dense = encoded(weight), encoded(weight).to_dense()
    for _ in range(3):
        start = data.draw(st.integers(0, weight.shape[0]))
        stop = data.draw(st.integers(start, weight.shape[0]))
        fresh = CompressedTensor(tensor.record, only_what_is_asked_for(tensor.section()))
        assert bits_of(fresh.rows(start, stop)) == bits_of(dense[start:stop])
        assert bits_of(tensor.rows(start, stop)) == bits_of(dense[start:stop])


def only_what_is_asked_for(section):
    """Return what fetches a section of which all other bytes are something else."""
    fetched = bytearray(b"\xa5" * len(section))

    def fetch(start, end):
        fetched[start:end] = section[start:end]
        return memoryview(fetched)

    return fetch


@given(matrices())
def test_kept_entries_are_those_of_the_whole_tensor(weight):
    tensor = encoded(weight)
    mask = (1 << (8 * tensor.record.itemsize - ("float" in weight.dtype))) - 1
    where = np.flatnonzero(weight.patterns & weight.patterns.dtype.type(mask))
    for positions, patterns in (
        tensor.decode_with(lambda decoder: decoder.kept()),
        map(np.concatenate, zip(*tensor.decode_with(lambda d: list(d.kept_blocks())), strict=True)),
    ):
        np.testing.assert_array_equal(positions, where)
        np.testing.assert_array_equal(patterns, weight.patterns[where])


def filters(dtype=np.float32, n_values=None, density=1.0, shape=(64, 90), seed=0):
    """Return filters of which every fourth is zero."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape)
    if n_values:
        values = rng.standard_normal(n_values)[rng.integers(0, n_values, shape)]
    values *= rng.random(shape) < density
    values[::4] = 0
    return values.astype(dtype)


KINDS = {
    "dense, codebook": (31, 1.0),
    "dense, planes": (None, 1.0),
    "sparse, codebook": (31, 0.2),
    "sparse, planes": (None, 0.2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_products_csr_and_out_are_those_of_the_dense_array(kind):
    weight = filters(np.float32, *KINDS[kind])
    tensor = deepcomp.compress({"w": weight}, bits=None)["w"]
    layout = f"{tensor.record.layout}, {'codebook' if tensor.record.codebook else 'planes'}"
    assert (layout, tensor.record.kept_rows) == (kind, 48)
    rng = np.random.default_rng(1)
    for shape in ((90,), (90, 3), (90, 40)):
        x = rng.standard_normal(shape).astype(np.float32)
        np.testing.assert_allclose(deepcomp.matmul(tensor, x), weight @ x, rtol=1e-4, atol=1e-4)
    csr, out = tensor.to_csr(), np.full_like(weight, np.nan)
    np.testing.assert_array_equal(np.diff(csr.indptr), np.count_nonzero(weight, axis=1))
    np.testing.assert_array_equal(csr.data, weight[weight != 0])
    np.testing.assert_array_equal(csr.indices, np.nonzero(weight)[1])
    assert tensor.to_dense(out=out) is out and (out == weight).all()
    with pytest.raises(ValueError, match=r"out is float32 \[64, 89\]|expected"):
        tensor.to_dense(out=out[:, :89])
    with pytest.raises(ValueError, match="expected uint32 \\[5760\\], contiguous"):
        tensor.decode_patterns(np.empty(4320, np.uint32))


def test_rows_of_several_blocks_are_decoded_by_any_number_of_threads():
    weight = filters(np.float16, 30, shape=(800, 1000))
    tensor = deepcomp.compress({"w": weight})["w"]
    assert tensor.record.kept_rows == 600 and len(tensor.parts().blocks) == 3
    for n_threads in (1, 2, 5):
        assert bits_of(tensor.to_dense(n_threads=n_threads)) == bits_of(weight)


@pytest.mark.parametrize("rows", [[1], [2], [0, 2]])
def test_parts_of_a_tensor_are_as_small_as_blocks_where_many_rows_are_zero(rows):
    weight = np.zeros((3, MAX_BLOCK_NUMEL + 5), np.uint8)
    weight[rows] = np.random.default_rng(0).integers(1, 4, weight.shape[1])
    tensor = deepcomp.compress({"w": weight})["w"]
    parts = list(tensor.decode_blocks())
    assert tensor.record.kept_rows == len(rows) and max(p.size for p in parts) <= MAX_BLOCK_NUMEL
    assert b"".join(p.tobytes() for p in parts) == weight.tobytes()


def test_parts_of_many_small_blocks_are_put_together_once():
    weight = Weight("w", "uint8", (1200, 1000), np.ones(1_200_000, np.uint8))
    weight.patterns[-1000:] = 0
    tensor, n_joined, join = encoded(weight), [], np.concatenate
    assert len(tensor.parts().blocks) > 250

    def counting(arrays):
        n_joined.append(sum(a.size for a in arrays))
        return join(arrays)

    with mock.patch.object(np, "concatenate", counting):
        assert sum(part.size for part in tensor.decode_blocks()) == 1_200_000
    assert sum(n_joined) < 3 * 1_200_000


def test_to_verify_a_tensor_takes_little_memory_for_a_row():
    n_rows = 1 << 21
    weight = Weight("w", "uint8", (n_rows, 1), np.ones(n_rows, np.uint8))
    weight.patterns[-1] = 0
    tensor = encoded(weight)
    assert tensor.record.kept_rows == n_rows - 1
    tracemalloc.start()
    try:
        tensor.verify()
        assert tracemalloc.get_traced_memory()[1] < 4 * n_rows
    finally:
        tracemalloc.stop()


def test_only_what_is_needed_of_the_file_is_read_for_some_rows(tmp_path):
    weight = np.random.default_rng(0).integers(1, 250, (900, 2000), np.uint8)
    weight[::3] = 0
    deepcomp.save({"w": weight, "rest": weight[1].copy()}, tmp_path / "m.dcz")
    file = io.BytesIO((tmp_path / "m.dcz").read_bytes())
    tensor, n_read = deepcomp.load(file)["w"], []
    assert tensor.record.kept_rows == 600 and len(tensor.parts().blocks) == 5
    tensor = deepcomp.load(counted(file, n_read))["w"]
    n_read.clear()
    assert (tensor.rows(880, 890) == weight[880:890]).all()
    assert sum(n_read) < 0.45 * tensor.nbytes
    n_read.clear()
    assert tensor.rows(3, 4).any() == np.False_ and sum(n_read) == 0


def counted(file, n_read):
    class Counted(io.BytesIO):
        def read(self, n=-1):
            data = super().read(n)
            n_read.append(len(data))
            return data

        def readinto(self, room):
            n = super().readinto(room)
            n_read.append(n)
            return n

    return Counted(file.getvalue())


@pytest.mark.parametrize("batch", [1, 5])
def test_layers_compute_from_such_weights(batch):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3), torch.nn.Flatten(), torch.nn.Linear(16 * 36, 20)
    )
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight[::4] = 0
    packed = deepcomp.compress(model, bits=5)
    assert [packed[f"{i}.weight"].record.kept_rows for i in (0, 2)] == [12, 15]
    packed.restore(model)
    x = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = model(x)
    assert all(layer.is_sparse for layer in packed.restore(model, layers="sparse").layers)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)


# --- when rows are left out ---


@pytest.mark.parametrize("chosen", [nullcontext(), always], ids=["chosen", "tried"])
@given(weight=matrices(st.integers(1, 5000)))
def test_rows_are_left_out_only_where_the_section_gets_smaller(weight, chosen):
    with chosen:
        record, section = encode_tensor(weight)
    with mock.patch.object(encode, "MAX_WHOLE_NUMEL", 0):
        whole, whole_section = encode_tensor(weight)
    assert whole.kept_rows is None
    n, n_whole = sum(map(len, section)), sum(map(len, whole_section))
    assert n == record.section_nbytes
    if record.kept_rows is None:
        assert b"".join(section) == b"".join(whole_section) and record == whole
    else:
        assert n < n_whole and record.kept_rows == n_nonzero_rows(weight) < weight.shape[0]


@pytest.mark.parametrize("shape", [(1, 5000), (5000,), (5000, 0), (0, 7), ()])
def test_tensors_that_have_no_rows_of_zeros_to_leave_out_keep_all(shape):
    weight = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape) % 7
    tensor = deepcomp.compress({"w": weight})["w"]
    assert tensor.record.kept_rows is None
    assert bits_of(tensor.to_dense()) == bits_of(weight)


def test_a_tensor_of_zeros_alone_keeps_no_bitmap():
    assert deepcomp.compress({"w": np.zeros((900, 90))})["w"].nbytes < 10


def test_a_row_of_negative_zeros_is_kept():
    weight = filters()
    weight[4] = -0.0
    tensor = deepcomp.compress({"w": weight}, bits=None)["w"]
    assert tensor.record.kept_rows == 49
    assert bits_of(tensor.to_dense()) == bits_of(weight)


def test_some_rows_of_zeros_of_a_pruned_tensor_are_not_worth_a_bitmap():
    weight = filters(density=0.02, shape=(640, 90))
    weight[weight.any(axis=1), 0] = 1
    weight[:600:4, 5] = 1
    assert deepcomp.compress({"w": weight}, bits=5)["w"].record.kept_rows is None


def test_compressing_again_what_was_loaded_gives_the_same_file(tmp_path):
    model = {"a": filters(), "b": filters(np.float16, 9), "c": filters(density=0.1)}
    deepcomp.save(deepcomp.compress(model, bits=5), tmp_path / "first.dcz")
    packed = deepcomp.load(tmp_path / "first.dcz")
    assert [t.record.kept_rows for t in packed.values()] == [48, 48, None]
    dense = {name: tensor.to_dense() for name, tensor in packed.items()}
    deepcomp.save(deepcomp.compress(dense, bits=5), tmp_path / "again.dcz")
    deepcomp.save(dense, tmp_path / "exact.dcz")
    deepcomp.save(packed, tmp_path / "copy.dcz", verify=True)
    first = (tmp_path / "first.dcz").read_bytes()
    assert first[8:12] == bytes([1, 0, 1, 0])
    for name in ("again", "exact", "copy"):
        assert (tmp_path / f"{name}.dcz").read_bytes() == first


# --- what is said about them ---


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_counts_the_bitmap_with_the_index(kind):
    n_values, density = KINDS[kind]
    packed = deepcomp.compress({"w": filters(np.float32, n_values, density, (64, 900))})
    found = report.report_model(packed)
    [row] = found.rows
    assert row.parts["rows"] == 8 and sum(row.parts.values()) == row.nbytes
    assert row.index_bits_huffman == 8 * (row.parts["gaps"] + 8) / row.nnz
    assert row.index_bits >= 64 / row.nnz and row.kept == packed["w"].density
    assert found.format_version == "1.1" and report.to_json(found)["parts"]["rows"] == 8


def test_pictures_show_the_whole_tensor():
    weight = filters(n_values=5, shape=(8, 400))
    tensor = deepcomp.compress({"w": weight})["w"]
    assert tensor.record.kept_rows == 6
    assert zeros(tensor).density.sum() * zeros(tensor).cell ** 2 == np.count_nonzero(weight)
    found = histogram(tensor)
    assert found.n_zeros == 800 and found.counts.sum() == 2400
    assert [code.counts.sum() for code in code_lengths(tensor)] == [2400]
    exact = histogram(deepcomp.compress({"w": filters(shape=(8, 400))})["w"])
    assert exact.n_zeros == 800 and exact.counts.sum() == 2400


def test_inspect_verify_diff_and_decompress_take_such_files(tmp_path, capsys):
    paths = [str(tmp_path / name) for name in ("a.dcz", "b.dcz", "a.npz")]
    weight = filters(n_values=9)
    other = weight.copy()
    other[0, 0] = 1
    deepcomp.save({"w": weight}, paths[0])
    deepcomp.save({"w": other}, paths[1])
    assert inspect_main([paths[0]]) == 0 and inspect_main([paths[0], "--verify"]) == 0
    assert main(["verify", *paths[:2]]) == 0
    assert main(["diff", paths[0], paths[0]]) == 0 and main(["diff", *paths[:2]]) == 1
    shown = capsys.readouterr().out
    assert "rows " in shown and "codebook of 9 against 10 values, 9 in both" in shown
    assert "values differ in 1 of 5,760 entries" in shown
    assert main(["decompress", paths[0], paths[2]]) == 0
    np.testing.assert_array_equal(np.load(paths[2])["w"], weight)
    first, second = (deepcomp.load(path)["w"] for path in paths[:2])
    found = difference(first.decode_blocks(), second.decode_blocks(), "float32")
    assert (found.n_entries, found.n_different, found.n_zeros) == (5760, 1, 1)


# --- damage ---


def kept(n_rows, n_kept, **changes):
    values = {"nnz": 3 * n_kept, "codebook": 1, "section_nbytes": 8, **changes}
    return TensorRecord("w", "uint8", (n_rows, 3), "dense", kept_rows=n_kept, **values)


@pytest.mark.parametrize(
    ("bitmap", "message"),
    [
        ("05", "ends inside its bitmap"),
        ("0500", "the bitmap keeps 2 rows: expected 3"),
        ("0f00", "the bitmap keeps 4 rows: expected 3"),
        ("0504", "the padding after the bitmap of rows is not zero"),
    ],
)
def test_a_wrong_bitmap_is_refused(bitmap, message):
    rest = "" if bitmap == "05" else "070100" + "09"
    section = memoryview(bytes.fromhex(bitmap + rest))
    with pytest.raises(deepcomp.DczError, match=message):
        decoder_of(kept(10, 3, section_nbytes=len(section)), section)


def test_a_right_bitmap_is_taken():
    section = memoryview(bytes.fromhex("0502" + "07" + "0100" + "09"))
    decoder = decoder_of(kept(10, 3, section_nbytes=len(section)), section)
    assert isinstance(decoder, RowsDecoder) and decoder.rows.tolist() == [0, 2, 9]
    out = np.empty(30, np.uint8)
    decoder.decode_into(out)
    assert out.reshape(10, 3).tolist() == [[7 * (i in (0, 2, 9))] * 3 for i in range(10)]


@given(matrices(st.integers(64, 600)), generators())
def test_a_damaged_section_is_refused_or_decodes_to_something_else(weight, rng):
    tensor = encoded(weight)
    data = np.frombuffer(tensor.section(), np.uint8)
    for _ in range(10 if tensor.record.kept_rows else 0):
        damaged = data.copy()
        damaged[rng.integers(min(data.size, 20) if rng.random() < 0.5 else data.size)] ^= (
            1 << rng.integers(8)
        )
        try:
            found = CompressedTensor(tensor.record, lambda *_, d=damaged: view(d.tobytes()))
            assert (found.decode_patterns() != weight.patterns).any()
        except deepcomp.DczError:
            pass
