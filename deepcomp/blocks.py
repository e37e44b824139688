"""One block of a tensor: the symbols of its streams -> its entries.

``formats/dcz.md``, section 7.
"""

import numpy as np
from numpy.typing import NDArray

from . import _kernels
from .errors import DczError
from .records import TensorRecord
from .sections import Block

Patterns = NDArray[np.unsignedinteger]
Symbols = NDArray[np.uint8]

ERRORS = {
    1: "a bitstream ends too early",
    2: "a bitstream has bits left over at its end",
    3: "its gaps do not hold as many kept entries as its directory says",
    4: "its last gap is an escape",
    5: "its gaps lead out of the block",
}


def entries_into(
    record: TensorRecord,
    codebook: Patterns,
    block: Block,
    streams: list[Symbols],
    kept: Patterns,
    out: Patterns,
) -> None:
    """Fill `out` with the entries of a block.

    Parameters
    ----------
    record : TensorRecord
        Of a tensor that is not raw.
    codebook : ndarray of uint8, uint16, uint32 or uint64, shape (record.codebook or 0,)
    block : Block
    streams : list of ndarray of uint8
        Its symbols, by the record's ``stream_names``.
    kept : ndarray of the dtype of `codebook`, shape (block.n_kept,)
        Memory for the kept entries of a sparse tensor.
    out : ndarray of the dtype of `codebook`, shape (block.numel,)

    Raises
    ------
    DczError
        If the symbols break a rule; `out` then holds anything.
    """
    if record.layout == "dense":
        _values_into(record, codebook, streams, out)
        check_bool(record, out)
        n_kept = _count_kept(record, codebook, streams, out)
        if n_kept != block.n_kept:
            raise DczError(f"a block keeps {n_kept} entries: expected {block.n_kept}")
        return
    _values_into(record, codebook, streams, kept)
    check_bool(record, kept)
    if status := _kernels.scatter_into(streams[0], record.gap_bits, kept, out):
        raise DczError(f"a block of {out.size} entries: {ERRORS[status + 2]}")
    if record.zero_signs:
        _add_signs(streams[1], out)


def check_bool(record: TensorRecord, entries: Patterns) -> None:
    """Raise DczError if an entry of a bool tensor is neither 0 nor 1."""
    if record.dtype == "bool" and entries.max(initial=0) > 1:
        raise DczError(f"an entry of a bool tensor is {int(entries.max())}")


def _values_into(
    record: TensorRecord, codebook: Patterns, streams: list[Symbols], out: Patterns
) -> None:
    """Turn labels or byte planes into patterns (section 7.2)."""
    if record.codebook is not None:
        _kernels.look_up_into(streams[-1], codebook, out)
        return
    by_entry = out.view(np.uint8).reshape(out.size, record.itemsize)
    for i, plane in enumerate(streams[-record.itemsize :]):
        by_entry[:, i] = plane
    if record.layout == "sparse":
        bits = 8 * record.itemsize - (1 if record.zero_signs else 0)
        if np.count_nonzero(out & out.dtype.type((1 << bits) - 1)) != out.size:
            raise DczError("a kept entry is zero")


def _count_kept(
    record: TensorRecord, codebook: Patterns, streams: list[Symbols], out: Patterns
) -> int:
    if record.codebook is None:
        return int(np.count_nonzero(out))
    if codebook[0] != 0:  # a strictly increasing codebook has its zero in front
        return out.size
    return int(np.count_nonzero(streams[-1]))


def _add_signs(signs: Symbols, out: Patterns) -> None:
    is_zero = out == 0
    n_zeros = int(np.count_nonzero(is_zero))
    bits = np.unpackbits(signs, bitorder="little")
    if bits[n_zeros:].any():
        raise DczError("the padding after the signs of zeros is not zero")
    sign = out.dtype.type(1 << (8 * out.itemsize - 1))
    out[is_zero] = bits[:n_zeros].astype(out.dtype) * sign
