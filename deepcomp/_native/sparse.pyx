"""All blocks of a sparse tensor with a codebook in one call. Twin: deepcomp/_reference.py.

The other layouts are decoded kernel by kernel from Python. Here that costs too much: at four
calls a block, two threads wait for each other's turn with the interpreter most of the time.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "huffman.h" nogil:
    int dc_huffman_decode(const uint8_t *, const int64_t *, int, const uint32_t *, int,
                          const uint8_t *, uint8_t *, Py_ssize_t, int)

cdef extern from "scatter.h" nogil:
    int dc_scatter_16(const uint8_t *, Py_ssize_t, uint8_t, const uint16_t *, Py_ssize_t,
                      uint16_t *, Py_ssize_t)
    int dc_scatter_8(const uint8_t *, Py_ssize_t, uint8_t, const uint8_t *, Py_ssize_t,
                     uint8_t *, Py_ssize_t)
    int dc_scatter_32(const uint8_t *, Py_ssize_t, uint8_t, const uint32_t *, Py_ssize_t,
                      uint32_t *, Py_ssize_t)
    int dc_scatter_64(const uint8_t *, Py_ssize_t, uint8_t, const uint64_t *, Py_ssize_t,
                      uint64_t *, Py_ssize_t)

ctypedef fused pattern_t:
    uint8_t
    uint16_t
    uint32_t
    uint64_t

cdef enum:  # columns of `blocks`
    OFFSET = 0
    NUMEL = 1
    N_KEPT = 2
    N_GAPS = 3
    N_GAP_BITSTREAMS = 4
    N_LABEL_BITSTREAMS = 5
    GAP_SIZES = 6
    LABEL_SIZES = 10


def decode_sparse_into(const uint8_t[::1] data, const int64_t[:, ::1] blocks, int gap_bits,
                       const uint32_t[::1] gap_table, int gap_table_bits,
                       const uint8_t[::1] gap_lengths, const uint32_t[::1] label_table,
                       int label_table_bits, const uint8_t[::1] label_lengths,
                       const pattern_t[::1] codebook, uint8_t[::1] gaps, uint8_t[::1] labels,
                       pattern_t[::1] kept, int isa, pattern_t[::1] out):
    """Fill `out` with the entries of the blocks, one after the other.

    A row of `blocks` (n, 14) is where a block begins in `data`, its numbers of entries, kept
    entries, gap symbols, bitstreams of gaps and of labels, and their sizes, four and four. A
    stream without bitstreams is constant, and its scratch (`gaps` or `labels`) holds the symbol
    already. `kept` is scratch too; all have room for the largest block.

    Returns 0, or 8 * block + 1 or 2 (Huffman, see decode_into), + 3 to 5 (gaps, 2 more than
    scatter_into returns).
    """
    cdef Py_ssize_t b, i, first = 0, n_kept, n_gaps, numel
    cdef uint8_t escape = <uint8_t>((1 << gap_bits) - 1)
    cdef const uint8_t *position
    cdef int status = 0, n_bitstreams
    with nogil:
        for b in range(blocks.shape[0]):
            numel, n_kept, n_gaps = blocks[b, NUMEL], blocks[b, N_KEPT], blocks[b, N_GAPS]
            position = &data[0] + blocks[b, OFFSET]
            n_bitstreams = <int>blocks[b, N_GAP_BITSTREAMS]
            if n_bitstreams:
                status = dc_huffman_decode(position, &blocks[b, GAP_SIZES], n_bitstreams,
                                           &gap_table[0], gap_table_bits, &gap_lengths[0],
                                           &gaps[0], n_gaps, isa)
                for i in range(n_bitstreams):
                    position += blocks[b, GAP_SIZES + i]
            n_bitstreams = <int>blocks[b, N_LABEL_BITSTREAMS]
            if n_bitstreams and status == 0:
                status = dc_huffman_decode(position, &blocks[b, LABEL_SIZES], n_bitstreams,
                                           &label_table[0], label_table_bits, &label_lengths[0],
                                           &labels[0], n_kept, isa)
            if status == 0:
                for i in range(n_kept):
                    kept[i] = codebook[labels[i]]
                if pattern_t is uint8_t:
                    status = dc_scatter_8(&gaps[0], n_gaps, escape, &kept[0], n_kept,
                                          &out[first], numel)
                elif pattern_t is uint16_t:
                    status = dc_scatter_16(&gaps[0], n_gaps, escape, &kept[0], n_kept,
                                           &out[first], numel)
                elif pattern_t is uint32_t:
                    status = dc_scatter_32(&gaps[0], n_gaps, escape, &kept[0], n_kept,
                                           &out[first], numel)
                else:
                    status = dc_scatter_64(&gaps[0], n_gaps, escape, &kept[0], n_kept,
                                           &out[first], numel)
                status = status + 2 if status else 0
            if status:
                status += 8 * <int>b
                break
            first += numel
    return status
