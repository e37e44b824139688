"""How much a file may claim: `max_dense_bytes`, its default, and what else takes memory.

Bounded are the dense tensors, what products and layouts of them take, and the index.
"""

import io
import re
import subprocess
import sys
import zlib

import numpy as np
import pytest
from test_hostile_files import index_of, raw, sparse, write_file

import deepcomp
from deepcomp import limits, shards
from deepcomp.cli import main
from deepcomp.container import Reader
from deepcomp.index import Index, encode_index
from deepcomp.records import TensorRecord

MILLION = 1_000_000
GIB = 1 << 30


def many(n, shape):
    """The index of so many raw tensors."""
    return index_of(*(raw(f"w{i}", shape, "bool") for i in range(n)))


@pytest.fixture
def empty_rows(tmp_path):
    """A small file, of a tensor without entries whose product would have 2**28."""
    path = write_file(tmp_path / "m.dcz", index_of(raw("w", [1 << 28, 0])))
    assert path.stat().st_size < 160
    return path


@pytest.fixture
def zeros(tmp_path):
    """A small file, of 32 GiB of zeros."""
    nbytes = 2 + 2 * (1 << 13)  # two codes, and two bytes for each block
    item = sparse("w", [1 << 33], nbytes=nbytes, block_numel=1 << 20)
    return write_file(tmp_path / "m.dcz", index_of(item), bytes(nbytes))


@pytest.fixture
def large_index(tmp_path):
    """A file with the index of 20,000 empty tensors: 21 times as long as the file."""
    return write_file(tmp_path / "m.dcz", many(20_000, [0]))


def in_folder(path):
    """Make the file the only shard of a folder."""
    reader = Reader(path, None, 1 << 62)
    index = shards.describe({}, [(path.name, reader)], reader.index.entries, {})
    (path.parent / shards.INDEX_NAME).write_bytes(shards.encode_shard_index(index))
    return path.parent


# --- products ---


def test_a_product_without_columns_takes_no_memory_that_the_file_does_not_hold(empty_rows):
    tensor = deepcomp.load(empty_rows)["w"]
    for x in (np.zeros(0, np.float32), np.zeros((0, 1), np.float32), np.zeros((0, 9), np.float32)):
        with pytest.raises(
            deepcomp.DczError, match=r"m\.dcz: tensor 'w': 268435456 empty rows are too many"
        ):
            deepcomp.matmul(tensor, x)


def test_the_memory_of_such_a_product_as_measured(empty_rows):
    """In a process of its own, at commit d5042bb: 1 GiB."""
    script = """
        import re, sys, numpy, deepcomp
        peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
        deepcomp.matmul(deepcomp.compress({"w": numpy.eye(9)})["w"], numpy.ones(9, numpy.float32))
        before = peak()
        try:
            deepcomp.matmul(deepcomp.load(sys.argv[1])["w"], numpy.zeros(0, numpy.float32)).sum()
        except deepcomp.DczError:
            print((peak() - before) // 1024)
    """
    command = [sys.executable, "-c", "if 1:" + script, str(empty_rows)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout) < 32


def test_a_layer_without_columns_is_bounded_as_well(empty_rows):
    torch = pytest.importorskip("torch")
    from deepcomp.nn.stored import StoredWeight

    record = deepcomp.load(empty_rows)["w"].record
    with pytest.raises(deepcomp.DczError, match="tensor 'w': 268435456 empty rows are too many"):
        StoredWeight(torch.empty(0, dtype=torch.uint8), record)


def test_products_with_few_empty_rows_are_zero(tmp_path):
    path = write_file(tmp_path / "m.dcz", index_of(raw("w", [1 << 20, 0])))
    found = deepcomp.matmul(deepcomp.load(path)["w"], np.zeros(0, np.float32))
    assert found.shape == (1 << 20,) and not found.any()


def test_max_dense_bytes_counts_the_extents_of_empty_tensors(empty_rows):
    message = (
        r"m\.dcz: the tensors take 1073741824 bytes when dense \(an extent of 0 is taken for 1\): "
        r"expected at most 1000000 \(max_dense_bytes\)"
    )
    with pytest.raises(deepcomp.DczError, match=message):
        deepcomp.load(empty_rows, max_dense_bytes=MILLION)
    for allowed in (GIB, None):  # by default, what can be decoded is counted
        assert deepcomp.load(empty_rows, max_dense_bytes=allowed)["w"].shape == (1 << 28, 0)


