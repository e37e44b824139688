/* The kept entries of a matrix -> windows (windows.h): the first lane with an entry left chooses the
 * window of a step, and each lane puts as many entries into it as it has slots.
 */
#ifndef DEEPCOMP_WINDOWS_LAYOUT_H
#define DEEPCOMP_WINDOWS_LAYOUT_H

#include "entries.h"
#include "windows.h"

/* Take a lane's next entries that are in the window; return its word. Without branches: whether
 * there is an entry is too hard to predict. */
DC_INLINE uint32_t dc_take_slots(const dc_entries *in, dc_window_kind k, uint32_t offset,
                                 int64_t *next, int64_t end, uint32_t slots[4])
{
    uint32_t word = 0, n = 0;
    int64_t p = *next;
    for (int slot = 0; slot < k.slots; slot++) {
        const int64_t at = p < end ? p : end - 1;
        const uint32_t column = in->columns[at] - offset;
        const uint32_t taken = (p < end) & (column < (uint32_t)k.window);
        const uint32_t label = in->labels[at];
        slots[slot] = (column | (label + 1) << k.column_bits) & -taken;
        word |= ((column | label << k.column_bits) & -taken)
                << slot * (k.column_bits + k.label_bits);
        n += taken;
        p += taken;
    }
    *next = p;
    return word | n << k.count_shift;
}

/* Lay out the entries of one group; return the number of steps. */
DC_INLINE int64_t dc_lay_out_group(const dc_entries *in, int kind, int64_t group,
                                   int32_t *offsets, uint32_t *words)
{
    const dc_window_kind k = dc_kind_of_windows(kind);
    const uint32_t last_offset =
        in->n_columns > k.window ? (uint32_t)(in->n_columns - k.window) : 0;
    int64_t next[DC_MAX_LANES], end[DC_MAX_LANES], n_steps = 0;
    for (int lane = 0; lane < k.lanes; lane++) {
        const int64_t row = group * k.lanes + lane;
        next[lane] = row < in->n_rows ? in->indptr[row] : 0;
        end[lane] = row < in->n_rows ? in->indptr[row + 1] : 0;
    }
    for (;; n_steps++) {
        uint32_t offset = UINT32_MAX, slots[4];
        for (int lane = 0; lane < k.lanes; lane++) {
            const uint32_t column = next[lane] < end[lane] ? in->columns[next[lane]] : UINT32_MAX;
            offset = column < offset ? column : offset;
        }
        if (offset == UINT32_MAX) {
            return n_steps;
        }
        offset = offset < last_offset ? offset : last_offset;
        for (int lane = 0; lane < k.lanes; lane++) {
            uint32_t word = 0;
            slots[0] = slots[1] = 0;
            if (end[lane]) { /* else the row is empty, and the first of all, or there is none */
                word = dc_take_slots(in, k, offset, &next[lane], end[lane], slots);
            }
            if (kind == DC_WINDOWS_64_HALVES) {
                dc_store_half(words + n_steps * k.lanes, dc_half_of(lane, 0), slots[0]);
                dc_store_half(words + n_steps * k.lanes, dc_half_of(lane, 1), slots[1]);
            } else {
                words[n_steps * k.lanes + lane] = word;
            }
        }
        offsets[n_steps] = (int32_t)offset;
    }
}

#if DC_HAVE_X86
#include <immintrin.h>

/* The next four entries of lane, lane + 4, lane + 8 and lane + 12. */
DC_TARGET_AVX512 DC_INLINE __m512i dc_load_lanes(const uint32_t *entries, const int32_t *next,
                                                 int lane)
{
    __m128i four[4];
    for (int i = 0; i < 4; i++) {
        four[i] = _mm_loadu_si128((const __m128i *)(entries + next[lane + 4 * i]));
    }
    return _mm512_inserti64x4(
        _mm512_castsi256_si512(_mm256_inserti128_si256(_mm256_castsi128_si256(four[0]), four[1], 1)),
        _mm256_inserti128_si256(_mm256_castsi128_si256(four[2]), four[3], 1), 1);
}

/* The least of 16 numbers, in each lane: to go through another register and back takes longer. */
DC_TARGET_AVX512 DC_INLINE __m512i dc_least(__m512i x)
{
    x = _mm512_min_epu32(x, _mm512_shuffle_i32x4(x, x, 0x4E));
    x = _mm512_min_epu32(x, _mm512_shuffle_i32x4(x, x, 0xB1));
    x = _mm512_min_epu32(x, _mm512_shuffle_epi32(x, (_MM_PERM_ENUM)0x4E));
    return _mm512_min_epu32(x, _mm512_shuffle_epi32(x, (_MM_PERM_ENUM)0xB1));
}

/* Sixteen rows of which some entries have been laid out. */
typedef struct {
    const uint32_t *packed; /* the entries: column and label, and four more numbers */
    __m512i next, end;      /* of each lane, from the first entry of the group */
    int64_t n_steps;
    int32_t *offsets;
    uint32_t *words;
} dc_lanes;

