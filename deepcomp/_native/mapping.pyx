"""Files mapped into memory without a descriptor, which `mmap.mmap` keeps open before Python 3.13."""

from cpython.buffer cimport PyBuffer_FillInfo
from libc.errno cimport errno
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, mmap, munmap

import os

cdef extern from *:
    """
    #include <errno.h>
    #if defined(__linux__)
    #include <sys/syscall.h>
    #include <unistd.h>
    /* The kernel copies eight bytes before it finds that there is no such `how`; where it cannot,
       as there is nothing of the file any more, it says so, and the process does not end. */
    static int dc_is_there(const void *address) {
        return syscall(SYS_rt_sigprocmask, -1, address, (void *)0, 8) == 0 || errno != EFAULT;
    }
    #else
    static int dc_is_there(const void *address) { (void)address; return 1; }
    #endif
    """
    bint dc_is_there(const void *address)


cdef class Mapping:
    """The bytes of an open file, to be read, from its start up to the size that it has.

    It has no methods for them: ``memoryview(mapping)`` gives them, and they stay as long as the
    mapping or a view of it.

    Parameters
    ----------
    descriptor : int
        Is not needed afterwards.
    nbytes : int
        Size of the file, 1 or more.

    Raises
    ------
    OSError
        If it cannot be mapped.
    """

    cdef void *address
    cdef readonly Py_ssize_t nbytes

    def __cinit__(self, int descriptor, Py_ssize_t nbytes):
        self.address = NULL
        found = mmap(NULL, nbytes, PROT_READ, MAP_SHARED, descriptor, 0)
        if found == MAP_FAILED:
            raise OSError(errno, os.strerror(errno))
        self.address, self.nbytes = found, nbytes

    def __dealloc__(self):
        if self.address != NULL:
            munmap(self.address, self.nbytes)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.address, self.nbytes, 1, flags)

    def has_last_page(self):
        """Return whether the file still reaches to the last page of memory of the mapping.

        What is beyond the end of a file that was cut ends the process when it is touched. On
        systems other than Linux always True.
        """
        return dc_is_there(<char *>self.address + ((self.nbytes - 1) & ~<Py_ssize_t>7))
