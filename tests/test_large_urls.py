"""Checkpoints in parts, from URLs and to URLs: the bytes of paths, and no secrets anywhere."""

import gc
import json
import sys
import traceback
from unittest import mock

import joblib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import SECRETS, serving
from stores import CREDENTIALS, Store, keys
from test_large import TASK, compress, contents, make_tensors, write_shards

import deepcomp
from deepcomp import _kernels, large_model
from deepcomp.cli import main
from deepcomp.container import Reader
from deepcomp.importers import read_checkpoint
from deepcomp.records import TensorRecord
from deepcomp.urls import beside, join, without_credentials
from deepcomp.writer import Writer

pytestmark = pytest.mark.skipif(
    _kernels.build_info()["kernels"] != "native", reason="takes long with the twins"
)
PACKED = f"store://{CREDENTIALS}@bucket/packed"
SHOWN = "store://bucket/packed"


@pytest.fixture(scope="module", autouse=True)
def small_tensors_are_cut():
    """Cut tensors as small as those of `test_large`, which no user's are."""
    with mock.patch.object(large_model, "MAX_WHOLE_NUMEL", TASK):
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("urls") / "source"
    write_shards(folder, make_tensors())
    return folder


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    """What comes of it by paths: the bytes of each file."""
    target = tmp_path_factory.mktemp("urls") / "target"
    compress(source, target)
    return contents(target)


@pytest.fixture
def store(source, tmp_path, monkeypatch):
    """Make a store that holds the checkpoint; return the URL of its folder."""
    monkeypatch.setattr(Store, "root", tmp_path / "store")
    Store.root.mkdir()
    for path in source.iterdir():
        (Store.root / f"bucket%2Fsource%2F{path.name}").write_bytes(path.read_bytes())
    return f"store://{CREDENTIALS}@bucket/source"


def packed_in_store():
    """Return the bytes of each file of the result, but for the job."""
    found = [key for key in keys() if key.startswith("bucket/packed/") and "job" not in key]
    return {key.rpartition("/")[2]: Store().at(key).read_bytes() for key in found}


def message_of(kind, action):
    """Return the message of an error; neither it nor what it came from tells a secret."""
    with pytest.raises(kind) as caught:
        action()
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert not any(secret in told for secret in SECRETS)
    return str(caught.value)


# --- from URLs, and to URLs ---


def test_what_is_written_to_a_store_is_what_is_written_to_a_folder(source, store, expected):
    for checkpoint in (source, store, f"{store}/model.safetensors.index.json"):
        for key in keys():
            if "packed" in key:
                Store().rm(key)
        packed = compress(checkpoint, PACKED)
        assert packed_in_store() == expected
        assert list(packed) == list(make_tensors())
        assert not [key for key in keys() if "/parts/" in key]


def test_what_is_read_from_a_store_is_what_is_read_from_a_folder(store, expected, tmp_path):
    compress(store, tmp_path / "target")
    assert contents(tmp_path / "target") == expected


@pytest.mark.parametrize("backend", ["threading", "multiprocessing"])
def test_workers_share_a_store(store, expected, backend):
    with joblib.parallel_config(backend=backend):
        compress(store, PACKED, n_jobs=2)
    assert packed_in_store() == expected


def test_urls_of_local_files_are_paths_for_all_processes(source, expected, tmp_path):
    compress(f"file://{source}", f"file://{tmp_path}/target", n_jobs=2)
    assert contents(tmp_path / "target") == expected
    assert deepcomp.load(f"file://{tmp_path}/target").keys() == make_tensors().keys()


def test_a_model_in_memory_is_loaded_by_its_folder_or_its_index(source, expected):
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in source.iterdir():
        memory.pipe(f"/urls/source/{path.name}", path.read_bytes())
    compress("memory://urls/source", "memory://urls/packed")
    for name, data in expected.items():
        assert memory.cat(f"/urls/packed/{name}") == data
    for url in ("packed", "packed/", "packed/model.dcz.index.json"):
        found = deepcomp.load(f"memory://urls/{url}")
        assert found["norm.weight"].to_dense().shape == (500,)
    with pytest.raises(FileNotFoundError, match=r"memory://urls/nothing'"):
        deepcomp.load("memory://urls/nothing")


