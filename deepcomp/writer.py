"""The ``.dcz`` file: writing it in one pass, and what the writer chooses.

``formats/dcz.md``, sections 2 to 4 and 10. Standard library only.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterable
from types import TracebackType

from .checksums import with_checksums, without_checksums
from .container import (
    END_MAGIC,
    HEAD,
    MAGIC,
    MAX_INDEX_NBYTES,
    MAX_INDEX_RATIO,
    Reader,
    overhead_of,
)
from .errors import DczError
from .files import Replacement
from .index import Index, encode_index, least_version
from .limits import ANY_SIZE, most_index_nbytes
from .pages import PAGE
from .places import replacement
from .records import TensorRecord

_FIRST_HEAD = HEAD.pack(MAGIC, 1, 0)  # until all tensors are known


class Writer:
    """Write a ``.dcz`` file in one pass; it appears under its name only when it is whole.

    Used in a ``with`` statement. When the block raises, the target stays as it was; `Replacement`
    says what is promised.

    Parameters
    ----------
    path : str or os.PathLike
        Or a URL, as a string.
    metadata : mapping of str to str
    durable : bool, default True
        As of `Replacement`.

    Raises
    ------
    OSError
        If the target cannot be replaced, or its folder is missing or not writable.
    """

    def __init__(
        self, path: str | os.PathLike[str], metadata: dict[str, str], durable: bool = True
    ) -> None:
        self._index = Index(metadata, {})
        self._checksums: list[int] = []
        self._crcs: dict[str, int] = {}  # of sections
        self._page_crc = self._offset = 0
        self._is_finished = False
        self._file = replacement(path, durable)

    def __enter__(self) -> "Writer":
        try:
            self._write_checked(_FIRST_HEAD)
        except BaseException:
            self._file.close()
            raise
        return self

    def add(self, record: TensorRecord, section: Iterable[bytes | memoryview]) -> None:
        """Append the section of a tensor, in parts."""
        before, crc = self._offset, 0
        for part in section:
            self._write_checked(part)
            crc = zlib.crc32(part, crc)
        assert self._offset - before == record.section_nbytes, record
        self._index.entries[record.name] = record
        self._crcs[record.name] = crc

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
                self._file.commit()
        finally:
            self._file.close()

    def read_back(self) -> Reader:
        """Finish the file, and open it as it is on the disk, before it takes its place.

        Raises
        ------
        DczError
            If it is damaged, or its index is not the one that was written.
        """
        self._finish()
        assert isinstance(self._file, Replacement)
        self._file.forget()
        reader = Reader(self._file.temporary, self._file.path, ANY_SIZE)
        if encode_index(reader.index) != encode_index(self._index):
            raise DczError(f"{reader.name}: the index that was read back is not the one written")
        return reader

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
        if self._is_finished:
            return
        if self._offset % PAGE:
            self._checksums.append(self._page_crc)
        self._index, raw = _chosen(self._index, self._crcs.__getitem__)
        if len(raw) > MAX_INDEX_NBYTES:
            raise ValueError(f"an index of {len(raw)} bytes: at most {MAX_INDEX_NBYTES} fit")
        if (version := least_version(self._index.entries)) != (1, 0):
            self._rewrite_head(HEAD.pack(MAGIC, *version))
        deflated = _deflate(raw, self._offset)
        end = struct.pack(f"<{len(self._checksums)}I", *self._checksums) + deflated
        end += struct.pack("<QII", self._offset, len(deflated), len(raw))
        self._file.write(end + struct.pack("<I4s", zlib.crc32(end), END_MAGIC))
        self._file.sync()
        self._is_finished = True

    def _rewrite_head(self, head: bytes) -> None:
        """Write another head, when it is known which version the file has."""
        self._file.rewrite(0, head)
        # The CRC-32 of two texts of one length differ by what depends on their differences alone.
        rest = bytes(min(self._offset, PAGE) - HEAD.size)
        self._checksums[0] ^= zlib.crc32(_FIRST_HEAD + rest) ^ zlib.crc32(head + rest)


def when_written(
    index: Index, section: Callable[[str], memoryview]
) -> tuple[Index, dict[str, int]]:
    """Return the index, and the `Reader.overhead`, of the file that a `Writer` makes of tensors."""
    index, raw = _chosen(index, lambda name: zlib.crc32(section(name)))
    records = [entry for entry in index.entries.values() if isinstance(entry, TensorRecord)]
    data_end = HEAD.size + sum(record.section_nbytes for record in records)
    return index, overhead_of(-(-data_end // PAGE), len(_deflate(raw, data_end)))


def _chosen(index: Index, crc32_of: Callable[[str], int]) -> tuple[Index, bytes]:
    """Return the index that is written, and as JSON."""
    chosen = with_checksums(index, HEAD.size, crc32_of)
    raw = encode_index(chosen)
    if len(raw) > MAX_INDEX_NBYTES:  # from some 400,000 tensors on
        chosen = without_checksums(index)
        raw = encode_index(chosen)
    return chosen, raw


def _deflate(raw: bytes, data_end: int) -> bytes:
    """Deflate an index, unless that makes it so small that readers would not inflate it."""
    deflated = zlib.compress(raw, 9)
    most = min(MAX_INDEX_RATIO * len(deflated), most_index_nbytes(data_end + len(deflated)))
    return deflated if len(raw) <= most else zlib.compress(raw, 0)
