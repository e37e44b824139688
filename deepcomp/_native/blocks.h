/* Matrix times several vectors, from "blocks": CSR cut into blocks of columns.
 *
 * Tiles of up to 64 vectors are copied so that a column's inputs lie side by side: an entry is then
 * one weight times a few registers. A block's part of the tile stays in the cache while all rows
 * use it. The kernels for each instruction set are in blocks_tile.h.
 */
#ifndef DEEPCOMP_BLOCKS_H
#define DEEPCOMP_BLOCKS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "isa.h"

typedef struct {
    const int64_t *starts;   /* (n_blocks, n_rows + 1): where a row's entries of a block begin */
    const uint16_t *columns; /* from the first column of the block */
    const uint8_t *labels;   /* NULL: each entry has a value of its own */
    const float *values;     /* the codebook, or the value of each entry */
    int64_t n_values;
    int64_t n_rows, n_columns, block_columns;
} dc_blocks;

#define DC_MAX_TILE 64

/* y (rows, tile) of the rows first .. last += block of the matrix times x (block_columns, tile).
 * A block's sum begins at zero: the shorter the sums, the smaller the error of rounding. */
typedef void dc_tile_kernel(const dc_blocks *, int64_t block, const float *x, const float *bias,
                            int64_t first, int64_t last, float *y);

/* Turn (n, m) rows of x around, m of them side by side; missing rows repeat the last. */
typedef void dc_turn_kernel(const float *x, int64_t stride, int n, int tile, int64_t m, float *out);

/* The other way around: out[i * stride + k] = y[k * tile + i]. */
typedef void dc_turn_back_kernel(const float *y, int n, int tile, int64_t m, int64_t stride,
                                 float *out);

DC_INLINE float dc_weight(const dc_blocks *in, int64_t entry)
{
    return in->labels ? in->values[in->labels[entry]] : in->values[entry];
}

/* --- portable --- */

DC_INLINE void dc_tile_portable(const dc_blocks *in, int64_t block, const float *x,
                                const float *bias, int64_t first, int64_t last, int tile,
                                float *y)
{
    const int64_t *starts = in->starts + block * (in->n_rows + 1);
    for (int64_t row = first; row < last; row++, y += tile) {
        float sums[DC_MAX_TILE];
        memset(sums, 0, (size_t)tile * sizeof(float));
        for (int64_t p = starts[row]; p < starts[row + 1]; p++) {
            const float weight = dc_weight(in, p);
            const float *inputs = x + (ptrdiff_t)in->columns[p] * tile;
            DC_CHECK(block * in->block_columns + in->columns[p] < in->n_columns);
            for (int i = 0; i < tile; i++) {
                sums[i] += weight * inputs[i];
            }
        }
        for (int i = 0; i < tile; i++) {
            y[i] = sums[i] + (block ? y[i] : bias ? bias[row] : 0.0f);
        }
    }
}

#define DC_DEFINE_PORTABLE(tile)                                                              \
    static inline void dc_tile_portable_##tile(const dc_blocks *in, int64_t block,            \
                                               const float *x, const float *bias,             \
                                               int64_t first, int64_t last, float *y)         \
    {                                                                                         \
        dc_tile_portable(in, block, x, bias, first, last, tile, y);                           \
    }

DC_DEFINE_PORTABLE(64)
DC_DEFINE_PORTABLE(32)
DC_DEFINE_PORTABLE(16)
DC_DEFINE_PORTABLE(8)

static inline void dc_turn_portable(const float *x, int64_t stride, int n, int tile, int64_t m,
                                    float *out)
{
    for (int64_t k = 0; k < m; k++) {
        for (int i = 0; i < tile; i++) {
            out[k * tile + i] = x[(i < n ? i : n - 1) * stride + k];
        }
    }
}

static inline void dc_turn_back_portable(const float *y, int n, int tile, int64_t m,
                                         int64_t stride, float *out)
{
    for (int64_t k = 0; k < m; k++) {
        for (int i = 0; i < n; i++) {
            out[i * stride + k] = y[k * tile + i];
        }
    }
}

/* --- x86 --- */

#if DC_HAVE_X86
#include <immintrin.h>