def test_a_checkpoint_is_read_from_a_server_by_ranges(source, expected, tmp_path):
    with serving() as server:
        server.files = {path.name: path.read_bytes() for path in source.iterdir()}
        folder = server.url.replace("/m.dcz", "/model")
        compress(folder, tmp_path / "target")
        assert contents(tmp_path / "target") == expected
        largest = max(end - start for start, end in server.ranges)
        assert largest == 2 << 20  # the entries of a task
        job = (tmp_path / "target" / "model.dcz.job.json").read_text()
        assert "part-0.safetensors" in job and not any(secret in job for secret in SECRETS)
        server.send_ranges = False
        message = message_of(OSError, lambda: compress(folder, tmp_path / "other"))
        assert "does not send ranges" in message
        assert not (tmp_path / "other").exists()


def test_one_safetensors_file_behind_a_url_is_a_checkpoint(store, source, tmp_path):
    tensors = read_checkpoint(f"{store}/part-0.safetensors").tensors
    by_path = read_checkpoint(source / "part-0.safetensors").tensors
    assert list(tensors) == list(by_path)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor.fetch(), by_path[name].fetch())
    compress(f"{store}/part-0.safetensors", PACKED)
    assert list(deepcomp.load(PACKED)) == list(by_path)


# --- interrupted ---


def test_a_second_call_leaves_whole_shards_alone_and_writes_damaged_ones_again(store, expected):
    compress(store, PACKED)
    whole, damaged = (Store().at(f"bucket/packed/model-0000{i}-of-00003.dcz") for i in (1, 2))
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    before = whole.stat().st_mtime_ns
    compress(store, PACKED)
    assert packed_in_store() == expected
    assert whole.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("full", "message"),
    [
        ("packed/parts/000000-0-", "tensor 'embed.weight', entries from 0 up to 1048576: "),
        ("model-00002", "tensors 'fc1.weight' to 'empty' (2): "),
        ("model.dcz.index", ""),
        ("model.dcz.job", ""),
    ],
)
def test_an_upload_that_fails_is_named_leaves_nothing_and_is_made_up_for(
    store, expected, monkeypatch, full, message
):
    monkeypatch.setattr(Store, "full", full)
    told = message_of(OSError, lambda: compress(store, PACKED))
    assert told.startswith(f"{message}{SHOWN}/") and "cannot be written: PermissionError" in told
    assert not [key for key in keys() if full in key]
    monkeypatch.setattr(Store, "full", "no key")
    compress(store, PACKED)
    assert packed_in_store() == expected


