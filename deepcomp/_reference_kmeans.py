# mypy: ignore-errors
"""The NumPy twins of deepcomp/_native/kmeans.pyx: to be merged into _reference.py."""

import numpy as np


def _ascending(bits):
    sign = bits.dtype.type(1 << (8 * bits.itemsize - 1))
    return np.where(bits & sign, ~bits, bits | sign)


def tally_into(bits, tree, tallies):
    keys = _ascending(bits).astype(np.uint64)
    root_shift, low_shift, low_mask = (16, 0, 0xFFFF) if bits.itemsize == 4 else (48, 16, 2**32 - 1)
    at = (keys >> np.uint64(root_shift)).astype(np.int64)
    low = (keys >> np.uint64(low_shift)).astype(np.int64) & low_mask
    inner = np.flatnonzero(tree[at] & 0xFF != 0xFF)
    while inner.size:
        node = tree[at[inner]]
        at[inner] = (node >> 8) + (low[inner] >> (node & 0xFF))
        inner = inner[tree[at[inner]] & 0xFF != 0xFF]
    np.add.at(tallies[:, 0], at, 1)
    np.add.at(tallies[:, 1], at, low)
    return 0


def _spread(sums):
    """Return the inertia of clusters from [weight, sum, sum of squares]."""
    weight, total, squares = sums[..., 0], sums[..., 1], sums[..., 2]
    return np.maximum(squares - total * total / weight, 0.0)


def _fill_places(prefix, before, after, split, j, lo, hi):
    """Fill after[j] and split[j]; split[j] is sought from lo to hi, the last of equals counts."""
    sizes = hi - lo + 1
    ends = np.cumsum(sizes)
    of = np.repeat(np.arange(j.size), sizes)
    i = np.arange(ends[-1]) + (lo - (ends - sizes))[of]
    spread = _spread(prefix[j][of] - prefix[i])
    inertia = before[i] + np.where(i == j[of] - 1, 0.0, spread)
    after[j] = np.minimum.reduceat(inertia, ends - sizes)
    split[j] = np.maximum.reduceat(np.where(inertia == after[j][of], i, -1), ends - sizes)


def _fill_row(prefix, before, after, lower, split, k, first, last):
    n = last - first + 1
    width = 1 << (n - 1).bit_length()
    while width:
        start = np.arange(width - 1, n, 2 * width)
        j = first + start
        lo, hi = np.maximum(lower[j], k - 1), j - 1
        left, right = start >= width, start + width < n
        lo[left] = np.maximum(lo[left], split[j[left] - width])
        hi[right] = np.minimum(hi[right], split[j[right] + width])
        if j.size:
            _fill_places(prefix, before, after, split, j, np.minimum(lo, hi), hi)
        width //= 2


def partition_into(prefix, inertia, table, splits):
    n, n_clusters = len(prefix) - 1, splits.size - 1
    inertia[0, 1] = 0.0
    inertia[0, 2:] = _spread(prefix[2:] - prefix[0])
    for k in range(2, n_clusters + 1):
        first, last = n if k == n_clusters else k, n - (n_clusters - k)
        before, after = inertia[k % 2], inertia[1 - k % 2]
        _fill_row(prefix, before, after, table[k - 2], table[k - 1], k, first, last)
    splits[n_clusters] = n
    for k in range(n_clusters, 0, -1):
        splits[k - 1] = table[k - 1, splits[k]]
    return 0


def polish_into(prefix, steps, inertia, table, splits):
    n_clusters, width = splits.size - 1, table.shape[1]
    r = width // 2
    moves = np.arange(width) - r
    before, starts = np.where(moves == 0, 0.0, np.inf), np.zeros(width, np.int64)
    for k in range(1, n_clusters + 1):
        ends = splits[k] + moves * steps[k] if k < n_clusters else np.full(width, splits[k])
        i, j = np.meshgrid(starts, ends, indexing="ij")
        possible = (i >= 0) & (i < j) & (j < len(prefix)) & np.isfinite(before)[:, None]
        if k == n_clusters:
            possible &= moves == 0
        i, j = np.where(possible, i, 0), np.where(possible, j, 1)
        spread = np.where(j - i == 1, 0.0, _spread(prefix[j] - prefix[i]))
        candidates = np.where(possible, before[:, None] + spread, np.inf)
        least = candidates.min(axis=0)
        table[k] = np.where(candidates[r] == least, r, candidates.argmin(axis=0))
        before, starts = least, ends
    at, moved = r, 0
    for k in range(n_clusters, 1, -1):
        at = int(table[k, at])
        if at != r:
            splits[k - 1] += (at - r) * steps[k - 1]
            moved = 1
    return moved


def means_into(points, weights, splits, means):
    for k in range(means.size):
        one = slice(splits[k], splits[k + 1])
        offsets = points[one] - points[one][0]
        # a running sum: np.sum adds in another order
        means[k] = points[one][0] + np.cumsum(weights[one] * offsets)[-1] / weights[one].sum()
    return 0


def nearest_into(bits, thresholds, n_thresholds, skipped, labels):
    labels[:] = np.searchsorted(thresholds[:n_thresholds], _ascending(bits), side="left")
    return 0


def distinct_into(patterns, distinct):
    found, first = np.unique(patterns, return_index=True)
    found, first = found[found != 0], first[found != 0]
    if found.size > distinct.size:
        return -1
    distinct[: found.size] = found[np.argsort(first)]
    return found.size


def pattern_labels_into(patterns, distinct, labels):
    at = np.minimum(np.searchsorted(distinct, patterns), distinct.size - 1)
    missing = np.flatnonzero(distinct[at] != patterns)
    n = int(missing[0]) if missing.size else patterns.size
    labels[:n] = at[:n]
    return n if missing.size else -1
