/* Huffman decoding: formats/dcz.md, section 6.2.
 *
 * Bits fill a byte from the least significant end, and a codeword is written
 * with its first (most significant) bit first. So the low bits of a 64-bit
 * window, masked, are an index into a table whose entries hold several whole
 * symbols: one look-up, one store, one shift.
 *
 * A table entry is 32 bits, or 64 if the table is wide:
 *   bits 0-3            codeword bits that the entry's symbols use together
 *   bits 4-5            zero, so that the entry itself serves as the shift count
 *   bits 6-7  (61-63)   number of symbols, 1 to 3 (1 to 6)
 *   bits 8-31 (8-55)    the symbols, first one lowest
 *
 * A wide table gives short codewords more of them: gaps of 2 bits are decoded in 0.57 of the time.
 * Of 12 bits it would fill the first-level cache, and take 1.1 times as long as a narrow one.
 */
#ifndef DEEPCOMP_HUFFMAN_DECODE_H
#define DEEPCOMP_HUFFMAN_DECODE_H

#include "huffman.h"

typedef struct {
    const uint32_t *table;
    int table_bits, is_wide;
    const uint8_t *lengths;
} dc_code;

/* A table is an array of n 32-bit numbers, one or two for each entry. */
static inline dc_code dc_make_code(const uint32_t *table, int64_t n, int table_bits,
                                   const uint8_t *lengths)
{
    return (dc_code){table, table_bits, n >> table_bits == 2, lengths};
}

/* Fill the n numbers of a table. The caller has checked that Kraft's sum is one
 * and that table_bits is no smaller than the longest codeword. */
static inline void dc_huffman_table(const uint8_t *code_lengths, int n_symbols, int table_bits,
                                    uint32_t *table, int64_t n)
{
    const int is_wide = dc_make_code(table, n, table_bits, code_lengths).is_wide;
    const uint32_t most = is_wide ? 6 : 3;
    uint16_t codewords[256];
    uint16_t first[1 << DC_MAX_CODE_LENGTH]; /* symbol | length << 8 */
    const uint32_t size = 1u << table_bits;
    dc_huffman_codewords(code_lengths, n_symbols, codewords);
    for (int s = 0; s < n_symbols; s++) {
        const int length = code_lengths[s];
        if (length) {
            for (uint32_t i = codewords[s]; i < size; i += 1u << length) {
                first[i] = (uint16_t)(s | length << 8);
            }
        }
    }
    for (uint32_t i = 0; i < size; i++) {
        uint32_t used = first[i] >> 8;
        uint64_t symbols = first[i] & 255u;
        uint32_t count = 1;
        while (count < most) {
            const uint16_t f = first[i >> used];
            const uint32_t length = f >> 8;
            if (used + length > (uint32_t)table_bits) {
                break;
            }
            symbols |= (uint64_t)(f & 255u) << (8 * count);
            used += length;
            count++;
        }
        if (is_wide) {
            const uint64_t entry = used | symbols << 8 | (uint64_t)count << 61;
            memcpy(table + 2 * i, &entry, 8);
        } else {
            table[i] = used | count << 6 | (uint32_t)symbols << 8;
        }
    }
}

/* One bitstream that is being decoded. */
typedef struct {
    const uint8_t *in;     /* where the window was loaded from */
    const uint8_t *in_end; /* first byte after the bitstream */
    uint64_t bits;         /* the window: next bit lowest, under a marker bit */
    uint8_t *out;
    uint8_t *out_end;
} dc_bitstream;

/* `table`, `mask` and `is_wide`, a constant, are those of the code. */
#define DC_LOOK_UP(bits, out)                                                          \
    do {                                                                               \
        if (is_wide) {                                                                 \
            const uint64_t e_ = dc_load64((const uint8_t *)table + 8 * ((bits)&mask)); \
            const uint64_t symbols_ = e_ >> 8;                                         \
            memcpy((out), &symbols_, 8);                                               \
            (out) += e_ >> 61;                                                         \
            (bits) >>= e_ & 63u;                                                       \
        } else {                                                                       \
            const uint32_t e_ = table[(bits)&mask];                                    \
            const uint32_t symbols_ = e_ >> 8;                                         \
            memcpy((out), &symbols_, 4);                                               \
            (out) += (e_ >> 6) & 3u;                                                   \
            (bits) >>= e_ & 63u;                                                       \
        }                                                                              \
    } while (0)

