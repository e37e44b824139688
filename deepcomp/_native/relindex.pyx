"""Kernels between entries, gaps and kept entries. Twins: deepcomp/_reference.py."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from deepcomp._native.patterns cimport pattern_t

cdef extern from "sparse_block.h" nogil:
    ctypedef struct dc_code:
        const uint32_t *table
    dc_code dc_make_code(const uint32_t *, int64_t, int, const uint8_t *)
    enum:
        DC_BLOCK_NUMEL
        DC_BLOCK_KEPT
        DC_BLOCK_GAPS
    int dc_decode_block(const uint8_t *, const int64_t *, const dc_code *, const dc_code *,
                        uint8_t *, uint8_t *, int)

cdef extern from "scatter.h" nogil:
    int dc_scatter_8(const uint8_t *, Py_ssize_t, uint8_t, const uint8_t *, Py_ssize_t, uint8_t *,
                     Py_ssize_t)
    int dc_scatter_16(const uint8_t *, Py_ssize_t, uint8_t, const uint16_t *, Py_ssize_t,
                      uint16_t *, Py_ssize_t)
    int dc_scatter_32(const uint8_t *, Py_ssize_t, uint8_t, const uint32_t *, Py_ssize_t,
                      uint32_t *, Py_ssize_t)
    int dc_scatter_64(const uint8_t *, Py_ssize_t, uint8_t, const uint64_t *, Py_ssize_t,
                      uint64_t *, Py_ssize_t)


def kept_into(const pattern_t[::1] patterns, uint64_t mask, Py_ssize_t block_numel,
              uint32_t[::1] runs, pattern_t[::1] kept, int64_t[::1] block_counts):
    """Collect the kept entries, those with ``pattern & mask`` not 0; return how many.

    ``runs[i]`` is the number of entries skipped before the i-th kept one, from the start of
    its block; ``block_counts[b]`` the number of kept entries of block b. `runs` and `kept`
    have room for all entries.
    """
    cdef Py_ssize_t first, last, pos, next_pos, n = 0, before, b = 0
    cdef Py_ssize_t numel = patterns.shape[0]
    cdef pattern_t mask_t = <pattern_t>mask
    cdef pattern_t v
    with nogil:
        first = 0
        while first < numel:
            last = min(first + block_numel, numel)
            next_pos = first
            before = n
            for pos in range(first, last):
                v = patterns[pos]
                runs[n] = <uint32_t>(pos - next_pos)  # overwritten unless the entry is kept
                kept[n] = v
                if v & mask_t:
                    n += 1
                    next_pos = pos + 1
            block_counts[b] = n - before
            b += 1
            first = last
    return n


def gap_symbols_into(const uint32_t[::1] runs, int gap_bits, uint8_t[::1] symbols):
    """Write runs of zeros as gap symbols, escapes first; return the number of symbols."""
    cdef Py_ssize_t i, n = 0
    cdef uint32_t escape = (1u << gap_bits) - 1, run
    with nogil:
        for i in range(runs.shape[0]):
            run = runs[i]
            while run >= escape:
                symbols[n] = <uint8_t>escape
                n += 1
                run -= escape
            symbols[n] = <uint8_t>run
            n += 1
    return n


def scatter_into(const uint8_t[::1] gaps, int gap_bits, const pattern_t[::1] kept,
                 pattern_t[::1] out):
    """Fill `out` with zeros and the kept entries.

    Returns 0, or what is wrong with the gaps, and nothing is written then: 1 (they are not for
    as many kept entries), 2 (the last one is an escape), 3 (they lead out of the block).
    """
    cdef int status
    cdef uint8_t escape = <uint8_t>((1 << gap_bits) - 1)
    cdef Py_ssize_t n_gaps = gaps.shape[0], n_kept = kept.shape[0], numel = out.shape[0]
    cdef const uint8_t *gaps_data = &gaps[0] if n_gaps else NULL
    cdef const pattern_t *kept_data = &kept[0] if n_kept else NULL
    cdef pattern_t *out_data = &out[0] if numel else NULL
    with nogil:
        if pattern_t is uint8_t:
            status = dc_scatter_8(gaps_data, n_gaps, escape, kept_data, n_kept, out_data, numel)
        elif pattern_t is uint16_t:
            status = dc_scatter_16(gaps_data, n_gaps, escape, kept_data, n_kept, out_data, numel)
        elif pattern_t is uint32_t:
            status = dc_scatter_32(gaps_data, n_gaps, escape, kept_data, n_kept, out_data, numel)
        else:
            status = dc_scatter_64(gaps_data, n_gaps, escape, kept_data, n_kept, out_data, numel)
    return status


def look_up_into(const uint8_t[::1] labels, const pattern_t[::1] codebook, pattern_t[::1] out):
    """Fill `out` with ``codebook[labels]``; labels are below codebook.shape[0]."""
    cdef Py_ssize_t i
    with nogil:
        for i in range(labels.shape[0]):
            out[i] = codebook[labels[i]]
    return 0


def decode_sparse_into(const uint8_t[::1] data, const int64_t[:, ::1] blocks, int gap_bits,
                       const uint32_t[::1] gap_table, int gap_table_bits,
                       const uint8_t[::1] gap_lengths, const uint32_t[::1] label_table,
                       int label_table_bits, const uint8_t[::1] label_lengths,
                       const pattern_t[::1] codebook, uint8_t[::1] gaps, uint8_t[::1] labels,
                       pattern_t[::1] kept, int isa, pattern_t[::1] out):
    """Fill `out` with the entries of the blocks of a sparse tensor with a codebook.

    The other layouts are decoded kernel by kernel from Python. Here that costs too much: at four
    calls a block, two threads wait for each other's turn with the interpreter most of the time.

    `blocks` (n, 14) is described in sparse_block.h. A stream without bitstreams is constant, and
    its scratch (`gaps` or `labels`) holds the symbol already. `kept` is scratch too; all have room
    for the largest block.

    Returns 0, or 8 * block + 1 or 2 (Huffman, see decode_into), + 3 to 5 (gaps, 2 more than
    scatter_into returns).
    """
    cdef Py_ssize_t b, i, first = 0, n_kept, n_gaps, numel
    cdef uint8_t escape = <uint8_t>((1 << gap_bits) - 1)
    cdef dc_code gap_code = dc_make_code(&gap_table[0], gap_table.shape[0], gap_table_bits,
                                         &gap_lengths[0])
    cdef dc_code label_code = dc_make_code(&label_table[0], label_table.shape[0], label_table_bits,
                                           &label_lengths[0])
    cdef int64_t status = 0
    with nogil:
        for b in range(blocks.shape[0]):
            numel, n_kept = blocks[b, DC_BLOCK_NUMEL], blocks[b, DC_BLOCK_KEPT]
            n_gaps = blocks[b, DC_BLOCK_GAPS]
            status = dc_decode_block(&data[0], &blocks[b, 0], &gap_code, &label_code, &gaps[0],
                                     &labels[0], isa)
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
                status += 8 * b
                break
            first += numel
    return status
