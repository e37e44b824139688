"""Files made to do harm: refused with a DczError, in little time and memory."""

import json
import os
import struct
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest

import deepcomp
from deepcomp import index
from deepcomp.cli import inspect_main
from deepcomp.container import END_MAGIC, HEAD, MAGIC


def write_file(path, content, sections=b""):
    """Write a file whose checksums are right, whatever its index says."""
    data = HEAD.pack(MAGIC, 1, 0) + sections
    pages = [zlib.crc32(data[i : i + 65536]) for i in range(0, len(data), 65536)]
    raw = content if isinstance(content, bytes) else canonical(content)
    deflated = zlib.compress(raw, 9)
    end = struct.pack(f"<{len(pages)}I", *pages) + deflated
    end += struct.pack("<QII", len(data), len(deflated), len(raw))
    path.write_bytes(data + end + struct.pack("<I4s", zlib.crc32(end), END_MAGIC))
    return path


def canonical(value):
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def index_of(*tensors):
    return {"metadata": {}, "tensors": list(tensors)}


def raw(name, shape, dtype="float32"):
    return {"name": name, "dtype": dtype, "layout": "raw", "shape": shape}


def sparse(name, shape, **other):
    item = raw(name, shape) | {"layout": "sparse", "nnz": 0, "codebook": 0, "gap_bits": 2}
    return item | {"nbytes": 4} | other


PETABYTE = 1 << 48  # float32 entries


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([raw("w", [1 << 61])], "more entries than an array can have"),
        ([raw("w", [1 << 40, 1 << 40])], "more entries than an array can have"),
        ([raw("w", [1 << 60])], "the index expects"),
        ([sparse("w", [PETABYTE])], "one block of"),
        ([sparse("w", [PETABYTE], block_numel=1 << 20)], "a section of 4 bytes cannot hold"),
        ([sparse("w", [PETABYTE], block_numel=1 << 20, nbytes=1 << 60)], "the index expects"),
    ],
)
def test_claims_beyond_the_file_are_refused_by_load(tmp_path, tensors, message):
    path = write_file(tmp_path / "m.dcz", index_of(*tensors))
    assert path.stat().st_size < 1024
    with pytest.raises(deepcomp.DczError, match=message):
        deepcomp.load(path)


def test_an_index_of_nonsense_is_refused_at_its_first_tensor(tmp_path):
    """In a process of its own: parsing all of it would take hundreds of megabytes."""
    path = write_file(
        tmp_path / "m.dcz",
        b'{"metadata":{},"tensors":[' + b"[]," * 5_000_000 + b"[]]}",
    )
    script = (
        "import re, sys, deepcomp.storage\n"
        "status = lambda: open('/proc/self/status').read()\n"  # ru_maxrss begins with the parent's
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', status())[1])\n"
        "before = peak()\n"
        "try:\n    deepcomp.load(sys.argv[1])\n"
        "except deepcomp.DczError as error:\n    print((peak() - before) // 1024, error)\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    megabytes, message = result.stdout.split(" ", 1)
    assert "a tensor has no name" in message or "too large" in message
    assert int(megabytes) < 64


def test_numbers_of_many_digits_are_refused_before_they_are_converted(monkeypatch):
    """Also where Python has no limit of its own, as before 3.10.7."""
    text = canonical(index_of(raw("w", [7]))).replace(b"7", b"7" * 1_000_000)
    for decoder in (index._DECODER, json.JSONDecoder(parse_int=index._parse_int)):
        monkeypatch.setattr(index, "_DECODER", decoder)
        with pytest.raises(deepcomp.DczError, match="digits"):
            index.decode_index(text)


def test_messages_about_hostile_values_are_short_and_in_one_line(tmp_path):
    evil = "\x1b[31m\n\x07" * 100_000
    for item in (raw("w", evil), raw("w", [1], dtype=evil), raw("w", [1]) | {"layout": evil}):
        path = write_file(tmp_path / "m.dcz", index_of(item))
        with pytest.raises(deepcomp.DczError) as caught:
            deepcomp.load(path)
        message = str(caught.value).removeprefix(str(path))
        assert len(message) < 300 and message.isprintable()


def test_names_in_every_column_are_harmless_to_a_terminal(tmp_path, capsys):
    evil = "a\n\x1b[31mRED\x07"
    weight = np.ones((4, 4), np.float32)
    deepcomp.save({evil: weight, "tied": weight}, tmp_path / "m.dcz")
    assert inspect_main([str(tmp_path / "m.dcz")]) == 0
    assert capsys.readouterr().out.replace("\n", "").isprintable()


@pytest.mark.parametrize("shape", [[(1 << 61) - 1, 0], [1 << 40, 0]])
def test_empty_tensors_with_absurd_shapes_allocate_nothing(tmp_path, shape):
    packed = deepcomp.load(write_file(tmp_path / "m.dcz", index_of(raw("w", shape))))
    assert packed["w"].to_dense().shape == tuple(shape)
    with pytest.raises(deepcomp.DczError, match="empty rows are too many"):
        packed["w"].to_csr()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(deepcomp.DczError, match="no regular file"):
        deepcomp.load(tmp_path / "pipe")


@pytest.mark.parametrize("limit", [True, 1.5, "1"])
def test_max_dense_bytes_must_be_an_integer(tmp_path, limit):
    deepcomp.save({}, tmp_path / "m.dcz")
    with pytest.raises(ValueError, match="max_dense_bytes is"):
        deepcomp.load(tmp_path / "m.dcz", max_dense_bytes=limit)


def test_one_loaded_file_serves_many_threads(tmp_path):
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.normal(size=(60, 50)).astype(np.float32) for i in range(20)}
    deepcomp.save(deepcomp.compress(weights, sparsity=0.8), tmp_path / "m.dcz")
    expected = {n: t.to_dense() for n, t in deepcomp.load(tmp_path / "m.dcz").items()}
    packed = deepcomp.load(tmp_path / "m.dcz")
    wrong = []

    def read(seed):
        for i in np.random.default_rng(seed).integers(0, 20, 50):
            if not np.array_equal(packed[f"w{i}"].to_dense(), expected[f"w{i}"]):
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_threads_work_in_a_forked_process():
    weight = np.random.default_rng(0).normal(size=(1500, 1500)).astype(np.float32)
    tensor = deepcomp.compress({"w": weight}, sparsity=0.9)["w"]
    expected = tensor.to_dense(n_threads=2)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(tensor.to_dense(n_threads=2), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
