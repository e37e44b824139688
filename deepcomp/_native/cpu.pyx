"""What this machine and this build can do."""

cdef extern from "isa.h" nogil:
    int dc_best_isa()

cdef extern from *:
    """
    #ifdef DEEPCOMP_DEBUG
    #define DC_DEBUG_BUILD 1
    #else
    #define DC_DEBUG_BUILD 0
    #endif
    """
    int DC_DEBUG_BUILD


def best_isa():
    """Return the highest usable instruction set: 0 portable, 1 AVX2, 2 AVX-512."""
    return dc_best_isa()


def is_debug_build():
    """Return whether bounds are checked in this build."""
    return bool(DC_DEBUG_BUILD)
