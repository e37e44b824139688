/* Matrix times one vector, from windows: AVX2 and AVX-512. */
#ifndef DEEPCOMP_WINDOWS_X86_H
#define DEEPCOMP_WINDOWS_X86_H

#include "windows.h"

#if DC_HAVE_X86
#include <immintrin.h>

#define DC_STEPS_A_SUM 64 /* the shorter the sums, the smaller the error of rounding */
#define DC_WORDS_AHEAD 2048 /* 8 KiB: the hardware does not run far enough ahead by itself; 2 KiB cost 14 % */

/* --- 16 lanes, windows of 32 columns, three slots, up to 32 values --- */

DC_TARGET_AVX512 static inline void dc_windows_32_avx512(const dc_windows *in, const float *x,
                                                         const float *bias, int64_t first,
                                                         int64_t last, float *y)
{
    const __m512 values0 = _mm512_loadu_ps(in->codebook);
    const __m512 values1 = _mm512_loadu_ps(in->codebook + 16);
    const __m512i one = _mm512_set1_epi32(1 << 30); /* at least so many slots in use */
    const __m512i two = _mm512_set1_epi32((int)(2u << 30));
    const __m512i three = _mm512_set1_epi32((int)(3u << 30));
    for (int64_t group = first; group < last; group++) {
        __m512 total = _mm512_setzero_ps();
        const int64_t end = in->starts[group + 1];
        for (int64_t step = in->starts[group]; step < end;) {
          const int64_t part_end = end - step < DC_STEPS_A_SUM ? end : step + DC_STEPS_A_SUM;
          __m512 sum0 = _mm512_setzero_ps(), sum1 = sum0, sum2 = sum0;
          for (; step < part_end; step++) {
            const float *window = x + in->offsets[step];
            const __m512 x0 = _mm512_loadu_ps(window), x1 = _mm512_loadu_ps(window + 16);
            const __m512i word = _mm512_loadu_si512(in->words + 16 * step);
            _mm_prefetch((const char *)(in->words + 16 * step + DC_WORDS_AHEAD), _MM_HINT_T0);
            /* A permute reads 5 bits of each lane's index, and ignores what is above. (High halves of
             * products instead of shifts, which share the permutes' ports, took 1.3 times as long.) */
#define DC_SLOT(sum, least, shift)                                                            \
    sum = _mm512_mask3_fmadd_ps(                                                              \
        _mm512_permutex2var_ps(values0, _mm512_srli_epi32(word, shift + 5), values1),         \
        _mm512_permutex2var_ps(x0, _mm512_srli_epi32(word, shift), x1), sum,                  \
        _mm512_cmpge_epu32_mask(word, least))
            DC_SLOT(sum0, one, 0);
            DC_SLOT(sum1, two, 10);
            DC_SLOT(sum2, three, 20);
#undef DC_SLOT
          }
          total = _mm512_add_ps(total, _mm512_add_ps(_mm512_add_ps(sum0, sum1), sum2));
        }
        const int64_t n_left = in->n_rows - 16 * group;
        const __mmask16 rows = (__mmask16)(n_left >= 16 ? 0xFFFF : (1 << n_left) - 1);
        if (bias) {
            total = _mm512_add_ps(total, _mm512_maskz_loadu_ps(rows, bias + 16 * group));
        }
        _mm512_mask_storeu_ps(y + 16 * group, rows, total);
    }
}

/* --- 16 lanes, windows of 64 columns, two slots, up to 63 values ---
 * 64 numbers of 16 bits fit in two registers: high and low halves are looked up apart. */