/* The marker started at bit 63, so its place tells how many bits were used since the window
 * was loaded. At least 56 bits are ready after a refill. */
#define DC_REFILL(bits, in)                                   \
    do {                                                      \
        const int used_ = __builtin_clzll(bits);              \
        (in) += used_ >> 3;                                   \
        (bits) = (dc_load64(in) | 1ull << 63) >> (used_ & 7); \
    } while (0)

/* How often a round may run without looking at any bound: it loads 8 bytes and moves on by 7
 * at most, and writes 3 symbols for each look-up, the last one with a store of 4; or 6 and 8. */
DC_INLINE ptrdiff_t dc_safe_rounds(const dc_bitstream *s, int is_wide, int n_look_ups)
{
    const ptrdiff_t in = (s->in_end - s->in - 8) / 7;
    const ptrdiff_t out = is_wide ? (s->out_end - s->out - 2) / (6 * n_look_ups)
                                  : (s->out_end - s->out - 1) / (3 * n_look_ups);
    return in < out ? in : out;
}

DC_INLINE void dc_decode_rounds_4(dc_bitstream s[4], const uint32_t *table, uint64_t mask,
                                  int is_wide, int n_look_ups)
{
    const uint8_t *i0 = s[0].in, *i1 = s[1].in, *i2 = s[2].in, *i3 = s[3].in;
    uint8_t *o0 = s[0].out, *o1 = s[1].out, *o2 = s[2].out, *o3 = s[3].out;
    uint64_t b0 = s[0].bits, b1 = s[1].bits, b2 = s[2].bits, b3 = s[3].bits;
    for (;;) {
        ptrdiff_t rounds = dc_safe_rounds(&s[0], is_wide, n_look_ups);
        for (int k = 1; k < 4; k++) {
            const ptrdiff_t r = dc_safe_rounds(&s[k], is_wide, n_look_ups);
            rounds = r < rounds ? r : rounds;
        }
        if (rounds <= 0) {
            return;
        }
        for (; rounds > 0; rounds--) {
            DC_REFILL(b0, i0);
            DC_REFILL(b1, i1);
            DC_REFILL(b2, i2);
            DC_REFILL(b3, i3);
            for (int k = 0; k < n_look_ups; k++) {
                DC_LOOK_UP(b0, o0);
                DC_LOOK_UP(b1, o1);
                DC_LOOK_UP(b2, o2);
                DC_LOOK_UP(b3, o3);
            }
        }
        s[0].in = i0, s[1].in = i1, s[2].in = i2, s[3].in = i3;
        s[0].out = o0, s[1].out = o1, s[2].out = o2, s[3].out = o3;
        s[0].bits = b0, s[1].bits = b1, s[2].bits = b2, s[3].bits = b3;
        for (int k = 0; k < 4; k++) {
            DC_CHECK(s[k].in + 8 <= s[k].in_end && s[k].out <= s[k].out_end);
        }
    }
}

DC_INLINE void dc_decode_rounds_1(dc_bitstream *s, const uint32_t *table, uint64_t mask,
                                  int is_wide, int n_look_ups)
{
    ptrdiff_t rounds;
    while ((rounds = dc_safe_rounds(s, is_wide, n_look_ups)) > 0) {
        for (; rounds > 0; rounds--) {
            DC_REFILL(s->bits, s->in);
            for (int k = 0; k < n_look_ups; k++) {
                DC_LOOK_UP(s->bits, s->out);
            }
        }
        DC_CHECK(s->in + 8 <= s->in_end && s->out <= s->out_end);
    }
}

enum { DC_HUFFMAN_OK = 0, DC_HUFFMAN_TOO_SHORT = 1, DC_HUFFMAN_LEFT_OVER = 2 };

