# Entries are handled as their bit patterns, unsigned integers of 1, 2, 4 or 8 bytes.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

ctypedef fused pattern_t:
    uint8_t
    uint16_t
    uint32_t
    uint64_t