DC_TARGET_AVX512 static inline void dc_split_halves(const float *x, int64_t n, uint16_t *high,
                                                    uint16_t *low)
{
    for (int64_t i = 0; i < n; i += 16) {
        const int64_t n_left = n - i;
        const __mmask16 some = (__mmask16)(n_left >= 16 ? 0xFFFF : (1 << n_left) - 1);
        const __m512i bits = _mm512_maskz_loadu_epi32(some, x + i);
        _mm256_storeu_si256((__m256i *)(low + i), _mm512_cvtepi32_epi16(bits));
        _mm256_storeu_si256((__m256i *)(high + i),
                            _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
    }
}

/* `scratch` has room for 2 * (n_columns + 80) halves. */
DC_TARGET_AVX512 static inline void dc_windows_64_avx512(const dc_windows *in, const float *x,
                                                         const float *bias, int64_t first,
                                                         int64_t last, uint16_t *scratch,
                                                         float *y)
{
    uint16_t *high = scratch, *low = scratch + in->n_columns + 80;
    uint16_t codebook_high[64], codebook_low[64];
    dc_split_halves(x, in->n_columns, high, low);
    codebook_high[0] = codebook_low[0] = 0; /* of an empty slot */
    for (int label = 0; label < 63; label++) {
        uint32_t bits;
        memcpy(&bits, in->codebook + label, 4);
        codebook_high[label + 1] = (uint16_t)(bits >> 16);
        codebook_low[label + 1] = (uint16_t)bits;
    }
    const __m512i wh0 = _mm512_loadu_si512(codebook_high);
    const __m512i wh1 = _mm512_loadu_si512(codebook_high + 32);
    const __m512i wl0 = _mm512_loadu_si512(codebook_low);
    const __m512i wl1 = _mm512_loadu_si512(codebook_low + 32);
    const __m512i least = _mm512_set1_epi16(1 << 6);
    for (int64_t group = first; group < last; group++) {
        __m512 total = _mm512_setzero_ps();
        const int64_t end = in->starts[group + 1];
        for (int64_t step = in->starts[group]; step < end;) {
          const int64_t part_end = end - step < DC_STEPS_A_SUM ? end : step + DC_STEPS_A_SUM;
          __m512 sum0 = _mm512_setzero_ps(), sum1 = sum0;
          for (; step < part_end; step++) {
            const int64_t offset = in->offsets[step];
            const __m512i slots = _mm512_loadu_si512(in->words + 16 * step);
            const __m512i labels = _mm512_srli_epi16(slots, 6);
            const __mmask32 used = _mm512_cmpge_epu16_mask(slots, least);
            _mm_prefetch((const char *)(in->words + 16 * step + DC_WORDS_AHEAD), _MM_HINT_T0);
            const __m512i xh = _mm512_maskz_permutex2var_epi16(
                used, _mm512_loadu_si512(high + offset), slots,
                _mm512_loadu_si512(high + offset + 32));
            const __m512i xl = _mm512_maskz_permutex2var_epi16(
                used, _mm512_loadu_si512(low + offset), slots,
                _mm512_loadu_si512(low + offset + 32));
            const __m512i wh = _mm512_permutex2var_epi16(wh0, labels, wh1);
            const __m512i wl = _mm512_permutex2var_epi16(wl0, labels, wl1);
            sum0 = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_unpacklo_epi16(wl, wh)),
                                   _mm512_castsi512_ps(_mm512_unpacklo_epi16(xl, xh)), sum0);
            sum1 = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_unpackhi_epi16(wl, wh)),
                                   _mm512_castsi512_ps(_mm512_unpackhi_epi16(xl, xh)), sum1);
          }
          total = _mm512_add_ps(total, _mm512_add_ps(sum0, sum1));
        }
        const int64_t n_left = in->n_rows - 16 * group;
        const __mmask16 rows = (__mmask16)(n_left >= 16 ? 0xFFFF : (1 << n_left) - 1);
        if (bias) {
            total = _mm512_add_ps(total, _mm512_maskz_loadu_ps(rows, bias + 16 * group));
        }
        _mm512_mask_storeu_ps(y + 16 * group, rows, total);
    }
}

/* --- 8 lanes, windows of 32 columns, two slots, up to 32 values --- */

/* Where a lane's sign in `which` is set, b, else a. Of the intrinsic, gcc makes a comparison and a blend
 * where two blends share `which`. */
DC_TARGET_AVX2 DC_INLINE __m256 dc_choose(__m256 a, __m256 b, __m256i which)
{
    __m256 chosen;
    __asm__("vblendvps %3, %2, %1, %0" : "=x"(chosen) : "x"(a), "x"(b), "x"(which));
    return chosen;
}

