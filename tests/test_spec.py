"""The specification and what it says about itself: the worked example, the limits, the rules."""

import json
import re

import numpy as np
import pytest
from independent import FORMATS, dcz_decoder

import deepcomp
from deepcomp import container, records
from deepcomp.container import Reader
from deepcomp.index import encode_index

SPEC = (FORMATS / "dcz.md").read_text("utf-8")
EXAMPLE = SPEC.split("## 9.")[1].split("## 10.")[0]


@pytest.fixture
def example():
    """The bytes of the worked example."""
    lines = re.findall(r"^ {1,3}\d{1,3} {2}((?:[0-9a-f]{2} ?)+)$", EXAMPLE, re.M)
    data = bytes.fromhex("".join(lines))
    assert f"The file has {len(data)} bytes" in EXAMPLE
    return data


def fc():
    weight = np.zeros((3, 6), np.float32)
    weight.flat[[1, 7, 11, 14, 17]] = 0.5, -1, 0.5, 0.5, -1
    return {"fc.weight": weight, "fc.bias": np.array([0.25, 0, -2], np.float32)}


def test_worked_example_decodes_to_what_it_says(tmp_path, example):
    (tmp_path / "m.dcz").write_bytes(example)
    packed = deepcomp.load(tmp_path / "m.dcz")
    metadata, tensors = dcz_decoder.decode(example)
    assert list(packed) == [t.name for t in tensors] == list(fc())
    assert packed.metadata == metadata == {}
    for tensor, (name, values) in zip(tensors, fc().items(), strict=True):
        np.testing.assert_array_equal(packed[name].to_dense(), values)
        assert tensor.patterns == values.tobytes()


def test_worked_example_is_what_the_package_writes(tmp_path, example):
    """All but the index and what depends on it: zlib deflates differently in each version."""
    deepcomp.save(fc(), tmp_path / "m.dcz")
    data = (tmp_path / "m.dcz").read_bytes()
    assert data[:48] == example[:48]
    assert Reader(tmp_path / "m.dcz").data_end == 44


def test_worked_example_explains_each_of_its_bytes(example):
    rows = re.findall(r"^\| (\d+) \| (`[0-9a-f][^|]*) \|", EXAMPLE, re.M)
    end = 0
    for offset, cell in rows:
        assert int(offset) in (end, 190), "rows follow one another, but for the index"
        data = bytes.fromhex(re.sub("[`,.]", "", cell))
        end = int(offset) + len(data)
        assert example[int(offset) : end] == data
    assert end == len(example)


def test_worked_example_shows_its_index(tmp_path, example):
    (tmp_path / "m.dcz").write_bytes(example)
    [shown] = re.findall(r'^\{"metadata".*?\}\]\}$', EXAMPLE, re.M | re.S)
    index = Reader(tmp_path / "m.dcz").index
    assert encode_index(index).decode() == shown.replace("\n", "")
    assert json.loads(shown)["tensors"][0]["nbytes"] == 20


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("code length | 12 bits", records.MAX_CODE_LENGTH == 12),
        ("at most | 2^20", records.MAX_BLOCK_NUMEL == 2**20),
        ("(all but the last one) | 2^12", records.MIN_BLOCK_NUMEL == 2**12),
        ("codebook | 256", records.MAX_CODEBOOK == 256),
        ("`gap_bits` | 2 to 8", list(records.GAP_BITS) == [2, 3, 4, 5, 6, 7, 8]),
        ("inflated index | 2^26 bytes", container.MAX_INDEX_NBYTES == 2**26),
        ("inflated index to stored index | 128", container.MAX_INDEX_RATIO == 128),
        ("dimensions | 32", records.MAX_DIMENSIONS == 32),
        ("page | 65,536 bytes", container.PAGE == 65536),
        ("trailer at the end | 24 bytes", container.TRAILER.size == 24),
        ("Version 1.1, ", container.VERSION == (1, 1)),
    ],
)
def test_limits_of_the_package_are_those_of_the_specification(words, value):
    assert words in SPEC and value
