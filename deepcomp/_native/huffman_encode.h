/* Huffman encoding: symbols -> counts -> code lengths -> bitstream. formats/dcz.md, section 6. */
#ifndef DEEPCOMP_HUFFMAN_ENCODE_H
#define DEEPCOMP_HUFFMAN_ENCODE_H

#include "huffman.h"

/* Add up how often each symbol occurs. Four tables: the same symbol twice in a row need not wait
 * until the first count is stored. */
static inline void dc_count_symbols(const uint8_t *symbols, ptrdiff_t n, ptrdiff_t stride,
                                    int64_t *counts)
{
    uint32_t partial[4][256];
    const ptrdiff_t part = 1 << 30; /* counts fit in 32 bits */
    for (ptrdiff_t first = 0; first < n; first += part) {
        const ptrdiff_t m = n - first < part ? n - first : part;
        const uint8_t *p = symbols + first * stride;
        ptrdiff_t i = 0;
        memset(partial, 0, sizeof(partial));
        if (stride == 1) {
            for (; i + 8 <= m; i += 8) {
                const uint64_t v = dc_load64(p + i);
                for (int k = 0; k < 8; k++) {
                    partial[k & 3][v >> (8 * k) & 255]++;
                }
            }
        }
        for (; i < m; i++) {
            partial[i & 3][p[i * stride]]++;
        }
        for (int s = 0; s < 256; s++) {
            counts[s] += (int64_t)partial[0][s] + partial[1][s] + partial[2][s] + partial[3][s];
        }
    }
}

#define DC_NO_CODEWORD 0x8000u

/* Write the codewords of n symbols as one bitstream. codewords[s] is that of s, first bit lowest,
 * or DC_NO_CODEWORD; lengths[s] its length, or 0. (Two tables: taking both from one entry costs
 * 15 % more time.) `out` has room for n * 12 bits and 8 bytes. Returns the number of bytes, or -1
 * if a symbol has no codeword. */
DC_INLINE ptrdiff_t dc_encode_body(const uint8_t *symbols, ptrdiff_t n,
                                   const uint16_t *codewords, const uint8_t *lengths,
                                   uint8_t *out)
{
    uint8_t *p = out;
    uint64_t bits = 0;
    unsigned used = 0;
    uint32_t all = 0;
    ptrdiff_t i = 0;
    for (; i + 4 <= n; i += 4) { /* 4 codewords of 12 bits after 7 left over: 55 bits */
        for (int k = 0; k < 4; k++) {
            const uint8_t s = symbols[i + k];
            bits |= (uint64_t)codewords[s] << used;
            used += lengths[s];
            all |= codewords[s];
        }
        memcpy(p, &bits, 8);
        p += used >> 3;
        bits >>= used & 56u;
        used &= 7u;
    }
    for (; i < n; i++) {
        bits |= (uint64_t)codewords[symbols[i]] << used;
        used += lengths[symbols[i]];
        all |= codewords[symbols[i]];
    }
    for (; used > 0; used = used > 8 ? used - 8 : 0) {
        *p++ = (uint8_t)bits;
        bits >>= 8;
    }
    return all & DC_NO_CODEWORD ? -1 : p - out;
}

#if DC_HAVE_X86
static DC_TARGET_AVX2 ptrdiff_t dc_encode_avx2(const uint8_t *symbols, ptrdiff_t n,
                                               const uint16_t *codewords, const uint8_t *lengths,
                                               uint8_t *out)
{
    return dc_encode_body(symbols, n, codewords, lengths, out);
}
#endif

static inline ptrdiff_t dc_huffman_encode(const uint8_t *symbols, ptrdiff_t n,
                                          const uint8_t *code_lengths, int n_code_lengths,
                                          uint8_t *out, int isa)
{
    uint16_t codewords[256];
    uint8_t lengths[256] = {0};
    dc_huffman_codewords(code_lengths, n_code_lengths, codewords);
    memcpy(lengths, code_lengths, (size_t)n_code_lengths);
    for (int s = 0; s < 256; s++) {
        if (lengths[s] == 0) {
            codewords[s] = DC_NO_CODEWORD;
        }
    }
#if DC_HAVE_X86
    if (isa >= DC_ISA_AVX2) {
        return dc_encode_avx2(symbols, n, codewords, lengths, out);
    }
#endif
    (void)isa;
    return dc_encode_body(symbols, n, codewords, lengths, out);
}

/* Optimal code lengths under a limit, by package-merge (Larmore and Hirschberg, 1990).
 *
 * `order` holds the n >= 2 symbols that occur, by rising count. In round r the list is the
 * leaves merged with the pairs of the list before; what is kept of a round is only which of
 * its members are leaves, for a package of the last round is always a prefix of the lists. */
static inline void dc_package_merge(const int64_t *counts, const uint8_t *order, int n,
                                    int limit, uint8_t *code_lengths)
{
    static const int max_list = 512;
    uint8_t is_leaf[DC_MAX_CODE_LENGTH][512];
    int64_t lists[2][512];
    int n_list = 0;
    for (int round = 0; round < limit; round++) {
        const int64_t *before = lists[(round + 1) & 1];
        int64_t *list = lists[round & 1];
        const int n_packages = n_list / 2;
        int leaf = 0, package = 0;
        n_list = 0;
        while (leaf < n || package < n_packages) {
            const int64_t c = leaf < n ? counts[order[leaf]] : INT64_MAX;
            const int64_t p =
                package < n_packages ? before[2 * package] + before[2 * package + 1] : INT64_MAX;
            DC_CHECK(n_list < max_list);
            is_leaf[round][n_list] = leaf < n && c <= p;
            if (is_leaf[round][n_list]) {
                list[n_list++] = c;
                leaf++;
            } else {
                list[n_list++] = p;
                package++;
            }
        }
    }
    (void)max_list;
    memset(code_lengths, 0, 256);
    int n_taken = 2 * n - 2;
    for (int round = limit - 1; round >= 0 && n_taken > 0; round--) {
        int leaves = 0;
        for (int i = 0; i < n_taken; i++) {
            leaves += is_leaf[round][i];
        }
        for (int i = 0; i < leaves; i++) {
            code_lengths[order[i]]++;
        }
        n_taken = 2 * (n_taken - leaves);
    }
}

#endif