def test_a_file_that_is_not_finished_does_not_appear(store):
    record = TensorRecord("w", "uint8", (1 << 20,), "raw", 1 << 20)
    with pytest.raises(ZeroDivisionError), Writer(f"{PACKED}/w.dcz", {}) as writer:
        writer.add(record, (bytes(1 << 20 if i == 0 else 1 // 0) for i in range(2)))
    del writer
    gc.collect()
    assert not [key for key in keys() if "w.dcz" in key]


def test_other_arguments_and_another_checkpoint_are_refused_by_url(store):
    compress(store, PACKED)
    before = packed_in_store()
    told = message_of(ValueError, lambda: compress(store, PACKED, bits=4))
    assert told.startswith(f"{SHOWN}: begun with bits = 5")
    Store().at("bucket/source/part-0.safetensors").touch()
    told = message_of(ValueError, lambda: compress(store, PACKED))
    assert told.startswith(f"{SHOWN}: part-0.safetensors has changed since this folder was begun")
    Store().rm("bucket/packed/model.dcz.job.json")
    told = message_of(ValueError, lambda: compress(store, PACKED))
    assert told.startswith(f"{SHOWN}: has 'model-00001-of-00003.dcz', but no ")
    assert packed_in_store() == before
    job = Store().at("bucket/packed/model.dcz.job.json")
    job.write_bytes(b"[]")
    told = message_of(ValueError, lambda: compress(store, PACKED))
    assert told.startswith(f"{SHOWN}/model.dcz.job.json: damaged")


def test_pages_that_are_only_checked_are_not_kept(store, expected):
    compress(store, PACKED)
    reader = Reader(f"{PACKED}/model-00001-of-00003.dcz")
    reader.check_all_pages(keep=False)
    assert not any(reader.pages.checked)
    reader.check_all_pages()
    assert all(reader.pages.checked)


# --- what is wrong is named ---


def test_a_shard_that_was_cut_off_is_named_with_its_tensor_by_url(store):
    read = read_checkpoint(store)
    at = Store().at("bucket/source/part-0.safetensors")
    at.write_bytes(at.read_bytes()[:3_000_000])
    with mock.patch("deepcomp.large_model.read_checkpoint", lambda _: read):
        told = message_of(ValueError, lambda: compress(store, PACKED))
    assert "tensor 'fc1.weight'" in told or "tensor 'fc2.weight'" in told
    assert "store://bucket/source/part-0.safetensors: cut off, or not sent as asked" in told


@pytest.mark.parametrize("name", ["model.npz", "model.pt", "model.bin", "model.dcz"])
def test_other_formats_are_refused_by_url(store, name):
    told = message_of(ValueError, lambda: compress(f"{store}/{name}", PACKED))
    assert told.startswith(f"store://bucket/source/{name}: of a URL a .safetensors file")
    assert not [key for key in keys() if "packed" in key]


def test_a_folder_without_a_checkpoint_says_what_was_looked_for(store):
    told = message_of(FileNotFoundError, lambda: compress(f"{store}/none", PACKED))
    assert "expected model.safetensors.index.json or model.safetensors there" in told
    assert "'store://bucket/source/none'" in told


def test_a_shard_that_is_missing_is_named_by_url(store):
    Store().rm("bucket/source/part-1.safetensors")
    told = message_of(FileNotFoundError, lambda: compress(store, PACKED))
    assert "store://bucket/source/part-1.safetensors" in told


def test_a_missing_fsspec_is_named_with_the_extra(store, source, tmp_path):
    with mock.patch.dict(sys.modules, {"fsspec": None}):
        for checkpoint, target in ((store, tmp_path / "target"), (source, PACKED)):
            told = message_of(ImportError, lambda a=checkpoint, b=target: compress(a, b))
            assert told.startswith("store://bucket/") and "pip install 'deepcomp[remote]'" in told


# --- the command ---


def test_dcz_compress_and_plan_take_urls(store, expected, capsys):
    arguments = [store, "--sparsity", "0.5", "--json"]
    assert main(["plan", *arguments]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert main(["compress", *arguments, PACKED, "--shard-size", "2400KB", "--jobs", "1"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert packed_in_store() == expected
    assert values["input"] == plan["input"] == "store://bucket/source"
    assert values["output"] == SHOWN
    files = [Store().at(f"bucket/source/part-{i}.safetensors").stat().st_size for i in (0, 1)]
    assert values["input_nbytes"] == plan["input_nbytes"] == sum(files)


def test_dcz_compress_of_a_url_writes_one_file_too_but_not_to_a_url(store, tmp_path, capsys):
    target = tmp_path / "one.dcz"
    assert main(["compress", store, str(target), "--sparsity", "0.5"]) == 0
    assert list(deepcomp.load(target)) == list(make_tensors())
    capsys.readouterr()
    assert main(["compress", store, f"{PACKED}/one.dcz"]) == 2
    assert f"{SHOWN}/one.dcz: behind a URL a folder is written" in capsys.readouterr().err


# --- URLs ---

_names = st.text("abc.-_", min_size=1, max_size=5).filter(lambda name: name.strip("."))


@given(
    st.sampled_from(["s3://bucket", "https://me:secret@host:80/a b", "memory://a", "folder", "/a"]),
    st.lists(_names, max_size=3),
    st.booleans(),
    st.sampled_from(["", "?token=a/b"]),
    _names,
    _names,
)
def test_a_file_beside_another_is_one_in_the_same_folder(start, folders, slash, query, a, b):
    folder = "/".join([start, *folders]) + "/" * slash
    folder += query if "://" in folder else ""
    assert beside(join(folder, a), b) == join(folder, b)
    assert without_credentials(join(folder, a)).startswith(without_credentials(start))
    assert query in join(folder, a) or "://" not in folder
