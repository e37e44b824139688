"""How often each symbol of a tensor would occur: what its codes are made from.

The counts of parts add up to the counts of the whole, exactly, so that a tensor larger than memory
gets the same codes as in one piece. ``formats/dcz.md``, sections 6.1 and 7.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import _kernels, huffman, prune, sharing
from .memory import scratch
from .records import MAX_BLOCK_NUMEL, MAX_CODEBOOK, SIGNED_DTYPES

Patterns = NDArray[np.unsignedinteger]
Symbols = NDArray[np.uint8]
Int64s = NDArray[np.int64]
_Pairs = tuple[Int64s, Int64s]  # distinct lengths of runs, and how many there are of each


@dataclass
class Counts:
    """What occurs in a tensor, or in a part of it that begins with a block.

    Attributes
    ----------
    numel, n_kept : int
    values : ndarray of unsigned integers, shape (m,), or None
        The distinct patterns other than 0, rising; None if there are more than 256.
    n_values : ndarray of int64, shape (m,), or None
        How often each occurs.
    planes : ndarray of int64, shape (itemsize, 256), or None
        How often each byte value occurs in the kept patterns, if `values` is None.
    runs : pair of ndarray of int64, shape (n,)
        How many runs of zeros of which length stand before kept entries.
    n_negative_zeros : int
        0 for a dtype without signs.
    signed_runs : pair of ndarray of int64
        The runs if -0.0 is a zero as well.
    signs : ndarray of int64, shape (256,)
        How often each byte occurs in the packed signs of the zeros then.
    """

    numel: int
    n_kept: int
    values: Patterns | None
    n_values: Int64s | None
    planes: Int64s | None
    runs: _Pairs
    n_negative_zeros: int
    signed_runs: _Pairs
    signs: Int64s


def count_entries(patterns: Patterns, dtype: str, block_numel: int = MAX_BLOCK_NUMEL) -> Counts:
    """Count what occurs in a tensor or in a part of it.

    Parameters
    ----------
    patterns : ndarray of uint8, uint16, uint32 or uint64, shape (n,)
    dtype : str
        A key of ``records.ITEMSIZE``.
    block_numel : int
        Entries of a block in the sparse layout: a run of zeros ends with its block.

    Returns
    -------
    Counts

    Examples
    --------
    >>> counts = count_entries(np.array([0, 7, 0, 0, 5, 7], np.uint8), "uint8")
    >>> counts.values, counts.n_values, counts.runs
    (array([5, 7], dtype=uint8), array([1, 2]), (array([0, 1, 2]), array([1, 1, 1])))
    """
    every_bit = (1 << (8 * patterns.itemsize)) - 1
    values = sharing.distinct_patterns(patterns, MAX_CODEBOOK)
    symbols = np.zeros((1 if values is not None else patterns.itemsize, 256), np.int64)
    run_counts = np.zeros(1 << 16, np.int64)
    n_kept = 0
    for block in blocks(patterns, block_numel):
        runs, kept = kept_entries(block, every_bit)
        n_kept += kept.size
        run_counts = _add_runs(run_counts, runs)
        for counts, stream in zip(symbols, value_streams(kept, values), strict=True):
            counts += huffman.count_symbols(stream)
    n_values = None if values is None else symbols[0, : values.size].copy()
    pairs = _pairs(run_counts)
    n_negative, signed, signs = _count_signs(patterns, dtype, pairs, block_numel)
    planes = symbols if values is None else None
    return Counts(patterns.size, n_kept, values, n_values, planes, pairs, n_negative, signed, signs)


def add(parts: Sequence[Counts]) -> Counts:
    """Add the counts of all parts of a tensor.

    Parameters
    ----------
    parts : sequence of Counts
        At least one, all of the same dtype.

    Returns
    -------
    Counts

    Examples
    --------
    >>> parts = [count_entries(np.array(p, np.uint8), "uint8") for p in ([0, 7], [5, 7])]
    >>> add(parts).values, add(parts).n_values
    (array([5, 7], dtype=uint8), array([1, 2]))
    """
    if len(parts) == 1:
        return parts[0]
    values, n_values, planes = _add_values(parts)
    return Counts(
        sum(part.numel for part in parts),
        sum(part.n_kept for part in parts),
        values,
        n_values,
        planes,
        _add_pairs([part.runs for part in parts]),
        sum(part.n_negative_zeros for part in parts),
        _add_pairs([part.signed_runs for part in parts]),
        sum((part.signs for part in parts), np.zeros(256, np.int64)),
    )


def blocks(patterns: Patterns, numel: int) -> Iterator[Patterns]:
    """Yield the blocks of a tensor, or of a part of it."""
    for first in range(0, patterns.size, numel):
        yield patterns[first : first + numel]


def kept_entries(block: Patterns, mask: int) -> tuple[NDArray[np.uint32], Patterns]:
    """Return the zeros skipped before each kept entry, and the kept entries.

    Parameters
    ----------
    block : ndarray of unsigned integers, shape (n,)
    mask : int
        An entry is zero if none of these bits is set.

    Returns
    -------
    runs : ndarray of uint32, shape (n_kept,)
    kept : ndarray of the dtype of `block`, shape (n_kept,)
        Both are memory of this thread that the next call uses again.
    """
    block = np.require(block, requirements="A")
    runs = scratch("runs", block.size, np.uint32)
    kept = scratch("kept", block.size, block.dtype)
    n = _kernels.kept_into(block, mask, max(block.size, 1), runs, kept, np.zeros(1, np.int64))
    return runs[:n], kept[:n]


def zero_signs(block: Patterns) -> Symbols:
    """Return the sign bits of a block's zeros, packed (section 7.4)."""
    magnitudes = block & block.dtype.type((1 << (8 * block.itemsize - 1)) - 1)
    return np.packbits(block[magnitudes == 0] != 0, bitorder="little")