DC_TARGET_AVX2 DC_INLINE void dc_transpose_8x8(const float *const in[8], float *const out[8],
                                               int n_out)
{
    __m256 a[8], b[8];
    for (int i = 0; i < 8; i += 2) { /* pairs of rows */
        const __m256 row0 = _mm256_loadu_ps(in[i]), row1 = _mm256_loadu_ps(in[i + 1]);
        a[i] = _mm256_unpacklo_ps(row0, row1);
        a[i + 1] = _mm256_unpackhi_ps(row0, row1);
    }
    for (int i = 0; i < 8; i += 4) { /* fours */
        b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
        b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xEE);
        b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xEE);
    }
    for (int i = 0; i < 4; i++) { /* halves */
        a[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
        a[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
    for (int i = 0; i < n_out; i++) {
        _mm256_storeu_ps(out[i], a[i]);
    }
}

DC_TARGET_AVX2 static inline void dc_turn_avx2(const float *x, int64_t stride, int n, int tile,
                                               int64_t m, float *out)
{
    const int64_t whole = m & ~(int64_t)7;
    for (int i = 0; i < tile; i += 8) {
        const float *rows[8], *in[8];
        float *columns[8];
        for (int j = 0; j < 8; j++) {
            rows[j] = x + (i + j < n ? i + j : n - 1) * stride;
        }
        for (int64_t k = 0; k < whole; k += 8) {
            for (int j = 0; j < 8; j++) {
                in[j] = rows[j] + k;
                columns[j] = out + (k + j) * tile + i;
            }
            dc_transpose_8x8(in, columns, 8);
        }
        for (int64_t k = whole; k < m; k++) {
            for (int j = 0; j < 8; j++) {
                out[k * tile + i + j] = rows[j][k];
            }
        }
    }
}

DC_TARGET_AVX2 static inline void dc_turn_back_avx2(const float *y, int n, int tile, int64_t m,
                                                    int64_t stride, float *out)
{
    const int64_t whole = m & ~(int64_t)15;
    for (int i = 0; i < n; i += 8) {
        const int n_rows = n - i < 8 ? n - i : 8;
        for (int64_t first = 0; first < whole; first += 16) { /* whole cache lines */
            for (int64_t k = first; k < first + 16; k += 8) {
                const float *in[8];
                float *rows[8];
                for (int j = 0; j < 8; j++) {
                    in[j] = y + (k + j) * tile + i;
                    rows[j] = out + (i + (j < n_rows ? j : 0)) * stride + k;
                }
                dc_transpose_8x8(in, rows, n_rows);
            }
        }
        for (int64_t k = whole; k < m; k++) {
            for (int j = 0; j < n_rows; j++) {
                out[(i + j) * stride + k] = y[k * tile + i + j];
            }
        }
    }
}

#define DC_TILE_LANES 8
#define DC_TILE_TARGET DC_TARGET_AVX2
#define DC_TILE_NAME(width) dc_tile_avx2_##width
#define DC_TILE_VECTOR __m256
#define DC_TILE_OP(name) _mm256_##name
#include "blocks_tile.h"

#define DC_TILE_LANES 16
#define DC_TILE_TARGET DC_TARGET_AVX512
#define DC_TILE_NAME(width) dc_tile_avx512_##width
#define DC_TILE_VECTOR __m512
#define DC_TILE_OP(name) _mm512_##name
#include "blocks_tile.h"

/* Eight vectors and up to 32 values: eight weights are looked up in registers at once. With one
 * look-up in memory for each entry, its four loads take twice as long as the rest. */
DC_TARGET_AVX512 static inline void dc_tile_avx512_8(const dc_blocks *in, int64_t block,
                                                     const float *x, const float *bias,
                                                     int64_t first, int64_t last, float *y)
{
    const int64_t *starts = in->starts + block * (in->n_rows + 1);
    const uint16_t *columns = in->columns;
    const uint8_t *labels = in->labels;
    if (!labels || in->n_values > 32) {
        dc_tile_avx2_8(in, block, x, bias, first, last, y);
        return;
    }
    const int n_values = (int)in->n_values;
    const __m512 values0 = _mm512_maskz_loadu_ps(
        (__mmask16)(n_values >= 16 ? 0xFFFF : (1 << n_values) - 1), in->values);
    const __m512 values1 = _mm512_maskz_loadu_ps(
        (__mmask16)(n_values > 16 ? (1u << (n_values - 16)) - 1 : 0), in->values + 16);
    for (int64_t row = first; row < last; row++, y += 8) {
        const __m256 before =
            block ? _mm256_loadu_ps(y) : _mm256_set1_ps(bias ? bias[row] : 0.0f);
        __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                          _mm256_setzero_ps()};
        int64_t p = starts[row];
        const int64_t end = starts[row + 1];
        for (; p + 8 <= end; p += 8) {
            const __m512i eight = _mm512_cvtepu8_epi32(
                _mm_loadl_epi64((const __m128i *)(labels + p)));
            const __m256 weights =
                _mm512_castps512_ps256(_mm512_permutex2var_ps(values0, eight, values1));
#pragma GCC unroll 8
            for (int j = 0; j < 8; j++) {
                sums[j % 4] = _mm256_fmadd_ps(
                    _mm256_loadu_ps(x + 8 * (ptrdiff_t)columns[p + j]),
                    _mm256_permutevar8x32_ps(weights, _mm256_set1_epi32(j)), sums[j % 4]);
            }
        }
        for (; p < end; p++) {
            sums[0] = _mm256_fmadd_ps(_mm256_loadu_ps(x + 8 * (ptrdiff_t)columns[p]),
                                      _mm256_set1_ps(in->values[labels[p]]), sums[0]);
        }
        sums[0] = _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]),
                                _mm256_add_ps(sums[2], sums[3]));
        _mm256_storeu_ps(y, _mm256_add_ps(before, sums[0]));
    }
}
#endif

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
    static dc_tile_kernel *const avx2[] = {dc_tile_avx2_8, dc_tile_avx2_16, dc_tile_avx2_32,
                                           dc_tile_avx2_64};
    static dc_tile_kernel *const avx512[] = {dc_tile_avx512_8, dc_tile_avx512_16,
                                             dc_tile_avx512_32, dc_tile_avx512_64};
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
 * (block_columns + last - first) * DC_MAX_TILE numbers. */
static inline void dc_blocks_times_vectors(const dc_blocks *in, const float *x, int64_t x_stride,
                                           int are_rows, int64_t n_vectors, const float *bias,
                                           int isa, int64_t first, int64_t last, float *scratch,
                                           float *y, int64_t y_stride)
{
    float *sums = scratch + in->block_columns * DC_MAX_TILE;
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
