/* Matrix times several vectors, from "blocks": CSR cut into blocks of columns.
 *
 * Tiles of up to 64 vectors are copied so that a column's inputs lie side by side. A block's part of
 * the tile stays in the cache while all rows use it.
 */
#ifndef DEEPCOMP_BLOCKS_H
#define DEEPCOMP_BLOCKS_H

#include "tiles.h"
#include "turn.h"

#define DC_MAX_VECTORS 64 /* of a tile */

/* --- the choice of kernels --- */

typedef struct {
    int tile;
    dc_tile_kernel *multiply;
    dc_turn_kernel *turn;
    dc_turn_back_kernel *turn_back;
} dc_tile_plan;

static inline dc_tile_plan dc_plan_tile(int isa, int64_t n_vectors)
{
    static dc_tile_kernel *const portable[] = {dc_tile_portable_8, dc_tile_portable_16,
                                               dc_tile_portable_32, dc_tile_portable_64};
    const int which = n_vectors >= 40 ? 3 : n_vectors >= 20 ? 2 : n_vectors > 8 ? 1 : 0;
#if DC_HAVE_X86
    static dc_tile_kernel *const avx2[] = {dc_tile_avx2_columns_8, dc_tile_avx2_columns_16,
                                           dc_tile_avx2_columns_32, dc_tile_avx2_columns_64};
    static dc_tile_kernel *const avx512[] = {dc_tile_avx512_few_values_8, dc_tile_avx512_columns_16,
                                             dc_tile_avx512_columns_32, dc_tile_avx512_columns_64};
    if (isa >= DC_ISA_AVX2) {
        return (dc_tile_plan){8 << which, (isa >= DC_ISA_AVX512 ? avx512 : avx2)[which],
                              dc_turn_avx2, dc_turn_back_avx2};
    }
#else
    (void)isa;
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
        for (int64_t row = first; row < last; row++) {
            float sums[4] = {0};
            int64_t p = starts[row];
            for (; p + 4 <= starts[row + 1]; p += 4) {
                for (int i = 0; i < 4; i++) {
                    sums[i] += dc_weight(in, p + i) * x[in->columns[p + i]];
                }
            }
            for (; p < starts[row + 1]; p++) {
                sums[0] += dc_weight(in, p) * x[in->columns[p]];
            }
            y[row] += (sums[0] + sums[1]) + (sums[2] + sums[3]);
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
        const dc_tile_plan plan = dc_plan_tile(isa, n_vectors - vector);
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
