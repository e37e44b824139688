"""Files that are read by ranges: those that the caller opened, and those behind URLs.

Standard library only, until a URL is opened: then fsspec (the extra ``remote``).
"""

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO

from .errors import DczError
from .files import File, closed_message
from .urls import is_url, text_without_credentials, without_credentials

TAIL_NBYTES = 1 << 13  # read at once: the index of 200 tensors, and checksums of 80 MB, fit
_TRAILER_NBYTES = 24
_EXTRA = ("fsspec", "aiohttp")  # what the extra `remote` installs
_LONGEST_REASON = 300  # characters of somebody else's error message


class RangedFile:
    """A file of which only the ranges that are asked for are read.

    Its last `TAIL_NBYTES` are read when it is opened, and kept; nothing else is kept. Threads
    take turns. In a forked process a file behind a URL is opened anew.

    Parameters
    ----------
    opened : callable
        Returns the file: with ``seek``, which returns the position, and ``read``.
    name : str
        For messages.
    url : str, optional
        Where the file is, if it is not the caller's; it is told in messages as `name`.

    Attributes
    ----------
    name : str
    nbytes : int
        Size in bytes when it was opened.

    Raises
    ------
    DczError
        If there are fewer or more bytes than the file is said to have.
    OSError
        If the file cannot be opened or read, or has no ranges.
    TypeError
        If it is no binary file.
    """

    def __init__(self, opened: Callable[[], BinaryIO], name: str, url: str = "") -> None:
        self.name = name
        self._opened: Callable[[], BinaryIO] | None = opened
        self._file: Any = None
        self._url = url
        self._lock = threading.Lock()
        self._process = -1
        self._is_closed = False
        nbytes = self._call(lambda file: file.seek(0, os.SEEK_END))
        if not isinstance(nbytes, int):
            raise TypeError(f"{name}: its seek returns {nbytes!r}: expected the position")
        self.nbytes = nbytes
        self._tail_start = max(0, nbytes - TAIL_NBYTES)
        self._tail = self._fetch(self._tail_start, nbytes, "")

    def read(self, start: int, end: int, what: str = "") -> memoryview:
        """Return the bytes from `start` up to `end`, or up to the end of the file.

        Parameters
        ----------
        start, end : int
        what : str, optional
            What the bytes are, for messages.

        Raises
        ------
        DczError
            If fewer or more bytes come than there should be.
        OSError
            If they cannot be read.
        ValueError
            If it was closed.
        """
        if self._is_closed:
            raise ValueError(closed_message(self.name, what))
        end = min(end, self.nbytes)
        tail = self._tail[max(0, start - self._tail_start) : max(0, end - self._tail_start)]
        if start < self._tail_start:
            tail = self._fetch(start, min(end, self._tail_start), what) + tail
        return memoryview(tail)

    def close(self) -> None:
        """Let go of the file, and close it if it is not the caller's; wait for who reads it."""
        with self._lock:
            self._is_closed = True
            file = self._file if self._process == os.getpid() else None
            self._opened = self._file = None
        if self._url and file is not None:
            with contextlib.suppress(Exception):  # of some network; nothing was written
                file.close()

    def has_changed(self) -> bool:
        """Return whether it ends otherwise than when it was opened.

        The last bytes of a ``.dcz`` file are a checksum of the checksums of all pages.
        """
        start = max(0, self.nbytes - _TRAILER_NBYTES)
        try:
            return self._fetch(start, self.nbytes, "") != self._tail[start - self._tail_start :]
        except DczError:
            return True  # it has become shorter
        except OSError:
            return False  # nobody knows

    def _fetch(self, start: int, end: int, what: str) -> bytes:
        if start >= end:
            return b""
        data = self._call(lambda file: _read(file, start, end - start), what)
        if not isinstance(data, bytes):
            raise TypeError(f"{self.name}: it gives {type(data).__name__}: expected a binary file")
        if len(data) != end - start:
            what = f"{what}: " if what else ""
            raise DczError(
                f"{self.name}: {what}cut off, or not sent as asked: "
                f"found {len(data)} bytes from {start} on, expected {end - start}"
            )
        return data

    def _call(self, action: Callable[[BinaryIO], Any], what: str = "") -> Any:
        try:
            with self._lock:
                if not self._is_closed:
                    return action(self._file_of_this_process())
        except MemoryError:
            raise
        except Exception as error:  # whatever a file, or a library for some network, may raise
            told = failure(error, self.name, self._url, what)
        else:
            told = ValueError(closed_message(self.name, what))
        raise told  # here, where it has no context: that could hold credentials

    def _file_of_this_process(self) -> Any:
        assert self._opened is not None
        if self._process != os.getpid():  # a connection is not shared with a forked process
            self._file = self._opened()
            self._process = os.getpid()
        return self._file


