/* A section -> windows (windows.h), a few rows at a time: their entries stay in the cache on the way.
 */
#ifndef DEEPCOMP_SECTION_WINDOWS_H
#define DEEPCOMP_SECTION_WINDOWS_H

#include "sparse_block.h"
#include "windows_layout.h"

/* Gaps that are walked at a time: their columns take 64 KiB. In builds with checks few, so that small
 * tests have many pieces. */
#if defined(DEEPCOMP_DEBUG) || defined(__SANITIZE_ADDRESS__)
#define DC_GAPS_A_PIECE 100
#else
#define DC_GAPS_A_PIECE 16384
#endif

/* A sparse tensor with a codebook, and memory for its entries on the way. */
typedef struct {
    const uint8_t *data;
    const int64_t *blocks; /* sparse_block.h */
    int64_t n_blocks, n_rows, n_columns;
    dc_code gap_code, label_code;
    uint8_t escape;
    uint8_t *gaps;     /* of a block */
    uint8_t *labels;   /* of a block and of the rows of two groups, and 16 more */
    uint32_t *columns; /* of a piece, and of the rows of two groups */
    int64_t room;      /* in `columns` */
    int64_t *indptr;   /* (n_rows + 1,) zeros */
} dc_section;

typedef struct {
    int kind, isa;
    int64_t *starts;
    int32_t *offsets;
    uint32_t *words;
} dc_windows_out;

/* Entries that were decoded and are not laid out yet: those from row `row` on. */
typedef struct {
    dc_walk walk;
    const uint8_t *labels;
    int64_t row;
} dc_waiting;

/* Lay out the rows up to `last`, whose entries are all there, and forget them. */
static inline void dc_lay_out_up_to(const dc_section *s, const dc_windows_out *out, dc_waiting *w,
                                    int64_t last)
{
    const int lanes = dc_kind_of_windows(out->kind).lanes;
    const int64_t n_steps = out->starts[w->row / lanes];
    const dc_entries entries = {s->indptr,    s->columns, w->labels,
                                last,         s->n_columns, w->walk.labels != NULL};
    s->indptr[w->row] = 0;
    for (int64_t row = w->row; row < last; row++) {
        s->indptr[row + 1] += s->indptr[row];
    }
    const int64_t n_entries = s->indptr[last];
    dc_lay_out_windows(&entries, out->kind, out->isa, w->row / lanes, NULL, out->starts,
                       out->offsets + n_steps, out->words + n_steps * lanes);
    memmove(s->columns, s->columns + n_entries,
            (size_t)(w->walk.n - n_entries) * sizeof(s->columns[0]));
    w->labels += n_entries;
    w->walk.n -= n_entries;
    w->walk.n_before -= n_entries;
    w->row = last;
}

/* About how many gaps there are until two groups are complete, or more where they are short: what is
 * left over of a piece has to be moved. */
static inline int64_t dc_gaps_to_take(const dc_waiting *w, const int64_t *block, int64_t two_groups)
{
    const int64_t two_groups_numel = two_groups * w->walk.n_columns;
    const int64_t per_two_groups = two_groups_numel * block[DC_BLOCK_GAPS] / block[DC_BLOCK_NUMEL];
    const int64_t n = per_two_groups ? DC_GAPS_A_PIECE / per_two_groups : DC_GAPS_A_PIECE;
    /* where a block ended with rows of zeros, more than two groups may wait, with nothing in them */
    const int64_t n_rows = (w->walk.row - w->row) % two_groups;
    const int64_t missing =
        (n > 1 ? n : 1) * two_groups_numel - n_rows * w->walk.n_columns - w->walk.column;
    const int64_t n_gaps = missing * block[DC_BLOCK_GAPS] / block[DC_BLOCK_NUMEL];
    return n_gaps + n_gaps / 64 + 32;
}

/* Returns 0, or what is wrong: see decode_sparse_into. There is room for the most steps that all
 * groups can have. */
static inline int64_t dc_section_to_windows(const dc_section *s, const dc_windows_out *out)
{
    const int64_t two_groups = 2 * dc_kind_of_windows(out->kind).lanes;
    /* then the layout takes them as they are */
    const int are_packed = out->isa >= DC_ISA_AVX512 && out->kind != DC_WINDOWS_32_PAIRS &&
                           s->n_columns < DC_PACKED_MAX_COLUMNS;
    dc_waiting w = {{s->gaps, s->escape, s->n_columns, 0, 0, 0, 0, s->indptr + 1, NULL},
                    s->labels, 0};
    int64_t position = 0;
    for (int64_t b = 0; b < s->n_blocks; b++) {
        const int64_t *block = s->blocks + b * DC_BLOCK_NUMBERS;
        const int64_t n_gaps = block[DC_BLOCK_GAPS], n_kept = block[DC_BLOCK_KEPT];
        memmove(s->labels, w.labels, (size_t)w.walk.n);
        w.labels = s->labels;
        if (n_kept) {
            int status = dc_decode_block(s->data, block, &s->gap_code, &s->label_code, s->gaps,
                                         s->labels + w.walk.n, out->isa);
            if (status == 0) {
                status = dc_check_gaps(&w.walk, out->isa, n_gaps, n_kept, block[DC_BLOCK_NUMEL]);
                status = status ? status + 2 : 0;
            }
            if (status) {
                return 8 * b + status;
            }
        }
        for (int64_t i = 0, end; n_kept && i < n_gaps; i = end) {
            const int64_t room = s->room - w.walk.n - 16;
            const int64_t wanted = dc_gaps_to_take(&w, block, two_groups);
            const int64_t most = wanted < DC_GAPS_A_PIECE ? wanted : DC_GAPS_A_PIECE;
            const int64_t piece = room < most ? room : most;
            DC_CHECK(piece > 0);
            end = i + piece < n_gaps ? i + piece : n_gaps;
            w.walk.labels = are_packed ? w.labels : NULL;
            dc_take_gaps(&w.walk, out->isa, i, end, s->room, s->columns);
            const int64_t n_rows = (w.walk.row - w.row) / two_groups * two_groups;
            if (n_rows) {
                dc_lay_out_up_to(s, out, &w, w.row + n_rows);
            }
        }
        dc_end_block(&w.walk);
        position += block[DC_BLOCK_NUMEL];
        w.walk.row = position / s->n_columns;
        w.walk.column = position % s->n_columns;
    }
    dc_lay_out_up_to(s, out, &w, s->n_rows);
    return 0;
}

#endif
