/* The kept entries of a matrix, from which layouts are made. */
#ifndef DEEPCOMP_ENTRIES_H
#define DEEPCOMP_ENTRIES_H

#include <stddef.h>
#include <stdint.h>

#include "isa.h"
#include "scatter.h"

typedef struct {
    const int64_t *indptr; /* as in CSR */
    const uint32_t *columns;
    const uint8_t *labels;
    int64_t n_rows, n_columns;
} dc_entries;

/* A walk along the gaps of a block. */
typedef struct {
    const uint8_t *gaps;
    uint8_t escape;
    int64_t n_columns;
    int64_t row, column; /* where it goes on */
    int64_t n, n_before; /* kept entries so far, and before this row */
    int64_t *row_counts;
} dc_walk;

/* Take the gaps first .. last - 1. Counts are added once a row: one by one, each would wait for the
 * one before it. */
DC_INLINE void dc_walk_on(dc_walk *walk, int64_t first, int64_t last, uint32_t *columns)
{
    dc_walk w = *walk;
    for (int64_t i = first; i < last; i++) {
        const int is_kept = w.gaps[i] != w.escape;
        w.column += w.gaps[i];
        if (w.column >= w.n_columns) {
            w.row_counts[w.row] += w.n - w.n_before;
            w.n_before = w.n;
            w.row += w.column / w.n_columns;
            w.column %= w.n_columns;
        }
        columns[w.n] = (uint32_t)w.column; /* of an escape: the next one is written over it */
        w.n += is_kept;
        w.column += is_kept;
    }
    *walk = w;
}

#if DC_HAVE_X86
#include <immintrin.h>

#define DC_WALK_MAX_COLUMNS (1 << 30)

/* As dc_check_walk. */
DC_TARGET_AVX512 static inline int dc_check_walk_avx512(const uint8_t *gaps, int64_t n_gaps,
                                                        uint8_t escape, int64_t n_kept,
                                                        int64_t numel)
{
    __m512i sums = _mm512_setzero_si512();
    int64_t n_escapes = 0;
    for (int64_t i = 0; i < n_gaps; i += 64) {
        const __mmask64 some = n_gaps - i < 64 ? ((__mmask64)1 << (n_gaps - i)) - 1 : ~(__mmask64)0;
        const __m512i part = _mm512_maskz_loadu_epi8(some, gaps + i);
        sums = _mm512_add_epi64(sums, _mm512_sad_epu8(part, _mm512_setzero_si512()));
        n_escapes += __builtin_popcountll(
            _mm512_mask_cmpeq_epi8_mask(some, part, _mm512_set1_epi8((char)escape)));
    }
    return dc_judge_walk(gaps, n_gaps, escape, n_escapes, _mm512_reduce_add_epi64(sums), n_kept,
                         numel);
}

/* The sums of numbers 0 .. i, for each i. */
DC_TARGET_AVX512 DC_INLINE __m512i dc_running_sums(__m512i x)
{
    const __m512i zero = _mm512_setzero_si512();
    x = _mm512_add_epi32(x, _mm512_alignr_epi32(x, zero, 15));
    x = _mm512_add_epi32(x, _mm512_alignr_epi32(x, zero, 14));
    x = _mm512_add_epi32(x, _mm512_alignr_epi32(x, zero, 12));
    return _mm512_add_epi32(x, _mm512_alignr_epi32(x, zero, 8));
}

/* Sixteen gaps at a time, one by one where more than one row ends. `columns` has room for `room`. */
DC_TARGET_AVX512 static inline void dc_walk_avx512(dc_walk *w, int64_t first, int64_t last,
                                                   int64_t room, uint32_t *columns)
{
    int64_t i = first;
    for (; i + 16 <= last && w->n + 16 <= room; i += 16) {
        const __m128i gaps = _mm_loadu_si128((const __m128i *)(w->gaps + i));
        const __mmask16 kept = _mm_cmpneq_epi8_mask(gaps, _mm_set1_epi8((char)w->escape));
        const __m512i skipped = _mm512_cvtepu8_epi32(gaps);
        const __m512i ends = dc_running_sums(
            _mm512_mask_add_epi32(skipped, kept, skipped, _mm512_set1_epi32(1)));
        const int64_t end =
            w->column + _mm_extract_epi32(_mm512_extracti32x4_epi32(ends, 3), 3);
        if (end > 2 * w->n_columns) {
            dc_walk_on(w, i, i + 16, columns);
            continue;
        }
        __m512i found = _mm512_add_epi32(ends, _mm512_set1_epi32((int32_t)w->column - 1));
        w->column = end;
        if (end > w->n_columns) { /* the others are in the next row */
            const __m512i n_columns = _mm512_set1_epi32((int32_t)w->n_columns);
            const __mmask16 others = _mm512_cmpge_epi32_mask(found, n_columns);
            const int64_t n = w->n + __builtin_popcount(kept & (__mmask16)~others);
            found = _mm512_mask_sub_epi32(found, others, found, n_columns);
            w->row_counts[w->row++] += n - w->n_before;
            w->n_before = n;
            w->column -= w->n_columns;
        }
        if (kept != 0xFFFF) {
            found = _mm512_maskz_compress_epi32(kept, found);
        }
        _mm512_storeu_si512(columns + w->n, found);
        w->n += __builtin_popcount(kept);
    }
    dc_walk_on(w, i, last, columns);
}
#endif

/* Check the gaps of a block, before any are taken. */
static inline int dc_check_gaps(const dc_walk *walk, int isa, int64_t n_gaps, int64_t n_kept,
                                int64_t numel)
{
#if DC_HAVE_X86
    if (isa >= DC_ISA_AVX512) {
        return dc_check_walk_avx512(walk->gaps, n_gaps, walk->escape, n_kept, numel);
    }
#endif
    (void)isa;
    return dc_check_walk(walk->gaps, n_gaps, walk->escape, n_kept, numel);
}

/* Take the gaps first .. last - 1, which were checked; `columns` has room for `room`. */
static inline void dc_take_gaps(dc_walk *walk, int isa, int64_t first, int64_t last, int64_t room,
                                uint32_t *columns)
{
#if DC_HAVE_X86
    if (isa >= DC_ISA_AVX512 && walk->n_columns < DC_WALK_MAX_COLUMNS) {
        dc_walk_avx512(walk, first, last, room, columns);
        return;
    }
#endif
    (void)isa, (void)room;
    dc_walk_on(walk, first, last, columns);
}

/* Add the entries of a row that goes on in the next block. */
static inline void dc_end_block(dc_walk *walk)
{
    if (walk->n > walk->n_before) {
        walk->row_counts[walk->row] += walk->n - walk->n_before;
        walk->n_before = walk->n;
    }
}

/* Gaps -> columns, and the number of entries of each row; or what is wrong with the gaps. */
static inline int dc_walk_gaps(dc_walk *walk, int isa, int64_t n_gaps, int64_t n_kept,
                               int64_t numel, uint32_t *columns)
{
    const int status = dc_check_gaps(walk, isa, n_gaps, n_kept, numel);
    if (status == DC_WALK_OK) {
        dc_take_gaps(walk, isa, 0, n_gaps, n_kept, columns);
        dc_end_block(walk);
    }
    return status;
}

#endif
