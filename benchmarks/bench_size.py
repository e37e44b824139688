"""The complete file beside its entropy and zstd -19, on real ResNets, globally pruned."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import safetensors.numpy
import zstandard
from pytest_benchmark.fixture import BenchmarkFixture

import deepcomp

from .race import race
from .report import Results
from .shapes import Symbols, entropy_bits, gap_symbols

GROUP = "Size of the complete file, 5 bits, globally pruned"
FILES = {
    "ResNet-20": "resnet20-cifar10.safetensors",
    "ResNet-32": "resnet32-cifar10.safetensors",
}
Arrays = dict[str, np.ndarray]


class Layout(NamedTuple):
    """The symbol streams of a tensor in one layout, and the values its labels stand for."""

    streams: list[Symbols]
    n_values: int


def layouts(array: np.ndarray) -> list[Layout]:
    """Return the dense layout of a shared tensor and the sparse ones, from its entries alone."""
    flat = array.ravel()
    values, labels = np.unique(flat, return_inverse=True)
    dense = Layout([labels.astype(np.uint8)], values.size)
    where = np.flatnonzero(flat)
    values, labels = np.unique(flat[where], return_inverse=True)
    zeros = np.diff(where, prepend=-1) - 1
    return [dense] + [
        Layout([gap_symbols(zeros, gap_bits), labels.astype(np.uint8)], values.size)
        for gap_bits in range(2, 9)
    ]


def zstd_19(symbols: Symbols) -> int:
    """Return the size of a stream under zstd -19; of the frame only what decoding needs."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        19,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=False,
        write_checksum=False,
        write_dict_id=False,
    )
    return len(zstandard.ZstdCompressor(compression_params=parameters).compress(symbols.tobytes()))


def bound(arrays: Arrays, shared: set[str]) -> float:
    """Return the entropy of the shared tensors in bytes, each in its best layout."""
    return sum(
        min(sum(map(entropy_bits, layout.streams)) for layout in layouts(arrays[name])) / 8
        for name in shared
    )


def coded_nbytes(tensor: deepcomp.CompressedTensor) -> int:
    """Return the bytes of a tensor's codebook, code lengths and bitstreams in our file."""
    parts = tensor.parts()
    assert parts is not None
    streams = sum(parts.stream_nbytes(i) for i in range(len(parts.codes)))
    return parts.codebook_nbytes + parts.codes_nbytes + streams


def zstd_nbytes(array: np.ndarray) -> int:
    """Return the bytes of a tensor's codebook, and its streams under zstd -19, at best."""
    return min(sum(map(zstd_19, w.streams)) + 4 * w.n_values for w in layouts(array))


@pytest.mark.parametrize("kept", [0.1, 0.2, 0.3])
@pytest.mark.parametrize("network", FILES)
def test_size(
    network: str,
    kept: float,
    data: Path,
    tmp_path: Path,
    benchmark: BenchmarkFixture,
    results: Results,
) -> None:
    if not (data / FILES[network]).exists():
        pytest.skip(f"{FILES[network]} is not in the folder with data")
    before = safetensors.numpy.load_file(data / FILES[network])
    path = tmp_path / "network.dcz"
    settings = {"bits": 5, "sparsity": 1 - kept, "scope": "global"}
    deepcomp.save(deepcomp.compress(before, **settings), path)
    packed = deepcomp.load(path)
    arrays = {name: tensor.to_dense() for name, tensor in packed.items()}
    shared = check(before, arrays, kept)

    nbytes = path.stat().st_size
    n_values = sum(np.unique(arrays[name][arrays[name] != 0]).size for name in shared)
    other = sum(array.nbytes for name, array in arrays.items() if name not in shared)
    entropy = bound(arrays, shared)
    limit = 1.015 * entropy + 4 * n_values + other + 64 * len(shared) + 4 * len(arrays) + 500
    what = f"{network}, {100 * kept:.0f} % kept"
    results.add(GROUP, what, nbytes, "bytes", "<= 1", ("allowed", round(limit)))
    coded = sum(coded_nbytes(packed[name]) for name in shared)
    with_zstd = nbytes - coded + sum(zstd_nbytes(arrays[name]) for name in shared)
    results.add(GROUP, what, nbytes, "bytes", "< 1", ("zstd -19 of the streams", with_zstd))
    rival = ("order-0 entropy", round(entropy))
    streams = f"{what}, bitstreams and code lengths"
    results.add(GROUP, streams, coded - 4 * n_values, "bytes", "", rival)
    race(benchmark, lambda: deepcomp.compress(before, **settings), rounds=3)


def check(before: Arrays, after: Arrays, kept: float) -> set[str]:
    """Check that the network is what it should be; return the names of its shared tensors."""
    assert list(before) == list(after)
    shared = {name for name, array in before.items() if array.ndim >= 2}
    for name in before.keys() - shared:
        np.testing.assert_array_equal(before[name], after[name], strict=True)
    n_weights = sum(before[name].size for name in shared)
    n_kept = sum(np.count_nonzero(after[name]) for name in shared)
    assert n_kept == n_weights - round((1 - kept) * n_weights)
    old = np.concatenate([before[name].ravel() for name in shared])
    new = np.concatenate([after[name].ravel() for name in shared])
    assert np.abs(old[new == 0]).max() <= np.abs(old[new != 0]).min()
    for name in shared:
        assert np.unique(after[name][after[name] != 0]).size <= 32
    return shared