@pytest.mark.parametrize("shape", [[0, 1 << 28], [1 << 20, 0, 1 << 8], [1 << 14, 1 << 14, 0]])
def test_whatever_extent_is_zero(tmp_path, shape):
    path = write_file(tmp_path / "m.dcz", index_of(raw("w", shape)))
    with pytest.raises(deepcomp.DczError, match="take 1073741824 bytes"):
        deepcomp.load(path, max_dense_bytes=GIB - 1)


# --- the default ---

DEFAULT = r"expected at most 17179869184 \(max_dense_bytes, its default for such a file\)"
OPENED = {
    "path": lambda path: path,
    "text": str,
    "url": lambda path: f"file://{path}",
    "open file": lambda path: io.BytesIO(path.read_bytes()),
}


@pytest.mark.parametrize("how", OPENED)
def test_a_small_file_of_very_large_tensors_is_refused_unless_that_is_wanted(zeros, how):
    with pytest.raises(deepcomp.DczError, match=f"the tensors take 34359738368 bytes .*{DEFAULT}"):
        deepcomp.load(OPENED[how](zeros))
    packed = deepcomp.load(OPENED[how](zeros), max_dense_bytes=32 * GIB)
    assert packed["w"].shape == (1 << 33,)


@pytest.mark.parametrize("how", [str, lambda folder: f"file://{folder}/"])
def test_a_shard_is_bounded_by_its_own_size_when_it_is_opened(zeros, how):
    folder = how(in_folder(zeros))
    with pytest.raises(deepcomp.DczError, match=rf"m\.dcz: the tensors take .*{DEFAULT}"):
        deepcomp.load(folder)["w"].check()
    deepcomp.load(folder, max_dense_bytes=32 * GIB)["w"].check()
    with pytest.raises(deepcomp.DczError, match=r"index\.json: the tensors take 34359738368 by"):
        deepcomp.load(folder, max_dense_bytes=32 * GIB - 1)


@pytest.mark.parametrize("verb", ["inspect", "verify", "decompress", "report", "diff"])
def test_the_commands_refuse_it_too(zeros, capsys, verb, tmp_path):
    more = {"decompress": ["o.npz"], "report": ["-o", "o.html"], "diff": [str(zeros)]}
    more = [str(tmp_path / a) if a.startswith("o.") else a for a in more.get(verb, [])]
    assert main([verb, str(zeros), *more]) == 2
    output = capsys.readouterr()
    assert re.search(DEFAULT, output.out + output.err)


def test_the_default_grows_with_the_file(monkeypatch, tmp_path):
    monkeypatch.setattr(limits, "_DENSE_NBYTES", 1000)
    path = tmp_path / "m.dcz"
    deepcomp.save({"w": np.zeros(1 << 20, np.uint8)}, path)
    allowed = limits._DENSE_RATIO * path.stat().st_size
    assert deepcomp.load(path)["w"].shape == (1 << 20,) and allowed > 1 << 20
    deepcomp.save({"w": np.zeros(10 * MILLION, np.uint8)}, path)
    allowed = limits._DENSE_RATIO * path.stat().st_size
    with pytest.raises(deepcomp.DczError, match=f"expected at most {allowed}"):
        deepcomp.load(path)


def test_what_is_saved_is_read_back_and_compared_whatever_its_size(monkeypatch, tmp_path):
    monkeypatch.setattr(limits, "_DENSE_NBYTES", 1000)
    monkeypatch.setattr(limits, "_DENSE_RATIO", 1)
    deepcomp.save({"w": np.zeros(10_000)}, tmp_path / "m.dcz", verify=True)
    np.savez(tmp_path / "m.npz", w=np.zeros((100, 100)))
    assert main(["compress", str(tmp_path / "m.npz"), str(tmp_path / "n.dcz")]) == 0
    packed = deepcomp.compress_checkpoint(tmp_path / "m.npz", tmp_path / "packed")
    with pytest.raises(deepcomp.DczError, match="max_dense_bytes"):
        packed["w"].to_dense()
    packed = deepcomp.load(tmp_path / "packed", max_dense_bytes=80_000)
    assert not packed["w"].to_dense().any()


