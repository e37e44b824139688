"""Sparse layers beside dense ones, torch's and SciPy's CSR, int8 and bfloat16."""

import copy
import math
import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
import scipy.sparse
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import deepcomp
from deepcomp import _kernels
from deepcomp.nn import SparseConv2d, SparseLinear

from . import onnx_runtime
from .race import OURS, Action, once, race, race_two_threads
from .report import Results

DENSE, CSR, SCIPY, INT8, BF16 = "dense float32", "torch CSR", "SciPy CSR", "int8", "bfloat16"
ORT = "ONNX Runtime float32"
RIVALS = "Sparse layers beside the best of each kind, one thread (times faster)"
NETWORKS = "Whole networks, one thread"
LEAST_SECONDS = 0.005  # of one timing: short calls are repeated


class Matrix(NamedTuple):
    """A layer that is measured, and the bars: how many times as fast as dense, by batch."""

    name: str
    shape: tuple[int, int]
    kept: float
    bars: dict[int, str]


MATRICES = [
    Matrix("AlexNet fc6", (4096, 9216), 0.09, {1: ">= 18", 8: ">= 10", 64: ">= 7", 256: ">= 7"}),
    Matrix("AlexNet fc7", (4096, 4096), 0.09, {1: ">= 18", 8: ">= 10", 64: ">= 7", 256: ">= 7"}),
    Matrix("AlexNet fc8", (1000, 4096), 0.25, {1: ">= 4"}),
    Matrix("VGG fc6", (4096, 25088), 0.04, {1: ">= 25"}),
    Matrix("FFN", (3072, 768), 0.10, {1: ">= 6", 8: ">= 6", 64: ">= 6", 256: ">= 6"}),
    Matrix("FFN", (3072, 768), 0.20, {1: ">= 4"}),
    Matrix("FFN", (3072, 768), 0.50, {1: ">= 2", 64: ">= 1.5"}),
    Matrix("LeNet fc1", (300, 784), 0.08, {1: ">= 3"}),
]


class Timed(NamedTuple):
    """Microseconds of a row."""

    matrix: Matrix
    batch: int
    microseconds: dict[str, float]


@pytest.fixture(scope="module")
def timed() -> list[Timed]:
    """Return the rows of this run, which the last test sums up."""
    return []


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, on its own CSR and quantization
        yield


def sparse_linear(
    shape: tuple[int, int], kept: float, bits: int = 5
) -> tuple[torch.nn.Linear, SparseLinear]:
    """Return a dense layer with a pruned and shared weight, and the sparse one."""
    rng = np.random.default_rng(shape[1])
    weight = rng.standard_normal(shape, np.float32)
    packed = deepcomp.compress({"w": weight}, bits=bits, sparsity=1 - kept)
    with torch.device("meta"):
        dense = torch.nn.Linear(shape[1], shape[0])
    dense.weight = torch.nn.Parameter(packed["w"].to_torch())
    dense.bias = torch.nn.Parameter(torch.from_numpy(rng.standard_normal(shape[0], np.float32)))
    return dense, SparseLinear(packed["w"], dense.bias)


def check(layer: Callable[[Any], Any], dense: torch.nn.Module, x: torch.Tensor) -> None:
    """Check an answer against float64."""
    expected = copy.deepcopy(dense).double()(x.double())
    error = (layer(x).double() - expected).abs().max() / expected.abs().max()
    assert error <= 1e-6, error


def times(action: Action, n: int) -> Action:
    """Return an action that does another one n times."""

    def repeated() -> None:
        for _ in range(n):
            action()

    return repeated


def race_calls(
    benchmark: BenchmarkFixture, ours: Action, rivals: dict[str, Action], seconds: float
) -> dict[str, float]:
    """Return microseconds a call; `seconds` is about what ours takes."""
    n = max(1, math.ceil(LEAST_SECONDS / seconds))
    repeated = {name: times(rival, n) for name, rival in rivals.items()}
    found = race(benchmark, times(ours, n), repeated)
    return {name: 1e6 * s / n for name, s in found.items()}


def rivals_of(dense: torch.nn.Linear, x: torch.Tensor) -> dict[str, Action]:
    """Return what else could be used; each is called with the input as it likes it."""
    csr, x16, x_t = dense.weight.to_sparse_csr(), x.bfloat16(), x.T.contiguous()
    bf16 = copy.deepcopy(dense).bfloat16()
    int8 = torch.ao.quantization.quantize_dynamic(
        torch.nn.Sequential(dense), {torch.nn.Linear}, torch.qint8
    )
    matrix = scipy.sparse.csr_array(dense.weight.numpy())
    columns = x_t.numpy()
    linear = torch.nn.functional.linear
    others: dict[str, Action] = {}
    # it is handed over in memory, of which copies are made: not of 400 MB
    if onnx_runtime.IS_THERE and dense.weight.nbytes < 1 << 28:
        run, rows = onnx_runtime.linear(dense), x.numpy()
        others[ORT] = lambda: run(rows)
    return {
        DENSE: lambda: dense(x),
        "torch CSR, linear": lambda: linear(x, csr, dense.bias),
        "torch CSR, matmul": lambda: csr @ x_t,
        SCIPY: lambda: matrix @ columns,
        INT8: lambda: int8(x),
        BF16: lambda: bf16(x16),
        **others,
    }