DC_TARGET_AVX512 DC_INLINE dc_lanes dc_begin_group(const dc_entries *in, int64_t first_row,
                                                   int64_t last_row, uint32_t *packed,
                                                   int32_t *offsets, uint32_t *words)
{
    const int64_t first = in->indptr[first_row];
    int32_t bounds[17];
    for (int lane = 0; lane <= 16; lane++) {
        const int64_t row = first_row + lane < last_row ? first_row + lane : last_row;
        bounds[lane] = (int32_t)(in->indptr[row] - first);
    }
    for (int32_t i = 0; i < bounds[16]; i++) {
        packed[i] = in->columns[first + i] << 8 | in->labels[first + i];
    }
    memset(packed + bounds[16], 0, 4 * sizeof(packed[0]));
    return (dc_lanes){packed, _mm512_loadu_si512(bounds), _mm512_loadu_si512(bounds + 1), 0,
                      offsets, words};
}

/* Make one step; return 0 if there is nothing left. As dc_lay_out_group, for 16 lanes at once: it
 * waits for no branch and for no gather. */
DC_TARGET_AVX512 DC_INLINE int dc_step(dc_lanes *group, int kind, __m512i last_column)
{
    const dc_window_kind k = dc_kind_of_windows(kind);
    const __m512i window = _mm512_set1_epi32(k.window << 8);
    const __m512i next = group->next;
    int32_t at[16];
    _mm512_storeu_si512(at, next);
    const __m512i lanes0 = dc_load_lanes(group->packed, at, 0);
    const __m512i lanes1 = dc_load_lanes(group->packed, at, 1);
    const __m512i lanes2 = dc_load_lanes(group->packed, at, 2);
    const __m512i lanes3 = dc_load_lanes(group->packed, at, 3);
    const __m512i low01 = _mm512_unpacklo_epi32(lanes0, lanes1);
    const __m512i low23 = _mm512_unpacklo_epi32(lanes2, lanes3);
    const __m512i entries[3] = {
        _mm512_unpacklo_epi64(low01, low23), _mm512_unpackhi_epi64(low01, low23),
        _mm512_unpacklo_epi64(_mm512_unpackhi_epi32(lanes0, lanes1),
                              _mm512_unpackhi_epi32(lanes2, lanes3))};
    const __mmask16 left = _mm512_cmplt_epi32_mask(next, group->end);
    if (!left) {
        return 0;
    }
    const __m512i least =
        dc_least(_mm512_mask_mov_epi32(_mm512_set1_epi32(-1), left, entries[0]));
    const __m512i first_column =
        _mm512_min_epu32(_mm512_andnot_si512(_mm512_set1_epi32(0xFF), least), last_column);
    __m512i word = _mm512_setzero_si512(), count = word, slots[3];
    _Pragma("GCC unroll 3") for (int slot = 0; slot < k.slots; slot++)
    {
        const __m512i entry = _mm512_sub_epi32(entries[slot], first_column);
        const __m512i place = _mm512_add_epi32(next, _mm512_set1_epi32(slot));
        const __mmask16 used = _mm512_mask_cmplt_epu32_mask(
            _mm512_cmplt_epi32_mask(place, group->end), entry, window);
        count = _mm512_mask_add_epi32(count, used, count, _mm512_set1_epi32(1));
        __m512i label = _mm512_and_si512(entry, _mm512_set1_epi32(0xFF));
        if (kind == DC_WINDOWS_64_HALVES) {
            label = _mm512_add_epi32(label, _mm512_set1_epi32(1));
        }
        slots[slot] = _mm512_maskz_or_epi32(used, _mm512_srli_epi32(entry, 8),
                                            _mm512_slli_epi32(label, k.column_bits));
        word = _mm512_or_si512(
            word, _mm512_slli_epi32(slots[slot], slot * (k.column_bits + k.label_bits)));
    }
    word = kind == DC_WINDOWS_64_HALVES
               ? _mm512_packus_epi32(slots[0], slots[1])
               : _mm512_or_si512(word, _mm512_slli_epi32(count, k.count_shift));
    _mm512_storeu_si512(group->words + 16 * group->n_steps, word);
    group->offsets[group->n_steps++] =
        (int32_t)((uint32_t)_mm_cvtsi128_si32(_mm512_castsi512_si128(first_column)) >> 8);
    group->next = _mm512_add_epi32(next, count);
    return 1;
}

#define DC_SIDE_BY_SIDE 2 /* four have too few registers */

/* Two groups side by side, since a step has to wait for the one before it. The second writes after
 * the most steps that the first can have; then the gap is closed. */
