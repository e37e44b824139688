"""Codebooks of tensors that are read in parts: the values of all of them are shared.

Han, Mao, Dally, "Deep Compression", ICLR 2016, section 3.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _kernels, kmeans, prune, sharing
from .floats import to_patterns, to_values
from .losses import EXACT, Loss, add
from .memory import scratch
from .passes import Pass, Passes, Patterns
from .records import ITEMSIZE, MAX_CODEBOOK
from .squares import CHUNK, loss_of, loss_of_counts

Int64s = NDArray[np.int64]
_Counted = tuple[Patterns, Int64s]  # distinct patterns, rising, and how often each occurs


class Fit(NamedTuple):
    """A codebook, and what sharing its values changes.

    Attributes
    ----------
    codebook : ndarray of unsigned integers, shape (m,), or None
        Patterns, by rising value. None: the entries stay as they are.
    loss : Loss or None
        None if that is not known before they are shared.
    """

    codebook: Patterns | None = None
    loss: Loss | None = None


def codebook_passes(bits: int, dtype: str, numel: int) -> Passes[Fit]:
    """Fit a codebook to the entries of a tensor that are not zero.

    Parameters
    ----------
    bits : int
        1 to 8.
    dtype : {"float16", "bfloat16", "float32", "float64"}
    numel : int
        Of the whole tensor. Its entries must be finite, zeros being +0.0.

    Returns
    -------
    Fit
        At most ``2**bits`` patterns; none if the entries have no more distinct ones.
    """
    is_counted = ITEMSIZE[dtype] == 2  # all patterns of 16 bits are counted at once
    answers = yield Pass(_count_patterns if is_counted else _few_values)
    n_kept = sum(n for _, n in answers)
    few = _merge([counted for counted, _ in answers])
    if few is not None and few[0].size <= 1 << bits:
        return Fit(loss=EXACT)
    n_values = min(1 << bits, MAX_CODEBOOK - (n_kept < numel))  # zero can be one of 256
    if is_counted:
        assert few is not None
        points, counts = sharing.points_of(*_by_value(few, dtype), n_values)
    elif few is not None and few[0].size < MAX_CODEBOOK:
        points, counts = _by_value(few, dtype)
    elif n_kept <= sharing.MAX_SORTED:
        counted = _merge((yield Pass(_count_few_entries)))
        assert counted is not None
        points, counts = _by_value(counted, dtype)
    else:
        points, counts = yield from _tally_passes(dtype, n_values)
    codebook = to_patterns(sharing.fit_points(points, counts, n_values), dtype)
    if not is_counted:
        return Fit(codebook)
    assert few is not None
    labels = sharing.nearest_labels(to_values(few[0], dtype), to_values(codebook, dtype))
    return Fit(codebook, loss_of_counts(few[0], codebook[labels], few[1], dtype))


def put_codebook(patterns: Patterns, dtype: str, codebook: Patterns) -> Loss | None:
    """Replace all entries but zeros by the nearest of a codebook, in place.

    Parameters
    ----------
    patterns : ndarray of unsigned integers, shape (n,)
        Finite floats.
    dtype : {"float16", "bfloat16", "float32", "float64"}
    codebook : ndarray of the dtype of `patterns`, shape (m,)
        By rising value.

    Returns
    -------
    Loss or None
        None of 16 bits, of which `codebook_passes` knows it.
    """
    entries = to_values(codebook, dtype).astype(np.float64)
    if ITEMSIZE[dtype] == 2:  # each pattern is looked up once, not each entry
        every = np.arange(1 << 16, dtype=np.uint16)
        table = codebook[sharing.nearest_labels(to_values(every, dtype), entries)]
        table[0] = 0
        for chunk in prune.small_chunks(patterns):
            places = scratch("places", chunk.size, np.intp)  # else NumPy makes such an array itself
            places[:] = chunk
            np.take(table, places, out=chunk, mode="clip")
        return None
    losses = []
    for chunk in prune.chunks(patterns):
        labels = sharing.nearest_labels(to_values(chunk, dtype), entries)
        for i in range(0, chunk.size, CHUNK):
            before = chunk[i : i + CHUNK]
            found = scratch("found", before.size, before.dtype)
            _kernels.look_up_into(labels[i : i + CHUNK], codebook, found)
            np.multiply(found, before != 0, out=found)  # a masked assignment: ten times as long
            losses.append(loss_of(before, found, dtype))
            before[:] = found
    return add(losses)


def _few_values(patterns: Patterns, dtype: str) -> tuple[_Counted | None, int]:
    """Return the distinct patterns unless there are more than 256; and the number of kept ones."""
    n_kept = int(np.count_nonzero(patterns))
    found = sharing.distinct_patterns(patterns, MAX_CODEBOOK)
    if found is None:
        return None, n_kept
    counts = np.zeros(found.size, np.int64)
    for chunk in prune.chunks(patterns):
        labels = sharing.pattern_labels(chunk[chunk != 0], found)
        counts += np.bincount(labels, minlength=found.size)
    return (found, counts), n_kept


def _count_patterns(patterns: Patterns, dtype: str) -> tuple[_Counted, int]:
    """Count the patterns of 16 bits other than zero; return the number of kept ones as well."""
    counts = np.zeros(1 << 16, np.int64)
    _kernels.count_digits_into(patterns, 0xFFFF, 0, -1, counts)
    counts[0] = 0
    found = np.flatnonzero(counts)
    return (found.astype(np.uint16), counts[found]), int(counts.sum())


def _count_few_entries(patterns: Patterns, dtype: str) -> _Counted:
    kept = [chunk[chunk != 0] for chunk in prune.chunks(patterns)]
    return np.unique(np.concatenate([patterns[:0], *kept]), return_counts=True)


def _tally_passes(dtype: str, n_values: int) -> Passes[tuple[NDArray[np.float64], Int64s]]:
    """Replace the values by fewer points; see `kmeans.tally_passes`."""
    passes = kmeans.tally_passes(np.dtype(f"u{ITEMSIZE[dtype]}"), n_values)
    nodes = next(passes)
    while True:
        tallies = np.zeros((nodes.size, 2), np.int64)
        inner = np.flatnonzero(nodes != kmeans.LEAF)
        for leaves, tally in (yield Pass(_tally, (nodes.size, inner, nodes[inner]))):
            tallies[leaves] += tally
        try:
            nodes = passes.send(tallies)
        except StopIteration as end:
            points, counts = end.value
            break
    if dtype == "float64":  # the lowest bits are not in the tally
        extremes = yield Pass(_extremes)
        points = np.clip(points, min(e[0] for e in extremes), max(e[1] for e in extremes))
    return points, counts


def _tally(
    patterns: Patterns, dtype: str, n_nodes: int, inner: Int64s, children: Int64s
) -> tuple[Int64s, Int64s]:
    """Tally the kept entries; return the leaves that have some, and their tallies."""
    nodes = np.full(n_nodes, kmeans.LEAF, np.int64)
    nodes[inner] = children
    tallies = np.zeros((n_nodes, 2), np.int64)
    _kernels.tally_into(patterns, nodes, tallies)
    zero = tallies[kmeans.leaf_of_zero(nodes)]  # zeros are tallied too: to skip them takes longer
    zero[0] -= patterns.size - np.count_nonzero(patterns)
    leaves = np.flatnonzero(tallies[:, 0])
    return leaves, tallies[leaves]


def _extremes(patterns: Patterns, dtype: str) -> tuple[float, float]:
    """Return the least and the greatest kept value; infinities where there is none."""
    least, greatest = np.inf, -np.inf
    for chunk in prune.small_chunks(patterns):
        values, is_kept = to_values(chunk, dtype), chunk != 0
        least = min(least, float(np.where(is_kept, values, np.inf).min()))
        greatest = max(greatest, float(np.where(is_kept, values, -np.inf).max()))
    return least, greatest


def _by_value(counted: _Counted, dtype: str) -> tuple[NDArray[np.float64], Int64s]:
    values = to_values(counted[0], dtype).astype(np.float64)
    order = np.argsort(values)
    return values[order], counted[1][order]


def _merge(parts: list[Any]) -> _Counted | None:
    """Add what was counted of parts; None if one of them is."""
    if any(part is None for part in parts):
        return None
    found = np.unique(np.concatenate([values for values, _ in parts]))
    counts = np.zeros(found.size, np.int64)
    for values, n in parts:
        counts[np.searchsorted(found, values)] += n
    return found, counts
