"""Convolution with a weight in its compressed form. Twins: deepcomp/_reference_matmul.py."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uintptr_t

cdef extern from "convolve.h" nogil:
    ctypedef struct dc_blocks:
        const int64_t *starts
        const uint8_t *order
        int64_t group_rows
        const uint16_t *columns
        const uint32_t *offsets
        const uint8_t *labels
        const float *values
        int64_t n_values
        int64_t n_rows
        int64_t n_columns
        int64_t block_columns
    ctypedef struct dc_geometry:
        int64_t n_channels
        int64_t height
        int64_t width
    void dc_convolve(const dc_blocks *, int64_t, const dc_geometry *, const float *, const float *,
                     int, int64_t, int64_t, float *, float *)


def convolve_into(const int64_t[:, ::1] starts, const uint32_t[::1] offsets,
                  const uint8_t[::1] labels, const float[::1] values,
                  const int64_t[::1] geometry, uintptr_t x, uintptr_t bias, int isa,
                  int64_t first_row, int64_t last_row, int64_t first_image, int64_t last_image,
                  float[::1] scratch, int64_t image_numel, uintptr_t out):
    """Convolve a range of images, for a range of the output's channels.

    The rows of the weight, an output channel each, are cut into blocks: `starts`, shape (n_blocks,
    n_rows + 1), `offsets` into the packed planes (convolve.h), and labels or, if there are none, a
    value for each entry. `geometry` is the input's
    channels, height and width, the zeros at its top and left, the strides (2), height and width of
    a plane and of the output, the planes for columns, and the columns from one to the next. `x` holds
    float32 images of `image_numel` numbers. `scratch` has room for the planes, 128 numbers, and 128
    numbers a row.
    """
    cdef const dc_geometry *g = <const dc_geometry *>&geometry[0]
    cdef dc_blocks weight = dc_blocks(&starts[0, 0], NULL, 1, NULL, NULL, NULL, NULL,
                                      values.shape[0], starts.shape[1] - 1, 0, 0)
    cdef int64_t out_numel = weight.n_rows * geometry[9] * geometry[10], image
    cdef uint32_t no_offset = 0
    weight.offsets = &no_offset
    if offsets.shape[0]:
        weight.offsets = &offsets[0]
        weight.labels = &labels[0] if labels.shape[0] else NULL
        weight.values = &values[0]
    with nogil:
        for image in range(first_image, last_image):
            dc_convolve(&weight, starts.shape[0], g, <const float *>x + image * image_numel, <const float *>bias,
                        isa, first_row, last_row, &scratch[0],
                        <float *>out + image * out_numel)
    return 0
