/* Sums of squares: of what entries were, and of what they have lost.
 *
 * Eight sums side by side, so that compilers use whatever registers there are: the order of the
 * additions, and with it the result, is the same on every machine.
 */
#ifndef DEEPCOMP_SQUARES_H
#define DEEPCOMP_SQUARES_H

#include <stdint.h>
#include <string.h>

#include "isa.h"

#define DC_SUMS 8

DC_INLINE double dc_of_float32(uint32_t pattern)
{
    float value;
    memcpy(&value, &pattern, sizeof value);
    return value;
}

DC_INLINE double dc_of_bfloat16(uint16_t pattern)
{
    return dc_of_float32((uint32_t)pattern << 16);
}

/* Finite ones only: exponent and mantissa where float32 has them, and the other bias. */
DC_INLINE double dc_of_float16(uint16_t pattern)
{
    const uint32_t sign = (uint32_t)(pattern & 0x8000) << 16;
    return dc_of_float32(sign | (uint32_t)(pattern & 0x7FFF) << 13) * 0x1p112;
}

DC_INLINE double dc_of_float64(uint64_t pattern)
{
    double value;
    memcpy(&value, &pattern, sizeof value);
    return value;
}

#define DC_DEFINE_SQUARES(name, pattern_t, value_of)                                             \
    static void name(const pattern_t *before, const pattern_t *after, int64_t n, double *sums)   \
    {                                                                                            \
        double lost[DC_SUMS] = {0}, whole[DC_SUMS] = {0};                                        \
        for (int64_t i = 0; i < n - n % DC_SUMS; i += DC_SUMS) {                                 \
            for (int k = 0; k < DC_SUMS; k++) {                                                  \
                const double value = value_of(before[i + k]);                                    \
                const double difference = value - value_of(after[i + k]);                        \
                lost[k] += difference * difference;                                              \
                whole[k] += value * value;                                                       \
            }                                                                                    \
        }                                                                                        \
        for (int64_t i = n - n % DC_SUMS; i < n; i++) {                                          \
            const double value = value_of(before[i]);                                            \
            const double difference = value - value_of(after[i]);                                \
            lost[i % DC_SUMS] += difference * difference;                                        \
            whole[i % DC_SUMS] += value * value;                                                 \
        }                                                                                        \
        for (int k = 0; k < DC_SUMS; k++) {                                                      \
            sums[0] += lost[k];                                                                  \
            sums[1] += whole[k];                                                                 \
        }                                                                                        \
    }

DC_DEFINE_SQUARES(dc_squares_float16, uint16_t, dc_of_float16)
DC_DEFINE_SQUARES(dc_squares_bfloat16, uint16_t, dc_of_bfloat16)
DC_DEFINE_SQUARES(dc_squares_float32, uint32_t, dc_of_float32)
DC_DEFINE_SQUARES(dc_squares_float64, uint64_t, dc_of_float64)

#endif
