/* The product of a block with a tile of vectors, written once for each instruction set.
 *
 * Included by tiles.h with DC_TILE_LANES, _TARGET, _NAME, _VECTOR and _OP defined; no guard.
 */

/* A row's sums are n_vectors registers; `n_apart` entries at a time are added to sums of their own,
 * since an addition has to wait four cycles for the one before it. */
#define DC_DEFINE_TILE(kind, width, n_apart)                                                  \
    DC_TILE_TARGET static inline void DC_TILE_NAME(kind##_##width)(                                  \
        const dc_blocks *in, int64_t block, const float *x, const float *bias, int64_t first, \
        int64_t last, float *y)                                                               \
    {                                                                                         \
        enum { n_vectors = (width) / DC_TILE_LANES };                                         \
        const int64_t *starts = in->starts + block * (in->n_rows + 1);                        \
        const DC_INDEX_OF_##kind *index = in->kind;                                           \
        const uint8_t *labels = in->labels;                                                   \
        const float *values = in->values;                                                     \
        const uint8_t *order = dc_order_of(in, block);                                        \
        for (int64_t place = first; place < last; place++) {                                  \
            const int64_t row = dc_row_at(in, order, place);                                  \
            float *out = y + (row - first) * (width);                                         \
            DC_TILE_VECTOR sums[n_apart][n_vectors];                                          \
            _Pragma("GCC unroll 8") for (int i = 0; i < (n_apart) * n_vectors; i++)           \
            {                                                                                 \
                sums[i / n_vectors][i % n_vectors] = DC_TILE_OP(setzero_ps)();                \
            }                                                                                 \
            int64_t p = starts[place];                                                        \
            const int64_t end = starts[place + 1];                                            \
            if (labels) {                                                                     \
                DC_TILE_ENTRIES(DC_SCALE_OF_##kind(width), n_apart, values[labels[p + j]])    \
            } else {                                                                          \
                DC_TILE_ENTRIES(DC_SCALE_OF_##kind(width), n_apart, values[p + j])            \
            }                                                                                 \
            _Pragma("GCC unroll 8") for (int i = 0; i < n_vectors; i++)                       \
            {                                                                                 \
                _Pragma("GCC unroll 8") for (int j = 1; j < n_apart; j++)                     \
                {                                                                             \
                    sums[0][i] = DC_TILE_OP(add_ps)(sums[0][i], sums[j][i]);                  \
                }                                                                             \
                const DC_TILE_VECTOR before =                                                 \
                    block  ? DC_TILE_OP(loadu_ps)(out + i * DC_TILE_LANES)                    \
                    : bias ? DC_TILE_OP(set1_ps)(bias[row])                                   \
                           : DC_TILE_OP(setzero_ps)();                                        \
                DC_TILE_OP(storeu_ps)(out + i * DC_TILE_LANES,                                \
                                      DC_TILE_OP(add_ps)(before, sums[0][i]));                \
            }                                                                                 \
        }                                                                                     \
    }

#define DC_TILE_ENTRIES(scale, n_apart, value)                                                \
    for (; p + (n_apart) <= end; p += (n_apart)) {                                            \
        _Pragma("GCC unroll 8") for (int j = 0; j < (n_apart); j++)                           \
        {                                                                                     \
            DC_TILE_ENTRY(scale, j, value)                                                    \
        }                                                                                     \
    }                                                                                         \
    for (; p < end; p++) {                                                                    \
        const int j = 0;                                                                      \
        DC_TILE_ENTRY(scale, 0, value)                                                        \
    }

#define DC_TILE_ENTRY(scale, apart, value)                                                    \
    const DC_TILE_VECTOR weight = DC_TILE_OP(set1_ps)(value);                                 \
    const float *inputs = x + (ptrdiff_t)index[p + j] * (scale);                              \
    _Pragma("GCC unroll 8") for (int i = 0; i < n_vectors; i++)                               \
    {                                                                                         \
        sums[apart][i] = DC_TILE_OP(fmadd_ps)(                                                \
            DC_TILE_OP(loadu_ps)(inputs + i * DC_TILE_LANES), weight, sums[apart][i]);        \
    }

#define DC_INDEX_OF_columns uint16_t
#define DC_SCALE_OF_columns(width) (width)
#define DC_INDEX_OF_offsets uint32_t
#define DC_SCALE_OF_offsets(width) 1

#if DC_TILE_LANES == 16
DC_DEFINE_TILE(columns, 64, 2)
DC_DEFINE_TILE(columns, 32, 4)
DC_DEFINE_TILE(columns, 16, 4)
DC_DEFINE_TILE(offsets, 128, 1)
DC_DEFINE_TILE(offsets, 64, 2)
DC_DEFINE_TILE(offsets, 32, 4)
DC_DEFINE_TILE(offsets, 16, 4)
#else
DC_DEFINE_TILE(columns, 64, 1)
DC_DEFINE_TILE(columns, 32, 2)
DC_DEFINE_TILE(columns, 16, 4)
DC_DEFINE_TILE(columns, 8, 4)
DC_DEFINE_TILE(offsets, 64, 1)
DC_DEFINE_TILE(offsets, 32, 2)
DC_DEFINE_TILE(offsets, 16, 4)
#endif

#undef DC_INDEX_OF_columns
#undef DC_SCALE_OF_columns
#undef DC_INDEX_OF_offsets
#undef DC_SCALE_OF_offsets
#undef DC_DEFINE_TILE
#undef DC_TILE_ENTRIES
#undef DC_TILE_ENTRY
#undef DC_TILE_LANES
#undef DC_TILE_TARGET
#undef DC_TILE_NAME
#undef DC_TILE_VECTOR
#undef DC_TILE_OP
