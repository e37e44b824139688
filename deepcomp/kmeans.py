"""k-means in one dimension, next to the optimum: points with counts -> codebook.

Many values are first tallied in the leaves of a tree over their bit patterns, fine enough
wherever the values lie. A leaf keeps integers only, a count and a sum, so the tallies of parts
add up to the tally of the whole, bit for bit. The points are then grouped into cells, which
dynamic programming partitions, and from there all splits are moved together, down to single
points. Arithmetic is restricted to what IEEE 754 rounds correctly, in a fixed order: every
machine finds the same codebook.

Panter and Dite, "Quantization distortion in pulse-count modulation with nonuniform spacing of
levels", Proc. IRE 39, 1951: many clusters lie as densely as the cube root of the density of the
values. Leaves and cells are spaced in this way.
"""

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _kernels

Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]
Patterns = NDArray[np.unsignedinteger[Any]]

_N_ROOTS = 1 << 16
LEAF = 255  # a node without children
_MAX_PASSES = 6
# Splits lie between leaves. With w leaves a cluster this costs 1/(4 w^2) of the inertia
_LEAVES_A_VALUE = 128
_MIN_LEAVES = 4096
_CROWDED = 4.0  # a leaf in which so many leaves are wanted is worth another pass
_CELLS_A_VALUE = 12
_MIN_CELLS = 1024
_REACH = 4  # steps that a split may move either way in a round
_FIRST_STEP = 3  # log2 of the steps in a cluster: the first rounds reach half a cluster
_MAX_ROUNDS = 200


