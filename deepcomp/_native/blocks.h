/* Matrix times several vectors, from "blocks": CSR cut into blocks of columns.
 *
 * Tiles of up to 64 vectors are copied so that a column's inputs lie side by side. A block's part of
 * the tile stays in the cache while all rows use it.
 */
#ifndef DEEPCOMP_BLOCKS_H
#define DEEPCOMP_BLOCKS_H

#include "entries.h"
#include "tiles.h"
#include "tiles_few_values.h"
#include "turn.h"

#define DC_MAX_VECTORS 64 /* of a tile */

/* --- the layout --- */

#define DC_MAX_SORTED 1024 /* columns of a block whose rows are in the order of their counts */

/* Sort the n rows of a group by their counts, a row that comes first staying first. */
static inline void dc_sort_group(int64_t *counts, int n, uint8_t *order)
{
    uint16_t ends[DC_MAX_SORTED + 2] = {0}; /* of the rows with so many entries, less one */
    int64_t sorted[256];
    int most = 0;
    for (int row = 0; row < n; row++) {
        DC_CHECK(counts[row] <= DC_MAX_SORTED);
        most = counts[row] > most ? (int)counts[row] : most;
        ends[counts[row] + 1]++;
    }
    for (int count = 1; count <= most; count++) {
        ends[count] = (uint16_t)(ends[count] + ends[count - 1]);
    }
    for (int row = 0; row < n; row++) {
        const int place = ends[counts[row]]++;
        order[place] = (uint8_t)row;
        sorted[place] = counts[row];
    }
    memcpy(counts, sorted, (size_t)n * sizeof(counts[0]));
}

/* The parts of a dc_blocks, to be filled; `order` is NULL or has groups of at most 256 rows. */
typedef struct {
    int64_t *starts;
    uint8_t *order;
    uint16_t *columns;
    uint8_t *labels;
    float *values; /* of the entries, if they have no labels */
} dc_blocks_out;

/* Count the entries of each row in each block. */
static inline void dc_count_in_blocks(const dc_entries *in, int64_t n_blocks, int64_t block_columns,
                                      int64_t *counts)
{
    for (int64_t row = 0; row < in->n_rows; row++) {
        int64_t p = in->indptr[row];
        for (int64_t block = 0; block < n_blocks; block++) {
            const int64_t first = p, bound = (block + 1) * block_columns;
            while (p < in->indptr[row + 1] && in->columns[p] < bound) {
                p++;
            }
            counts[block * (in->n_rows + 1) + row] = p - first;
        }
    }
}

/* Sort entries by block, row and column. `next` has room for n_rows numbers. */
static inline void dc_lay_out_blocks(const dc_entries *in, const float *values, int64_t n_blocks,
                                     int64_t block_columns, int64_t group_rows, int64_t *next,
                                     const dc_blocks_out *out)
{
    int64_t to = 0;
    dc_count_in_blocks(in, n_blocks, block_columns, out->starts);
    for (int64_t row = 0; row < in->n_rows; row++) {
        next[row] = in->indptr[row];
    }
    for (int64_t block = 0; block < n_blocks; block++) {
        int64_t *starts = out->starts + block * (in->n_rows + 1);
        uint8_t *order = out->order ? out->order + block * in->n_rows : NULL;
        for (int64_t row = 0; order && row < in->n_rows; row += group_rows) {
            const int64_t n_left = in->n_rows - row;
            dc_sort_group(starts + row, (int)(n_left < group_rows ? n_left : group_rows),
                          order + row);
        }
        for (int64_t place = 0; place < in->n_rows; place++) {
            const int64_t n = starts[place];
            int64_t *from = next + (order ? (place & -group_rows) + order[place] : place);
            for (int64_t p = *from; p < *from + n; p++) {
                out->columns[to + p - *from] = (uint16_t)(in->columns[p] - block * block_columns);
            }
            if (n && in->labels) {
                memcpy(out->labels + to, in->labels + *from, (size_t)n);
            } else if (n) {
                memcpy(out->values + to, values + *from, (size_t)n * sizeof(float));
            }
            *from += n;
            starts[place] = to;
            to += n;
        }
        starts[in->n_rows] = to;
    }
}

/* --- the choice of kernels --- */

typedef struct {
    int tile;
    dc_tile_kernel *multiply;
    dc_turn_kernel *turn;
    dc_turn_back_kernel *turn_back;
} dc_tile_plan;

