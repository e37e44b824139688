/* A block of a sparse matrix times a tile: one weight times a few registers for each entry.
 *
 * The columns of a block index the rows of a tile of vectors that lie side by side (blocks.h). For
 * a convolution they are offsets instead, from the pixels of the output to an input (convolve.h).
 */
#ifndef DEEPCOMP_TILES_H
#define DEEPCOMP_TILES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "isa.h"

typedef struct {
    const int64_t *starts;   /* (n_blocks, n_rows + 1): where a row's entries of a block begin */
    const uint8_t *order;    /* (n_blocks, n_rows): which row of its group each of them is; or NULL */
    int64_t group_rows;      /* a power of two */
    const uint16_t *columns; /* from the first column of the block */
    const uint32_t *offsets; /* instead of columns: where a convolution's inputs are */
    const uint8_t *labels;   /* NULL: each entry has a value of its own */
    const float *values;     /* the codebook, or the value of each entry */
    int64_t n_values;
    int64_t n_rows, n_columns, block_columns;
} dc_blocks;

#define DC_MAX_TILE 128

/* y (rows, tile) of the rows first .. last, whole groups, += block of the matrix times x (block_columns, tile).
 * A block's sum begins at zero: the shorter the sums, the smaller the error of rounding. */
typedef void dc_tile_kernel(const dc_blocks *, int64_t block, const float *x, const float *bias,
                            int64_t first, int64_t last, float *y);

/* The rows of a block are in the order of their number of entries, group by group, so that loops over
 * entries end where the processor expects it: a wrong guess costs as much as four entries. */
DC_INLINE const uint8_t *dc_order_of(const dc_blocks *in, int64_t block)
{
    return in->order ? in->order + block * in->n_rows : NULL;
}

DC_INLINE int64_t dc_row_at(const dc_blocks *in, const uint8_t *order, int64_t place)
{
    return order ? (place & -in->group_rows) + order[place] : place;
}

DC_INLINE float dc_weight(const dc_blocks *in, int64_t entry)
{
    return in->labels ? in->values[in->labels[entry]] : in->values[entry];
}

/* --- portable --- */

/* Four numbers, in whatever registers the machine has. */
#if !defined(__GNUC__)
#error "the tiles need the vector extensions of gcc or clang"
#endif
typedef float dc_four __attribute__((vector_size(16)));
#define DC_UNROLL _Pragma("GCC unroll 16")

#define DC_ENTRIES_A_SUM 64 /* added up for themselves: long sums round too often */

/* `width` columns of the tile at a time: more sums than registers would go through memory. */
DC_INLINE void dc_tile_portable(const dc_blocks *in, int64_t block, const float *x,
                                const float *bias, int64_t first, int64_t last, int tile,
                                int width, float *y)
{
    const int64_t *starts = in->starts + block * (in->n_rows + 1);
    const uint8_t *order = dc_order_of(in, block);
    for (int64_t place = first; place < last; place++) {
        const int64_t row = dc_row_at(in, order, place);
        float *out = y + (row - first) * tile;
        for (int column = 0; column < tile; column += width) {
            dc_four sums[4] = {{0}, {0}, {0}, {0}};
            for (int64_t p = starts[place]; p < starts[place + 1];) {
                const int64_t n_left = starts[place + 1] - p;
                const int64_t end = p + (n_left < DC_ENTRIES_A_SUM ? n_left : DC_ENTRIES_A_SUM);
                dc_four parts[4] = {{0}, {0}, {0}, {0}};
                for (; p < end; p++) {
                    const float weight = dc_weight(in, p);
                    const float *inputs = x + column;
                    inputs +=
                        in->offsets ? (ptrdiff_t)in->offsets[p] : (ptrdiff_t)in->columns[p] * tile;
                    DC_CHECK(in->offsets ||
                             block * in->block_columns + in->columns[p] < in->n_columns);
                    DC_UNROLL
                    for (int i = 0; i < width / 4; i++) {
                        dc_four four;
                        memcpy(&four, inputs + 4 * i, sizeof(four));
                        parts[i] += weight * four;
                    }
                }
                DC_UNROLL
                for (int i = 0; i < width / 4; i++) {
                    sums[i] += parts[i];
                }
            }
            DC_UNROLL
            for (int i = 0; i < width; i++) {
                const float before = block ? out[column + i] : bias ? bias[row] : 0.0f;
                out[column + i] = before + sums[i / 4][i % 4];
            }
        }
    }
}

#define DC_DEFINE_PORTABLE(tile)                                                              \
    static inline void dc_tile_portable_##tile(const dc_blocks *in, int64_t block,            \
                                               const float *x, const float *bias,             \
                                               int64_t first, int64_t last, float *y)         \
    {                                                                                         \
        dc_tile_portable(in, block, x, bias, first, last, tile, tile < 16 ? tile : 16, y); \
    }

DC_DEFINE_PORTABLE(128)
DC_DEFINE_PORTABLE(64)
DC_DEFINE_PORTABLE(32)
DC_DEFINE_PORTABLE(16)
DC_DEFINE_PORTABLE(8)

/* --- x86 --- */

#if DC_HAVE_X86
#include <immintrin.h>

#define DC_TILE_LANES 8
#define DC_TILE_TARGET DC_TARGET_AVX2
#define DC_TILE_NAME(width) dc_tile_avx2_##width
#define DC_TILE_VECTOR __m256
#define DC_TILE_OP(name) _mm256_##name
#include "tiles_template.h"

#define DC_TILE_LANES 16
#define DC_TILE_TARGET DC_TARGET_AVX512
#define DC_TILE_NAME(width) dc_tile_avx512_##width
#define DC_TILE_VECTOR __m512
#define DC_TILE_OP(name) _mm512_##name
#include "tiles_template.h"
#endif

#endif
