/* Convolution of images with a sparse weight, without im2col.
 *
 * The input is packed into planes: zeros around it, and with strides one plane for each remainder
 * of a row's and a column's number. Every entry of the weight is then a plain offset from an output
 * pixel to an input, the same for all pixels. Or else there is a plane for each column of the kernel,
 * where its inputs begin with the first pixel: if rows are whole registers, all loads are aligned
 * then, and one that is not takes twice as long. Pixels are numbered along the rows of a plane; a few
 * at the end of each row are computed for nothing, and not copied to the output. The entries of the
 * weight are sorted by blocks of channels whose inputs stay in the first-level cache.
 */
#ifndef DEEPCOMP_CONVOLVE_H
#define DEEPCOMP_CONVOLVE_H

#include "tiles.h"

typedef struct {
    int64_t n_channels, height, width;       /* of the input */
    int64_t top, left;                       /* zeros before it */
    int64_t stride_height, stride_width;
    int64_t plane_height, plane_width;
    int64_t out_height, out_width;
    int64_t n_apart, step; /* planes for the columns, and how many columns from one to the next */
} dc_geometry;

/* Numbers beyond the planes that a tile may read. */
#define DC_SLACK DC_MAX_TILE

/* The planes of an image: (channels, stride_height, n_apart, plane_height, plane_width). */
static inline void dc_pack_planes(const dc_geometry *g, const float *x, float *planes)
{
    for (int64_t channel = 0; channel < g->n_channels; channel++, x += g->height * g->width) {
        for (int64_t i = 0; i < g->stride_height; i++) {
            for (int64_t j = 0; j < g->n_apart; j++) {
                for (int64_t h = 0; h < g->plane_height; h++, planes += g->plane_width) {
                    const int64_t row = h * g->stride_height + i - g->top;
                    if (row < 0 || row >= g->height) {
                        memset(planes, 0, (size_t)g->plane_width * sizeof(float));
                        continue;
                    }
                    for (int64_t w = 0; w < g->plane_width; w++) {
                        const int64_t column = w * g->stride_width + j * g->step - g->left;
                        const int is_inside = column >= 0 && column < g->width;
                        planes[w] = is_inside ? x[row * g->width + column] : 0.0f;
                    }
                }
            }
        }
    }
}

/* The same with strides of 1. */
static inline void dc_pack_padded(const dc_geometry *g, const float *x, float *planes)
{
    for (int64_t channel = 0; channel < g->n_channels; channel++, x += g->height * g->width) {
        for (int64_t j = 0; j < g->n_apart; j++) {
            const int64_t shift = g->left - j * g->step; /* of a row, to the right */
            const int64_t begin = shift > 0 ? shift : 0;
            const int64_t end =
                g->width + shift < g->plane_width ? g->width + shift : g->plane_width;
            for (int64_t h = 0; h < g->plane_height; h++, planes += g->plane_width) {
                const int64_t row = h - g->top;
                memset(planes, 0, (size_t)g->plane_width * sizeof(float));
                if (row >= 0 && row < g->height && begin < end) {
                    memcpy(planes + begin, x + row * g->width + begin - shift,
                           (size_t)(end - begin) * sizeof(float));
                }
            }
        }
    }
}

/* Copy what is valid of pixels first .. of a tile to the output of one image. */
static inline void dc_copy_pixels(const dc_geometry *g, const float *tile, int tile_width,
                                  int64_t first, int64_t first_row, int64_t last_row, float *y)
{
    const int64_t n_pixels = (g->out_height - 1) * g->plane_width + g->out_width;
    const int64_t last = first + tile_width < n_pixels ? first + tile_width : n_pixels;
    for (int64_t pixel = first; pixel < last;) {
        const int64_t h = pixel / g->plane_width, w = pixel % g->plane_width;
        const int64_t end = h * g->plane_width + g->out_width;
        if (w < g->out_width) {
            const int64_t n = (end < last ? end : last) - pixel;
            float *out = y + h * g->out_width + w;
            for (int64_t row = first_row; row < last_row; row++) {
                memcpy(out + row * g->out_height * g->out_width,
                       tile + (row - first_row) * tile_width + (pixel - first),
                       (size_t)n * sizeof(float));
            }
        }
        pixel = (h + 1) * g->plane_width;
    }
}

typedef struct {
    int width;
    dc_tile_kernel *multiply;
} dc_pixel_plan;

static inline dc_pixel_plan dc_plan_pixels(int isa, int64_t n_pixels)
{
    const int which = n_pixels > 112 ? 3 : n_pixels > 56 ? 2 : n_pixels > 24 ? 1 : 0;
    static dc_tile_kernel *const portable[] = {dc_tile_portable_16, dc_tile_portable_32,
                                               dc_tile_portable_64, dc_tile_portable_128};
#if DC_HAVE_X86
    static dc_tile_kernel *const avx2[] = {dc_tile_avx2_offsets_16, dc_tile_avx2_offsets_32,
                                           dc_tile_avx2_offsets_64};
    static dc_tile_kernel *const avx512[] = {dc_tile_avx512_offsets_16, dc_tile_avx512_offsets_32,
                                             dc_tile_avx512_offsets_64,
                                             dc_tile_avx512_offsets_128};
    if (isa >= DC_ISA_AVX512) {
        return (dc_pixel_plan){16 << which, avx512[which]};
    }
    if (isa >= DC_ISA_AVX2) {
        return (dc_pixel_plan){16 << (which < 2 ? which : 2), avx2[which < 2 ? which : 2]};
    }
#else
    (void)isa;
#endif
    return (dc_pixel_plan){16 << which, portable[which]};
}

/* One image. The scratch has room for the planes, DC_SLACK numbers, and DC_MAX_TILE numbers for
 * each of the rows first_row .. last_row - 1, the channels of the output that are computed. */
static inline void dc_convolve(const dc_blocks *in, int64_t n_blocks, const dc_geometry *g,
                               const float *x, const float *bias, int isa, int64_t first_row,
                               int64_t last_row, float *scratch, float *y)
{
    const int64_t n_pixels = (g->out_height - 1) * g->plane_width + g->out_width;
    const int64_t planes_numel = g->n_channels * g->stride_height * g->n_apart *
                                 g->plane_height * g->plane_width;
    const int is_plain = g->stride_height == 1 && g->stride_width == 1;
    const int is_packed = is_plain && planes_numel == g->n_channels * g->height * g->width &&
                          g->top == 0 && g->left == 0 && g->plane_width == g->width &&
                          n_pixels == g->height * g->width && n_pixels % 16 == 0;
    const float *planes = is_packed ? x : scratch;
    float *tile = scratch + planes_numel + DC_SLACK;
    if (!is_packed && is_plain) {
        dc_pack_padded(g, x, scratch);
    } else if (!is_packed) {
        dc_pack_planes(g, x, scratch);
    }
    for (int64_t pixel = 0; pixel < n_pixels;) {
        dc_pixel_plan plan = dc_plan_pixels(isa, n_pixels - pixel);
        if (is_packed && plan.width > n_pixels - pixel) { /* do not read beyond the input */
            plan = dc_plan_pixels(isa, 16);
        }
        for (int64_t block = 0; block < n_blocks; block++) {
            plan.multiply(in, block, planes + pixel, bias, first_row, last_row, tile);
        }
        dc_copy_pixels(g, tile, plan.width, pixel, first_row, last_row, y);
        pixel += plan.width;
    }
}

#endif
