"""Encode one tensor, exactly: entries -> the smallest layout -> record and section.

What is lossy (pruning, sharing) has happened before. A tensor is counted (`counts`), planned, and
its blocks are encoded: all at once, or in parts that begin at multiples of 2**20 entries and whose
counts and encoded blocks are put together. ``formats/dcz.md``, sections 5 to 7.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from . import huffman, relindex
from .counts import blocks, count_entries, kept_entries, value_streams, zero_signs
from .plans import Plan, coded_plan, make_plan
from .records import MAX_BLOCK_NUMEL, MAX_WHOLE_NUMEL, TensorRecord
from .sections import STORED, encode_varint

Patterns = NDArray[np.unsignedinteger]
Symbols = NDArray[np.uint8]
Section = list[bytes | memoryview]
_Block = tuple[tuple[int, ...], list[Symbols]]  # directory counts, symbols of each stream

_DENSE_BLOCK = 1 << 18  # its labels and its float32 entries stay in a second-level cache
_KEPT_ROWS_NBYTES = 16  # of the index, for the key; some 10 when it is deflated
_WORTH_MOVING = 1.005  # times smaller at least: a reader has to move the rows to their places


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


def encode_tensor(weight: Weight) -> tuple[TensorRecord, Section]:
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
    counts = count_entries(p, weight.dtype, MAX_BLOCK_NUMEL)
    plan = make_plan(counts, p.itemsize)
    of_rows = _encode_kept_rows(weight, plan.nbytes)
    if of_rows is not None:
        return of_rows
    directory, payload = encode_part(p, plan)
    section = [plan.head(), directory, *payload]
    nbytes = sum(map(len, section))
    if plan.layout == "raw" or nbytes >= p.nbytes:  # the plan leaves out the directory
        raw = TensorRecord(weight.name, weight.dtype, weight.shape, "raw", p.nbytes)
        return raw, [p.tobytes()]
    return record_of(weight.name, weight.dtype, weight.shape, plan, nbytes), section


def _encode_kept_rows(weight: Weight, most: int) -> tuple[TensorRecord, Section] | None:
    """Encode a tensor without its rows of zeros, if that takes less than `most` bytes.

    Tensors that may be cut are not looked at: their rows are in several parts.
    """
    p, shape = weight.patterns, weight.shape
    if len(shape) < 2 or not 0 < p.size <= MAX_WHOLE_NUMEL:  # a row of a vector is one entry
        return None
    matrix = p.reshape(shape[0], -1)
    is_kept = matrix.any(axis=1)
    n_kept = int(np.count_nonzero(is_kept))
    if n_kept in (0, shape[0]):
        return None
    kept = matrix[is_kept].reshape(-1)
    plan = coded_plan(count_entries(kept, weight.dtype, MAX_BLOCK_NUMEL), p.itemsize)
    bitmap = np.packbits(is_kept, bitorder="little").tobytes()
    least = 0 if plan is None else plan.nbytes + len(bitmap) + _KEPT_ROWS_NBYTES
    if plan is None or _WORTH_MOVING * least > most:
        return None
    directory, payload = encode_part(kept, plan)
    section = [bitmap, plan.head(), directory, *payload]
    nbytes = sum(map(len, section))
    if nbytes >= most:  # the plan leaves out the directory
        return None
    stored = record_of(weight.name, weight.dtype, (n_kept, *shape[1:]), plan, nbytes)
    return replace(stored, shape=shape, kept_rows=n_kept), section


def encode_part(patterns: Patterns, plan: Plan) -> tuple[bytes, Section]:
    """Encode the blocks of a tensor, or of a part that begins at a multiple of 2**20 entries.

    Parameters
    ----------
    patterns : ndarray of unsigned integers, shape (n,)
    plan : Plan
        That of the whole tensor; nothing is done if it is raw.

    Returns
    -------
    directory : bytes
        Their entries in the directory.
    payload : list of bytes or memoryview
    """
    directory = bytearray()
    payload: Section = []
    if plan.layout == "raw":
        return b"", payload
    encoded = _sparse_blocks if plan.layout == "sparse" else _dense_blocks
    for counts, streams in encoded(patterns, plan):
        for n in counts:
            directory += encode_varint(n)
        for code, symbols in zip(plan.codes, streams, strict=True):
            if code.m == STORED:
                payload.append(symbols.tobytes())
            elif code.is_huffman:
                bitstreams = huffman.encode(symbols, np.frombuffer(code.code_lengths, np.uint8))
                directory += b"".join(encode_varint(len(b)) for b in bitstreams)
                payload.append(b"".join(bitstreams))  # they are views of memory for the worst case
    return bytes(directory), payload


def record_of(
    name: str, dtype: str, shape: tuple[int, ...], plan: Plan, section_nbytes: int
) -> TensorRecord:
    """Describe a tensor that was written as planned, dense or sparse."""
    block_numel = MAX_BLOCK_NUMEL if plan.layout == "sparse" else _DENSE_BLOCK
    return TensorRecord(
        name,
        dtype,
        shape,
        plan.layout,
        section_nbytes,
        nnz=plan.nnz,
        codebook=None if plan.codebook is None else plan.codebook.size,
        gap_bits=plan.gap_bits,
        block_numel=block_numel if prod(shape) > block_numel else None,
        zero_signs=plan.zero_signs,
    )


def _sparse_blocks(patterns: Patterns, plan: Plan) -> Iterator[_Block]:
    """Yield ((n_kept, n_escapes), streams) for each block."""
    assert plan.gap_bits is not None
    mask = (1 << (8 * patterns.itemsize - plan.zero_signs)) - 1
    for block in blocks(patterns, MAX_BLOCK_NUMEL):
        runs, kept = kept_entries(block, mask)
        gaps = relindex.runs_to_gaps(runs, plan.gap_bits)
        signs = [zero_signs(block)] if plan.zero_signs else []
        counts = (kept.size, gaps.size - kept.size)
        yield counts, [gaps, *signs, *value_streams(kept, plan.codebook)]


def _dense_blocks(patterns: Patterns, plan: Plan) -> Iterator[_Block]:
    """Yield ((n_kept,), streams) for each block."""
    for block in blocks(patterns, _DENSE_BLOCK):
        yield (int(np.count_nonzero(block)),), value_streams(block, plan.codebook)