class _Tree:
    """Cuts of the number line: roots share the highest 16 bits, children more.

    Attributes
    ----------
    root, low, low_bits : ndarray of integers, shape (n_nodes,)
        The root above a node, the first of the low bits of its values, and how many of them vary.
    nodes : ndarray of int64, shape (n_nodes,)
        Where the children are; see the kernel ``tally_into``.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.root = np.arange(_N_ROOTS)
        self.low = np.zeros(_N_ROOTS, np.int64)
        self.low_bits = np.full(_N_ROOTS, 16 if dtype.itemsize == 4 else 32, np.int32)
        self.nodes = np.full(_N_ROOTS, LEAF, np.int64)

    def scale(self, nodes: Int64s) -> tuple[Float64s, Float64s]:
        """Return the value at which the root begins, and the value of one in the low bits."""
        bits = 8 * self.dtype.itemsize
        keys = self.root[nodes].astype(self.dtype) << self.dtype.type(bits - 16)
        keys = np.stack((keys, keys + self.dtype.type(1 << (0 if bits == 32 else 16))))
        sign = self.dtype.type(1 << (bits - 1))
        with np.errstate(invalid="ignore"):  # infinity and NaN have roots too
            values = np.where(keys & sign, keys ^ sign, ~keys).view(f"f{bits // 8}")
            values = values.astype(np.float64)
            return values[0], values[1] - values[0]

    def split(self, nodes: Int64s, depths: Int64s) -> None:
        """Give each of the nodes 2**depth children."""
        n_children = np.left_shift(1, depths, dtype=np.int64)
        first = np.cumsum(n_children) - n_children
        inner = self.low_bits[nodes] - depths
        base = self.root.size + first - (self.low[nodes] >> inner)
        self.nodes[nodes] = base << 8 | inner
        parent = np.repeat(np.arange(nodes.size), n_children)
        child = np.arange(parent.size) - first[parent]
        self.low = np.append(self.low, self.low[nodes][parent] + (child << inner[parent]))
        self.low_bits = np.append(self.low_bits, inner[parent])
        self.root = np.append(self.root, self.root[nodes][parent])
        self.nodes = np.append(self.nodes, np.full(parent.size, LEAF))


def tally(bits: Patterns, n_values: int) -> tuple[Float64s, Int64s]:
    """Replace many values by fewer points, close enough for a codebook of `n_values`.

    Parameters
    ----------
    bits : ndarray of uint32 or uint64, shape (n,)
        Patterns of float32 or float64 values.
    n_values : int

    Returns
    -------
    points : ndarray of float64, shape (m,)
        Ascending; each the mean of the values that it stands for (float64: of their first 48
        bits). Not finite if a value is not.
    counts : ndarray of int64, shape (m,)
    """

    def count(nodes: Int64s, tallies: Int64s) -> None:
        _kernels.tally_into(bits, nodes, tallies)

    return _drive(tally_passes(bits.dtype, n_values), count)


def tally_counted(bits: Patterns, counts: Int64s, n_values: int) -> tuple[Float64s, Int64s]:
    """Do the same with distinct values and how often each occurs.

    Examples
    --------
    >>> values = np.array([0.5, 0.75, 2.0], np.float32)
    >>> tally_counted(values.view(np.uint32), np.array([1, 7, 2]), 2)
    (array([0.5 , 0.75, 2.  ]), array([1, 7, 2]))
    """
    width = 8 * bits.itemsize
    sign = bits.dtype.type(1 << (width - 1))
    keys = np.where(bits & sign, ~bits, bits | sign)
    roots = (keys >> bits.dtype.type(width - 16)).astype(np.int64)
    low = (keys >> bits.dtype.type(width // 2 - 16)).astype(np.int64) & ((1 << width // 2) - 1)

    def count(nodes: Int64s, tallies: Int64s) -> None:
        at = roots
        while (inner := nodes[at] & 0xFF != LEAF).any():
            at = np.where(inner, (nodes[at] >> 8) + (low >> (nodes[at] & 0x1F)), at)
        np.add.at(tallies[:, 0], at, counts)
        np.add.at(tallies[:, 1], at, counts * low)

    return _drive(tally_passes(bits.dtype, n_values), count)


def _drive(
    passes: Generator[Int64s, Int64s, tuple[Float64s, Int64s]],
    count: Callable[[Int64s, Int64s], None],
) -> tuple[Float64s, Int64s]:
    try:
        nodes = next(passes)
        while True:
            tallies = np.zeros((nodes.size, 2), np.int64)
            count(nodes, tallies)
            nodes = passes.send(tallies)
    except StopIteration as end:
        points, counts = end.value
        return points, counts


def leaf_of_zero(nodes: Int64s) -> int:
    """Return the leaf in which 0.0 falls; its low bits are 0."""
    at = _N_ROOTS // 2
    while nodes[at] & 0xFF != LEAF:
        at = int(nodes[at] >> 8)
    return at


def tally_passes(
    dtype: np.dtype[Any], n_values: int
) -> Generator[Int64s, Int64s, tuple[Float64s, Int64s]]:
    """Do what `tally` does, wherever the values are.

    Yields the nodes of a tree, and wants what the kernel ``tally_into`` fills for all values; the
    tallies of parts can be added.

    Parameters
    ----------
    dtype : dtype
        uint32 or uint64.
    n_values : int

    Returns
    -------
    points, counts
        See `tally`.
    """
    tree = _Tree(dtype)
    n_leaves = max(_LEAVES_A_VALUE * n_values, _MIN_LEAVES)
    for n_pass in range(_MAX_PASSES):
        tallies = yield tree.nodes
        leaves = np.flatnonzero(tallies[:, 0])
        counts, sums = tallies[leaves].T
        starts, units = tree.scale(leaves)
        with np.errstate(invalid="ignore"):
            points = starts + units * (sums / counts)
        if not np.isfinite(points).all():
            break
        low_bits = tree.low_bits[leaves]
        shares = _shares(np.ldexp(units, low_bits) - units, counts)
        # few values need few leaves: one of its own for each, mostly
        most = 4.0 * counts - 3.0
        factor = _fill(shares, np.minimum(most, np.ldexp(1.0, low_bits)), n_leaves)
        wanted = np.minimum(factor * shares, most)
        mantissa, exponent = np.frexp(wanted)
        depths = np.minimum(exponent - (mantissa == 0.5), low_bits)
        if n_pass == 0:  # every root gets a child at least: a walk without surprises is faster
            tree.split(leaves, np.maximum(depths, 0))
            continue
        crowded = (wanted > _CROWDED) & (depths > 0)
        if not crowded.any():
            break
        tree.split(leaves[crowded], depths[crowded])
    order = np.argsort(points, kind="stable")
    return points[order], counts[order]


def cluster(points: Float64s, counts: Int64s, n_values: int) -> Float64s:
    """Partition points into clusters and return their means.

    Parameters
    ----------
    points : ndarray of float64, shape (n,)
        Ascending and finite, more than `n_values`.
    counts : ndarray of int64, shape (n,)
        How many values each point stands for.
    n_values : int

    Returns
    -------
    ndarray of float64, shape (m,)
        Strictly increasing; ``m == n_values`` unless means coincide.
    """
    least, greatest = points[0], points[-1]
    exponent = int(np.frexp(max(-least, greatest))[1])
    points = np.ldexp(points, -exponent)  # squares do not overflow
    weights = counts.astype(np.float64)
    prefix = _prefix(points, weights)
    n_cells = max(_CELLS_A_VALUE * n_values, _MIN_CELLS)
    if points.size <= n_cells:
        splits = _partition(prefix, n_values)
    else:
        shares = _shares(np.diff(points), weights[1:] + weights[:-1])
        filled = np.cumsum(np.minimum(_fill(shares, 1.0, n_cells) * shares, 1.0))
        # some cells by number alone: enough of them where all shares are too small for a float64
        filled += np.arange(1, points.size) * (2 * n_values / points.size)
        edges = 1 + np.flatnonzero(np.diff(np.floor(filled), prepend=0.0))
        edges = np.concatenate(([0], edges, [points.size]))
        in_cell = np.diff(prefix[edges], axis=0)
        cells = _prefix(in_cell[:, 1] / in_cell[:, 0], in_cell[:, 0])
        splits = edges[_partition(cells, n_values)]
        _polish(prefix, splits)
    codebook = np.zeros(n_values)
    _kernels.means_into(points, weights, splits, codebook)
    # what is 2**1000 times smaller than the rest became zero
    return np.unique(np.clip(np.ldexp(codebook, exponent), least, greatest))


def _partition(prefix: NDArray[np.float64], n_values: int) -> Int64s:
    splits = np.zeros(n_values + 1, np.int64)
    inertia = np.zeros((2, len(prefix)))
    _kernels.partition_into(prefix, inertia, np.zeros((n_values, len(prefix)), np.int32), splits)
    return splits


def _polish(prefix: NDArray[np.float64], splits: Int64s) -> None:
    """Move the splits, in ever smaller steps, until no step of one point is a gain."""
    inertia = np.zeros((2, 2 * _REACH + 1))
    table = np.zeros((splits.size, 2 * _REACH + 1), np.uint8)
    steps = np.zeros(splits.size, np.int64)
    fraction = _FIRST_STEP
    for _ in range(_MAX_ROUNDS):
        sizes = np.diff(splits)
        steps[1:-1] = np.maximum(np.minimum(sizes[1:], sizes[:-1]) >> fraction, 1)
        if not _kernels.polish_into(prefix, steps, inertia, table, splits):
            if steps.max() <= 1:
                break
            fraction += 1


def _prefix(points: Float64s, weights: Float64s) -> NDArray[np.float64]:
    """Return the running sums of weight, weight * point and weight * point squared.

    They count from the median, both ways, so that a point far out is in no sum but its own and
    those beyond: an outlier costs the others no digits.
    """
    middle = int(np.searchsorted(np.cumsum(weights), weights.sum() / 2))
    points = points - points[middle]
    terms = np.stack((weights, weights * points, weights * points * points), axis=1)
    prefix = np.zeros((points.size + 1, 3))
    np.cumsum(terms[middle:], axis=0, out=prefix[middle + 1 :])
    prefix[:middle] = -np.cumsum(terms[:middle][::-1], axis=0)[::-1]
    return prefix


def _shares(widths: Float64s, counts: NDArray[Any]) -> Float64s:
    """Return width times the cube root of density, up to a factor: the clusters to expect."""
    widths = np.ldexp(widths, -int(np.frexp(widths.max())[1]))
    mantissa, exponent = np.frexp(widths * widths * counts)
    third = exponent // 3
    cube = np.ldexp(mantissa, exponent - 3 * third)  # 0.5 to 4
    root = np.ones_like(cube)
    for _ in range(6):  # Newton's method; np.cbrt is not the same on every machine
        root = (2.0 * root + cube / (root * root)) / 3.0
    return np.where(cube > 0, np.ldexp(root, third), 0.0)


def _fill(shares: Float64s, caps: Float64s | float, budget: int) -> float:
    """Return the factor by which the shares, each up to its cap, add up to about the budget."""
    factor, total, before = 1.0, float(np.cumsum(shares)[-1]), 0.0
    while before < total < 0.9 * budget or total > budget:
        factor *= budget / total
        before, total = total, float(np.cumsum(np.minimum(factor * shares, caps))[-1])
    return factor
