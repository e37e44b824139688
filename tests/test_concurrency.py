"""One file, many readers: threads, forks, copies; and files that change while they are open."""

import copy
import gc
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import warnings

import numpy as np
import pytest

import deepcomp
from deepcomp import _kernels
from deepcomp.container import Reader

N_THREADS = 8
N_READS = 1000 if _kernels.build_info()["kernels"] == "native" else 100  # the twins are slow


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Save tensors of each layout, most of them several to a page, some over many pages."""
    rng = np.random.default_rng(0)
    tensors = {f"small{i}": rng.normal(size=(9, 7)).astype(np.float32) for i in range(40)}
    tensors |= {f"raw{i}": rng.integers(0, 256, 500 * i, np.uint8) for i in range(40)}
    tensors |= {f"exact{i}": rng.normal(size=(30, i)).astype(np.float16) for i in range(1, 20)}
    tensors |= {"large": rng.integers(0, 256, 400_000, np.uint8), "tied": tensors["small0"]}
    sparse = {f"sparse{i}": rng.normal(size=(20 + i, 30)).astype(np.float32) for i in range(40)}
    settings = {"small[1-9]*": 0.5, "sparse*": 0.9}
    path = tmp_path_factory.mktemp("concurrency") / "m.dcz"
    packed = deepcomp.compress(tensors | sparse, {"small*": 3, "sparse*": 5}, sparsity=settings)
    assert {t.record.layout for t in packed.values()} == {"raw", "dense", "sparse"}
    deepcomp.save(packed, path)
    return path


def product(tensor):
    if len(tensor.shape) != 2:
        return tensor.check()
    n = 1 + tensor.shape[0] % 9
    return deepcomp.matmul(tensor, np.ones((tensor.shape[1], n), np.float32))


READS = [
    lambda t: t.to_dense(),
    lambda t: t.to_dense(n_threads=2),
    lambda t: t.to_csr().data,
    lambda t: t.to_csr().indptr,
    lambda t: bytes(t.section()),
    lambda t: t.parts(),
    lambda t: t.verify(),
    product,
]


def read(packed, choices):
    """Return what partial reads give."""
    names = list(packed)
    return [READS[r](packed[names[n]]) for r, n in choices]


def draw(seed, n, n_tensors):
    return np.random.default_rng(seed).integers(0, (len(READS), n_tensors), (n, 2)).tolist()


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def in_threads(work, n=N_THREADS):
    """Call work(0), work(1), ... at the same time; return the results."""
    results, start = [None] * n, threading.Barrier(n)

    def call(i):
        start.wait()
        results[i] = work(i)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(n)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    return results


def test_partial_reads_in_threads_are_those_of_a_serial_run(path):
    packed = deepcomp.load(path)
    choices = [draw(i, N_READS, len(packed)) for i in range(N_THREADS)]
    serial = [read(deepcomp.load(path), choice) for choice in choices]
    found = in_threads(lambda i: read(packed, choices[i]))
    assert all(same(a, b) for a, b in zip(serial, found, strict=True))


def test_first_reads_in_threads_are_those_of_a_serial_run(path):
    """All threads begin with the same tensors, so that they make what is kept at the same time."""
    for seed in range(20):
        packed = deepcomp.load(path)
        choices = draw(seed, 12, len(packed))
        serial = read(deepcomp.load(path), choices)
        for found in in_threads(lambda _, p=packed, c=choices: read(p, c)):
            assert same(serial, found)


def test_readers_see_the_old_or_the_new_file_while_it_is_replaced(tmp_path):
    contents = [np.full(90_000, i, np.int16) + np.arange(90_000, dtype=np.int16) for i in range(2)]
    models = [deepcomp.compress({"w": content}, bits=None) for content in contents]
    deepcomp.save(models[0], tmp_path / "m.dcz")
    is_done = threading.Event()

    def work(i):
        if i == 0:
            for n in range(40):
                deepcomp.save(models[n % 2], tmp_path / "m.dcz")
            is_done.set()
            return []
        found = []
        while not is_done.is_set():
            found.append(deepcomp.load(tmp_path / "m.dcz")["w"].to_dense())
        return found

    found = [array for arrays in in_threads(work, 3) for array in arrays]
    assert all(any(np.array_equal(array, content) for content in contents) for array in found)


@pytest.fixture
def copied(path, tmp_path):
    """Copy the file, for tests that change it."""
    (tmp_path / "m.dcz").write_bytes(path.read_bytes())
    return tmp_path / "m.dcz"


def everything(packed):
    return [tensor.to_dense() for tensor in packed.values()]


@pytest.mark.parametrize("how", ["replaced", "deleted"])
def test_a_file_that_is_replaced_or_deleted_while_it_is_open_gives_the_old_data(copied, how):
    expected = everything(deepcomp.load(copied))
    packed = deepcomp.load(copied)
    if how == "replaced":
        deepcomp.save({"w": np.ones(3)}, copied)
    else:
        copied.unlink()
    assert same(everything(packed), expected)


@pytest.mark.parametrize("n_left", [0, 1, 5000, 100_000, 500_000, -1])
@pytest.mark.parametrize("has_read", [False, True])
def test_a_file_that_is_cut_while_it_is_open_gives_a_named_error_until_it_is_whole_again(
    copied, n_left, has_read
):
    """In this process: a SIGBUS would end the run."""
    whole, expected = copied.read_bytes(), everything(deepcomp.load(copied))
    packed, reader = deepcomp.load(copied), Reader(copied)
    if has_read:
        everything(packed)
    n_left %= len(whole)
    os.truncate(copied, n_left)
    cut = f"cut off since it was opened: found {n_left} bytes, expected {len(whole)}"
    for name, tensor in packed.items():
        own = packed.aliases.get(name, name)
        for use in (tensor.to_dense, tensor.verify, tensor.check, tensor.section, tensor.parts):
            if use != tensor.parts or tensor.record.layout != "raw":
                with pytest.raises(deepcomp.DczError, match=rf"m\.dcz: tensor '{own}': {cut}"):
                    use()
    for use in (reader.check_all_pages, lambda: pickle.dumps(packed)):
        with pytest.raises(deepcomp.DczError, match=cut):
            use()
    copied.write_bytes(whole)
    assert same(everything(packed), expected)


def test_a_file_that_is_cut_between_two_reads_of_a_product_gives_an_error(copied):
    packed = deepcomp.load(copied)
    x = np.ones((30, 30), np.float32)
    one = deepcomp.matmul(packed["sparse39"], x[:, 0])
    os.truncate(copied, 0)
    np.testing.assert_array_equal(deepcomp.matmul(packed["sparse39"], x[:, 0]), one)  # kept
    with pytest.raises(deepcomp.DczError, match=r"m\.dcz: tensor 'exact3': cut off"):
        deepcomp.matmul(packed["exact3"], x[:3])


def test_a_file_that_is_rewritten_while_it_is_open_is_noticed_in_pages_not_yet_touched(copied):
    packed = deepcomp.load(copied)
    packed["small0"].check()
    whole = copied.read_bytes()
    with open(copied, "r+b") as file:
        file.write(bytes(b ^ 0x55 for b in whole))
    packed["small0"].check()  # its page was checked before
    for name in ("large", "sparse7", "raw39", "exact9"):
        for use in (packed[name].to_dense, packed[name].verify, packed[name].check):
            with pytest.raises(deepcomp.DczError, match=rf"m\.dcz: tensor '{name}': the page of"):
                use()


def test_files_are_closed_when_nothing_uses_them(tmp_path):
    path = tmp_path / "m.dcz"
    deepcomp.save(deepcomp.compress({"w": np.eye(9, dtype=np.float32)}), path)
    (tmp_path / "bad.dcz").write_bytes(path.read_bytes()[:-1])

    def n_open():
        gc.collect()
        return len(os.listdir("/proc/self/fd" if os.path.exists("/proc/self/fd") else "/dev/fd"))

    before = n_open()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2000):
            deepcomp.load(path)
            for wrong in (tmp_path / "bad.dcz", os.devnull):
                with pytest.raises(deepcomp.DczError):
                    deepcomp.load(wrong)
        for _ in range(2000):  # what a product keeps refers to its tensor
            product(deepcomp.load(path)["w"])
    assert n_open() == before


def test_copies_and_pickles_need_no_file(copied):
    packed = deepcomp.load(copied)
    _ = packed["sparse0"].to_dense(), product(packed["sparse1"])
    expected = everything(packed)
    copies = [pickle.loads(pickle.dumps(packed)), copy.deepcopy(packed), copy.copy(packed)]
    assert all(c["tied"] is c["small0"] and c.aliases == packed.aliases for c in copies)
    os.truncate(copied, 0)
    for made in copies[:2]:
        assert same(everything(made), expected)
        assert repr(made) == repr(packed)
    in_memory = deepcomp.compress({"w": np.eye(9)})
    assert same(everything(pickle.loads(pickle.dumps(in_memory))), everything(in_memory))


def test_forked_processes_read_the_same_file_at_the_same_time(path):
    script = """
        import os, sys, threading, numpy as np, deepcomp
        packed = deepcomp.load(sys.argv[1])
        def everything(seed):
            names = list(packed)
            np.random.default_rng(seed).shuffle(names)
            found = {name: packed[name].to_dense(n_threads=2) for name in names}
            x = np.ones((30, 8), np.float32)
            found["product"] = deepcomp.matmul(packed["sparse0"], x, n_threads=2)
            return b"".join(found[name].tobytes() for name in [*packed, "product"])
        expected = everything(0)  # so that there are threads before the fork
        children = []
        for seed in range(4):
            child = os.fork()
            if not child:
                os._exit(0 if everything(seed) == expected else 1)
            children.append(child)
        assert everything(9) == expected
        for child in children:
            assert os.waitpid(child, 0)[1] == 0
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), str(path)]
    subprocess.run(command, check=True, timeout=100)