def failure(error: Exception, name: str, url: str, what: str = "", verb: str = "read") -> Exception:
    """Say what went wrong with a file, in one line and without credentials.

    Parameters
    ----------
    error : Exception
        Whatever a file, or a library for some network, has raised.
    name : str
        Of the file, for messages.
    url : str
        Where it is; empty if it is the caller's.
    what : str, optional
        What was read or written.
    verb : {"read", "written"}

    Returns
    -------
    Exception
        To be raised where it has no context: that could hold credentials.
    """
    where = f"{name}: {what}: " if what else f"{name}: "
    if isinstance(error, ImportError):
        is_ours = error.name in _EXTRA or any(extra in str(error) for extra in _EXTRA)
        how = " (pip install 'deepcomp[remote]')" if is_ours else ""  # others: s3fs, ...
        return ImportError(f"{where}{_reason(error, name, url)}{how}", name=error.name)
    if verb == "read" and url.startswith("http") and isinstance(error, ValueError):  # of fsspec
        return OSError(
            f"{where}the server does not send ranges of the file, or does not tell its size: "
            "download it, and load the copy, or load simplecache::URL, which does both"
        )
    cause = error.__cause__ or error  # fsspec says of any error of a server: not found
    number = cause.errno if isinstance(cause, OSError) else None
    if isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) == 404:  # HTTP
        number = errno.ENOENT
    if isinstance(cause, IsADirectoryError):
        number = errno.EISDIR
    if number == errno.ENOENT:
        return FileNotFoundError(number, os.strerror(number), name)
    message = f"{where}cannot be {verb}: {_reason(cause, name, url)}"
    return OSError(message) if number is None else OSError(number, message)


def _reason(error: BaseException, name: str, url: str) -> str:
    reason = str(error).replace(url, name) if url else str(error)
    reason = " ".join(text_without_credentials(reason).split())[:_LONGEST_REASON]
    reason = reason if reason.isprintable() else reason.encode("unicode_escape").decode()
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__


def open_file(
    file: str | os.PathLike[str] | BinaryIO, name: str | None = None, mmap: bool = True
) -> File | RangedFile:
    """Open a path, a URL or an open file for reading.

    Parameters
    ----------
    file : str, os.PathLike or binary file
        A string with ``://`` after a scheme is a URL.
    name : str, optional
        For messages.
    mmap : bool, default True
        As of `File`, for a path.

    Raises
    ------
    DczError, OSError
        As of `File` and `RangedFile`.
    ImportError
        If a URL needs a package that is not installed.
    TypeError
        If it is something else.
    """
    if isinstance(file, str) and is_url(file):
        return RangedFile(partial(_open_url, file), name or without_credentials(file), file)
    if hasattr(file, "read") and hasattr(file, "seek"):
        opened: Any = file
        return RangedFile(lambda: opened, name or _name_of(file))
    if isinstance(file, str | bytes | os.PathLike):
        return File(file, name, mmap)
    raise TypeError(f"expected a path, a URL or an open binary file, not {type(file).__name__}")


def _open_url(url: str) -> Any:
    import fsspec

    filesystem, path = fsspec.url_to_fs(url)
    file = filesystem.open(path, "rb", cache_type="none")  # any other one would read ahead
    details = getattr(file, "details", None)
    if isinstance(details, dict) and details.get("type") == "directory":
        raise IsADirectoryError(url)  # stores of objects open one as an empty file
    return file


def _read(file: Any, start: int, n: int) -> Any:
    """Read `n` bytes, or what there is; a raw file may give them in pieces."""
    file.seek(start)
    pieces: list[bytes] = []
    while n > 0 and (piece := file.read(n)):
        if not isinstance(piece, bytes | bytearray | memoryview):
            return piece
        pieces.append(bytes(piece))
        n -= len(piece)
    return b"".join(pieces)


def _name_of(file: Any) -> str:
    name = getattr(file, "name", None)
    if isinstance(name, str | bytes):
        return text_without_credentials(os.fsdecode(name))
    return f"<{type(file).__name__}>"
