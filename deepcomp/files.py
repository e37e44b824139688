"""Files on disk: mapped to be read, replaced whole or not at all. Standard library only."""

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from io import FileIO
from types import TracebackType
from typing import Any

from ._native import MISSING
from .errors import DczError

try:
    from ._native.mapping import Mapping
except ImportError as error:
    raise ImportError(MISSING) from error

_NOT_SUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)  # by the system, or for this user
_TEMPORARY = re.compile(r"\.deepcomp-[0-9a-f]{16}\.tmp")


class File:
    """A regular file, mapped into memory or read; no descriptor of it stays open.

    A mapped one that is replaced or deleted while it is open goes on giving the old data. One that
    is cut off is noticed by `read`: as long as its path leads to it, by its size; after that only
    on Linux, and only if it has lost whole pages of memory (4 KiB), as others cannot end the
    process. What cannot be noticed: a cut, or a failing disk, between `read` and the use of what
    it returned, which ends the process (SIGBUS); and bytes that change in place after somebody
    checked them. None of this is about a file that was read.

    Parameters
    ----------
    path : str or os.PathLike
    name : str, optional
        For messages; by default the path.
    mmap : bool, default True
        Whether it is mapped; else all of it is read, once.

    Attributes
    ----------
    name : str
    nbytes : int
        Size in bytes when it was opened.

    Raises
    ------
    DczError
        If it is no regular file, or is cut off while it is read.
    OSError
        If it cannot be opened, mapped or read.
    """

    def __init__(
        self, path: str | os.PathLike[str], name: str | None = None, mmap: bool = True
    ) -> None:
        self.name = os.fsdecode(path) if name is None else name
        flags = os.O_RDONLY | os.O_NONBLOCK  # a named pipe must not be waited for
        with open(
            os.fsdecode(path), "rb", buffering=0, opener=lambda path, _: os.open(path, flags)
        ) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise DczError(f"{self.name}: not a .dcz file (it is no regular file)")
            self.nbytes = status.st_size
            self._mapping: Any = None
            self._view: memoryview | None
            with _naming(self.name):
                if mmap and self.nbytes:
                    self._mapping = Mapping(file.fileno(), self.nbytes)
                    self._view = memoryview(self._mapping)
                else:
                    self._view = _content(file, self.nbytes, self.name)
        self._path = os.path.abspath(os.fsdecode(path))  # the current folder may be left
        self._identity = status.st_dev, status.st_ino

    def read(self, start: int, end: int, what: str = "") -> memoryview:
        """Return a view of the bytes from `start` up to `end`, to be used soon and not kept.

        Parameters
        ----------
        start, end : int
        what : str, optional
            What the bytes are, for messages.

        Raises
        ------
        DczError
            If the file is mapped, and shorter than it was when it was opened.
        ValueError
            If it was closed.
        """
        view, mapping = self._view, self._mapping
        if view is None:
            raise ValueError(closed_message(self.name, what))
        if mapping is not None and (left := self._cut(mapping)):
            raise DczError(
                f"{self.name}: {what}{': ' if what else ''}cut off since it was opened: "
                f"found {left}, expected {self.nbytes}"
            )
        return view[start:end]

    def close(self) -> None:
        """Let go of the file; its memory stays as long as somebody has a view of it."""
        self._view = self._mapping = None

    def _cut(self, mapping: Any) -> str:
        """Say what is left of a file that has become shorter; empty if it has not."""
        try:
            status = os.stat(self._path)
            is_there = (status.st_dev, status.st_ino) == self._identity
        except OSError:  # deleted, or out of reach
            is_there = False
        if is_there:
            return f"{status.st_size} bytes" if status.st_size < self.nbytes else ""
        return "" if mapping.has_last_page() else "fewer bytes"


def closed_message(name: str, what: str) -> str:
    """Return what is said to whoever uses a file that was closed."""
    return f"{name}: {what}{': ' if what else ''}the file was closed: load it again"


def _content(file: FileIO, nbytes: int, name: str) -> memoryview:
    """Read a file of so many bytes."""
    content = memoryview(bytearray(nbytes))
    n_read = 0
    while n_read < nbytes:
        n = file.readinto(content[n_read:])
        if not n:
            raise DczError(f"{name}: cut off: found {n_read} bytes, expected {nbytes}")
        n_read += n
    return content.toreadonly()