static inline dc_tile_plan dc_plan_tile(const dc_blocks *in, int isa, int64_t n_vectors)
{
    static dc_tile_kernel *const portable[] = {dc_tile_portable_8, dc_tile_portable_16,
                                               dc_tile_portable_32, dc_tile_portable_64};
    const int which = n_vectors >= 40 ? 3 : n_vectors >= 20 ? 2 : n_vectors > 8 ? 1 : 0;
#if DC_HAVE_X86
    static dc_tile_kernel *const avx2[] = {dc_tile_avx2_columns_8, dc_tile_avx2_columns_16,
                                           dc_tile_avx2_columns_32, dc_tile_avx2_columns_64};
    static dc_tile_kernel *const avx512[] = {dc_tile_avx2_columns_8, dc_tile_avx512_columns_16,
                                             dc_tile_avx512_columns_32, dc_tile_avx512_columns_64};
    static dc_tile_kernel *const few_values[] = {dc_tile_few_values_8, dc_tile_few_values_16,
                                                 dc_tile_few_values_32, dc_tile_few_values_64};
    if (isa >= DC_ISA_AVX2) {
        dc_tile_kernel *const *kernels = isa < DC_ISA_AVX512        ? avx2
                                         : dc_has_few_values(in) ? few_values
                                                                 : avx512;
        return (dc_tile_plan){8 << which, kernels[which], dc_turn_avx2, dc_turn_back_avx2};
    }
#else
    (void)in, (void)isa;
#endif
    return (dc_tile_plan){8 << which, portable[which], dc_turn_portable, dc_turn_back_portable};
}

/* --- the products --- */

/* One vector: entry by entry, since gathering gains nothing. */
static inline void dc_blocks_times_vector(const dc_blocks *in, const float *x, const float *bias,
                                          int64_t first, int64_t last, float *y)
{
    const int64_t n_blocks = (in->n_columns + in->block_columns - 1) / in->block_columns;
    for (int64_t row = first; row < last; row++) {
        y[row] = bias ? bias[row] : 0.0f;
    }
    for (int64_t block = 0; block < n_blocks; block++, x += in->block_columns) {
        const int64_t *starts = in->starts + block * (in->n_rows + 1);
        const uint8_t *order = dc_order_of(in, block);
        for (int64_t place = first; place < last; place++) {
            float sums[4] = {0};
            int64_t p = starts[place];
            for (; p + 4 <= starts[place + 1]; p += 4) {
                for (int i = 0; i < 4; i++) {
                    sums[i] += dc_weight(in, p + i) * x[in->columns[p + i]];
                }
            }
            for (; p < starts[place + 1]; p++) {
                sums[0] += dc_weight(in, p) * x[in->columns[p]];
            }
            y[dc_row_at(in, order, place)] += (sums[0] + sums[1]) + (sums[2] + sums[3]);
        }
    }
}

/* Vectors that are the rows of x, or its columns; y likewise. The scratch has room for
 * (block_columns + last - first) * DC_MAX_VECTORS numbers. */
static inline void dc_blocks_times_vectors(const dc_blocks *in, const float *x, int64_t x_stride,
                                           int are_rows, int64_t n_vectors, const float *bias,
                                           int isa, int64_t first, int64_t last, float *scratch,
                                           float *y, int64_t y_stride)
{
    float *sums = scratch + in->block_columns * DC_MAX_VECTORS;
    for (int64_t vector = 0; vector < n_vectors;) {
        const dc_tile_plan plan = dc_plan_tile(in, isa, n_vectors - vector);
        const int64_t n_left = n_vectors - vector;
        const int n = n_left < plan.tile ? (int)n_left : plan.tile;
        int64_t block = 0;
        for (int64_t column = 0; column < in->n_columns; column += in->block_columns, block++) {
            const int64_t n_rest = in->n_columns - column;
            const int64_t m = n_rest < in->block_columns ? n_rest : in->block_columns;
            if (are_rows) {
                plan.turn(x + vector * x_stride + column, x_stride, n, plan.tile, m, scratch);
            } else {
                for (int64_t k = 0; k < m; k++) {
                    memcpy(scratch + k * plan.tile, x + (column + k) * x_stride + vector,
                           (size_t)n * sizeof(float));
                }
            }
            plan.multiply(in, block, scratch, bias, first, last, sums);
        }
        if (are_rows) {
            plan.turn_back(sums, n, plan.tile, last - first, y_stride,
                           y + vector * y_stride + first);
        } else {
            for (int64_t row = first; row < last; row++) {
                memcpy(y + row * y_stride + vector, sums + (row - first) * plan.tile,
                       (size_t)n * sizeof(float));
            }
        }
        vector += n;
    }
}

#endif
