"""Counts of a tensor -> the layout that takes the fewest bytes, and its codes.

``formats/dcz.md``, sections 5 to 7.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import huffman, relindex
from .counts import Counts, bytes_of_value
from .records import GAP_BITS, MAX_CODEBOOK
from .sections import CONSTANT, EMPTY, STORED, Code

Patterns = NDArray[np.unsignedinteger]

_TOO_SMALL_FOR_PLANES = 64  # entries
_AS_GOOD = 1.0005


@dataclass(frozen=True)
class Plan:
    """A way to write a tensor, and what that takes.

    Attributes
    ----------
    layout : {"raw", "dense", "sparse"}
    nbytes : int
        Of the section, but for its directory.
    nnz : int
    codes : tuple of Code
        One for each stream.
    codebook : ndarray of unsigned integers, shape (m,), or None
    gap_bits : int or None
    zero_signs : bool
    """

    layout: str
    nbytes: int
    nnz: int = 0
    codes: tuple[Code, ...] = ()
    codebook: Patterns | None = None
    gap_bits: int | None = None
    zero_signs: bool = False

    def head(self) -> bytes:
        """Return the codebook and the codes as they stand in the section."""
        codebook = b"" if self.codebook is None else self.codebook.tobytes()
        return codebook + b"".join(code.to_bytes() for code in self.codes)


def make_plan(counts: Counts, itemsize: int) -> Plan:
    """Choose the layout that takes the fewest bytes, and its codes.

    Parameters
    ----------
    counts : Counts
        Of the whole tensor.
    itemsize : int
        Bytes of an entry.

    Returns
    -------
    Plan
    """
    raw = Plan("raw", counts.numel * itemsize)
    best = coded_plan(counts, itemsize)
    return best if best is not None and best.nbytes < raw.nbytes else raw


def coded_plan(counts: Counts, itemsize: int) -> Plan | None:
    """Choose between the layouts dense and sparse; None if the tensor is too small for them.

    Parameters
    ----------
    counts, itemsize
        See `make_plan`.

    Returns
    -------
    Plan or None
    """
    if counts.numel == 0 or (counts.values is None and counts.numel < _TOO_SMALL_FOR_PLANES):
        return None
    candidates = [_sparse(counts), _dense(counts)]
    if counts.n_negative_zeros:
        candidates.append(_sparse_with_signs(counts, itemsize))
    return min((c for c in candidates if c is not None), key=lambda c: c.nbytes)


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


def _fit_gaps(runs: tuple[NDArray[np.int64], NDArray[np.int64]]) -> tuple[int, tuple[Code, int]]:
    """Choose the gap width that gives the fewest bytes, or nearly; return it and its code."""
    lengths, counts = runs
    run_counts = np.zeros(int(lengths.max(initial=0)) + 1, np.int64)
    run_counts[lengths] = counts
    gap_counts = {b: relindex.gap_counts(run_counts, b) for b in GAP_BITS}
    gaps = {b: _fit_code(gap_counts[b], False) for b in GAP_BITS}
    least = min(nbytes for _, nbytes in gaps.values())
    # of widths that are as good, one with few escapes is the fastest to decode
    as_good = [b for b in GAP_BITS if gaps[b][1] <= least * _AS_GOOD]
    n_symbols = {b: int(gap_counts[b].sum()) for b in as_good}
    gap_bits = next(b for b in as_good if n_symbols[b] <= 1.02 * min(n_symbols.values()))
    return gap_bits, gaps[gap_bits]


def _value_counts(counts: Counts) -> NDArray[np.int64]:
    """Return the counts of each stream of values, shape (n_streams, 256)."""
    if counts.planes is not None:
        return counts.planes.copy()
    assert counts.n_values is not None
    return np.pad(counts.n_values, (0, 256 - counts.n_values.size))[None]


def _sparse(counts: Counts) -> Plan:
    gap_bits, gaps = _fit_gaps(counts.runs)
    fits = [gaps, *(_fit_code(c, counts.values is None) for c in _value_counts(counts))]
    return _plan("sparse", fits, counts.values, counts.n_kept, gap_bits)


def _sparse_with_signs(counts: Counts, itemsize: int) -> Plan:
    """Plan the sparse layout in which -0.0 is a zero, with a sign (section 7.4)."""
    sign = 1 << (8 * itemsize - 1)
    n_negative = counts.n_negative_zeros
    codebook, values = counts.values, _value_counts(counts)
    if codebook is None:
        values -= bytes_of_value(sign, n_negative, itemsize)
    else:
        at = np.flatnonzero(codebook == sign)
        codebook = np.delete(codebook, at)
        values = np.pad(np.delete(values, at, axis=1), ((0, 0), (0, at.size)))
    gap_bits, gaps = _fit_gaps(counts.signed_runs)
    fits = [gaps, _fit_code(counts.signs, True)]
    fits += [_fit_code(c, codebook is None) for c in values]
    return _plan("sparse", fits, codebook, counts.n_kept - n_negative, gap_bits, signs=True)


def _dense(counts: Counts) -> Plan | None:
    """Plan the dense layout: zero is an entry like any other."""
    n_zeros = counts.numel - counts.n_kept
    codebook, values = counts.values, _value_counts(counts)
    if codebook is not None and n_zeros:
        if codebook.size == MAX_CODEBOOK:
            return None
        codebook = np.concatenate((np.zeros(1, codebook.dtype), codebook))
        values = np.roll(values, 1, axis=1)
    values[:, 0] += n_zeros
    fits = [_fit_code(c, codebook is None) for c in values]
    return _plan("dense", fits, codebook, counts.n_kept)


def _plan(
    layout: str,
    fits: list[tuple[Code, int]],
    codebook: Patterns | None,
    nnz: int,
    gap_bits: int | None = None,
    signs: bool = False,
) -> Plan:
    nbytes = sum(n for _, n in fits) + (0 if codebook is None else codebook.nbytes)
    return Plan(layout, nbytes, nnz, tuple(c for c, _ in fits), codebook, gap_bits, signs)
