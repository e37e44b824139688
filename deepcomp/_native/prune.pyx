"""Pruning kernels. Twins with the same names: deepcomp/_reference.py."""

from libc.stdint cimport int64_t, uint64_t

from deepcomp._native.patterns cimport pattern_t


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