# --- the index ---


@pytest.mark.parametrize("how", OPENED)
def test_an_index_much_larger_than_its_file_is_refused_before_it_is_inflated(
    large_index, how, monkeypatch
):
    monkeypatch.setattr("deepcomp.container.decode_index", lambda raw: pytest.fail("parsed"))
    nbytes = large_index.stat().st_size
    expected = limits._INDEX_NBYTES + limits._INDEX_RATIO * nbytes
    message = rf": an index of \d+ bytes: too large: expected at most {expected} \(max_dense_"
    with pytest.raises(deepcomp.DczError, match=message):
        deepcomp.load(OPENED[how](large_index))
    with pytest.raises(deepcomp.DczError, match=message):
        deepcomp.load(OPENED[how](large_index), max_dense_bytes=GIB)


def test_it_is_read_where_the_caller_is_ready_for_more_than_the_default(large_index):
    assert len(deepcomp.load(large_index, max_dense_bytes=17 * GIB)) == 20_000


@pytest.fixture
def small_tensors(tmp_path):
    """A file of 5,000 tensors of 32 bytes each, with an index of 310,000 bytes."""
    return write_file(tmp_path / "m.dcz", many(5000, [32]), bytes(5000 * 32))


def test_max_dense_bytes_bounds_the_index_as_well(small_tensors):
    assert len(deepcomp.load(small_tensors)) == 5000
    with pytest.raises(deepcomp.DczError, match=r"an index of \d+ bytes: .* 262144 \(max_dense"):
        deepcomp.load(small_tensors, max_dense_bytes=5000 * 32)
    assert len(deepcomp.load(small_tensors, max_dense_bytes=MILLION)) == 5000


def test_an_index_of_shards_is_bounded_by_what_the_caller_allows(small_tensors):
    folder = in_folder(small_tensors)
    assert len(deepcomp.load(folder)) == 5000
    with pytest.raises(deepcomp.DczError, match=r"index\.json: an index of \d+ bytes: .* 262144"):
        deepcomp.load(folder, max_dense_bytes=5000 * 32)


@pytest.mark.parametrize(
    "tensors",
    [
        {f"model.layers.{i}.weight": np.empty(0, np.float32) for i in range(900)},
        {f"w{i}": np.array(i % 2 == 0) for i in range(900)},
        dict.fromkeys((f"tied.{i}" for i in range(900)), np.ones(9)),
    ],
    ids=["empty", "of one bit", "tied"],
)
def test_what_save_writes_is_never_refused_however_many_tensors_have_next_to_nothing(
    tmp_path, tensors, monkeypatch
):
    monkeypatch.setattr(limits, "_INDEX_NBYTES", 0)
    monkeypatch.setattr(limits, "_INDEX_RATIO", 4)
    deepcomp.save(tensors, tmp_path / "m.dcz", verify=True)
    assert list(deepcomp.load(tmp_path / "m.dcz")) == list(tensors)


@pytest.mark.parametrize(("shape", "times_below"), [((4,), 3), ((), 1)])
def test_models_of_a_hundred_thousand_tensors_of_a_few_numbers_do_not_meet_the_limit(
    shape, times_below
):
    """Without what a file has besides."""
    names = [f"model.layers.{i // 100}.experts.{i % 100}.scale" for i in range(100_000)]
    nbytes = 4 * int(np.prod(shape))
    records = {n: TensorRecord(n, "float32", shape, "raw", nbytes) for n in names}
    text = encode_index(Index({}, records))
    file_nbytes = len(zlib.compress(text, 9)) + nbytes * len(names)
    assert times_below * len(text) < limits.most_index_nbytes(file_nbytes)


def test_a_small_index_is_read_however_well_it_deflates(tmp_path):
    name = "a name that is long, " * 1000
    assert list(deepcomp.load(write_file(tmp_path / "m.dcz", index_of(raw(name, [0]))))) == [name]