class Replacement:
    """A new file that takes the place of another when it is whole.

    The bytes go to a temporary file in the same folder. `commit` syncs it, renames it and syncs
    the folder: whatever ends the process, or the machine, the target is the old file or the new
    one, never a part. Without `commit`, `close` removes it.

    A temporary file is locked (``flock``) by the process that writes it, and the lock ends with
    the process (and with those that were forked from it meanwhile). So those of dead processes
    are known, and the next save into the folder removes them; those of living ones stay. Any
    number of threads and processes may save at a time, the same target too: the last rename
    wins. Where a folder has no locks, nothing is removed; where they do not reach from machine
    to machine (some network folders), another machine may remove a file that is still written:
    its save then raises FileNotFoundError, and the old file stays.

    The new file has the permissions of the old one, and its owner and group as far as the
    process may give them; if there is no old one, those of any new file. Other hard links keep
    the old content; extended attributes are not kept.

    At the end of a ``with`` statement the new file takes its place, unless the block raised.

    Parameters
    ----------
    path : str or os.PathLike
        A link is followed, so that it goes on pointing to the file.
    durable : bool, default True
        Whether the bytes are on the disk before the file takes its place. Else it may be damaged
        after a crash of the system, not of the process; for what is checked, and made again.

    Attributes
    ----------
    path : str
        As given, for messages.
    temporary : str
        Path of the temporary file.

    Raises
    ------
    OSError
        If the target is there and is not a regular file that may be written, or if its folder is
        missing or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], durable: bool = True) -> None:
        self.path, self._durable = os.fsdecode(path), durable
        status = _status(self.path)
        self._target = os.path.realpath(self.path)
        self._folder = os.path.dirname(self._target)
        if not os.path.isdir(self._folder):
            raise FileNotFoundError(errno.ENOENT, f"no such folder: {self._folder}", self.path)
        _remove_abandoned(self._folder)
        mode = 0o666 if status is None else 0o600  # until it has the old one's
        while True:
            self.temporary = os.path.join(self._folder, f".deepcomp-{os.urandom(8).hex()}.tmp")
            with _naming(self.path):
                self._file = open(  # noqa: SIM115
                    self.temporary, "xb", opener=lambda path, flags: os.open(path, flags, mode)
                )
            with contextlib.suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_EX)
            if os.path.exists(self.temporary):  # not removed before it was locked
                break
            self._file.close()
        if status is not None:
            try:
                with _naming(self.path):
                    _take_over(self._file.fileno(), status)
            except OSError:
                self.close()
                raise

    def __enter__(self) -> "Replacement":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the place of the target, unless the block raised."""
        try:
            if kind is None:
                self.sync()
                self.commit()
        finally:
            self.close()

    def write(self, data: bytes | memoryview) -> int:
        """Append bytes; return how many, as files do."""
        with _naming(self.path):
            return self._file.write(data)

    def rewrite(self, start: int, data: bytes) -> None:
        """Put bytes in the place of others, which were written before."""
        with _naming(self.path):
            self._file.seek(start)
            self._file.write(data)
            self._file.seek(0, os.SEEK_END)

    def flush(self) -> None:
        """Hand all bytes to the system."""
        with _naming(self.path):
            self._file.flush()

    def sync(self) -> None:
        """Return when all bytes are on the disk, or handed over if they need not be durable."""
        with _naming(self.path):
            self._file.flush()
            if self._durable:
                os.fsync(self._file.fileno())
            else:  # a network folder sends what it has kept back when a descriptor is closed
                os.close(os.dup(self._file.fileno()))

    def forget(self) -> None:
        """Let the system forget what is on the disk, so that what is read comes from there."""
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def commit(self) -> None:
        """Take the place of the target, and sync the folder; call `sync` before.

        If the folder cannot be synced, OSError says so: then the new file is there already, but
        after a crash of the system the old one may be.
        """
        with _naming(self.path):
            os.replace(self.temporary, self._target)
        if self._durable:
            with _naming(self.path, "written, but its folder could not be synced: "):
                _sync_folder(self._folder)

    def close(self) -> None:
        """Close the file, and remove it unless it has taken its place."""
        with contextlib.suppress(OSError):
            os.unlink(self.temporary)  # before its lock ends
        with contextlib.suppress(OSError):
            self._file.close()


def write_whole(path: str, data: bytes) -> None:
    """Write a file that takes the place of an old one when it is whole; see `Replacement`."""
    file = Replacement(path)
    try:
        file.write(data)
        file.sync()
        file.commit()
    finally:
        file.close()


@contextlib.contextmanager
def _naming(path: str, what: str = "") -> Iterator[None]:
    """Let an OSError name the file that the user knows, and what was done with it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, what + (error.strerror or str(error)), path) from error


@contextlib.contextmanager
def _allowing(*numbers: int) -> Iterator[None]:
    """Pass over some errors of the system, by their ``errno``, and no others."""
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise


def _sync_folder(folder: str) -> None:
    """Return when a folder is on the disk, or at once where the system does not sync folders."""
    with _allowing(*_NOT_SUPPORTED):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _status(path: str) -> os.stat_result | None:
    """Return what is at a path, None for nothing; raise OSError if it cannot be replaced."""
    if os.path.basename(path) in ("", ".", ".."):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    try:
        status = os.stat(path)
    except FileNotFoundError:  # or a link to nothing, which gets its file
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file, so it cannot be replaced", path)
    if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, "write-protected", path)
    return status


def _take_over(descriptor: int, status: os.stat_result) -> None:
    """Give a file the owner, group and permissions of another."""
    for owner, group in ((status.st_uid, -1), (-1, status.st_gid)):
        with contextlib.suppress(OSError):
            os.fchown(descriptor, owner, group)
    mode = status.st_mode & 0o777
    if os.fstat(descriptor).st_gid != status.st_gid:  # another group gets no more than all others
        mode &= 0o707 | (mode & 0o007) << 3
    with _allowing(*_NOT_SUPPORTED, errno.EPERM, errno.ENOSYS):
        os.fchmod(descriptor, mode)


def _remove_abandoned(folder: str) -> None:
    """Remove temporary files that no living process holds."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for name in [entry.path for entry in entries if _TEMPORARY.fullmatch(entry.name)]:
            with contextlib.suppress(OSError):
                descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(name)
                finally:
                    os.close(descriptor)
