"""A whole AlexNet: compress, load, decode, restore; beside safetensors."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import deepcomp

from .race import OURS, race, race_two_threads
from .report import Results
from .shapes import ALEXNET_KEPT, ALEXNET_SETTINGS, alexnet, fc6_weight

COMPRESS = "AlexNet: compress (61 M float32, to 11 % kept, 5 bits fc, 8 bits conv)"
OPEN = "AlexNet: the file, warm"
DECODE = "Decode to dense into out=, fc6 at 10 % (4096x9216, 5 bits)"


class Files(NamedTuple):
    """The same weights in two files."""

    dcz: Path
    safetensors: Path


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return alexnet()


@pytest.fixture(scope="module")
def files(model: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    folder = tmp_path_factory.mktemp("alexnet")
    files = Files(folder / "alexnet.dcz", folder / "alexnet.safetensors")
    packed = deepcomp.compress(model, **ALEXNET_SETTINGS)
    deepcomp.save(packed, files.dcz)
    safetensors.torch.save_file(packed.state_dict(), files.safetensors)
    yield files
    for file in files:
        file.unlink()


@pytest.fixture(scope="module")
def fc6() -> tuple[deepcomp.CompressedTensor, np.ndarray]:
    """Return fc6 compressed and its dense values, which are checked."""
    dense = fc6_weight()
    tensor = deepcomp.compress(dense, bits=5, sparsity=0.9)["fc6.weight"]
    expected = tensor.to_dense()
    check_weight(dense["fc6.weight"], expected, kept=0.1, bits=5)
    return tensor, expected


def check_weight(before: np.ndarray, after: np.ndarray, kept: float, bits: int) -> None:
    """Check what compressing did: the largest entries stay, as one of few values, nearly equal."""
    where = after != 0
    n_kept = before.size - round((1 - kept) * before.size)
    assert np.count_nonzero(where) == n_kept
    assert np.abs(before[~where]).max(initial=0) <= np.abs(before[where]).min()
    assert np.unique(after[where]).size <= 1 << bits
    error = np.linalg.norm((after - before)[where]) / np.linalg.norm(before[where])
    assert error < 2 ** (1 - bits)


def test_compress(model: torch.nn.Module, benchmark: BenchmarkFixture, results: Results) -> None:
    state_dict = model.state_dict()
    packed = deepcomp.compress(state_dict, **ALEXNET_SETTINGS)
    for name, tensor in state_dict.items():
        layer, _, kind = name.partition(".")
        before, after = tensor.numpy(), packed[name].to_dense()
        if kind == "weight":
            bits = 8 if layer.startswith("conv") else 5
            check_weight(before, after, ALEXNET_KEPT[layer], bits)
        else:
            assert (after == before).all()

    action = lambda: deepcomp.compress(state_dict, **ALEXNET_SETTINGS)  # noqa: E731
    seconds = race(benchmark, action, rounds=3)[OURS]
    results.add(COMPRESS, "time, pruning included", seconds, "s", "<= 4")
    dense_nbytes = sum(4 * t.numel() for t in state_dict.values())
    nbytes = sum(packed[name].nbytes for name in packed)
    rival = ("dense", dense_nbytes)
    results.add(COMPRESS, "size, times smaller", nbytes, "bytes", "", rival, dense_nbytes / nbytes)


def test_peak_memory(benchmark: BenchmarkFixture, results: Results) -> None:
    command = [sys.executable, "-m", f"{__package__}.peak_memory"]
    root = Path(__file__).parents[1]
    run = lambda: subprocess.run(command, cwd=root, check=True, capture_output=True)  # noqa: E731
    found = json.loads(benchmark.pedantic(run, rounds=1).stdout)

    megabytes = {key: value / 1e6 for key, value in found.items()}
    assert megabytes["made"] - megabytes["before"] > 0.9 * megabytes["dense"]
    growth = megabytes["peak"] - megabytes["made"]
    results.add(COMPRESS, "peak memory above that of the dense state_dict", growth, "MB", "<= 1000")
    results.add(COMPRESS, "peak memory of the process, torch included", megabytes["peak"], "MB")


def test_load(files: Files, benchmark: BenchmarkFixture, results: Results) -> None:
    assert deepcomp.load(files.dcz).keys() == safetensors.numpy.load_file(files.safetensors).keys()

    seconds = race(benchmark, lambda: deepcomp.load(files.dcz), rounds=101)[OURS]
    results.add(OPEN, "load", 1e3 * seconds, "ms", "<= 5")


def test_to_arrays(files: Files, benchmark: BenchmarkFixture, results: Results) -> None:
    def ours() -> dict[str, np.ndarray]:
        return {name: tensor.to_dense() for name, tensor in deepcomp.load(files.dcz).items()}

    expected = safetensors.numpy.load_file(files.safetensors)
    found = ours()
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name], strict=True)
    del found, expected

    load_file = "safetensors.numpy.load_file"
    rivals = {load_file: lambda: safetensors.numpy.load_file(files.safetensors)}
    ms = {name: 1e3 * s for name, s in race(benchmark, ours, rivals).items()}
    results.add(OPEN, "all tensors to arrays", ms[OURS], "ms", "<= 1", (load_file, ms[load_file]))


def test_restore(files: Files, benchmark: BenchmarkFixture, results: Results) -> None:
    target, other = alexnet(seed=None), alexnet(seed=None)

    def ours() -> None:
        deepcomp.load(files.dcz).restore(target)

    def theirs() -> None:
        other.load_state_dict(safetensors.torch.load_file(files.safetensors))

    ours()
    theirs()
    for name, tensor in other.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)

    load_file = "load_state_dict(safetensors.torch.load_file)"
    ms = {name: 1e3 * s for name, s in race(benchmark, ours, {load_file: theirs}).items()}
    results.add(OPEN, "restore(model)", ms[OURS], "ms", "<= 2", (load_file, ms[load_file]))


def test_decode(
    fc6: tuple[deepcomp.CompressedTensor, np.ndarray],
    benchmark: BenchmarkFixture,
    results: Results,
) -> None:
    tensor, expected = fc6
    out = np.ones_like(expected)
    assert (tensor.to_dense(out=out) == expected).all()

    rate = out.size / race(benchmark, lambda: tensor.to_dense(out=out))[OURS] / 1e9
    results.add(DECODE, "one thread", rate, "Gweights/s", ">= 1")


def test_decode_two_threads(
    fc6: tuple[deepcomp.CompressedTensor, np.ndarray],
    all_cores: int,
    benchmark: BenchmarkFixture,
    results: Results,
) -> None:
    if all_cores < 2:
        pytest.skip("needs two cores")
    tensor, expected = fc6
    out = np.ones_like(expected)
    assert (tensor.to_dense(out=out, n_threads=2) == expected).all()

    benchmark.pedantic(lambda: None, rounds=1)
    found = race_two_threads(
        lambda: tensor.to_dense(out=out), lambda: tensor.to_dense(out=out, n_threads=2)
    )
    rates = [out.size / seconds / 1e9 for seconds in (found.one, found.two)]
    results.add(DECODE, "two threads", rates[1], "Gweights/s", ">= 1.7", ("one thread", rates[0]))
    found.add_control(results, DECODE)
