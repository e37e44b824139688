"""Whole models of the examples' zoo: the file, compressing, restoring, and computing from it."""

import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import deepcomp
from deepcomp.container import Reader
from deepcomp.report import make_report

from .race import OURS, once, race
from .report import Results

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from models import MODELS, SETTINGS, build

NAMES = (
    "resnet-110",
    "squeezenet-1.1",
    "densenet-121",
    "resnet-34",
    "alexnet",
    "vgg-16",
    "vgg-19",
)
GROUP = "Whole models, drawn at random, 90 % of each weight pruned, 5 bits, one thread"


@pytest.mark.parametrize("name", NAMES)
def test_model(name: str, tmp_path: Path, benchmark: BenchmarkFixture, results: Results) -> None:
    path = tmp_path / "model.dcz"
    in_memory, dense, sparse = compressed(name, path, results), empty(name), empty(name)
    deepcomp.load(path).restore(dense)
    check(in_memory.state_dict(), dense.state_dict())
    del in_memory
    times = [once(lambda: deepcomp.load(path).restore(dense))[0] for _ in range(3)]
    results.add(GROUP, f"{name}: load and restore", 1e3 * median(times), "ms")
    add_sizes(name, path, results)
    deepcomp.load(path).restore(sparse, layers="sparse")
    path.unlink()
    add_inference(name, dense, sparse, benchmark, results)


def compressed(name: str, path: Path, results: Results) -> torch.nn.Module:
    """Compress a model and save it; return it as it is then, without the file."""
    model = build(MODELS[name].make)
    seconds, packed = once(lambda: deepcomp.compress(model, **SETTINGS))
    results.add(GROUP, f"{name}: compress", seconds, "s")
    deepcomp.save(packed, path)
    packed.restore(model)
    return model


def empty(name: str) -> torch.nn.Module:
    """Make a model whose parameters have no values yet."""
    with torch.device("meta"):
        model = MODELS[name].make()
    return model.to_empty(device="cpu").eval()


def check(expected: dict[str, Any], found: dict[str, Any]) -> None:
    """Check that a restored model is that in memory, pruned and shared as it should be."""
    assert list(expected) == list(found)
    for name, tensor in found.items():
        assert torch.equal(expected[name], tensor), name
        if tensor.dim() > 1:
            kept = tensor[tensor != 0]
            assert kept.numel() == tensor.numel() - round(SETTINGS["sparsity"] * tensor.numel())
            assert kept.unique().numel() <= 1 << SETTINGS["bits"], name


def add_sizes(name: str, path: Path, results: Results) -> None:
    """Add the totals of the model's size table."""
    report = make_report(Reader(path))
    n_bytes, parts = report.file_nbytes, report.parts()
    assert n_bytes == path.stat().st_size == sum(parts.values())
    rival = ("dense", report.dense_nbytes)
    what = f"{name}: file, times smaller"
    results.add(GROUP, what, n_bytes, "bytes", "", rival, report.dense_nbytes / n_bytes)
    for part in ("labels", "gaps"):
        rival = ("file", n_bytes)
        results.add(GROUP, f"{name}: {part} in the file", parts[part], "bytes", "", rival)


def add_inference(
    name: str,
    dense: torch.nn.Module,
    sparse: torch.nn.Module,
    benchmark: BenchmarkFixture,
    results: Results,
) -> None:
    x = torch.randn(1, *MODELS[name].shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = dense(x), sparse(x)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
        seconds = race(benchmark, lambda: sparse(x), {"dense": lambda: dense(x)}, rounds=3)
    ms = {key: 1e3 * s for key, s in seconds.items()}
    what, rival = f"{name}: inference, batch 1, times faster", ("dense", ms["dense"])
    results.add(GROUP, what, ms[OURS], "ms", "", rival, ms["dense"] / ms[OURS])
