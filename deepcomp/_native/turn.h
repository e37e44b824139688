/* Vectors that lie one after the other -> tiles, where their n-th numbers lie side by side. */
#ifndef DEEPCOMP_TURN_H
#define DEEPCOMP_TURN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "isa.h"

/* Turn (n, m) rows of x around, m of them side by side; missing rows repeat the last. */
typedef void dc_turn_kernel(const float *x, int64_t stride, int n, int tile, int64_t m, float *out);

/* The other way around: out[i * stride + k] = y[k * tile + i]. */
typedef void dc_turn_back_kernel(const float *y, int n, int tile, int64_t m, int64_t stride,
                                 float *out);

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
#endif

#endif
