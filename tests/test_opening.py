"""How files are opened: mapped or read, without descriptors; and closed, with `close` or `with`."""

import copy
import gc
import os
import pickle
import sys
import threading
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

import deepcomp
from deepcomp import shards
from deepcomp.container import Reader
from deepcomp.files import File

CLOSED = "the file was closed: load it again"


@pytest.fixture
def folder(tmp_path):
    """A model in one file, and the same as a folder of shards, of which there is one."""
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.normal(size=(40, 30)).astype(np.float32) for i in range(5)}
    weights["raw"] = rng.integers(0, 256, 300_000, np.uint8)
    deepcomp.save(deepcomp.compress(weights, sparsity={"w*": 0.8}), tmp_path / "m.dcz")
    index = shards.describe({}, [("m.dcz", Reader(tmp_path / "m.dcz"))], weights, {})
    (tmp_path / shards.INDEX_NAME).write_bytes(shards.encode_shard_index(index))
    return tmp_path


def everything(packed):
    return [tensor.to_dense() for tensor in packed.values()]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def n_descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd" if os.path.exists("/proc/self/fd") else "/dev/fd"))


# --- no descriptors ---


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("name", ["m.dcz", "."])
def test_a_thousand_loaded_files_hold_no_descriptor(folder, name, mmap):
    before = n_descriptors()
    models = [deepcomp.load(folder / name, mmap=mmap) for _ in range(1000)]
    sums = {float(packed["w3"].to_dense().sum()) for packed in models}
    assert n_descriptors() == before and len(sums) == 1


def test_a_file_is_found_again_when_the_current_folder_is_another_one(folder, monkeypatch):
    monkeypatch.chdir(folder)
    packed = deepcomp.load("m.dcz")
    monkeypatch.chdir("/")
    os.truncate(folder / "m.dcz", 1000)
    with pytest.raises(deepcomp.DczError, match=r"^m\.dcz: tensor 'raw': cut off since .* 1000 b"):
        packed["raw"].to_dense()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what memory is there")
@pytest.mark.parametrize("how", ["deleted", "replaced", "renamed"])
def test_a_file_that_is_cut_after_its_path_leads_elsewhere_gives_an_error(folder, how):
    """In this process: a SIGBUS would end the run."""
    path, other = folder / "m.dcz", folder / "other"
    packed, expected = deepcomp.load(path), everything(deepcomp.load(path))
    os.link(path, other)
    if how == "renamed":
        path.rename(folder / "third")
    elif how == "replaced":
        deepcomp.save({}, path)
    else:
        path.unlink()
    assert same(everything(packed), expected)
    whole = other.read_bytes()
    os.truncate(other, 5000)
    with pytest.raises(deepcomp.DczError, match=r"m\.dcz: tensor 'raw': cut off .*fewer bytes"):
        packed["raw"].to_dense()
    other.write_bytes(whole)
    assert same(everything(packed), expected)


# --- read, not mapped ---


@pytest.mark.parametrize("name", ["m.dcz", "."])
def test_a_file_that_is_read_can_be_changed_and_cut(folder, name):
    expected = everything(deepcomp.load(folder / name))
    packed = deepcomp.load(folder / name, mmap=False)
    _ = packed["w0"].to_dense()  # else the shard is not open yet
    (folder / "m.dcz").write_bytes(b"nonsense")
    assert same(everything(packed), expected)
    os.truncate(folder / "m.dcz", 0)
    assert same(everything(packed), expected)


def test_open_files_and_urls_are_never_mapped_whatever_is_asked(folder):
    expected = everything(deepcomp.load(folder / "m.dcz"))
    for mmap in (True, False):
        with open(folder / "m.dcz", "rb") as file:
            assert same(everything(deepcomp.load(file, mmap=mmap)), expected)
        url = f"file://{folder / 'm.dcz'}"
        assert same(everything(deepcomp.load(url, mmap=mmap)), expected)


def test_a_file_that_is_cut_while_it_is_read_is_refused(folder):
    path = folder / "m.dcz"
    status = os.stat(path)
    longer = SimpleNamespace(
        st_mode=status.st_mode, st_size=status.st_size + 7, st_dev=status.st_dev, st_ino=1
    )
    message = f"m.dcz: cut off: found {status.st_size} bytes, expected {status.st_size + 7}"
    with (
        mock.patch("deepcomp.files.os.fstat", return_value=longer),
        pytest.raises(deepcomp.DczError, match=message),
    ):
        File(path, mmap=False)


@pytest.mark.parametrize("mmap", [True, False])
def test_an_empty_file_and_what_is_no_file_are_refused(tmp_path, mmap):
    (tmp_path / "empty").touch()
    for path in (tmp_path / "empty", os.devnull):
        with pytest.raises(deepcomp.DczError, match=r"not a \.dcz file"):
            deepcomp.load(path, mmap=mmap)


def test_mmap_must_be_true_or_false(folder):
    with pytest.raises(ValueError, match="mmap is 'r': expected True or False"):
        deepcomp.load(folder / "m.dcz", mmap="r")


