"""The ``.dcz`` file: head, sections, page checksums, index, trailer.

``formats/dcz.md``, sections 2 to 4. Standard library only.
"""

import contextlib
import mmap
import os
import stat
import struct
import zlib
from collections.abc import Iterable
from types import TracebackType
from typing import BinaryIO

from .errors import DczError, UnsupportedVersionError
from .index import Index, decode_index, encode_index
from .records import TensorRecord

MAGIC = b"\xdc" + b"DCZ\r\n\x1a\n"
END_MAGIC = b"DCZ\n"
VERSION = (1, 0)  # the one that is written; all of its major version up to it are read
HEAD = struct.Struct("<8sHH")
TRAILER = struct.Struct("<QIII4s")
PAGE = 1 << 16
MAX_INDEX_NBYTES = 1 << 26
MAX_INDEX_RATIO = 128  # inflated to stored


class Reader:
    """An open ``.dcz`` file: its index, and its sections on demand.

    Parameters
    ----------
    path : str or os.PathLike
        The file is mapped into memory; no section is read until it is asked for.

    Attributes
    ----------
    name : str
        The path, for messages.
    index : Index
    nbytes : int
        Size of the file in bytes.
    version : tuple of int
        Major and minor version of the format.
    data_end : int
        Where the sections end.
    index_nbytes : int
        Size of the deflated index.

    Raises
    ------
    DczError
        If the file is not a ``.dcz`` file, is cut off or damaged.
    UnsupportedVersionError
        If it has another version.
    OSError
        If it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        self._data = _map_file(self.name)
        self.nbytes = len(self._data)
        self._read_head_and_trailer()
        self.index = self._read_index()
        self._pages_checked = bytearray(self.n_pages)
        self._offsets: dict[str, int] = {}
        offset = HEAD.size
        for name, entry in self.index.entries.items():
            if isinstance(entry, TensorRecord):
                self._offsets[name] = offset
                offset += entry.section_nbytes
        if offset != self.data_end:
            raise self._error(f"the sections end at {self.data_end}: the index expects {offset}")

    @property
    def n_pages(self) -> int:
        """Number of pages, each with a checksum of four bytes."""
        return -(-self.data_end // PAGE)

    def section(self, name: str) -> memoryview:
        """Return the section of a tensor, after checking the pages it touches.

        Parameters
        ----------
        name : str
            A tensor that is no alias.

        Returns
        -------
        memoryview of bytes

        Raises
        ------
        DczError
            If a page is damaged.
        """
        entry = self.index.entries[name]
        assert isinstance(entry, TensorRecord)
        start = self._offsets[name]
        end = start + entry.section_nbytes
        for page in range(start // PAGE, -(-end // PAGE) if end > start else 0):
            if not self._pages_checked[page]:
                self._check_page(page, name)
        return self._data[start:end]

    def check_all_pages(self) -> None:
        """Check every page of the file.

        Raises
        ------
        DczError
            At the first damaged page.
        """
        for page in range(self.n_pages):
            self._check_page(page)

    def _tensors_on(self, start: int, end: int) -> str:
        """Name the tensors whose sections have bytes from `start` up to `end`, for a message."""
        found = []
        for name, offset in self._offsets.items():
            entry = self.index.entries[name]
            assert isinstance(entry, TensorRecord)
            if max(offset, start) < min(offset + entry.section_nbytes, end):
                found.append(name)
        if len(found) > 2:
            return f"tensors {found[0]!r} to {found[-1]!r} ({len(found)}): "
        return "".join(f"tensor {name!r}: " for name in found)

    def _check_page(self, page: int, tensor: str | None = None) -> None:
        start, end = page * PAGE, min((page + 1) * PAGE, self.data_end)
        (expected,) = struct.unpack_from("<I", self._data, self.data_end + 4 * page)
        found = zlib.crc32(self._data[start:end])
        if found != expected:
            where = self._tensors_on(start, end) if tensor is None else f"tensor {tensor!r}: "
            raise self._error(
                f"{where}the page of bytes {start} to {end} is damaged: "
                f"expected CRC-32 {expected:08x}, found {found:08x}"
            )
        self._pages_checked[page] = 1

    def _error(self, message: str) -> DczError:
        return DczError(f"{self.name}: {message}")

    def _read_head_and_trailer(self) -> None:
        head = bytes(self._data[: HEAD.size])
        if not head or head[: len(MAGIC)] != MAGIC[: len(head)]:
            raise self._error("not a .dcz file (it does not begin with the magic bytes)")
        too_small = f"cut off: {self.nbytes} bytes are less than the smallest .dcz file"
        if len(head) < HEAD.size:
            raise self._error(too_small)
        _, major, minor = HEAD.unpack(head)
        self.version = (major, minor)
        if major != VERSION[0] or minor > VERSION[1]:
            raise UnsupportedVersionError(
                f"{self.name}: .dcz version {major}.{minor}: "
                f"this deepcomp reads version {VERSION[0]}.{VERSION[1]}"
            )
        if self.nbytes < HEAD.size + TRAILER.size:
            raise self._error(too_small)
        trailer = self._data[self.nbytes - TRAILER.size :]
        self.data_end, self.index_nbytes, self._index_raw_nbytes, crc, end = TRAILER.unpack(trailer)
        if end != END_MAGIC:
            raise self._error("cut off: the file does not end with a .dcz trailer")
        if self.data_end < HEAD.size or self.data_end > self.nbytes:
            raise self._error(f"data_end is {self.data_end} in a file of {self.nbytes} bytes")
        expected = self.data_end + 4 * self.n_pages + self.index_nbytes + TRAILER.size
        if expected != self.nbytes:
            raise self._error(f"the file has {self.nbytes} bytes: expected {expected}")
        found = zlib.crc32(self._data[self.data_end : self.nbytes - 8])
        if found != crc:
            raise self._error(f"the index is damaged: expected CRC-32 {crc:08x}, found {found:08x}")

    def _read_index(self) -> Index:
        size = self._index_raw_nbytes
        if size > min(MAX_INDEX_NBYTES, MAX_INDEX_RATIO * self.index_nbytes):
            raise self._error(f"an index of {size} bytes from {self.index_nbytes}: too large")
        start = self.data_end + 4 * self.n_pages
        inflate = zlib.decompressobj()
        try:
            raw = inflate.decompress(self._data[start : start + self.index_nbytes], size + 1)
        except zlib.error as error:
            raise self._error(f"the index is not a zlib stream: {error}") from None
        if len(raw) != size or not inflate.eof or inflate.unused_data:
            raise self._error(f"the index does not inflate to exactly {size} bytes")
        try:
            return decode_index(raw)
        except DczError as error:
            raise self._error(str(error)) from None


def _map_file(name: str) -> memoryview:
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)  # a named pipe must not be waited for
    with open(name, "rb", opener=lambda path, _: os.open(path, flags)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise DczError(f"{name}: not a .dcz file (it is no regular file)")
        if status.st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


class Writer:
    """Write a ``.dcz`` file in one pass; it appears under its name only when it is whole.

    Used in a ``with`` statement. The bytes go to a temporary file beside the target, which is
    synced and renamed when the block ends, and removed when it raises.

    Parameters
    ----------
    path : str or os.PathLike
        A link is followed, so that it goes on pointing to the file.
    metadata : mapping of str to str

    Raises
    ------
    OSError
        If the target is a directory, or its folder is missing or not writable.
    """

    def __init__(self, path: str | os.PathLike[str], metadata: dict[str, str]) -> None:
        self._path = os.path.realpath(path)
        self._index = Index(metadata, {})
        self._checksums: list[int] = []
        self._page_crc = self._offset = 0
        if os.path.isdir(self._path):
            raise IsADirectoryError(f"{os.fspath(path)} is a directory")
        folder, base = os.path.split(self._path)
        self._temporary = os.path.join(folder, f".{base}.{os.getpid()}.dcz.tmp")
        self._file: BinaryIO = open(self._temporary, "wb")  # noqa: SIM115

    def __enter__(self) -> "Writer":
        self._write_checked(HEAD.pack(MAGIC, *VERSION))
        return self

    def add(self, record: TensorRecord, section: Iterable[bytes | memoryview]) -> None:
        """Append the section of a tensor, in parts."""
        before = self._offset
        for part in section:
            self._write_checked(part)
        assert self._offset - before == record.section_nbytes, record
        self._index.entries[record.name] = record

    def add_alias(self, name: str, target: str) -> None:
        """Give a tensor that was added before another name."""
        self._index.entries[name] = target

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
                self._file.close()
                os.replace(self._temporary, self._path)
                _sync_folder(os.path.dirname(self._path))
        finally:
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary)

    def _write_checked(self, part: bytes | memoryview) -> None:
        view = memoryview(part).cast("B")
        while view:
            room = PAGE - self._offset % PAGE
            piece = view[:room]
            self._file.write(piece)
            self._page_crc = zlib.crc32(piece, self._page_crc)
            self._offset += len(piece)
            if self._offset % PAGE == 0:
                self._checksums.append(self._page_crc)
                self._page_crc = 0
            view = view[room:]

    def _finish(self) -> None:
        if self._offset % PAGE:
            self._checksums.append(self._page_crc)
        raw = encode_index(self._index)
        if len(raw) > MAX_INDEX_NBYTES:
            raise ValueError(f"an index of {len(raw)} bytes: at most {MAX_INDEX_NBYTES} fit")
        deflated = zlib.compress(raw, 9)
        if len(raw) > MAX_INDEX_RATIO * len(deflated):
            deflated = zlib.compress(raw, 0)
        end = struct.pack(f"<{len(self._checksums)}I", *self._checksums) + deflated
        end += struct.pack("<QII", self._offset, len(deflated), len(raw))
        self._file.write(end + struct.pack("<I4s", zlib.crc32(end), END_MAGIC))
        self._file.flush()
        os.fsync(self._file.fileno())


def _sync_folder(folder: str) -> None:
    """Make the rename itself last, where the system lets folders be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