/* The last symbols, one by one and within all bounds; then the end must be the end. */
static inline int dc_decode_tail(dc_bitstream *s, const dc_code *code)
{
    const uint64_t mask = (1ull << code->table_bits) - 1;
    uint64_t window = 0;
    int used = __builtin_clzll(s->bits);
    const uint8_t *in = s->in + (used >> 3);
    used &= 7;
    while (s->out < s->out_end) {
        const ptrdiff_t left = s->in_end - in;
        window = 0;
        for (ptrdiff_t k = 0; k < 4 && k < left; k++) {
            window |= (uint64_t)in[k] << (8 * k);
        }
        const uint64_t at = (window >> used) & mask;
        const uint8_t symbol = (uint8_t)(code->table[code->is_wide ? 2 * at : at] >> 8);
        used += code->lengths[symbol];
        if (used > 8 * left) {
            return DC_HUFFMAN_TOO_SHORT;
        }
        *s->out++ = symbol;
        in += used >> 3;
        used &= 7;
    }
    if (used == 0) {
        return in == s->in_end ? DC_HUFFMAN_OK : DC_HUFFMAN_LEFT_OVER;
    }
    return in + 1 == s->in_end && in[0] >> used == 0 ? DC_HUFFMAN_OK : DC_HUFFMAN_LEFT_OVER;
}

DC_INLINE int dc_decode_body(dc_bitstream *s, int n_bitstreams, const dc_code *code, int is_wide)
{
    const uint32_t *table = code->table;
    const uint64_t mask = (1ull << code->table_bits) - 1;
    /* n look-ups of table_bits each must fit in the 56 bits of a window */
    if (n_bitstreams == 4) {
        if (is_wide || code->table_bits <= 11) {
            dc_decode_rounds_4(s, table, mask, is_wide, 5);
        } else {
            dc_decode_rounds_4(s, table, mask, is_wide, 4);
        }
    }
    for (int k = 0; k < n_bitstreams; k++) {
        dc_decode_rounds_1(&s[k], table, mask, is_wide, 4);
        dc_decode_rounds_1(&s[k], table, mask, is_wide, 1);
        const int status = dc_decode_tail(&s[k], code);
        if (status != DC_HUFFMAN_OK) {
            return status;
        }
    }
    return DC_HUFFMAN_OK;
}

#if DC_HAVE_X86
static DC_TARGET_AVX2 int dc_decode_avx2(dc_bitstream *s, int n_bitstreams, const dc_code *code)
{
    return code->is_wide ? dc_decode_body(s, n_bitstreams, code, 1)
                         : dc_decode_body(s, n_bitstreams, code, 0);
}
#endif

/* Decode n symbols from 1 bitstream or, in quarters, from 4. The caller has checked that the
 * sizes add up to the bytes at `in` and that the table belongs to a complete code. */
static inline int dc_huffman_decode(const uint8_t *in, const int64_t *sizes, int n_bitstreams,
                                    const dc_code *code, uint8_t *out, ptrdiff_t n, int isa)
{
    dc_bitstream s[4];
    const ptrdiff_t quarter = (n + n_bitstreams - 1) / n_bitstreams;
    DC_CHECK(code->table_bits <= (code->is_wide ? 11 : 12));
    for (int k = 0; k < n_bitstreams; k++) {
        const ptrdiff_t first = quarter * k < n ? quarter * k : n;
        const ptrdiff_t last = first + quarter < n ? first + quarter : n;
        s[k].in = in;
        s[k].in_end = in + sizes[k];
        s[k].bits = 1ull << 63;
        s[k].out = out + first;
        s[k].out_end = out + last;
        in += sizes[k];
    }
#if DC_HAVE_X86
    if (isa >= DC_ISA_AVX2) {
        return dc_decode_avx2(s, n_bitstreams, code);
    }
#endif
    (void)isa;
    return code->is_wide ? dc_decode_body(s, n_bitstreams, code, 1)
                         : dc_decode_body(s, n_bitstreams, code, 0);
}

#endif
