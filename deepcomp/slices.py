"""Some entries of a tensor: only the blocks that hold them are looked at and decoded.

``formats/dcz.md``, section 7.1: a block can be decoded without the others.
"""

from collections.abc import Callable
from itertools import pairwise
from math import prod
from operator import index
from typing import Any

import numpy as np

from .decode import Patterns, TensorDecoder
from .kept_rows import AnyDecoder, RowsDecoder, decoder_of
from .records import TensorRecord


def row_entries(record: TensorRecord, start: int, stop: int) -> tuple[int, int]:
    """Return where the rows from `start` up to `stop` begin and end, in entries.

    Raises
    ------
    IndexError
        If there are no such rows.
    TypeError
        If `start` or `stop` is no integer.
    """
    if not record.shape:
        raise IndexError(f"tensor {record.name!r} has no dimensions: there are no rows")
    start, stop = index(start), index(stop)  # those of NumPy may overflow
    if not 0 <= start <= stop <= record.shape[0]:
        raise IndexError(
            f"tensor {record.name!r}: rows from {start} up to {stop}: "
            f"expected 0 <= start <= stop <= {record.shape[0]}"
        )
    width = prod(record.shape[1:])
    return start * width, stop * width


def bytes_of(decoder: AnyDecoder, first: int, last: int) -> tuple[int, int]:
    """Return where in the section the entries from `first` up to `last` are encoded.

    Parameters
    ----------
    decoder : TensorDecoder or RowsDecoder
    first, last : int
        ``0 <= first <= last <= numel``; with ``kept_rows``, where rows begin and end.

    Returns
    -------
    start, end : int
        Of the blocks that hold the entries; the parts before the blocks are not counted.
    """
    record = decoder.record
    if isinstance(decoder, RowsDecoder):
        a, b = decoder.stored_rows(first // decoder.width, last // decoder.width)
        start, end = bytes_of(decoder.stored, a * decoder.width, b * decoder.width)
        return record.bitmap_nbytes + start, record.bitmap_nbytes + end
    if record.layout == "raw":
        return first * record.itemsize, last * record.itemsize
    start = end = 0
    for i in _blocks(decoder, first, last):
        block = decoder.section.blocks[i]
        if nbytes := sum(map(sum, block.sizes)):  # others have no place in the section
            start = start or block.offset
            end = block.offset + nbytes
    return start, end


def decoder_of_head(record: TensorRecord, fetch: Callable[..., Any]) -> AnyDecoder:
    """Make a decoder of a section of which only the beginning is fetched and checked."""
    head = record.head_nbytes
    return decoder_of(record, fetch(0, head), head)


def decode_fetched(
    decoder: AnyDecoder, fetch: Callable[..., Any], first: int, last: int
) -> Patterns:
    """Do as `decode_between`; only what is needed of the section is fetched and checked before."""
    fetch(*bytes_of(decoder, first, last))  # the decoder has a view of the section
    return decode_between(decoder, first, last)


def decode_between(decoder: AnyDecoder, first: int, last: int) -> Patterns:
    """Decode the entries from `first` up to `last`, and what else is in their blocks.

    Parameters
    ----------
    decoder : TensorDecoder or RowsDecoder
    first, last : int
        As of `bytes_of`.

    Returns
    -------
    ndarray of uint8, uint16, uint32 or uint64, shape (last - first,)

    Raises
    ------
    DczError
        If a block breaks a rule.
    """
    if isinstance(decoder, RowsDecoder):
        return _decode_rows(decoder, first // decoder.width, last // decoder.width)
    record = decoder.record
    if record.layout == "raw":
        return decoder.raw_entries(first, last)
    if first == last:
        return np.empty(0, decoder.dtype)
    out = np.empty(last - first, decoder.dtype)
    step = record.block_numel or record.numel
    blocks = _blocks(decoder, first, last)
    i, j = blocks.start, blocks.stop
    # the first block and the last one, of which only a part may be wanted, and those between them
    for k, m in pairwise(sorted({i, i + 1, j - 1, j})):
        start, end = k * step, min(m * step, record.numel)
        if first <= start and end <= last:
            decoder.decode_blocks_into(range(k, m), out[start - first : end - first])
            continue
        entries = np.empty(end - start, decoder.dtype)
        decoder.decode_blocks_into(range(k, m), entries)
        a, b = max(first, start), min(last, end)
        out[a - first : b - first] = entries[a - start : b - start]
    return out


def _decode_rows(decoder: RowsDecoder, start: int, stop: int) -> Patterns:
    width = decoder.width
    first, last = decoder.stored_rows(start, stop)
    out = np.zeros((stop - start, width), decoder.dtype)
    kept = decode_between(decoder.stored, first * width, last * width)
    out[decoder.rows[first:last] - start] = kept.reshape(-1, width)
    return out.reshape(-1)


def _blocks(decoder: TensorDecoder, first: int, last: int) -> range:
    step = decoder.record.block_numel or decoder.record.numel
    return range(first // step, -(-last // step) if last > first else 0)
