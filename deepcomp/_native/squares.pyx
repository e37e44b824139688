"""Sums of squares. Twins: deepcomp/_reference.py."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

cdef extern from "squares.h" nogil:
    void dc_squares_float16(const uint16_t *, const uint16_t *, int64_t, double *)
    void dc_squares_bfloat16(const uint16_t *, const uint16_t *, int64_t, double *)
    void dc_squares_float32(const uint32_t *, const uint32_t *, int64_t, double *)
    void dc_squares_float64(const uint64_t *, const uint64_t *, int64_t, double *)

ctypedef fused float_pattern_t:
    uint16_t
    uint32_t
    uint64_t


def squares_into(const float_pattern_t[::1] before, const float_pattern_t[::1] after,
                 bint is_bfloat16, double[::1] sums):
    """Add the squares of the differences to sums[0], and those of `before` to sums[1].

    Both are bit patterns of finite floats.
    """
    cdef int64_t n = before.shape[0]
    if n == 0:
        return 0
    if float_pattern_t is uint16_t:
        if is_bfloat16:
            with nogil:
                dc_squares_bfloat16(&before[0], &after[0], n, &sums[0])
        else:
            with nogil:
                dc_squares_float16(&before[0], &after[0], n, &sums[0])
    elif float_pattern_t is uint32_t:
        with nogil:
            dc_squares_float32(&before[0], &after[0], n, &sums[0])
    else:
        with nogil:
            dc_squares_float64(&before[0], &after[0], n, &sums[0])
    return 0
