/* Canonical Huffman codes of byte symbols: formats/dcz.md, section 6. */
#ifndef DEEPCOMP_HUFFMAN_H
#define DEEPCOMP_HUFFMAN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "isa.h"

#define DC_MAX_CODE_LENGTH 12

static inline uint64_t dc_load64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v; /* little-endian hosts only: see isa.h */
}

static inline uint32_t dc_reverse_bits(uint32_t v, int n)
{
    uint32_t r = 0;
    for (int i = 0; i < n; i++) {
        r = (r << 1) | ((v >> i) & 1u);
    }
    return r;
}

/* Codewords as they are written, first bit lowest. */
static inline void dc_huffman_codewords(const uint8_t *code_lengths, int n_symbols,
                                        uint16_t *codewords)
{
    uint32_t next = 0;
    for (int length = 1; length <= DC_MAX_CODE_LENGTH; length++) {
        next <<= 1;
        for (int s = 0; s < n_symbols; s++) {
            if (code_lengths[s] == length) {
                codewords[s] = (uint16_t)dc_reverse_bits(next++, length);
            }
        }
    }
}

#endif
