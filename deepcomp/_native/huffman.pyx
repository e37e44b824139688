"""Huffman kernels (huffman_encode.h, huffman_decode.h). Twins with the same names: deepcomp/_reference.py.

The callers (deepcomp/huffman.py) check sizes and values; in the debug build a slip still
ends in an IndexError or an abort.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef extern from "huffman_encode.h" nogil:
    void dc_count_symbols(const uint8_t *, Py_ssize_t, Py_ssize_t, int64_t *)
    void dc_package_merge(const int64_t *, const uint8_t *, int, int, uint8_t *)
    Py_ssize_t dc_huffman_encode(const uint8_t *, Py_ssize_t, const uint8_t *, int, uint8_t *, int)

cdef extern from "huffman_decode.h" nogil:
    ctypedef struct dc_code:
        const uint32_t *table
    dc_code dc_make_code(const uint32_t *, int64_t, int, const uint8_t *)
    void dc_huffman_table(const uint8_t *, int, int, uint32_t *, int64_t)
    int dc_huffman_decode(const uint8_t *, const int64_t *, int, const dc_code *, uint8_t *,
                          Py_ssize_t, int)


def count_symbols_into(const uint8_t[:] symbols, int64_t[::1] counts):
    """Add the number of times that each symbol occurs to counts[0..255]."""
    if symbols.shape[0] == 0:
        return 0
    with nogil:
        dc_count_symbols(&symbols[0], symbols.shape[0], symbols.strides[0], &counts[0])
    return 0


def package_merge_into(const int64_t[::1] counts, const uint8_t[::1] order, int limit,
                       uint8_t[::1] code_lengths):
    """Fill code_lengths[0..255]; `order` has the symbols that occur, by rising count."""
    with nogil:
        dc_package_merge(&counts[0], &order[0], <int>order.shape[0], limit, &code_lengths[0])
    return 0


def decode_table_into(const uint8_t[::1] code_lengths, int table_bits, uint32_t[::1] table):
    """Fill the look-up table of a complete code: 2**table_bits entries, of one or two numbers."""
    with nogil:
        dc_huffman_table(&code_lengths[0], <int>code_lengths.shape[0], table_bits, &table[0],
                         table.shape[0])
    return 0


def encode_into(const uint8_t[::1] symbols, const uint8_t[::1] code_lengths, int isa,
                uint8_t[::1] out):
    """Write one bitstream; return its bytes, or -1 if a symbol has no codeword.

    `out` has room for 12 bits a symbol and 8 bytes.
    """
    cdef Py_ssize_t n_bytes
    with nogil:
        n_bytes = dc_huffman_encode(&symbols[0], symbols.shape[0], &code_lengths[0],
                                    <int>code_lengths.shape[0], &out[0], isa)
    return n_bytes


def decode_into(const uint8_t[::1] bitstreams, const int64_t[::1] sizes,
                const uint32_t[::1] table, int table_bits, const uint8_t[::1] code_lengths,
                int isa, uint8_t[::1] out):
    """Fill `out` from 1 or 4 bitstreams. Returns 0, 1 (too short) or 2 (bits left over)."""
    cdef int status
    cdef dc_code code = dc_make_code(&table[0], table.shape[0], table_bits, &code_lengths[0])
    with nogil:
        status = dc_huffman_decode(&bitstreams[0], &sizes[0], <int>sizes.shape[0], &code, &out[0],
                                   out.shape[0], isa)
    return status
