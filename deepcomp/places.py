"""Files and folders of a checkpoint, by path or URL: to list, read and write.

A path goes to `files`. A URL goes to fsspec (the extra ``remote``): stores of objects rename
nothing, but a file of theirs appears when it is whole. Standard library only, until there is a URL.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

from . import files
from .errors import DczError
from .ranges import failure
from .urls import is_url, shown

_LOCAL = ("file://", "local://")  # which have paths
_READ_NBYTES = 1 << 24  # that are asked for at a time
# What stores say of a file that changes with its content, the best first.
_VERSIONS = (
    *("ETag", "etag", "md5Hash", "LastModified", "Last-Modified", "last_modified"),
    *("mtime", "modified", "updated", "created"),
)


def absolute(path: str | os.PathLike[str]) -> str:
    """Return a URL as it is, and a path from the root; a URL of a local file is its path.

    Examples
    --------
    >>> absolute("file:///data/packed"), absolute("s3://bucket/packed")
    ('/data/packed', 's3://bucket/packed')
    """
    if not isinstance(path, str) or not is_url(path):
        return os.path.abspath(os.fsdecode(path))
    scheme = next((scheme for scheme in _LOCAL if path.startswith(scheme)), None)
    return path if scheme is None else os.path.abspath(path.removeprefix(scheme))


def make_folder(folder: str) -> None:
    """Make a folder, where it is not there; stores of objects have none."""
    if is_url(folder):
        _call(folder, lambda filesystem, path: filesystem.makedirs(path, exist_ok=True), "written")
    else:
        os.makedirs(folder, exist_ok=True)


def names_in(folder: str) -> list[str]:
    """List the names in a folder; none if it is not there."""
    if not is_url(folder):
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []

    def listed(filesystem: Any, path: str) -> list[str]:
        filesystem.invalidate_cache()  # other processes write there
        found = filesystem.ls(path, detail=False)
        filesystem.invalidate_cache()
        return sorted(name.rstrip("/").rpartition("/")[2] for name in found)

    try:
        found: list[str] = _call(folder, listed)
    except FileNotFoundError:
        return []
    return found


def remove_folder(folder: str) -> None:
    """Remove a folder with all that is in it, as far as that is possible."""
    if is_url(folder):
        with contextlib.suppress(OSError):
            _call(folder, lambda filesystem, path: filesystem.rm(path, recursive=True), "written")
    else:
        shutil.rmtree(folder, ignore_errors=True)


def remove_file(path: str) -> None:
    """Remove a file, as far as that is possible."""
    with contextlib.suppress(OSError):
        if is_url(path):
            _call(path, lambda filesystem, at: filesystem.rm_file(at), "written")
        else:
            os.remove(path)


def read_whole(path: str) -> bytes:
    """Read a small file."""
    if is_url(path):
        data: bytes = _call(path, lambda filesystem, at: filesystem.cat_file(at))
        return data
    with open(path, "rb") as file:
        return file.read()


def read_into(url: str, start: int, room: memoryview) -> None:
    """Fill memory with the bytes of a file behind a URL from `start` on.

    Raises
    ------
    DczError
        If other bytes come than were asked for.
    OSError
        If they cannot be read.
    """
    while room:
        end = start + min(len(room), _READ_NBYTES)
        data = _call(url, lambda filesystem, at, a=start, b=end: filesystem.cat_file(at, a, b))
        if len(data) != end - start:
            raise DczError(
                f"{shown(url)}: cut off, or not sent as asked: "
                f"found {len(data)} bytes from {start} on, expected {end - start}"
            )
        room[: len(data)] = data
        start, room = end, room[len(data) :]


def write_whole(path: str, data: bytes) -> None:
    """Write a file that takes the place of an old one when it is whole."""
    with replacement(path) as file:
        file.write(data)


def nbytes_of(path: str) -> int:
    """Return the size of a file."""
    size: int = _info(path)["size"] if is_url(path) else os.path.getsize(path)
    return size


def stamp(path: str) -> list[str | int]:
    """Return the name of a file, its size, and what is another thing when it has changed."""
    if is_url(path):
        info = _info(path)
        version = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
        return [shown(path).partition("?")[0].rpartition("/")[2], info["size"], version]
    status = os.stat(path)
    return [os.path.basename(path), status.st_size, status.st_mtime_ns]


def replacement(path: str | os.PathLike[str], durable: bool = True) -> "files.Replacement | Upload":
    """Open what takes the place of a file, or of a URL, when it is whole.

    Parameters
    ----------
    path : str or os.PathLike
    durable : bool, default True
        As of `files.Replacement`; what is behind a URL is as durable as its store makes it.
    """
    if isinstance(path, str) and is_url(path):
        return Upload(path)
    return files.Replacement(path, durable)


class Upload:
    """A new file behind a URL, which is there when all of it has been sent.

    It has the methods of `files.Replacement`. The bytes are kept in a temporary file of this
    machine until they are all there, as the first of them may be written again. What was sent of a
    file that is not committed is thrown away, as far as the store can do that.

    Parameters
    ----------
    url : str

    Raises
    ------
    OSError
        If there can be no temporary file.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._kept = tempfile.TemporaryFile()  # noqa: SIM115
        self._sent: Any = None
        self._is_done = False

    def __enter__(self) -> "Upload":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None:
                self.sync()
                self.commit()
        finally:
            self.close()

    def write(self, data: bytes | memoryview) -> int:
        """Append bytes; return how many."""
        return self._do(self._kept.write, data)

    def rewrite(self, start: int, data: bytes) -> None:
        """Put bytes in the place of others, which were written before."""
        self._do(self._kept.seek, start)
        self._do(self._kept.write, data)
        self._do(self._kept.seek, 0, os.SEEK_END)

    def sync(self) -> None:
        """Send all bytes; OSError if they cannot be written there."""
        # else it would be committed when it is closed, after an error too
        options: dict[str, Any] = {"mode": "wb", "autocommit": False}
        self._sent = _call(self._url, lambda system, path: system.open(path, **options), "written")
        self._do(self._kept.seek, 0)
        self._do(shutil.copyfileobj, self._kept, self._sent, 1 << 20)
        self._do(self._sent.close)

    def commit(self) -> None:
        """Let it appear; call `sync` before."""
        self._do(self._sent.commit)
        self._is_done = True

    def close(self) -> None:
        """Throw away what was sent, unless it has been committed."""
        with contextlib.suppress(OSError):
            self._kept.close()
        if self._sent is not None and not self._is_done:
            with contextlib.suppress(Exception):
                self._sent.discard()
            with contextlib.suppress(Exception):
                self._sent.closed = True  # else it sends the rest when it is collected

    def _do(self, action: Callable[..., Any], *arguments: Any) -> Any:
        return _safely(self._url, "written", lambda: action(*arguments))


def _info(url: str) -> dict[str, Any]:
    info: dict[str, Any] = _call(url, lambda filesystem, path: filesystem.info(path))
    return info


def _call(url: str, action: Callable[..., Any], verb: str = "read") -> Any:
    """Do something with the file system of a URL and the path there."""

    def call() -> Any:
        import fsspec

        return action(*fsspec.url_to_fs(url))

    return _safely(url, verb, call)


def _safely(url: str, verb: str, action: Callable[[], Any]) -> Any:
    """Let errors name the URL without what is secret in it."""
    try:
        return action()
    except MemoryError:
        raise
    except Exception as error:  # whatever a library for some network may raise
        told = failure(error, shown(url), url, verb=verb)
    raise told  # here, where it has no context: that could hold credentials
