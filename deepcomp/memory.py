"""Memory for kernels: where it begins, and how to use it again."""

import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ._kernels import address as address

_kept = threading.local()
_MOST_KEPT = 1 << 24  # bytes


def aligned(n: int, dtype: DTypeLike) -> NDArray[Any]:
    """Make an array that begins at a cache line, so that no load of one register needs two.

    Examples
    --------
    >>> aligned(5, np.float32).size
    5
    """
    itemsize = np.dtype(dtype).itemsize
    room = np.empty(n + 64 // itemsize, dtype)
    first = -address(room) % 64 // itemsize
    return room[first : first + n]


def shorten(array: NDArray[Any], n: int) -> NDArray[Any]:
    """Return the first entries of what `aligned` returned; the memory of the others is given back.

    So an array can be filled whose size is not known before: pages that were never used cost
    nothing. No other view of it may be used any more.

    Examples
    --------
    >>> shorten(aligned(1000, np.int32), 10).size
    10
    """
    room = array.base
    assert isinstance(room, np.ndarray)
    first = (address(array) - address(room)) // room.itemsize
    room.resize(first + n, refcheck=False)
    shorter = room[first : first + n]
    if address(shorter) % 64 == 0:
        return shorter
    return copied(shorter)


def copied(array: NDArray[Any]) -> NDArray[Any]:
    """Return a copy that begins at a cache line.

    Examples
    --------
    >>> copied(np.arange(3))
    array([0, 1, 2])
    """
    copy = aligned(array.size, array.dtype)
    copy[:] = array
    return copy


def scratch(purpose: str, n: int, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Return memory of this thread that holds anything, until the next call for this purpose.

    A new page costs some 0.3 us, as much as to decode 500 symbols into it. More than 16 MiB are not
    kept.

    Examples
    --------
    >>> scratch("example", 5).size
    5
    """
    nbytes = n * np.dtype(dtype).itemsize
    room: NDArray[np.uint8] | None = getattr(_kept, purpose, None)
    if room is None or room.size < nbytes:
        room = aligned(nbytes, np.uint8)
        if nbytes <= _MOST_KEPT:
            setattr(_kept, purpose, room)
    return room[:nbytes].view(dtype)
