"""Damaged files: each cut and each flipped bit is a DczError that names the file and the tensor."""

import os
import re

import numpy as np
import pytest
from independent import FORMATS, writer

import deepcomp
from deepcomp.cli import inspect_main
from deepcomp.container import PAGE, Reader


def save_layouts(path):
    """Save dense, sparse, raw and tied tensors with metadata, as the package writes them."""
    rng = np.random.default_rng(0)
    fc = rng.normal(size=(24, 20)).astype(np.float32)
    tensors = {"fc": fc, "tied": fc, "b": fc[0].copy(), "conv": rng.normal(size=(9, 9)), "n": 3}
    settings = {"bits": {"fc": 3, "conv": 2}, "sparsity": {"fc": 0.8}}
    packed = deepcomp.compress({n: np.asarray(t) for n, t in tensors.items()}, **settings)
    assert {t.record.layout for t in packed.values()} == {"raw", "dense", "sparse"}
    deepcomp.save(packed, path, metadata={"of": "the test"})


def save_planes(path):
    """Save byte planes, signs of zeros and bfloat16."""
    values = [v * (i % 3 > 0) for i, v in enumerate(writer.noise(60, 65536))]
    signs = [0x8000, 0, 0x3F80, 0x8000, 0xBF81] * 9
    tensors = [
        writer.packed("bfloat16", values, name="planes", gap_bits=2),
        writer.packed("bfloat16", signs, name="signs", gap_bits=2, signs=True, codebook=True),
        writer.packed("float64", [1 << 62, 0, 0, 1 << 63] * 5, name="wide"),
    ]
    path.write_bytes(writer.file_of(tensors))


def save_blocks(path):
    """Save tensors of several blocks."""
    values = [5 * (i % 97 == 0) + (i % 1234 == 0) for i in range(9000)]
    tensors = [
        writer.packed("int8", values, name="w.sparse", codebook=True, gap_bits=6, block_numel=4096),
        writer.packed("bool", [1] * 9000, name="w.dense", block_numel=4096),
    ]
    path.write_bytes(writer.file_of(tensors))


SAMPLES = [save_layouts, save_planes, save_blocks]


@pytest.fixture(params=SAMPLES, ids=lambda save: save.__name__.removeprefix("save_"))
def sample(request, tmp_path):
    path = tmp_path / "m.dcz"
    request.param(path)
    read_everything(path)
    assert 300 < path.stat().st_size < 2000
    return path


def read_everything(path):
    for tensor in deepcomp.load(path).values():
        tensor.decode_patterns()


def check_refused(path):
    with pytest.raises(deepcomp.DczError) as caught:
        read_everything(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_every_truncation_is_refused(sample):
    """From the whole length down: the same file gets shorter and shorter."""
    for length in reversed(range(sample.stat().st_size)):
        os.truncate(sample, length)
        check_refused(sample)


def test_a_file_that_lost_its_first_bytes_is_refused(sample):
    whole = sample.read_bytes()
    for length in range(1, len(whole)):
        put(sample, whole[length:])
        check_refused(sample)


def put(path, data):
    """Replace the content in place: many times as fast as a new file."""
    with open(path, "r+b", buffering=0) as file:
        file.write(data)
    os.truncate(path, len(data))


def tensor_of_each_byte(path):
    """Return for each byte of a file the tensor in whose section it is, or None."""
    reader = Reader(path)
    owners = [None] * reader.nbytes
    for name, offset in reader._offsets.items():
        nbytes = reader.index.entries[name].section_nbytes
        owners[offset : offset + nbytes] = [name] * nbytes
    return owners


def test_every_flipped_bit_is_noticed_and_its_tensor_named(sample):
    whole, owners = sample.read_bytes(), tensor_of_each_byte(sample)
    assert {*owners} > {None}
    with open(sample, "r+b", buffering=0) as file:
        for position, owner in enumerate(owners):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([whole[position] ^ 1 << bit]), position)
                check_refused(sample)
                if owner is not None:
                    check_named(sample, owner)
            os.pwrite(file.fileno(), whole[position : position + 1], position)
    assert sample.read_bytes() == whole
    print(f"{8 * len(whole)} bits, {8 * sum(o is not None for o in owners)} of them in sections")


def check_named(path, name):
    with pytest.raises(deepcomp.DczError) as caught:
        deepcomp.load(path)[name].decode_patterns()
    assert str(caught.value).startswith(f"{path}: tensor {name!r}: ")


def test_bytes_put_behind_or_before_the_file_are_refused(sample):
    whole = sample.read_bytes()
    for extra in (b"\0", b"\n", b"DCZ\n", whole[-4:], whole[-24:], bytes(PAGE), whole):
        sample.write_bytes(whole + extra)
        check_refused(sample)
        sample.write_bytes(extra + whole)
        if extra != whole:
            check_refused(sample)


def test_every_byte_left_out_or_doubled_is_refused(sample):
    whole = sample.read_bytes()
    for i in range(len(whole)):
        for data in (whole[:i] + whole[i + 1 :], whole[:i] + whole[i : i + 1] + whole[i:]):
            put(sample, data)
            check_refused(sample)


@pytest.fixture
def pages(tmp_path):
    """A file of four pages: a tensor on three of them, then small ones."""
    noise = np.random.default_rng(0).integers(0, 256, 3 * PAGE, np.uint8)
    tensors = {"noise": noise, "a": np.arange(3), "b": np.arange(4), "c": np.arange(5)}
    deepcomp.save(tensors, tmp_path / "m.dcz")
    return tmp_path / "m.dcz"


def test_swapped_pages_are_refused(pages, capsys):
    whole = pages.read_bytes()
    for first, second in ((0, 1), (1, 2), (0, 2)):
        data = bytearray(whole)
        one, two = (slice(i * PAGE, (i + 1) * PAGE) for i in (first, second))
        data[one], data[two] = data[two], data[one]
        pages.write_bytes(data)
        if first == 0:  # with the head
            check_refused(pages)
            continue
        assert deepcomp.load(pages)["c"].to_dense().tolist() == [0, 1, 2, 3, 4]
        check_named(pages, "noise")
        assert inspect_main([str(pages), "--verify"]) == 1
        assert f"{pages}: tensor 'noise': the page of bytes 65536" in capsys.readouterr().err


def test_a_damaged_page_of_several_tensors_is_named_with_all_of_them(pages):
    data = bytearray(pages.read_bytes())
    data[3 * PAGE + 30] ^= 1
    pages.write_bytes(data)
    with pytest.raises(deepcomp.DczError, match=r"m\.dcz: tensors 'noise' to 'c' \(4\): the page"):
        Reader(pages).check_all_pages()
    check_named(pages, "b")


INVALID = sorted((FORMATS / "vectors" / "invalid").glob("*.dcz"))


def test_inspect_verify_says_in_one_line_why_an_invalid_vector_is_refused(capsys):
    """Exit status 1: the file can be opened, but not all of it is whole. 2: it cannot be opened."""
    statuses = set()
    for path in INVALID:
        status = inspect_main([str(path), "--verify"])
        out, err = capsys.readouterr()
        assert out == "" and err.endswith("\n") and err[:-1].isprintable(), path
        assert err.startswith(f"dcz-inspect: {path}: ")
        assert len(err) - len(str(path)) < 400
        try:
            deepcomp.load(path)
            assert status == 1 and re.search(": tensors? '", err), (path, err)
        except deepcomp.DczError:
            assert status == 2
        statuses.add(status)
    assert statuses == {1, 2}
