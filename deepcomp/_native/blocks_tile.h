/* The product of a block with a tile of vectors, written once for each instruction set.
 *
 * Included by blocks.h with DC_TILE_LANES, _TARGET, _NAME, _VECTOR and _OP defined; no guard.
 */

/* A row's sums are n_vectors registers; `n_apart` entries at a time are added to sums of their own,
 * since an addition has to wait four cycles for the one before it. */
#define DC_DEFINE_TILE(width, n_apart)                                                        \
    DC_TILE_TARGET static inline void DC_TILE_NAME(width)(                                    \
        const dc_blocks *in, int64_t block, const float *x, const float *bias, int64_t first, \
        int64_t last, float *y)                                                               \
    {                                                                                         \
        enum { n_vectors = (width) / DC_TILE_LANES };                                         \
        const int64_t *starts = in->starts + block * (in->n_rows + 1);                        \
        const uint16_t *columns = in->columns;                                                \
        const uint8_t *labels = in->labels;                                                   \
        const float *values = in->values;                                                     \
        for (int64_t row = first; row < last; row++, y += (width)) {                          \
            DC_TILE_VECTOR sums[n_apart][n_vectors];                                          \
            _Pragma("GCC unroll 8") for (int i = 0; i < (n_apart) * n_vectors; i++)           \
            {                                                                                 \
                sums[i / n_vectors][i % n_vectors] = DC_TILE_OP(setzero_ps)();                \
            }                                                                                 \
            int64_t p = starts[row];                                                          \
            const int64_t end = starts[row + 1];                                              \
            if (labels) {                                                                     \
                DC_TILE_ENTRIES(width, n_apart, values[labels[p + j]])                        \
            } else {                                                                          \
                DC_TILE_ENTRIES(width, n_apart, values[p + j])                                \
            }                                                                                 \
            _Pragma("GCC unroll 8") for (int i = 0; i < n_vectors; i++)                       \
            {                                                                                 \
                _Pragma("GCC unroll 8") for (int j = 1; j < n_apart; j++)                     \
                {                                                                             \
                    sums[0][i] = DC_TILE_OP(add_ps)(sums[0][i], sums[j][i]);                  \
                }                                                                             \
                const DC_TILE_VECTOR before =                                                 \
                    block  ? DC_TILE_OP(loadu_ps)(y + i * DC_TILE_LANES)                      \
                    : bias ? DC_TILE_OP(set1_ps)(bias[row])                                   \
                           : DC_TILE_OP(setzero_ps)();                                        \
                DC_TILE_OP(storeu_ps)(y + i * DC_TILE_LANES,                                  \
                                      DC_TILE_OP(add_ps)(before, sums[0][i]));                \
            }                                                                                 \
        }                                                                                     \
    }

#define DC_TILE_ENTRIES(width, n_apart, value)                                                \
    for (; p + (n_apart) <= end; p += (n_apart)) {                                            \
        _Pragma("GCC unroll 8") for (int j = 0; j < (n_apart); j++)                           \
        {                                                                                     \
            DC_TILE_ENTRY(width, j, value)                                                    \
        }                                                                                     \
    }                                                                                         \
    for (; p < end; p++) {                                                                    \
        const int j = 0;                                                                      \
        DC_TILE_ENTRY(width, 0, value)                                                        \
    }

#define DC_TILE_ENTRY(width, apart, value)                                                    \
    const DC_TILE_VECTOR weight = DC_TILE_OP(set1_ps)(value);                                 \
    const float *inputs = x + (ptrdiff_t)columns[p + j] * (width);                            \
    _Pragma("GCC unroll 8") for (int i = 0; i < n_vectors; i++)                               \
    {                                                                                         \
        sums[apart][i] = DC_TILE_OP(fmadd_ps)(                                                \
            DC_TILE_OP(loadu_ps)(inputs + i * DC_TILE_LANES), weight, sums[apart][i]);        \
    }

#if DC_TILE_LANES == 16
DC_DEFINE_TILE(64, 2)
DC_DEFINE_TILE(32, 4)
DC_DEFINE_TILE(16, 4)
#else
DC_DEFINE_TILE(64, 1)
DC_DEFINE_TILE(32, 2)
DC_DEFINE_TILE(16, 4)
DC_DEFINE_TILE(8, 4)
#endif

#undef DC_DEFINE_TILE
#undef DC_TILE_ENTRIES
#undef DC_TILE_ENTRY
#undef DC_TILE_LANES
#undef DC_TILE_TARGET
#undef DC_TILE_NAME
#undef DC_TILE_VECTOR
#undef DC_TILE_OP
