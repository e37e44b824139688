"""The ``.dcz`` file: head, sections, page checksums, index, trailer; reading it.

``formats/dcz.md``, sections 2 to 4. Standard library only. `writer` writes it.
"""

import os
import struct
import zlib
from typing import BinaryIO

from .errors import DczError, UnsupportedVersionError
from .files import closed_message
from .index import Index, check_version, decode_index
from .limits import check_dense_nbytes, check_index_nbytes
from .pages import PAGE, Pages
from .ranges import open_file
from .records import TensorRecord

MAGIC = b"\xdc" + b"DCZ\r\n\x1a\n"
END_MAGIC = b"DCZ\n"
VERSION = (1, 1)  # the highest that is read and written; all of its major version are read
HEAD = struct.Struct("<8sHH")
TRAILER = struct.Struct("<QIII4s")
MAX_INDEX_NBYTES = 1 << 26
MAX_INDEX_RATIO = 128  # inflated to stored


class Reader:
    """An open ``.dcz`` file: its index, and its sections on demand.

    Parameters
    ----------
    file : str, os.PathLike or binary file
        A path is mapped into memory; a URL, or an open file, is read by ranges. No section is read
        until it is asked for.
    name : str, optional
        For messages; by default that of the file.
    max_dense_bytes, mmap
        As of `storage.load`.

    Attributes
    ----------
    name : str
    index : Index
    nbytes : int
        Size of the file in bytes.
    version : tuple of int
        Major and minor version of the format.
    data_end : int
        Where the sections end.
    index_nbytes : int
        Size of the deflated index.
    crc32 : int
        The checksum in the trailer: of the index, and of the checksums of all pages.

    Raises
    ------
    DczError
        If the file is not a ``.dcz`` file, is cut off or damaged, or is too large.
    UnsupportedVersionError
        If it has another version.
    OSError
        If it cannot be opened or read.
    """

    def __init__(
        self,
        file: str | os.PathLike[str] | BinaryIO,
        name: str | None = None,
        max_dense_bytes: int | None = None,
        mmap: bool = True,
    ) -> None:
        self._file = open_file(file, name, mmap)
        self.name = self._file.name
        self.nbytes = self._file.nbytes
        deflated = self._read_head_and_trailer()
        check_index_nbytes(self.name, self.nbytes, self._index_raw_nbytes, max_dense_bytes)
        self.index = self._read_index(deflated)
        self._offsets: dict[str, int] = {}
        offset = HEAD.size
        for name, entry in self.index.entries.items():
            if isinstance(entry, TensorRecord):
                self._offsets[name] = offset
                offset += entry.section_nbytes
        if offset != self.data_end:
            raise self._error(f"the sections end at {self.data_end}: the index expects {offset}")
        entries = self.index.entries.values()
        check_dense_nbytes(self.name, self.nbytes, entries, max_dense_bytes)
        self.pages: Pages | None = Pages(self._file, self.data_end, self._checksums)

    @property
    def n_pages(self) -> int:
        """Number of pages, each with a checksum of four bytes."""
        return -(-self.data_end // PAGE)

    @property
    def overhead(self) -> dict[str, int]:
        """Bytes of the file that are no tensor's, by what they are."""
        return overhead_of(self.n_pages, self.index_nbytes)

    def section(self, name: str, start: int = 0, end: int | None = None) -> memoryview:
        """Return the section of a tensor.

        Each page is checked when it is first touched, the size of a mapped file each time. Of a
        file that is read by ranges, what was not asked for before is fetched: pages, or the whole
        section where it has a checksum and that is less.

        Parameters
        ----------
        name : str
            Of a tensor that is not an alias.
        start, end : int, optional
            Where in the section the bytes are that will be used; by default, everywhere. The
            others are not checked, and may be anything.

        Returns
        -------
        memoryview of bytes, shape (section_nbytes,)
            A view of the mapped file, or of memory that is kept.

        Raises
        ------
        DczError
            If a page, or the section, is damaged, or the file has become shorter or another one.
        OSError
            If something cannot be fetched.
        ValueError
            If it was closed.
        """
        entry = self.index.entries[name]
        assert isinstance(entry, TensorRecord)
        first, nbytes = self._offsets[name], entry.section_nbytes
        what, last = f"tensor {name!r}", first + nbytes
        pages = self._open_pages(what)
        part = first + start, last if end is None else first + end
        if entry.crc32 is None:
            pages.check(*part, what)
        else:
            pages.check_section((first, last), entry.crc32, part, what)
        return pages.view(first, last, what)

    def check_all_pages(self, keep: bool = True) -> None:
        """Check every page of the file.

        Parameters
        ----------
        keep : bool, default True
            Whether the pages that are fetched of a file that is read by ranges are kept.

        Raises
        ------
        DczError
            At the first damaged page.
        ValueError
            If it was closed.
        """
        self._open_pages("").check_all(self._tensors_on, keep)

    def close(self) -> None:
        """Let go of the file, and of what was fetched of it; views of it stay valid."""
        self.pages = None
        self._file.close()

    def _open_pages(self, what: str) -> Pages:
        pages = self.pages  # for good: another thread may close it
        if pages is None:
            raise ValueError(closed_message(self.name, what))
        return pages

    def _tensors_on(self, start: int, end: int) -> str:
        """Name the tensors whose sections have bytes from `start` up to `end`, for a message."""
        found = []
        for name, offset in self._offsets.items():
            entry = self.index.entries[name]
            assert isinstance(entry, TensorRecord)
            if max(offset, start) < min(offset + entry.section_nbytes, end):
                found.append(name)
        if len(found) > 2:
            return f"tensors {found[0]!r} to {found[-1]!r} ({len(found)})"
        return ": ".join(f"tensor {name!r}" for name in found)

    def _error(self, message: str) -> DczError:
        return DczError(f"{self.name}: {message}")

    def _read_head_and_trailer(self) -> bytes:
        """Read and check what is around the sections; return the deflated index."""
        head = bytes(self._file.read(0, HEAD.size))
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
                f"this deepcomp reads versions 1.0 to {VERSION[0]}.{VERSION[1]}"
            )
        if self.nbytes < HEAD.size + TRAILER.size:
            raise self._error(too_small)
        trailer = self._file.read(self.nbytes - TRAILER.size, self.nbytes)
        self.data_end, self.index_nbytes, self._index_raw_nbytes, crc, end = TRAILER.unpack(trailer)
        if end != END_MAGIC:
            raise self._error("cut off, or longer than it was: it does not end with a .dcz trailer")
        if self.data_end < HEAD.size or self.data_end > self.nbytes:
            raise self._error(f"data_end is {self.data_end} in a file of {self.nbytes} bytes")
        expected = self.data_end + 4 * self.n_pages + self.index_nbytes + TRAILER.size
        if expected != self.nbytes:
            raise self._error(f"the file has {self.nbytes} bytes: expected {expected}")
        tail = bytes(self._file.read(self.data_end, self.nbytes - 8))
        found = zlib.crc32(tail)
        if found != crc:
            raise self._error(f"the index is damaged: expected CRC-32 {crc:08x}, found {found:08x}")
        self.crc32 = crc
        self._checksums = tail[: 4 * self.n_pages]
        return tail[4 * self.n_pages : 4 * self.n_pages + self.index_nbytes]

    def _read_index(self, deflated: bytes) -> Index:
        size = self._index_raw_nbytes
        if size > min(MAX_INDEX_NBYTES, MAX_INDEX_RATIO * self.index_nbytes):
            raise self._error(f"an index of {size} bytes from {self.index_nbytes}: too large")
        inflate = zlib.decompressobj()
        try:
            raw = inflate.decompress(deflated, size + 1)
        except zlib.error as error:
            raise self._error(f"the index is not a zlib stream: {error}") from None
        if len(raw) != size or not inflate.eof or inflate.unused_data:
            raise self._error(f"the index does not inflate to exactly {size} bytes")
        try:
            index = decode_index(raw)
            check_version(index.entries, self.version)
            return index
        except DczError as error:
            raise self._error(str(error)) from None


def overhead_of(n_pages: int, index_nbytes: int) -> dict[str, int]:
    """Return the bytes of a file that are no tensor's, by what they are."""
    return {
        "head": HEAD.size,
        "page checksums": 4 * n_pages,
        "index": index_nbytes,
        "trailer": TRAILER.size,
    }