# --- closed ---

KINDS = {
    "mapped": lambda folder: folder / "m.dcz",
    "shards": lambda folder: folder,
    "url": lambda folder: f"file://{folder / 'm.dcz'}",
    "open": lambda folder: (folder / "m.dcz").open("rb"),
}


@pytest.fixture(params=[*KINDS, "read"])
def loaded(folder, request):
    if request.param == "read":
        return deepcomp.load(folder / "m.dcz", mmap=False)
    return deepcomp.load(KINDS[request.param](folder))


def test_a_closed_model_says_so_whatever_is_asked_of_its_tensors(loaded):
    x = np.ones((30, 1), np.float32)
    with loaded as packed:
        tensor = packed["w1"]
        for action in (tensor.to_dense, tensor.to_csr, lambda: tensor.rows(0, 2)):
            action()
        for n in (1, 9):  # for each a layout is kept
            deepcomp.matmul(tensor, np.repeat(x, n, 1))
    part = packed.select("w1")
    assert packed["w1"].shape == (40, 30) and "'w1'" in repr(tensor) and len(packed) == 6
    methods = "to_dense to_csr to_torch verify check section parts"
    for use in (
        *(getattr(tensor, method) for method in methods.split()),
        *(part["w1"].to_dense, packed.state_dict, lambda: tensor.rows(0, 2)),
        *(lambda n=n: deepcomp.matmul(tensor, np.repeat(x, n, 1)) for n in (1, 9)),
        *(lambda: pickle.dumps(packed), lambda: copy.deepcopy(packed)),
        lambda: next(tensor.decode_blocks()),
    ):
        with pytest.raises(ValueError, match=rf"tensor 'w[01]': {CLOSED}") as caught:
            use()
        assert not isinstance(caught.value, deepcomp.DczError)  # nothing is wrong with the file
    packed.close()
    with packed:
        pass


def test_what_was_taken_of_a_model_stays_valid_when_it_is_closed(loaded):
    expected = {name: bytes(tensor.section()) for name, tensor in loaded.items()}
    views = {name: tensor.section() for name, tensor in loaded.items()}
    blocks, dense = loaded["raw"].decode_blocks(), loaded["raw"].to_dense()
    made = copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))
    started = next(blocks)
    loaded.close()
    del loaded
    gc.collect()
    assert {name: bytes(view) for name, view in views.items()} == expected
    assert np.array_equal(np.concatenate([started, *blocks]), dense)
    for model in made:
        assert {name: bytes(tensor.section()) for name, tensor in model.items()} == expected
        model.close()
        assert np.array_equal(model["raw"].to_dense(), dense)


def test_a_shard_that_was_not_open_is_not_opened_after_the_end(folder):
    packed = deepcomp.load(folder)
    packed.close()
    with pytest.raises(ValueError, match=rf"tensor 'w0': {CLOSED}"):
        packed["w0"].to_dense()


def test_a_selection_closes_the_file_and_the_callers_own_file_stays_open(folder):
    with open(folder / "m.dcz", "rb") as file:
        packed = deepcomp.load(file)
        with packed.select("w*") as part:
            assert len(part) == 5
        with pytest.raises(ValueError, match=CLOSED):
            packed["raw"].to_dense()
        assert not file.closed and file.seek(0) == 0 and len(file.read(4)) == 4


def test_the_connection_of_a_url_is_closed(folder):
    before = n_descriptors()
    models = [deepcomp.load(f"file://{folder / 'm.dcz'}") for _ in range(5)]
    assert n_descriptors() == before + 5
    for packed in models:
        packed.close()
    assert n_descriptors() == before


def test_a_model_of_no_file_stays_as_it_is():
    with deepcomp.compress({"w": np.eye(9)}) as packed:
        pass
    assert np.array_equal(packed["w"].to_dense(), np.eye(9))


def test_memory_is_given_back_when_a_closed_file_has_no_more_views(folder):
    def n_mapped():
        with open("/proc/self/maps") as file:
            return sum(str(folder / "m.dcz") in line for line in file)

    if not os.path.exists("/proc/self/maps"):
        pytest.skip("needs /proc")
    packed = deepcomp.load(folder / "m.dcz")
    for tensor in packed.values():
        tensor.to_dense()
    view = packed["raw"].section()
    assert n_mapped() == 1
    packed.close()
    assert n_mapped() == 1
    del view
    assert n_mapped() == 0


def test_threads_that_read_while_it_is_closed_get_what_is_right_or_an_error(loaded, folder):
    expected = dict(zip(loaded, everything(deepcomp.load(folder / "m.dcz")), strict=True))
    wrong, start = [], threading.Barrier(5)

    def read(seed):
        start.wait()
        for name in np.random.default_rng(seed).choice(list(expected), 200):
            try:
                found = loaded[name].to_dense()
            except ValueError as error:
                if CLOSED not in str(error):
                    wrong.append(error)
                continue
            if not np.array_equal(found, expected[name]):
                wrong.append(name)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    start.wait()
    loaded.close()
    for thread in threads:
        thread.join()
    assert wrong == []