CASES = [(matrix, batch) for matrix in MATRICES for batch in matrix.bars]


@pytest.mark.parametrize(
    ("matrix", "batch"), CASES, ids=[f"{m.name}-{100 * m.kept:.0f}-{b}" for m, b in CASES]
)
def test_matrix(
    matrix: Matrix, batch: int, timed: list[Timed], benchmark: BenchmarkFixture, results: Results
) -> None:
    dense, sparse = sparse_linear(matrix.shape, matrix.kept)
    x = torch.randn(batch, matrix.shape[1])
    check(sparse, dense, x)
    expected_us = 1e-4 * batch * matrix.kept * dense.weight.numel()
    us = race_calls(benchmark, lambda: sparse(x), rivals_of(dense, x), 1e-6 * expected_us)
    us[CSR] = min(us.pop("torch CSR, linear"), us.pop("torch CSR, matmul"))
    timed.append(Timed(matrix, batch, us))

    shape = f"{matrix.shape[0]}x{matrix.shape[1]}"
    what = f"{matrix.name} {shape}, {100 * matrix.kept:.0f} % kept"
    group = f"Sparse layers, batch {batch}, one thread"
    bar = matrix.bars[batch]
    results.add(group, what, us[OURS], "us", bar, (DENSE, us[DENSE]), us[DENSE] / us[OURS])
    for name in [name for name in (CSR, SCIPY, INT8, BF16, ORT) if name in us]:
        bar = "> 1" if name == CSR or (name == INT8 and matrix.kept <= 0.1) else ""
        results.add(group, what, us[OURS], "us", bar, (name, us[name]), us[name] / us[OURS])
    if batch == 1 and matrix.kept <= 0.1:
        layouts = sparse._weight.matrix.nbytes / dense.weight.numel()
        results.add("Memory of the layout for one vector", what, layouts, "bytes/weight", "<= 0.3")


BUILDS = [(matrix, batch) for matrix in MATRICES for batch in (1, 64)]


@pytest.mark.parametrize(
    ("matrix", "batch"), BUILDS, ids=[f"{m.name}-{100 * m.kept:.0f}-{b}" for m, b in BUILDS]
)
def test_building(
    matrix: Matrix, batch: int, benchmark: BenchmarkFixture, results: Results, tmp_path: Path
) -> None:
    """What the first call of a layer costs more than a later one, in dense products.

    The later one too comes when the caches hold something else: else the cost would be in part that
    of an interpreter with cold caches, which every call has that does not follow another one.
    """
    rng = np.random.default_rng(0)
    packed = deepcomp.compress(
        {"w": rng.standard_normal(matrix.shape, np.float32)}, bits=5, sparsity=1 - matrix.kept
    )
    deepcomp.save(packed, tmp_path / "w.dcz")
    x, dense = torch.randn(batch, matrix.shape[1]), packed["w"].to_torch()
    more: list[float] = []

    def first_call() -> None:
        tensor = deepcomp.load(tmp_path / "w.dcz")["w"]
        tensor.check()  # as restore() does: pages, codes and directory
        layer = SparseLinear(tensor)
        first, y = once(lambda: layer(x))
        rival()
        later, _ = once(lambda: layer(x))
        more.append(first - later)
        assert torch.allclose(y, expected, atol=1e-3)

    def product() -> torch.Tensor:
        return torch.nn.functional.linear(x, dense)

    expected = product()
    n = max(1, math.ceil(LEAST_SECONDS / once(product)[0]))  # in the cache, if it fits
    rival = times(product, n)
    found = race(benchmark, first_call, {DENSE: rival})
    shape = f"{matrix.shape[0]}x{matrix.shape[1]}"
    what = f"{matrix.name} {shape}, {100 * matrix.kept:.0f} % kept, batch {batch}"
    rival = (DENSE, 1e6 * found[DENSE] / n)
    group = "What the first call of a layer costs more than a later one, in dense products"
    results.add(group, what, 1e6 * float(np.median(more)), "us", "<= 10", rival)


