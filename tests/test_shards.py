"""The index of shards: section 11 of the specification, rule by rule, and shards on demand."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

import deepcomp
from deepcomp import shards
from deepcomp.container import Reader
from deepcomp.errors import DczError, UnsupportedVersionError
from deepcomp.shards import INDEX_NAME, decode_shard_index, encode_shard_index


@pytest.fixture
def folder(tmp_path):
    """A model of three tensors, one of them tied, in two files."""
    weights = {"a": np.eye(70, dtype=np.float32), "b": np.arange(30.0)}
    readers = []
    for i, (name, weight) in enumerate(weights.items()):
        file = tmp_path / f"model-{i}.dcz"
        deepcomp.save({name: weight}, file)
        readers.append((file.name, Reader(file)))
    index = shards.describe({"key": "value"}, readers, ["a", "tied", "b"], {"tied": "a"})
    (tmp_path / INDEX_NAME).write_bytes(encode_shard_index(index))
    return tmp_path


def test_a_folder_and_its_index_are_one_model(folder):
    for path in (folder, str(folder), folder / INDEX_NAME, str(folder / INDEX_NAME)):
        packed = deepcomp.load(path)
        assert list(packed) == ["a", "tied", "b"] and packed.aliases == {"tied": "a"}
        assert packed.metadata == {"key": "value"}
        np.testing.assert_array_equal(packed["tied"].to_dense(), np.eye(70))
        np.testing.assert_array_equal(packed["b"].rows(3, 5), [3, 4])
        nbytes = sum(path.stat().st_size for path in folder.iterdir())
        sections = sum(t.nbytes for name, t in packed.items() if name != "tied")
        assert sections + sum(packed.overhead.values()) == nbytes


def test_a_url_of_the_index_is_the_model(folder):
    for url in (f"file://{folder}/{INDEX_NAME}", f"file://{folder}/"):
        np.testing.assert_array_equal(deepcomp.load(url)["b"].to_dense(), np.arange(30.0))


def test_only_shards_that_are_needed_are_opened(folder):
    (folder / "model-1.dcz").unlink()
    packed = deepcomp.load(folder)
    assert packed["b"].shape == (30,)
    assert packed["a"].to_dense().sum() == 70
    with pytest.raises(OSError, match=r"model-1\.dcz"):
        packed["b"].to_dense()


def test_a_tensor_can_be_pickled_and_does_not_need_the_shard(folder):
    copy = pickle.loads(pickle.dumps(deepcomp.load(folder)))
    (folder / "model-0.dcz").unlink()
    assert copy["a"].to_dense().sum() == 70


def test_a_limit_on_dense_bytes_counts_all_shards(folder):
    with pytest.raises(DczError, match="max_dense_bytes"):
        deepcomp.load(folder, max_dense_bytes=70 * 70 * 4)


@pytest.mark.parametrize("change", ["another tensor", "another name", "cut off", "damaged"])
def test_a_shard_that_is_not_the_one_of_the_index_is_named(folder, change):
    path = folder / "model-1.dcz"
    if change == "cut off":
        path.write_bytes(path.read_bytes()[:-1])
    elif change == "damaged":
        data = bytearray(path.read_bytes())
        data[20] ^= 1
        path.write_bytes(data)
    else:
        name = "b" if change == "another tensor" else "c"
        deepcomp.save({name: np.arange(30.0) + (name == "b")}, path)
    with pytest.raises(DczError, match=r"model-1\.dcz"):
        deepcomp.load(folder)["b"].to_dense()


def test_a_shard_with_a_checksum_as_the_index_says_but_other_tensors_is_refused(folder):
    raw = (folder / INDEX_NAME).read_bytes()
    (folder / INDEX_NAME).write_bytes(raw.replace(b'"shape":[30]', b'"shape":[5,6]'))
    with pytest.raises(DczError, match=r"model-1\.dcz: tensor 'b': not the tensors that"):
        deepcomp.load(folder)["b"].to_dense()


def changed(folder, change):
    """Return the index after a change to its JSON."""
    value = json.loads((folder / INDEX_NAME).read_bytes())
    change(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


RULES = {
    "is not UTF-8": lambda v: None,
    "format": lambda v: v.update(format=["other", 1, 0]),
    "metadata is not": lambda v: v.update(metadata={"a": 1}),
    "expected an array": lambda v: v.update(shards={}),
    "a shard has the keys": lambda v: v["shards"][0].update(more=1),
    "is not the name of a shard": lambda v: v["shards"][0].update(name="../model.dcz"),
    "'model-1' is not the name": lambda v: v["shards"][1].update(name="model-1"),
    "'model-0.dcz' is there twice": lambda v: v["shards"][1].update(name="model-0.dcz"),
    "nbytes of 'model-0.dcz' is 35": lambda v: v["shards"][0].update(nbytes=35),
    "crc32 of 'model-0.dcz' is 4294967296": lambda v: v["shards"][0].update(crc32=1 << 32),
    "tensor 'a': shard is 2": lambda v: v["tensors"][0].update(shard=2),
    "tensor 'a': shard is True": lambda v: v["tensors"][0].update(shard=True),
    "tensor 'a': shard is None": lambda v: v["tensors"][0].pop("shard"),
    "tensor 'tied': an alias has the keys": lambda v: v["tensors"][1].update(shard=0),
    "tensor 'tied': alias of 'b'": lambda v: v["tensors"][1].update(alias="b"),
    "tensor 'a' is there twice": lambda v: v["tensors"][2].update(name="a"),
    "a tensor has no name": lambda v: v["tensors"].append(1),
    "'model-1.dcz' has no tensor": lambda v: v["tensors"].pop(),
    "expected": lambda v: v.update(zzz=1),
}


@pytest.mark.parametrize("message", RULES)
def test_an_index_that_breaks_a_rule_is_refused(folder, message):
    raw = changed(folder, RULES[message])
    if message == "is not UTF-8":
        raw += b"\xff"
    with pytest.raises(DczError, match=message):
        decode_shard_index(raw)
    (folder / INDEX_NAME).write_bytes(raw)
    with pytest.raises(DczError, match=INDEX_NAME):
        deepcomp.load(folder)


def test_white_space_and_leftovers_are_refused(folder):
    raw = (folder / INDEX_NAME).read_bytes()
    for other in (raw + b"\n", raw.replace(b",", b", ", 1), raw[:-1], b"", raw[:7]):
        with pytest.raises(DczError):
            decode_shard_index(other)


@pytest.mark.parametrize("version", [[2, 0], [1, 2], [0, 9]])
def test_another_version_is_refused_by_its_number_whatever_follows(folder, version):
    raw = changed(folder, lambda v: v.update(format=["dcz-shards", *version], shards="of then"))
    with pytest.raises(UnsupportedVersionError, match=r"version {}\.{}".format(*version)):
        decode_shard_index(raw)


def test_an_index_is_read_as_it_was_written(folder):
    raw = (folder / INDEX_NAME).read_bytes()
    index = decode_shard_index(raw)
    assert encode_shard_index(index) == raw
    assert encode_shard_index(replace(index, metadata={})) != raw


@pytest.fixture
def summed(tmp_path):
    """A model of two shards, of which the first has a tensor with a checksum of its own."""
    rng = np.random.default_rng(0)
    readers = []
    for i, n in enumerate((40_000, 9)):
        weights = {f"{name}{i}": rng.integers(0, 256, n, np.uint8) for name in "ab"}
        deepcomp.save(weights, tmp_path / f"model-{i}.dcz")
        readers.append((f"model-{i}.dcz", Reader(tmp_path / f"model-{i}.dcz")))
    assert [reader.version for _, reader in readers] == [(1, 1), (1, 0)]
    index = shards.describe({}, readers, ["a0", "b0", "a1", "b1"], {})
    (tmp_path / INDEX_NAME).write_bytes(encode_shard_index(index))
    return tmp_path


def test_an_index_with_checksums_of_sections_is_of_version_1_1_and_reads_both(summed):
    raw = (summed / INDEX_NAME).read_bytes()
    assert raw.startswith(b'{"format":["dcz-shards",1,1],')
    assert encode_shard_index(decode_shard_index(raw)) == raw
    packed = deepcomp.load(summed / INDEX_NAME)
    for tensor in packed.values():
        tensor.verify()
    assert [name for name, t in packed.items() if t.record.crc32 is not None] == ["a0", "b0"]


@pytest.mark.parametrize("version", [0, 1])
def test_an_index_that_has_not_the_least_version_is_refused(summed, version):
    def change(value):
        value["format"][2] = version
        if version == 1:
            for item in value["tensors"]:
                item.pop("crc32", None)

    found = "tensor 'a0': crc32, which" if version == 0 else "but nothing in the index needs it"
    with pytest.raises(DczError, match=found):
        decode_shard_index(changed(summed, change))


def test_a_checksum_that_is_not_the_one_in_the_shard_is_refused(summed):
    raw = changed(summed, lambda v: v["tensors"][1].update(crc32=7))
    (summed / INDEX_NAME).write_bytes(raw)
    for name in ("a0", "b0"):
        with pytest.raises(DczError, match=r"model-0\.dcz: tensor 'b0': not the tensors that"):
            deepcomp.load(summed)[name].to_dense()
    assert deepcomp.load(summed)["a1"].to_dense().size == 9