def value_streams(patterns: Patterns, codebook: Patterns | None) -> list[Symbols]:
    """Return the labels of entries, or their bytes, least significant plane first.

    Labels are memory of this thread that the next call uses again.
    """
    if codebook is not None:
        labels = scratch("labels", patterns.size, np.uint8)
        return [sharing.pattern_labels(patterns, codebook, labels)]
    by_entry = patterns.view(np.uint8).reshape(-1, patterns.itemsize)
    return [by_entry[:, i] for i in range(patterns.itemsize)]


def bytes_of_value(value: int, n: int, itemsize: int) -> Int64s:
    """Return the counts of byte planes, shape (itemsize, 256), of `n` times the same value."""
    planes = np.zeros((itemsize, 256), np.int64)
    planes[np.arange(itemsize), list(value.to_bytes(itemsize, "little"))] = n
    return planes


def _count_signs(
    patterns: Patterns, dtype: str, runs: _Pairs, block_numel: int
) -> tuple[int, _Pairs, Int64s]:
    """Count negative zeros, the runs if they are zeros, and the bytes of the signs."""
    signs = np.zeros(256, np.int64)
    if dtype not in SIGNED_DTYPES:
        return 0, runs, signs
    sign = 1 << (8 * patterns.itemsize - 1)
    n_negative, run_counts = 0, np.zeros(1 << 16, np.int64)
    for block in blocks(patterns, block_numel):
        n = sum(int(np.count_nonzero(part == sign)) for part in prune.small_chunks(block))
        n_negative += n
        if not n:
            signs[0] += -(-(block.size - int(np.count_nonzero(block))) // 8)
        else:
            signs += huffman.count_symbols(zero_signs(block))
    if not n_negative:
        return 0, runs, signs
    for block in blocks(patterns, block_numel):
        run_counts = _add_runs(run_counts, kept_entries(block, sign - 1)[0])
    return n_negative, _pairs(run_counts), signs


def _add_runs(counts: Int64s, runs: NDArray[np.uint32]) -> Int64s:
    """Count runs in `counts`, which has 65536 entries or more; return it, longer if need be."""
    if runs.max(initial=0) < 1 << 16:
        # faster than bincount
        _kernels.count_digits_into(runs, (1 << 32) - 1, 0, -1, counts[: 1 << 16])
        return counts
    found = np.bincount(runs, minlength=counts.size)
    found[: counts.size] += counts
    return found


def _pairs(run_counts: Int64s) -> _Pairs:
    lengths = np.flatnonzero(run_counts)
    return lengths, run_counts[lengths]


def _add_pairs(parts: Sequence[_Pairs]) -> _Pairs:
    lengths = np.unique(np.concatenate([p[0] for p in parts]))
    counts = np.zeros(lengths.size, np.int64)
    for some, n in parts:
        counts[np.searchsorted(lengths, some)] += n
    return lengths, counts


def _add_values(
    parts: Sequence[Counts],
) -> tuple[Patterns | None, Int64s | None, Int64s | None]:
    """Return `values` and `n_values`, or `planes` if there are too many of them."""
    found = [
        (p.values, p.n_values) for p in parts if p.values is not None and p.n_values is not None
    ]
    if len(found) == len(parts):
        values = np.unique(np.concatenate([v for v, _ in found]))
        if values.size <= MAX_CODEBOOK:
            n_values = np.zeros(values.size, np.int64)
            for some, n in found:
                n_values[np.searchsorted(values, some)] += n
            return values, n_values, None
    planes = _planes_of(parts[0]).copy()
    for part in parts[1:]:
        planes += _planes_of(part)
    return None, None, planes


def _planes_of(part: Counts) -> Int64s:
    if part.planes is not None:
        return part.planes
    assert part.values is not None and part.n_values is not None
    itemsize = part.values.itemsize
    planes = np.zeros((itemsize, 256), np.int64)
    for value, n in zip(part.values.tolist(), part.n_values.tolist(), strict=True):
        planes += bytes_of_value(value, n, itemsize)
    return planes