def test_call(benchmark: BenchmarkFixture, results: Results) -> None:
    """The cost of a call on a layer so small that nothing else counts."""
    dense, sparse = sparse_linear((16, 16), 0.5)
    x, linear = torch.randn(1, 16), torch.nn.functional.linear
    check(sparse, dense, x)
    rivals = {
        "F.linear": lambda: linear(x, dense.weight, dense.bias),
        "torch.nn.Linear": lambda: dense(x),
    }
    us = race_calls(benchmark, lambda: sparse(x), rivals, 5e-6)
    group = "A call of a 16x16 layer, batch 1"
    for name in rivals:
        results.add(group, "time", us[OURS], "us", "", (name, us[name]))
    what = "more than F.linear's own call"
    results.add(group, what, us[OURS] - us["F.linear"], "us", "<= 3")


def test_all_matrices(timed: list[Timed], benchmark: BenchmarkFixture, results: Results) -> None:
    benchmark.pedantic(lambda: None, rounds=1)
    if len(timed) < len(CASES):
        pytest.skip("needs all rows of test_matrix")
    for name, bar in ((DENSE, ""), (CSR, ">= 3"), (INT8, ""), (BF16, "")):
        gains = [t.microseconds[name] / t.microseconds[OURS] for t in timed]
        mean = math.exp(sum(map(math.log, gains)) / len(gains))
        what = f"geometric mean over {len(gains)} rows, {name}"
        results.add(RIVALS, what, mean, "", bar)


@pytest.mark.parametrize("batch", [1, 64])
def test_avx2(batch: int, benchmark: BenchmarkFixture, results: Results) -> None:
    if _kernels.ISA < 1:
        pytest.skip("needs AVX2")
    with mock.patch.object(_kernels, "ISA", 1):
        dense, sparse = sparse_linear((4096, 4096), 0.09)
        x = torch.randn(batch, 4096)
        check(sparse, dense, x)
        us = race_calls(benchmark, lambda: sparse(x), {DENSE: lambda: dense(x)}, 1e-3)
    what, gain = f"AlexNet fc7, 9 % kept, batch {batch}", us[DENSE] / us[OURS]
    group = "Sparse layers with AVX2 forced, one thread"
    results.add(group, what, us[OURS], "us", ">= 5", (DENSE, us[DENSE]), gain)


def least_seconds(actions: dict[str, Action], rounds: int = 15) -> dict[str, float]:
    """Time actions in turn, without a fixture; return the least seconds a call of each."""
    calls = {name: max(1, round(LEAST_SECONDS / once(a)[0])) for name, a in actions.items()}
    found = dict.fromkeys(actions, math.inf)
    for _ in range(rounds):
        for name, action in actions.items():
            seconds, _ = once(times(action, calls[name]))
            found[name] = min(found[name], seconds / calls[name])
    return found


def test_two_threads(all_cores: int, benchmark: BenchmarkFixture, results: Results) -> None:
    if all_cores < 2:
        pytest.skip("needs two cores")
    _, sparse = sparse_linear((4096, 9216), 0.09)
    x = torch.randn(64, 9216)

    def with_threads(n: int) -> None:
        torch.set_num_threads(n)
        sparse(x)
        torch.set_num_threads(1)

    benchmark.pedantic(lambda: None, rounds=1)
    found = race_two_threads(lambda: with_threads(1), lambda: with_threads(2))
    group = "Sparse layers with two threads"
    what = "AlexNet fc6, 9 % kept, batch 64, times faster"
    rival = ("one thread", 1e3 * found.one)
    results.add(group, what, 1e3 * found.two, "ms", ">= 1.7", rival, found.one / found.two)
    found.add_control(results, group)


CONVOLUTIONS = [(256, 256, 1, 28, 0.2), (64, 64, 3, 32, 0.15)]


