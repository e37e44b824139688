"""Codebooks that are not the optimum of k-means: Lloyd's iterations, and grids.

Han, Mao, Dally, "Deep Compression", ICLR 2016, section 3.2. Li, Zhang, Liu, "Ternary Weight
Networks", 2016.
"""

import numpy as np
from numpy.typing import NDArray

from . import sharing
from .sharing import Float64s, Floats

_MAX_ITERATIONS = 100


def linear_codebook(values: Floats, n_values: int) -> Float64s:
    """Fit a codebook from entries that are equally spaced.

    Large weights, few but important, keep entries of their own. Entries that no value is nearest
    to stay where they are, and are left out in the end.

    Parameters
    ----------
    values : ndarray of float32 or float64, shape (n,)
        Finite, at least one.
    n_values : int
        1 to 256.

    Returns
    -------
    ndarray of float64, shape (m,)
        Strictly increasing, ``m <= n_values``.

    Examples
    --------
    >>> linear_codebook(np.array([0.0, 0.25, 0.75, 1.0]), 2)
    array([0.125, 0.875])
    """
    return _lloyd(values, np.linspace(float(values.min()), float(values.max()), n_values))


def density_codebook(values: Floats, n_values: int) -> Float64s:
    """Fit a codebook from entries that stand for equally many values.

    Parameters
    ----------
    values, n_values
        See `linear_codebook`.

    Returns
    -------
    ndarray of float64, shape (m,)

    Examples
    --------
    >>> density_codebook(np.array([0.0, 0.25, 0.75, 1.0]), 2)
    array([0.125, 0.875])
    """
    return _lloyd(values, np.quantile(values, (np.arange(n_values) + 0.5) / n_values))


def _lloyd(values: Floats, codebook: Float64s) -> Float64s:
    """Assign values to the nearest entry and move entries to their means, until nothing moves."""
    codebook = np.unique(codebook.astype(np.float64))
    labels = sharing.nearest_labels(values, codebook)
    for _ in range(_MAX_ITERATIONS):
        counts = np.bincount(labels, minlength=codebook.size)
        sums = np.bincount(labels, weights=values, minlength=codebook.size)
        moved = np.unique(np.where(counts, sums / np.maximum(counts, 1), codebook))
        if np.array_equal(moved, codebook):
            break
        codebook = moved
        labels = sharing.nearest_labels(values, codebook)
    return codebook[np.bincount(labels, minlength=codebook.size) > 0]


def grid_levels(n_values: int) -> NDArray[np.int64]:
    """Return the multiples of the scale that a uniform grid has; zero is not one of them.

    Examples
    --------
    >>> grid_levels(4)
    array([-2, -1,  1,  2])
    """
    n = n_values // 2
    return np.concatenate((np.arange(-n, 0), np.arange(1, n + 1)))


def grid_scale(values: Floats, n_values: int) -> float:
    """Find the scale of a uniform grid with the least squared error.

    Parameters
    ----------
    values : ndarray of float32 or float64, shape (n,)
        Finite, at least one that is not zero.
    n_values : int
        Even, 2 to 256.

    Returns
    -------
    float

    Examples
    --------
    >>> grid_scale(np.array([-2.0, 1.0, 2.0, -1.0]), 4)
    1.0
    """
    counts, edges = np.histogram(np.abs(values), bins=1 << 12)
    points = (edges[:-1] + edges[1:]) / 2
    largest = n_values // 2

    def fitted(scale: float) -> tuple[float, float]:
        levels = np.clip(np.rint(points / scale), 1, largest)
        best = float(counts @ (points * levels)) / float(counts @ (levels * levels))
        return float(counts @ (points - best * levels) ** 2), best

    starts = edges[-1] / largest * np.linspace(0.02, 1.0, 99)
    _, scale = min(fitted(start) for start in starts)
    magnitudes = np.abs(values).astype(np.float64)  # sums of equal float32 are exact
    for _ in range(_MAX_ITERATIONS):  # on the values themselves, where the histogram led
        levels = np.clip(np.rint(magnitudes / scale), 1, largest)
        moved = float(magnitudes @ levels) / float(levels @ levels)
        if moved == scale:
            break
        scale = moved
    return scale


def ternary_threshold(values: Floats) -> float:
    """Find the magnitude from which on values become -scale or scale; smaller ones become zero.

    With the k largest magnitudes, whose sum is S, the best scale is their mean, and the squared
    error is that of all zeros less ``S**2 / k``: prefix sums give the best k of all.

    Parameters
    ----------
    values : ndarray of float32 or float64, shape (n,)
        Finite, at least one.

    Returns
    -------
    float

    References
    ----------
    Li, Zhang, Liu, "Ternary Weight Networks", 2016, section 2.2; they take 0.7 times the mean
    magnitude, which is near it.

    Examples
    --------
    >>> ternary_threshold(np.array([0.1, -0.9, 1.0, -0.2]))
    0.9
    """
    magnitudes = np.sort(np.abs(values))[::-1]
    gains = np.square(np.cumsum(magnitudes, dtype=np.float64))
    gains /= np.arange(1, gains.size + 1)
    return float(magnitudes[gains.argmax()])
