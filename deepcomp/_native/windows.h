/* Matrix times one vector, from "windows": the layout for a batch of one.
 *
 * The rows of a group are the lanes of a vector. A step looks at a window of neighbouring columns
 * and holds, for each lane, a few slots: which column of the window, and which label. The inputs
 * of the window and the codebook lie in registers, so that both look-ups are register permutes: no
 * gather, no branch. What a slot that is empty points to is never multiplied: a NaN in the input
 * must not reach a row that has no entry in its column.
 */
#ifndef DEEPCOMP_WINDOWS_H
#define DEEPCOMP_WINDOWS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "isa.h"

/* A word of 32 bits a lane: slots from the lowest bit on, each a column of the window and, above
 * it, a label; then the number of slots in use. HALVES has its two slots in two halves instead:
 * 6 bits of column, 6 of label + 1 (0 = empty), as two 16-bit numbers that lie where
 * _mm512_unpacklo_epi16 and _mm512_unpackhi_epi16 find them. */
enum { DC_WINDOWS_32 = 0, DC_WINDOWS_64_HALVES = 1, DC_WINDOWS_32_PAIRS = 2 };

#define DC_MAX_LANES 16
#define DC_MAX_WINDOW 64

typedef struct {
    int lanes, window, slots;
    int column_bits, label_bits; /* of a slot */
    int count_shift;
} dc_window_kind;

DC_INLINE dc_window_kind dc_kind_of_windows(int kind)
{
    switch (kind) {
    case DC_WINDOWS_32:
        return (dc_window_kind){16, 32, 3, 5, 5, 30};
    case DC_WINDOWS_64_HALVES:
        return (dc_window_kind){16, 64, 2, 6, 6, 0};
    default:
        return (dc_window_kind){8, 32, 2, 5, 5, 27};
    }
}

/* Where the halves of a lane's slot are among the 32 16-bit numbers of a step. */
DC_INLINE int dc_half_of(int lane, int slot)
{
    return 8 * (lane / 4) + lane % 4 + 4 * slot;
}

DC_INLINE uint32_t dc_load_half(const uint32_t *words, int half)
{
    uint16_t bits;
    memcpy(&bits, (const char *)words + 2 * half, 2);
    return bits;
}

DC_INLINE void dc_store_half(uint32_t *words, int half, uint32_t slot)
{
    const uint16_t bits = (uint16_t)slot;
    memcpy((char *)words + 2 * half, &bits, 2);
}

typedef struct {
    const int64_t *starts; /* of the groups, in steps; one more at the end */
    const int32_t *offsets; /* first column of a step's window */
    const uint32_t *words;
    const float *codebook; /* 64 values, zeros at the end */
    int64_t n_rows, n_columns;
} dc_windows;

/* Fill the scratch with a short vector and zeros, so that a window can be loaded. */
DC_INLINE const float *dc_padded_vector(const dc_windows *in, int window, const float *x,
                                        float *scratch)
{
    if (in->n_columns >= window) {
        return x;
    }
    memset(scratch, 0, DC_MAX_WINDOW * sizeof(float));
    memcpy(scratch, x, (size_t)in->n_columns * sizeof(float));
    return scratch;
}

DC_INLINE void dc_windows_times_vector_portable(const dc_windows *in, int kind, const float *x,
                                                const float *bias, int64_t first, int64_t last,
                                                float *y)
{
    const dc_window_kind k = dc_kind_of_windows(kind);
    const int slot_bits = k.column_bits + k.label_bits;
    for (int64_t group = first; group < last; group++) {
        float sums[DC_MAX_LANES] = {0};
        for (int64_t step = in->starts[group]; step < in->starts[group + 1]; step++) {
            const uint32_t *words = in->words + step * k.lanes;
            const float *window = x + in->offsets[step];
            for (int lane = 0; lane < k.lanes; lane++) {
                int n = k.slots;
                if (kind != DC_WINDOWS_64_HALVES) {
                    n = (int)(words[lane] >> k.count_shift);
                }
                for (int slot = 0; slot < n; slot++) {
                    uint32_t bits = words[lane] >> slot * slot_bits;
                    if (kind == DC_WINDOWS_64_HALVES) {
                        bits = dc_load_half(words, dc_half_of(lane, slot));
                        if (bits == 0) {
                            break;
                        }
                        bits -= 1 << 6;
                    }
                    const uint32_t column = bits & ((1u << k.column_bits) - 1);
                    const uint32_t label = bits >> k.column_bits & ((1u << k.label_bits) - 1);
                    DC_CHECK(in->offsets[step] + (int64_t)column < in->n_columns);
                    sums[lane] += window[column] * in->codebook[label];
                }
            }
        }
        for (int lane = 0; lane < k.lanes && group * k.lanes + lane < in->n_rows; lane++) {
            const int64_t row = group * k.lanes + lane;
            y[row] = sums[lane] + (bias ? bias[row] : 0.0f);
        }
    }
}

#endif