DC_TARGET_AVX512 DC_INLINE int64_t dc_lay_out_together(const dc_entries *in, int kind, int64_t row,
                                                       int64_t last_row, int64_t most_steps,
                                                       uint32_t *scratch, int64_t *starts,
                                                       int32_t *offsets, uint32_t *words)
{
    const int window = dc_kind_of_windows(kind).window;
    const __m512i last_column = _mm512_set1_epi32((int32_t)(
        in->n_columns > window ? (uint32_t)(in->n_columns - window) << 8 : 0));
    dc_lanes groups[DC_SIDE_BY_SIDE];
    int64_t first = row, room = 0, n_steps = 0;
    for (int i = 0; i < DC_SIDE_BY_SIDE; i++) {
        const int64_t end = first + 16 < last_row ? first + 16 : last_row;
        groups[i] = dc_begin_group(in, first, end, scratch, offsets + room, words + 16 * room);
        scratch += in->indptr[end] - in->indptr[first] + 4;
        room += most_steps;
        first = end;
    }
    while (dc_step(&groups[0], kind, last_column) & dc_step(&groups[1], kind, last_column)) {
    }
    for (int i = 0; i < DC_SIDE_BY_SIDE; i++) {
        while (dc_step(&groups[i], kind, last_column)) {
        }
        memmove(offsets + n_steps, groups[i].offsets,
                (size_t)groups[i].n_steps * sizeof(offsets[0]));
        memmove(words + 16 * n_steps, groups[i].words,
                (size_t)groups[i].n_steps * 16 * sizeof(words[0]));
        n_steps += groups[i].n_steps;
        if (row + 16 * i < last_row) {
            starts[i + 1] = starts[i] + groups[i].n_steps;
        }
    }
    return n_steps;
}

#define DC_DEFINE_TOGETHER(name, kind)                                                        \
    DC_TARGET_AVX512 static inline int64_t name(                                              \
        const dc_entries *in, int64_t row, int64_t last_row, int64_t most_steps,              \
        uint32_t *scratch, int64_t *starts, int32_t *offsets, uint32_t *words)                \
    {                                                                                         \
        return dc_lay_out_together(in, kind, row, last_row, most_steps, scratch, starts,      \
                                   offsets, words);                                           \
    }

DC_DEFINE_TOGETHER(dc_lay_out_32, DC_WINDOWS_32)
DC_DEFINE_TOGETHER(dc_lay_out_64, DC_WINDOWS_64_HALVES)
#endif

/* One group, in portable code. */
static inline int64_t dc_lay_out_one(const dc_entries *in, int kind, int64_t group,
                                     int32_t *offsets, uint32_t *words)
{
    switch (kind) {
    case DC_WINDOWS_32:
        return dc_lay_out_group(in, DC_WINDOWS_32, group, offsets, words);
    case DC_WINDOWS_64_HALVES:
        return dc_lay_out_group(in, DC_WINDOWS_64_HALVES, group, offsets, words);
    default:
        return dc_lay_out_group(in, DC_WINDOWS_32_PAIRS, group, offsets, words);
    }
}

/* The most steps that rows can have: one takes an entry at least, and after so many all entries of a
 * window have been taken. */
static inline int64_t dc_most_steps(const dc_entries *in, int kind, int64_t first_row,
                                    int64_t last_row)
{
    const dc_window_kind k = dc_kind_of_windows(kind);
    const int64_t n_entries = in->indptr[last_row] - in->indptr[first_row];
    const int64_t n_windows = (in->n_columns + k.window - 1) / k.window;
    const int64_t most = n_windows * ((k.window + k.slots - 1) / k.slots);
    return most < n_entries ? most : n_entries;
}

/* Lay the groups from `first` on out; there is room for the most steps that they can have. Fills
 * starts[group + 1] of each, which counts on from starts[first]. `packed` is scratch for the entries
 * of two groups and eight more. */
static inline void dc_lay_out_windows(const dc_entries *in, int kind, int isa, int64_t first,
                                      uint32_t *packed, int64_t *starts, int32_t *offsets,
                                      uint32_t *words)
{
    const int lanes = dc_kind_of_windows(kind).lanes;
    int64_t n_steps = 0, row = first * lanes;
    while (row < in->n_rows) {
        const int64_t end = row + lanes < in->n_rows ? row + lanes : in->n_rows;
        int64_t *next = starts + row / lanes;
#if DC_HAVE_X86
        const int64_t last = end + lanes < in->n_rows ? end + lanes : in->n_rows;
        if (isa >= DC_ISA_AVX512 && kind != DC_WINDOWS_32_PAIRS && in->n_columns < 1 << 24 &&
            in->indptr[last] - in->indptr[row] < INT32_MAX) {
            n_steps += (kind == DC_WINDOWS_32 ? dc_lay_out_32 : dc_lay_out_64)(
                in, row, last, dc_most_steps(in, kind, row, end), packed, next, offsets + n_steps,
                words + n_steps * lanes);
            row = last;
            continue;
        }
#endif
        n_steps +=
            dc_lay_out_one(in, kind, row / lanes, offsets + n_steps, words + n_steps * lanes);
        next[1] = starts[first] + n_steps;
        row = end;
    }
    (void)isa, (void)packed;
}

#endif
