/* The two streams of a block of a sparse tensor with a codebook: formats/dcz.md, section 7.1. */
#ifndef DEEPCOMP_SPARSE_BLOCK_H
#define DEEPCOMP_SPARSE_BLOCK_H

#include "huffman_decode.h"

/* A block: where it begins in the section, numbers of entries, kept entries, gap symbols, bitstreams
 * of gaps and of labels, and their sizes, four and four. */
enum {
    DC_BLOCK_OFFSET = 0,
    DC_BLOCK_NUMEL = 1,
    DC_BLOCK_KEPT = 2,
    DC_BLOCK_GAPS = 3,
    DC_BLOCK_GAP_BITSTREAMS = 4,
    DC_BLOCK_LABEL_BITSTREAMS = 5,
    DC_BLOCK_GAP_SIZES = 6,
    DC_BLOCK_LABEL_SIZES = 10,
    DC_BLOCK_NUMBERS = 14
};

/* A stream without bitstreams is constant, and is there already. Returns as dc_huffman_decode. */
static inline int dc_decode_block(const uint8_t *data, const int64_t *block, const dc_code *gap_code,
                                  const dc_code *label_code, uint8_t *gaps, uint8_t *labels, int isa)
{
    const uint8_t *position = data + block[DC_BLOCK_OFFSET];
    const int n_gap_bitstreams = (int)block[DC_BLOCK_GAP_BITSTREAMS];
    const int n_label_bitstreams = (int)block[DC_BLOCK_LABEL_BITSTREAMS];
    int status = 0;
    if (n_gap_bitstreams) {
        status = dc_huffman_decode(position, block + DC_BLOCK_GAP_SIZES, n_gap_bitstreams,
                                   gap_code, gaps, block[DC_BLOCK_GAPS], isa);
    }
    for (int i = 0; i < n_gap_bitstreams; i++) {
        position += block[DC_BLOCK_GAP_SIZES + i];
    }
    if (status == 0 && n_label_bitstreams) {
        status = dc_huffman_decode(position, block + DC_BLOCK_LABEL_SIZES, n_label_bitstreams,
                                   label_code, labels, block[DC_BLOCK_KEPT], isa);
    }
    return status;
}

#endif
