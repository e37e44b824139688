"""What this machine and this build can do, and where things are in memory."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uintptr_t

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


def address(array):
    """Return where the first byte of a contiguous array is in memory.

    NumPy itself takes ten times as long to tell, as long as a tenth of a small layer's product.
    """
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_SIMPLE)
    found = <uintptr_t>view.buf
    PyBuffer_Release(&view)
    return found
