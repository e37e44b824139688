"""One-dimensional k-means beside scikit-learn, with kmeans1d as the oracle."""

from collections.abc import Callable

import kmeans1d
import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture
from sklearn.cluster import KMeans

from deepcomp import sharing

from .race import OURS, once, race
from .report import Results
from .shapes import Floats, normal_values, pruned_values

MILLION = "k-means, 32 clusters, 1 M values"
BITS = "k-means with 1 to 8 bits, 100 k values"
NEVER_WORSE = "<= 1.000001"  # scikit-learn may reach the optimum; to the resolution of float32
VALUES = {"normal": normal_values, "pruned": pruned_values}


def inertia(values: Floats, codebook: NDArray[np.float64]) -> float:
    """Return the squared error of the best labels, summed up in float64."""
    values = values.astype(np.float64)
    codebook = np.sort(codebook)
    nearest = codebook[np.searchsorted((codebook[1:] + codebook[:-1]) / 2, values)]
    return float(((values - nearest) ** 2).sum())


def sklearn_centers(values: Floats, n_clusters: int) -> NDArray[np.float64]:
    fitted = KMeans(n_clusters, n_init=1, max_iter=300, tol=0, random_state=0)
    return fitted.fit(values.reshape(-1, 1)).cluster_centers_.ravel()


def optimum(values: Floats, n_clusters: int) -> NDArray[np.float64]:
    return np.array(kmeans1d.cluster(values.astype(np.float64), n_clusters).centroids)


def compare(
    results: Results, group: str, what: str, values: Floats, n_clusters: int
) -> tuple[float, float]:
    """Add rows on the inertia; return the seconds that scikit-learn and kmeans1d take."""
    codebook = sharing.fit_codebook(values, n_clusters)
    assert codebook.size == n_clusters and (np.diff(codebook) > 0).all()
    labels = sharing.nearest_labels(values, codebook)
    assert ((values - codebook[labels]) ** 2).sum() <= inertia(values, codebook) * (1 + 1e-9)

    seconds_kmeans1d, best = once(lambda: optimum(values, n_clusters))
    seconds_sklearn, centers = once(lambda: sklearn_centers(values, n_clusters))
    ours = inertia(values, codebook)
    above = 100 * (ours / inertia(values, best) - 1)
    results.add(group, f"{what}, above the global optimum", above, "%", "<= 0.02")
    rival = ("scikit-learn", inertia(values, centers))
    results.add(group, f"{what}, inertia", ours, "", NEVER_WORSE, rival)
    return seconds_sklearn, seconds_kmeans1d


@pytest.mark.parametrize("kind", VALUES)
def test_million(kind: str, benchmark: BenchmarkFixture, results: Results) -> None:
    values = VALUES[kind](1_000_000)
    seconds_sklearn, seconds_kmeans1d = compare(results, MILLION, kind, values, 32)

    seconds = race(benchmark, lambda: sharing.fit_codebook(values, 32), rounds=41)[OURS]
    results.add(MILLION, f"{kind}, time", 1e3 * seconds, "ms", "<= 10")
    for name, rival, bar in [
        ("scikit-learn", seconds_sklearn, ">= 300"),
        ("kmeans1d", seconds_kmeans1d, ""),
    ]:
        times_faster = rival / seconds
        what = f"{kind}, times faster"
        results.add(MILLION, what, 1e3 * seconds, "ms", bar, (name, 1e3 * rival), times_faster)


@pytest.mark.parametrize("bits", range(1, 9))
def test_bits(bits: int, benchmark: BenchmarkFixture, results: Results) -> None:
    make: Callable[[int], Floats] = pruned_values
    compare(results, BITS, f"pruned, {bits} bits", make(100_000), 1 << bits)

    values = make(1_000_000)
    seconds = race(benchmark, lambda: sharing.fit_codebook(values, 1 << bits))[OURS]
    results.add(BITS, f"pruned, {bits} bits, time for 1 M values", 1e3 * seconds, "ms")
