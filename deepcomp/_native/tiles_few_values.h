/* A block times a tile, where 32 values or fewer fit in two registers: AVX-512.
 *
 * The weights of several entries are looked up at once, with one load of their labels. Loads are
 * what these loops wait for: an entry takes a load of 64 bytes for each 16 vectors and, otherwise,
 * three more: of its column, label and weight.
 */
#ifndef DEEPCOMP_TILES_FEW_VALUES_H
#define DEEPCOMP_TILES_FEW_VALUES_H

#include "tiles.h"

#if DC_HAVE_X86

#define DC_FEW_VALUES 32

DC_INLINE int dc_has_few_values(const dc_blocks *in)
{
    return in->labels && in->n_values <= DC_FEW_VALUES;
}

/* 16 values from the first one on, zeros where there are none. */
DC_TARGET_AVX512 DC_INLINE __m512 dc_values_from(const dc_blocks *in, int first)
{
    const int n = in->n_values > first ? (int)in->n_values - first : 0;
    return _mm512_maskz_loadu_ps((__mmask16)(n >= 16 ? 0xFFFF : (1 << n) - 1), in->values + first);
}

/* 16, 32 or 64 vectors. `n_apart` entries at a time are added to sums of their own, since an
 * addition has to wait four cycles for the one before it. */
DC_TARGET_AVX512 DC_INLINE void dc_tile_few_values(const dc_blocks *in, int64_t block,
                                                   const float *x, const float *bias,
                                                   int64_t first, int64_t last, int tile,
                                                   int n_apart, float *y)
{
    const int64_t *starts = in->starts + block * (in->n_rows + 1);
    const uint8_t *order = dc_order_of(in, block);
    const uint16_t *columns = in->columns;
    const uint8_t *labels = in->labels;
    const float *values = in->values;
    const __m512 values0 = dc_values_from(in, 0), values1 = dc_values_from(in, 16);
    for (int64_t place = first; place < last; place++) {
        const int64_t row = dc_row_at(in, order, place), end = starts[place + 1];
        float *out = y + (row - first) * tile;
        __m512 sums[4][4];
        DC_UNROLL
        for (int i = 0; i < 16; i++) {
            sums[i / 4][i % 4] = _mm512_setzero_ps();
        }
        int64_t p = starts[place];
        for (; p + 4 <= end; p += 4) {
            uint64_t four_columns;
            uint32_t four_labels;
            memcpy(&four_columns, columns + p, sizeof(four_columns));
            memcpy(&four_labels, labels + p, sizeof(four_labels));
            const __m512 weights = _mm512_permutex2var_ps(
                values0, _mm512_cvtepu8_epi32(_mm_cvtsi32_si128((int)four_labels)), values1);
            DC_UNROLL
            for (int j = 0; j < 4; j++) {
                const __m512 weight = _mm512_permutexvar_ps(_mm512_set1_epi32(j), weights);
                const float *inputs = x + (ptrdiff_t)(uint16_t)(four_columns >> 16 * j) * tile;
                DC_UNROLL
                for (int i = 0; i < tile / 16; i++) {
                    sums[j % n_apart][i] = _mm512_fmadd_ps(_mm512_loadu_ps(inputs + 16 * i), weight,
                                                           sums[j % n_apart][i]);
                }
            }
        }
        for (; p < end; p++) {
            const __m512 weight = _mm512_set1_ps(values[labels[p]]);
            const float *inputs = x + (ptrdiff_t)columns[p] * tile;
            DC_UNROLL
            for (int i = 0; i < tile / 16; i++) {
                sums[0][i] = _mm512_fmadd_ps(_mm512_loadu_ps(inputs + 16 * i), weight, sums[0][i]);
            }
        }
        DC_UNROLL
        for (int i = 0; i < tile / 16; i++) {
            DC_UNROLL
            for (int j = 1; j < n_apart; j++) {
                sums[0][i] = _mm512_add_ps(sums[0][i], sums[j][i]);
            }
            const __m512 before = block  ? _mm512_loadu_ps(out + 16 * i)
                                  : bias ? _mm512_set1_ps(bias[row])
                                         : _mm512_setzero_ps();
            _mm512_storeu_ps(out + 16 * i, _mm512_add_ps(before, sums[0][i]));
        }
    }
}

#define DC_DEFINE_FEW_VALUES(tile, n_apart)                                                   \
    DC_TARGET_AVX512 static inline void dc_tile_few_values_##tile(                            \
        const dc_blocks *in, int64_t block, const float *x, const float *bias, int64_t first, \
        int64_t last, float *y)                                                               \
    {                                                                                         \
        dc_tile_few_values(in, block, x, bias, first, last, tile, n_apart, y);                \
    }

DC_DEFINE_FEW_VALUES(64, 2)
DC_DEFINE_FEW_VALUES(32, 4)
DC_DEFINE_FEW_VALUES(16, 4)

/* Eight vectors. */
DC_TARGET_AVX512 static inline void dc_tile_few_values_8(const dc_blocks *in, int64_t block,
                                                     const float *x, const float *bias,
                                                     int64_t first, int64_t last, float *y)
{
    const int64_t *starts = in->starts + block * (in->n_rows + 1);
    const uint16_t *columns = in->columns;
    const uint8_t *labels = in->labels;
    const __m512 values0 = dc_values_from(in, 0), values1 = dc_values_from(in, 16);
    const uint8_t *order = dc_order_of(in, block);
    for (int64_t place = first; place < last; place++) {
        const int64_t row = dc_row_at(in, order, place);
        float *out = y + (row - first) * 8;
        const __m256 before =
            block ? _mm256_loadu_ps(out) : _mm256_set1_ps(bias ? bias[row] : 0.0f);
        __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                          _mm256_setzero_ps()};
        int64_t p = starts[place];
        const int64_t end = starts[place + 1];
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
        _mm256_storeu_ps(out, _mm256_add_ps(before, sums[0]));
    }
}

#endif

#endif