@pytest.mark.parametrize(("n_in", "n_out", "kernel", "size", "kept"), CONVOLUTIONS)
def test_convolution(
    n_in: int,
    n_out: int,
    kernel: int,
    size: int,
    kept: float,
    benchmark: BenchmarkFixture,
    results: Results,
) -> None:
    torch.manual_seed(0)
    dense = torch.nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2)
    packed = deepcomp.compress(dense, bits=5, sparsity=1 - kept)
    packed.restore(dense)
    sparse = SparseConv2d(packed["weight"], dense.bias, padding=kernel // 2)
    x = torch.randn(1, n_in, size, size)
    check(sparse, dense, x)
    us = race_calls(benchmark, lambda: sparse(x), {DENSE: lambda: dense(x)}, 3e-4)
    what = f"{kernel}x{kernel}, {n_in} -> {n_out}, {size}x{size}, {100 * kept:.0f} % kept"
    group = "Sparse convolutions, batch 1, one thread"
    gain = us[DENSE] / us[OURS]
    results.add(group, what, us[OURS], "us", ">= 2.5", (DENSE, us[DENSE]), gain)


def test_alexnet_linear_layers(benchmark: BenchmarkFixture, results: Results) -> None:
    layers: dict[str, list[torch.nn.Module]] = {DENSE: [], OURS: []}
    for shape, kept in (((4096, 9216), 0.09), ((4096, 4096), 0.09), ((1000, 4096), 0.25)):
        dense, sparse = sparse_linear(shape, kept)
        layers[DENSE] += [dense, torch.nn.ReLU()]
        layers[OURS] += [sparse, torch.nn.ReLU()]
    dense_net, sparse_net = (torch.nn.Sequential(*layers[name]) for name in (DENSE, OURS))
    x = torch.randn(1, 9216)
    assert (sparse_net(x) - dense_net(x)).abs().max() <= 1e-5 * dense_net(x).abs().max()
    us = race_calls(benchmark, lambda: sparse_net(x), {DENSE: lambda: dense_net(x)}, 1e-3)
    what, gain = "AlexNet fc6, fc7, fc8 with ReLU, batch 1", us[DENSE] / us[OURS]
    results.add(NETWORKS, what, us[OURS], "us", ">= 14", (DENSE, us[DENSE]), gain)


@pytest.mark.parametrize(("batch", "bar"), [(1, ">= 1.3"), (64, ">= 1.5")])
def test_resnet(batch: int, bar: str, benchmark: BenchmarkFixture, results: Results) -> None:
    torch.manual_seed(0)
    dense = example("resnet").ResNet(20).eval()
    packed = deepcomp.compress(dense, bits=5, sparsity=0.85)
    packed.restore(dense)
    sparse = copy.deepcopy(dense)
    packed.restore(sparse, layers="sparse")
    x = torch.randn(batch, 3, 32, 32)
    assert (sparse(x) - dense(x)).abs().max() <= 1e-5 * dense(x).abs().max()
    found = race_calls(benchmark, lambda: sparse(x), {DENSE: lambda: dense(x)}, 2e-3 * batch)
    ms = {name: us / 1e3 for name, us in found.items()}
    what, gain = f"ResNet-20, 15 % kept, batch {batch}", ms[DENSE] / ms[OURS]
    results.add(NETWORKS, what, ms[OURS], "ms", bar, (DENSE, ms[DENSE]), gain)


def example(name: str) -> Any:
    """Import a module of the examples."""
    path = Path(__file__).parents[1] / "examples" / f"{name}.py"
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("batch", [1, 8, 64])
def test_density(batch: int, benchmark: BenchmarkFixture, results: Results) -> None:
    """Where dense layers win: the speed-up over each rival by density, and a plot of it."""
    x = torch.randn(batch, 768)
    names = (DENSE, BF16, INT8)
    us: dict[str, list[float]] = {name: [] for name in (OURS, *names)}
    densities = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
    benchmark.pedantic(lambda: None, rounds=1)
    for kept in densities:
        dense, sparse = sparse_linear((3072, 768), kept)
        check(sparse, dense, x)
        rivals = rivals_of(dense, x)
        actions = {OURS: partial(sparse, x), **{name: rivals[name] for name in names}}
        for name, seconds in least_seconds(actions).items():
            us[name].append(1e6 * seconds)
    gains = {}
    for name in names:
        rival = min(us[name])  # its work does not depend on the density
        gains[name] = [rival / ours for ours in us[OURS]]
        for kept, ours, gain in zip(densities, us[OURS], gains[name], strict=True):
            what = f"{100 * kept:.0f} % kept, batch {batch}"
            group = "FFN 3072x768 by density, best of 15 (rivals: best of all), one thread"
            results.add(group, what, ours, "us", "", (name, rival), gain)
    plot(batch, densities, gains)


def plot(batch: int, densities: tuple[float, ...], gains: dict[str, list[float]]) -> None:
    """Draw the speed-up by density, with the crossovers marked."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, values in gains.items():
        (line,) = axes.plot(densities, values, "o-", label=name)
        crossing = (
            np.interp(0, -np.log(values), densities) if min(values) < 1 < max(values) else None
        )
        if crossing is not None:
            axes.axvline(float(crossing), color=line.get_color(), linestyle=":")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(xlabel="density", ylabel="times as fast as", yscale="log")
    axes.set_title(f"FFN 3072x768, 5 bits, batch {batch}, one thread", fontsize="medium")
    axes.set_yticks([0.2, 0.5, 1, 2, 5, 10], ["0.2", "0.5", "1", "2", "5", "10"])
    axes.legend(framealpha=1, edgecolor="none")
    axes.spines[["top", "right"]].set_visible(False)
    folder = Path(os.environ.get("DEEPCOMP_PLOTS", Path(__file__).parent / "figures"))
    figure.savefig(folder / f"layers_batch_{batch}.png", dpi=110)
    plt.close(figure)
