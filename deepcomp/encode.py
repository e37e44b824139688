"""Encode one tensor, exactly: entries -> the smallest layout -> record and section.

What is lossy (pruning, sharing) has happened before. ``formats/dcz.md``, sections 5 to 7.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from . import _kernels, huffman, relindex, sharing
from .records import (
    GAP_BITS,
    MAX_BLOCK_NUMEL,
    MAX_CODEBOOK,
    SIGNED_DTYPES,
    TensorRecord,
)
from .sections import CONSTANT, EMPTY, STORED, Code, encode_varint

Patterns = NDArray[np.unsignedinteger]
Symbols = NDArray[np.uint8]
_Block = tuple[tuple[int, ...], list[Symbols]]  # directory counts, symbols of each stream

_DENSE_BLOCK = 1 << 18  # its labels and its float32 entries stay in a second-level cache
_TOO_SMALL_FOR_PLANES = 64  # entries
_AS_GOOD = 1.0005


@dataclass
class Weight:
    """A tensor's entries on their way into a file.

    Attributes
    ----------
    name : str
    dtype : str
        A key of ``records.ITEMSIZE``.
    shape : tuple of int
    patterns : ndarray of uint8, uint16, uint32 or uint64, shape (numel,)
        The entries as bit patterns.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    patterns: Patterns


@dataclass
class _Kept:
    """The kept entries: how many zeros were skipped before each, and their patterns."""

    runs: NDArray[np.uint32]
    patterns: Patterns
    bounds: NDArray[np.int64]  # of each block, in kept entries


@dataclass
class _Candidate:
    """A way to write a tensor, with what it takes."""

    layout: str
    nbytes: int
    codes: list[Code]
    codebook: Patterns | None = None
    gap_bits: int | None = None
    signs: list[Symbols] | None = None
    kept: _Kept | None = None


def encode_tensor(weight: Weight) -> tuple[TensorRecord, list[bytes | memoryview]]:
    """Encode a tensor in the layout that takes the fewest bytes.

    Parameters
    ----------
    weight : Weight

    Returns
    -------
    record : TensorRecord
    section : list of bytes or memoryview
        The parts of the section, in order.

    References
    ----------
    ``formats/dcz.md``, sections 5 to 7.
    """
    p = weight.patterns
    raw = TensorRecord(weight.name, weight.dtype, weight.shape, "raw", p.nbytes)
    codebook = sharing.distinct_patterns(p, MAX_CODEBOOK)
    if p.size == 0 or (codebook is None and p.size < _TOO_SMALL_FOR_PLANES):
        return raw, [p.tobytes()]
    every_bit = (1 << (8 * p.itemsize)) - 1
    kept = _find_kept(p, every_bit)
    candidates = [_sparse(kept, codebook), _dense(weight, kept, codebook)]
    if weight.dtype in SIGNED_DTYPES and _has_negative_zero(p):
        kept = _find_kept(p, every_bit >> 1)
        if codebook is not None:
            codebook = codebook[codebook != (every_bit >> 1) + 1]
        candidates.append(_sparse(kept, codebook, signs=_zero_signs(p)))
    best = min((c for c in candidates if c is not None), key=lambda c: c.nbytes)
    if best.nbytes < p.nbytes:
        record, section = _write(weight, best)
        if record.section_nbytes < p.nbytes:  # the plan leaves out the directory
            return record, section
    return raw, [p.tobytes()]


def _has_negative_zero(p: Patterns) -> bool:
    return bool((p == 1 << (8 * p.itemsize - 1)).any())


