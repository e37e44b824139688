"""Huffman coding of byte symbols: counts -> code lengths -> bitstreams, and back.

``formats/dcz.md``, section 6; Han, Mao, Dally, "Deep Compression", ICLR 2016, section 4.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from . import _kernels
from .errors import DczError
from .records import MAX_CODE_LENGTH, n_bitstreams

MAX_WIDE_BITS = 11  # of a table whose entries take 64 bits: see _native/huffman_decode.h
_SPARE = 8  # the encoder stores eight bytes at a time
_MAX_COUNT = 1 << 56  # symbols in all: package-merge adds each count up to 12 times


def count_symbols(symbols: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count how often each byte value occurs.

    Parameters
    ----------
    symbols : ndarray of uint8, shape (n,)
        Need not be contiguous.

    Returns
    -------
    ndarray of int64, shape (256,)

    Examples
    --------
    >>> count_symbols(np.array([3, 1, 3], np.uint8))[:4]
    array([0, 1, 0, 2])
    """
    counts = np.zeros(256, np.int64)
    if symbols.size:
        _kernels.count_symbols_into(symbols, counts)
    return counts


def fit_code_lengths(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Find code lengths of at most 12 bits that give the shortest bitstream.

    Parameters
    ----------
    counts : ndarray of int64, shape (256,)
        At least two of them above 0.

    Returns
    -------
    ndarray of uint8, shape (m,)
        One length for each symbol up to the last that occurs; 0 for symbols that do not.

    Raises
    ------
    ValueError
        If fewer than two symbols occur, or the counts are no counts.

    References
    ----------
    ``formats/dcz.md``, section 6.1. Larmore and Hirschberg, "A fast algorithm for optimal
    length-limited Huffman codes", Journal of the ACM 37, 1990.

    Examples
    --------
    >>> counts = np.zeros(256, np.int64)
    >>> counts[[0, 1, 5]] = 10, 3, 2
    >>> fit_code_lengths(counts)
    array([1, 2, 0, 0, 0, 2], dtype=uint8)
    """
    if counts.dtype != np.int64 or counts.shape != (256,):
        raise ValueError(f"counts is {counts.dtype} {list(counts.shape)}: expected int64 [256]")
    if counts.min() < 0 or counts.astype(np.float64).sum() > _MAX_COUNT:
        raise ValueError(
            f"counts are from {counts.min()} to {counts.max()}: too small or too large"
        )
    used = np.flatnonzero(counts)
    if used.size < 2:
        raise ValueError(f"a Huffman code needs two symbols or more, found {used.size}")
    order = used[np.argsort(counts[used], kind="stable")].astype(np.uint8)
    lengths = np.zeros(256, np.uint8)
    _kernels.package_merge_into(
        np.require(counts, requirements=("C", "ALIGNED")), order, MAX_CODE_LENGTH, lengths
    )
    return lengths[: int(used[-1]) + 1]


def encode(symbols: NDArray[np.uint8], code_lengths: NDArray[np.uint8]) -> list[memoryview]:
    """Write symbols as one bitstream, or four when there are many.

    Parameters
    ----------
    symbols : ndarray of uint8, shape (n,)
        Each must have a code length above 0.
    code_lengths : ndarray of uint8, shape (m,)
        Lengths of a complete code, as from `fit_code_lengths`.

    Returns
    -------
    list of memoryview of bytes
        ``n_bitstreams(n)`` of them.

    Raises
    ------
    ValueError
        If a symbol has no codeword, or the lengths are not those of a complete code.

    References
    ----------
    ``formats/dcz.md``, section 6.2.

    Examples
    --------
    >>> [bitstream] = encode(np.array([0, 5, 1], np.uint8), np.array([1, 2, 0, 0, 0, 2], np.uint8))
    >>> bytes(bitstream)
    b'\\x0e'
    """
    _check_complete(code_lengths, ValueError)
    n = symbols.size
    symbols = np.ascontiguousarray(symbols)
    n_streams = n_bitstreams(n)
    quarter = -(-n // max(n_streams, 1))
    out = np.empty(n_streams * (quarter * MAX_CODE_LENGTH // 8 + 1) + _SPARE, np.uint8)
    bitstreams = []
    for k in range(n_streams):
        part = symbols[k * quarter : (k + 1) * quarter]
        n_bytes = _kernels.encode_into(part, code_lengths, _kernels.ISA, out)
        if n_bytes < 0:
            raise ValueError("a symbol has no codeword")
        bitstreams.append(out[:n_bytes].data)
        out = out[n_bytes:]
    return bitstreams


class Decoder:
    """A code made ready for decoding: its lengths and its look-up table.

    Parameters
    ----------
    code_lengths : bytes or ndarray of uint8, shape (m,)
        Kraft's sum must be exactly one.
    n_symbols : int
        About how many symbols will be decoded: a short stream gets a small table.

    Raises
    ------
    DczError
        If the lengths are not those of a complete code.

    Examples
    --------
    >>> decoder = Decoder(bytes([1, 2, 0, 0, 0, 2]), 3)
    >>> decoder.decode(np.array([0x0E], np.uint8), [1], np.empty(3, np.uint8))
    array([0, 5, 1], dtype=uint8)
    """

    def __init__(self, code_lengths: bytes | NDArray[np.uint8], n_symbols: int) -> None:
        lengths = np.frombuffer(bytes(code_lengths), np.uint8)
        _check_complete(lengths, DczError)
        longest = int(lengths.max())
        # More index bits give more symbols a look-up, but the table takes longer to fill: 1 us with
        # 8 bits, 3 to 6 with 10, 10 to 24 with 12; 20,000 gaps are decoded in 5 to 10 us.
        least = 11 if n_symbols >= 1 << 16 else 10 if n_symbols >= 1 << 13 else 8
        self.table_bits = max(longest, least)
        self.code_lengths = lengths
        entry_size = 2 if self.table_bits <= MAX_WIDE_BITS else 1
        self.table = np.empty(entry_size << self.table_bits, np.uint32)
        _kernels.decode_table_into(lengths, self.table_bits, self.table)

    def decode(
        self, bitstreams: NDArray[np.uint8], sizes: Sequence[int], out: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """Fill `out` with the symbols of one block.

        Parameters
        ----------
        bitstreams : ndarray of uint8, shape (sum(sizes),)
            The bitstreams one after the other.
        sizes : sequence of int
            Bytes of each bitstream; ``n_bitstreams(out.size)`` of them.
        out : ndarray of uint8, shape (n,)
            Contiguous.

        Returns
        -------
        ndarray of uint8, shape (n,)
            `out`.

        Raises
        ------
        DczError
            If the bitstreams do not hold exactly `n` symbols.
        """
        if len(sizes) != n_bitstreams(out.size) or sum(sizes) != bitstreams.size:
            raise DczError(f"{bitstreams.size} bytes in bitstreams of {sizes}")
        if min(sizes, default=1) < 1:
            raise DczError("an empty bitstream")
        if out.size:
            status = _kernels.decode_into(
                bitstreams,
                np.array(sizes, np.int64),
                self.table,
                self.table_bits,
                self.code_lengths,
                _kernels.ISA,
                out,
            )
            if status:
                found = "ends too early" if status == 1 else "has bits left over at its end"
                raise DczError(f"a bitstream of {out.size} symbols {found}")
        return out


def _check_complete(lengths: NDArray[np.uint8], error: type[ValueError]) -> None:
    used = lengths[lengths > 0].astype(np.int64)
    kraft = -1
    if used.max(initial=0) <= MAX_CODE_LENGTH:
        kraft = int((1 << (MAX_CODE_LENGTH - used)).sum())
    if lengths.size > 256 or used.size < 2 or kraft != 1 << MAX_CODE_LENGTH:
        raise error("the code lengths are not those of a complete code")