/* 32 numbers in four registers; of each index, five bits count. */
DC_TARGET_AVX2 DC_INLINE __m256 dc_look_up(const __m256 numbers[4], __m256i index)
{
    const __m256i fourth = _mm256_slli_epi32(index, 28), fifth = _mm256_slli_epi32(index, 27);
    return dc_choose(dc_choose(_mm256_permutevar8x32_ps(numbers[0], index),
                               _mm256_permutevar8x32_ps(numbers[1], index), fourth),
                     dc_choose(_mm256_permutevar8x32_ps(numbers[2], index),
                               _mm256_permutevar8x32_ps(numbers[3], index), fourth),
                     fifth);
}

DC_TARGET_AVX2 static inline void dc_windows_32_avx2(const dc_windows *in, const float *x,
                                                     const float *bias, int64_t first,
                                                     int64_t last, float *y)
{
    __m256 values[4];
    for (int i = 0; i < 4; i++) {
        values[i] = _mm256_loadu_ps(in->codebook + 8 * i);
    }
    for (int64_t group = first; group < last; group++) {
        __m256 both = _mm256_setzero_ps();
        const int64_t end = in->starts[group + 1];
        for (int64_t step = in->starts[group]; step < end;) {
          const int64_t part_end = end - step < DC_STEPS_A_SUM ? end : step + DC_STEPS_A_SUM;
          __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
          for (; step < part_end; step++) {
            const float *window = x + in->offsets[step];
            const __m256 inputs[4] = {_mm256_loadu_ps(window), _mm256_loadu_ps(window + 8),
                                      _mm256_loadu_ps(window + 16), _mm256_loadu_ps(window + 24)};
            const __m256i word =
                _mm256_loadu_si256((const __m256i *)(in->words + 8 * step));
            _mm_prefetch((const char *)(in->words + 8 * step + DC_WORDS_AHEAD), _MM_HINT_T0);
#pragma GCC unroll 2
            for (int slot = 0; slot < 2; slot++) {
                const __m256 input = dc_look_up(inputs, _mm256_srli_epi32(word, 10 * slot));
                const __m256 weight = dc_look_up(values, _mm256_srli_epi32(word, 10 * slot + 5));
                const __m256i used =
                    _mm256_cmpgt_epi32(word, _mm256_set1_epi32(((slot + 1) << 27) - 1));
                /* either may be infinite or NaN; a blend of the sums takes longer than this */
                sums[slot] = _mm256_fmadd_ps(_mm256_and_ps(input, _mm256_castsi256_ps(used)),
                                             _mm256_and_ps(weight, _mm256_castsi256_ps(used)),
                                             sums[slot]);
            }
          }
          both = _mm256_add_ps(both, _mm256_add_ps(sums[0], sums[1]));
        }
        float total[8];
        _mm256_storeu_ps(total, both);
        for (int lane = 0; lane < 8 && 8 * group + lane < in->n_rows; lane++) {
            y[8 * group + lane] = total[lane] + (bias ? bias[8 * group + lane] : 0.0f);
        }
    }
}

#endif

static inline void dc_windows_times_vector(const dc_windows *in, int kind, const float *x,
                                           const float *bias, int isa, int64_t first,
                                           int64_t last, uint16_t *scratch, float *y)
{
    float short_vector[DC_MAX_WINDOW];
#if DC_HAVE_X86
    if (isa >= DC_ISA_AVX512 && kind == DC_WINDOWS_32) {
        x = dc_padded_vector(in, 32, x, short_vector);
        dc_windows_32_avx512(in, x, bias, first, last, y);
        return;
    }
    if (isa >= DC_ISA_AVX512 && kind == DC_WINDOWS_64_HALVES) {
        dc_windows_64_avx512(in, x, bias, first, last, scratch, y);
        return;
    }
    if (isa >= DC_ISA_AVX2 && kind == DC_WINDOWS_32_PAIRS) {
        x = dc_padded_vector(in, 32, x, short_vector);
        dc_windows_32_avx2(in, x, bias, first, last, y);
        return;
    }
#else
    (void)isa, (void)scratch;
#endif
    (void)short_vector;
    dc_windows_times_vector_portable(in, kind, x, bias, first, last, y);
}

#endif