def _find_kept(p: Patterns, mask: int) -> _Kept:
    p = np.require(p, requirements="A")
    runs, kept = np.empty(p.size, np.uint32), np.empty_like(p)
    counts = np.zeros(-(-p.size // MAX_BLOCK_NUMEL), np.int64)
    n = _kernels.kept_into(p, mask, MAX_BLOCK_NUMEL, runs, kept, counts)
    return _Kept(runs[:n], kept[:n], np.concatenate(([0], np.cumsum(counts))))


def _zero_signs(p: Patterns) -> list[Symbols]:
    """Return for each block the sign bits of its zeros, packed (section 7.4)."""
    magnitudes = p & p.dtype.type((1 << (8 * p.itemsize - 1)) - 1)
    parts = []
    for first in range(0, p.size, MAX_BLOCK_NUMEL):
        block = slice(first, first + MAX_BLOCK_NUMEL)
        parts.append(np.packbits(p[block][magnitudes[block] == 0] != 0, bitorder="little"))
    return parts


def _value_streams(p: Patterns, codebook: Patterns | None) -> list[Symbols]:
    """Return the labels of entries, or their bytes, least significant plane first."""
    if codebook is not None:
        return [sharing.pattern_labels(p, codebook)]
    by_entry = p.view(np.uint8).reshape(-1, p.itemsize)
    return [by_entry[:, i] for i in range(p.itemsize)]


def _fit_code(counts: NDArray[np.int64], may_store: bool) -> tuple[Code, int]:
    """Choose how a stream is written; return the code and the bytes it takes with its symbols."""
    n_used = np.count_nonzero(counts)
    if n_used == 0:
        return Code(EMPTY), 1
    if n_used == 1:
        return Code(CONSTANT, symbol=int(np.flatnonzero(counts)[0])), 2
    lengths = huffman.fit_code_lengths(counts)
    n_bits = int(counts[: lengths.size] @ lengths.astype(np.int64))
    code = Code(lengths.size, lengths.tobytes())
    nbytes = n_bits // 8 + 1 + len(code.to_bytes())
    n = int(counts.sum())
    if may_store and nbytes > 0.99 * n:  # not worth the time to decode
        return Code(STORED), 2 + n
    return code, nbytes


def _sparse(
    kept: _Kept, codebook: Patterns | None, signs: list[Symbols] | None = None
) -> _Candidate:
    """Plan the sparse layout, with the gap width that gives the fewest bytes, or nearly."""
    run_counts = np.bincount(kept.runs, minlength=1)
    gaps = {b: _fit_code(relindex.gap_counts(run_counts, b), False) for b in GAP_BITS}
    least = min(nbytes for _, nbytes in gaps.values())
    # of widths that are as good, one with few escapes is the fastest to decode
    as_good = [b for b in GAP_BITS if gaps[b][1] <= least * _AS_GOOD]
    n_symbols = {b: int(relindex.gap_counts(run_counts, b).sum()) for b in as_good}
    gap_bits = next(b for b in as_good if n_symbols[b] <= 1.02 * min(n_symbols.values()))
    fits = [gaps[gap_bits]]
    if signs is not None:
        fits.append(_fit_code(huffman.count_symbols(np.concatenate(signs)), True))
    for symbols in _value_streams(kept.patterns, codebook):
        fits.append(_fit_code(huffman.count_symbols(symbols), codebook is None))
    return _candidate("sparse", fits, codebook, gap_bits=gap_bits, signs=signs, kept=kept)


def _dense(weight: Weight, kept: _Kept, codebook: Patterns | None) -> _Candidate | None:
    """Plan the dense layout: zero is an entry like any other."""
    n_zeros = weight.patterns.size - kept.patterns.size
    shift = 0
    if codebook is not None and n_zeros:
        if codebook.size == MAX_CODEBOOK:
            return None
        shift = 1
    fits = []
    for symbols in _value_streams(kept.patterns, codebook):
        counts = np.roll(huffman.count_symbols(symbols), shift)
        counts[0] += n_zeros
        fits.append(_fit_code(counts, codebook is None))
    if shift:
        assert codebook is not None
        codebook = np.concatenate((np.zeros(1, codebook.dtype), codebook))
    return _candidate("dense", fits, codebook, kept=kept)


def _candidate(
    layout: str,
    fits: list[tuple[Code, int]],
    codebook: Patterns | None,
    gap_bits: int | None = None,
    signs: list[Symbols] | None = None,
    kept: _Kept | None = None,
) -> _Candidate:
    nbytes = sum(n for _, n in fits) + (0 if codebook is None else codebook.nbytes)
    return _Candidate(layout, nbytes, [code for code, _ in fits], codebook, gap_bits, signs, kept)


def _write(weight: Weight, plan: _Candidate) -> tuple[TensorRecord, list[bytes | memoryview]]:
    """Write the section of a dense or sparse tensor (section 7)."""
    p, kept = weight.patterns, plan.kept
    assert kept is not None
    block_numel = MAX_BLOCK_NUMEL if plan.layout == "sparse" else _DENSE_BLOCK
    head = [] if plan.codebook is None else [plan.codebook.tobytes()]
    head += [code.to_bytes() for code in plan.codes]
    blocks = _sparse_blocks(plan, kept) if plan.layout == "sparse" else _dense_blocks(p, plan)
    directory = bytearray()
    payload: list[bytes | memoryview] = []
    for counts, streams in blocks:
        for n in counts:
            directory += encode_varint(n)
        for code, symbols in zip(plan.codes, streams, strict=True):
            if code.m == STORED:
                payload.append(symbols.tobytes())
            elif code.is_huffman:
                bitstreams = huffman.encode(symbols, np.frombuffer(code.code_lengths, np.uint8))
                directory += b"".join(encode_varint(len(b)) for b in bitstreams)
                payload += bitstreams
    section = [*head, bytes(directory), *payload]
    record = TensorRecord(
        weight.name,
        weight.dtype,
        weight.shape,
        plan.layout,
        section_nbytes=sum(map(len, section)),
        nnz=kept.patterns.size,
        codebook=None if plan.codebook is None else plan.codebook.size,
        gap_bits=plan.gap_bits,
        block_numel=block_numel if p.size > block_numel else None,
        zero_signs=plan.signs is not None,
    )
    return record, section


def _sparse_blocks(plan: _Candidate, kept: _Kept) -> Iterator[_Block]:
    """Yield ((n_kept, n_escapes), streams) for each block."""
    assert plan.gap_bits is not None
    values = _value_streams(kept.patterns, plan.codebook)
    for b, (first, last) in enumerate(pairwise(kept.bounds.tolist())):
        gaps = relindex.runs_to_gaps(kept.runs[first:last], plan.gap_bits)
        signs = [] if plan.signs is None else [plan.signs[b]]
        counts = (last - first, gaps.size - (last - first))
        yield counts, [gaps, *signs, *(v[first:last] for v in values)]


def _dense_blocks(p: Patterns, plan: _Candidate) -> Iterator[_Block]:
    """Yield ((n_kept,), streams) for each block."""
    for first in range(0, p.size, _DENSE_BLOCK):
        block = p[first : first + _DENSE_BLOCK]
        yield (int(np.count_nonzero(block)),), _value_streams(block, plan.codebook)
