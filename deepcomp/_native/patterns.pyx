"""Kernels over entries and gaps. Twins with the same names: deepcomp/_reference.py.

Entries are handled as their bit patterns, unsigned integers of 1, 2, 4 or 8 bytes.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "scatter.h" nogil:
    int dc_scatter_8(const uint8_t *, Py_ssize_t, uint8_t, const uint8_t *, Py_ssize_t, uint8_t *,
                     Py_ssize_t)
    int dc_scatter_16(const uint8_t *, Py_ssize_t, uint8_t, const uint16_t *, Py_ssize_t,
                      uint16_t *, Py_ssize_t)
    int dc_scatter_32(const uint8_t *, Py_ssize_t, uint8_t, const uint32_t *, Py_ssize_t,
                      uint32_t *, Py_ssize_t)
    int dc_scatter_64(const uint8_t *, Py_ssize_t, uint8_t, const uint64_t *, Py_ssize_t,
                      uint64_t *, Py_ssize_t)

ctypedef fused pattern_t:
    uint8_t
    uint16_t
    uint32_t
    uint64_t


def count_digits_into(const pattern_t[::1] patterns, uint64_t mask, int shift, int64_t prefix,
                      int64_t[::1] counts):
    """Count the 16-bit digits ``(pattern & mask) >> shift & 0xFFFF`` in counts[0..65535].

    Only patterns whose higher bits, ``(pattern & mask) >> shift >> 16``, equal `prefix` count;
    a negative prefix lets all of them count.
    """
    cdef Py_ssize_t i
    cdef uint64_t digits
    cdef pattern_t mask_t = <pattern_t>mask
    with nogil:
        for i in range(patterns.shape[0]):
            digits = <uint64_t>(patterns[i] & mask_t) >> shift
            if prefix < 0 or (digits >> 16) == <uint64_t>prefix:
                counts[digits & 0xFFFF] += 1
    return 0


def keep_at_least_into(const pattern_t[::1] patterns, uint64_t mask, uint64_t least,
                       pattern_t[::1] out):
    """Fill `out` with the patterns whose ``pattern & mask`` is at least `least`, else 0."""
    cdef Py_ssize_t i
    cdef pattern_t mask_t = <pattern_t>mask, least_t = <pattern_t>least, v
    with nogil:
        for i in range(patterns.shape[0]):
            v = patterns[i]
            out[i] = v if (v & mask_t) >= least_t else <pattern_t>0
    return 0


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
