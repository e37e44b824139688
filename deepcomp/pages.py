"""The pages of a ``.dcz`` file, each checked when it is first touched (``formats/dcz.md``,
section 2), and sections that are checked on their own (section 4). Standard library only.
"""

import contextlib
import mmap
import struct
import sys
import zlib
from bisect import bisect_left, insort
from collections.abc import Callable

from .errors import DczError
from .files import File
from .ranges import RangedFile

PAGE = 1 << 16
_RUN = 256  # pages that are fetched at a time: 16 MiB
_SMALL = 4096  # bytes of a section
_NORESERVE = 0x4000 if sys.platform == "linux" else 0  # mmap.MAP_NORESERVE, new in Python 3.13


class Pages:
    """The bytes of a file from its start to the end of its sections, checked page by page.

    Those of a mapped file are looked at where they are. Of a file that is read by ranges, each
    page that is asked for is fetched once, and kept in memory when it was found right; of a
    section that has a checksum, only its own bytes.

    Parameters
    ----------
    file : File or RangedFile
    data_end : int
        Where the sections end.
    checksums : bytes, shape (4 * n_pages,)
        CRC-32 of each page.

    Attributes
    ----------
    checked : bytearray, shape (n_pages,)
        1 for each page that was found right, else 0.

    Raises
    ------
    DczError
        If a file that is read by ranges is too large for the address space.
    """

    def __init__(self, file: File | RangedFile, data_end: int, checksums: bytes) -> None:
        self._file, self._data_end, self._checksums = file, data_end, checksums
        self.checked = bytearray(len(checksums) // 4)
        self._sections: list[tuple[int, int]] = []  # those found right on their own, in order
        self._kept = unused_memory(data_end, file.name) if isinstance(file, RangedFile) else None

    def check(
        self, start: int, end: int, what: str, owners: Callable[[int, int], str] | None = None
    ) -> None:
        """Check the pages of the bytes from `start` up to `end` that were not checked before.

        Parameters
        ----------
        start, end : int
        what : str
            What the bytes are, for messages.
        owners : callable, optional
            Says instead what is between two offsets of the file, where a page is damaged.

        Raises
        ------
        DczError
            If a page is damaged, or the file has become shorter.
        OSError
            If a page cannot be fetched.
        """
        page, end_page = start // PAGE, -(-end // PAGE) if end > start else 0
        # of a mapped file one at a time, so that its size is looked at before each page
        most = 1 if self._kept is None else _RUN
        while (page := self.checked.find(0, page, end_page)) >= 0:
            stop = self.checked.find(1, page, min(page + most, end_page))
            stop = min(page + most, end_page) if stop < 0 else stop
            self._check_run(page, stop, what, owners)
            page = stop

    def check_section(
        self, section: tuple[int, int], crc32: int, part: tuple[int, int], what: str
    ) -> None:
        """Check a part of a section that has a checksum, where it was not checked before.

        Of a mapped file, the pages of the part are checked. Of a file that is read by ranges, these
        or the section, whichever takes fewer bytes; one of more than 16 MiB always by pages, so
        that what is not checked yet never takes more memory, and a small one as well where another
        one on its page was fetched: more of them are likely to follow, one by one.

        Parameters
        ----------
        section : (int, int)
            Where it begins and ends.
        crc32 : int
        part : (int, int)
            The bytes that will be used.
        what : str
            As in `check`.

        Raises
        ------
        DczError
            If a page, or the section, is damaged, or the file has become shorter.
        OSError
            If they cannot be fetched.
        """
        if self._kept is None:
            self.check(*part, what)
            return
        first, last = self._outside_sections(*section)
        if first == last:
            return
        first, last = self._outside_pages(*section)
        nbytes = section[1] - section[0]
        by_pages = nbytes > _RUN * PAGE or (nbytes < _SMALL and self._has_small_neighbour(*section))
        if by_pages or last - first > self._unchecked_nbytes(*part):
            self.check(*part, what)
        else:
            self._check_whole(section, crc32, first, last, what)

    def check_all(self, owners: Callable[[int, int], str], keep: bool = True) -> None:
        """Check every page; of a mapped file, those that were checked before as well.

        Parameters
        ----------
        owners : callable
            As in `check`.
        keep : bool, default True
            Whether pages that are fetched are kept; else even those that were are fetched again.

        Raises
        ------
        DczError
            At the first damaged page.
        """
        if self._kept is None:
            self.checked[:] = bytes(len(self.checked))
        if keep or self._kept is None:
            return self.check(0, self._data_end, "", owners)
        n_pages = len(self.checked)
        for page in range(0, n_pages, _RUN):
            self._check_run(page, min(page + _RUN, n_pages), "", owners, keep=False)
        return None

    def view(self, start: int, end: int, what: str) -> memoryview:
        """Return bytes whose pages were checked; where they were not, anything.

        Raises
        ------
        DczError
            If a mapped file has become shorter.
        """
        if self._kept is None:
            return self._file.read(start, end, what)
        return self._kept[start:end].toreadonly()

    def _check_run(
        self,
        page: int,
        stop: int,
        what: str,
        owners: Callable[[int, int], str] | None,
        keep: bool = True,
    ) -> None:
        start = page * PAGE
        data = self._read_run(start, min(stop * PAGE, self._data_end), what)
        for number in range(page, stop):
            at = number * PAGE
            piece = data[at - start : at - start + PAGE]
            found = zlib.crc32(piece)
            (expected,) = struct.unpack_from("<I", self._checksums, 4 * number)
            if found != expected:
                what = owners(at, at + len(piece)) if owners is not None else what
                page_name = f"page of bytes {at} to {at + len(piece)}"
                raise self._damaged(page_name, what, expected, found)
            if not keep:
                continue
            if self._kept is not None:
                # Another thread may read the page already: it then writes the same bytes again.
                self._kept[at : at + len(piece)] = piece
            self.checked[number] = 1  # only now: another thread may look at any time

    def _read_run(self, start: int, end: int, what: str) -> memoryview:
        """Read the bytes of some pages, without those at both ends that are kept already."""
        if self._kept is None:
            return self._file.read(start, end, what)
        first, last = self._outside_sections(start, end)
        fetched = self._file.read(first, last, what)
        if last - first == end - start:
            return fetched
        return memoryview(b"".join((self._kept[start:first], fetched, self._kept[last:end])))

    def _check_whole(
        self, section: tuple[int, int], crc32: int, first: int, last: int, what: str
    ) -> None:
        """Fetch a section from `first` up to `last`; its other bytes are on checked pages."""
        assert self._kept is not None
        start, end = section
        fetched = self._file.read(first, last, what)
        found = zlib.crc32(fetched, zlib.crc32(self._kept[start:first]))
        found = zlib.crc32(self._kept[last:end], found)
        if found != crc32:
            raise self._damaged("section", what, crc32, found)
        # Another thread may do the same: then it is there twice, which does no harm.
        self._kept[first:last] = fetched
        insort(self._sections, section)

    def _has_small_neighbour(self, start: int, end: int) -> bool:
        """Whether the last section that was fetched by itself on the pages of a range is small."""
        i = bisect_left(self._sections, (-(-end // PAGE) * PAGE,)) - 1
        first, last = self._sections[i] if i >= 0 else (0, 0)
        return last > start // PAGE * PAGE and last - first < _SMALL

    def _outside_sections(self, start: int, end: int) -> tuple[int, int]:
        """Return a range without what sections that were found right cover at its ends."""
        sections = self._sections  # another thread may add to it: then others move up
        i = max(0, bisect_left(sections, (start + 1,)) - 1)  # the last that begins there or before
        while start < end and i < len(sections):
            first, last = sections[i]
            if first > start:
                break
            start, i = max(start, min(last, end)), i + 1
        i = bisect_left(sections, (end,)) - 1  # the last that begins before the end
        while start < end and i >= 0:
            first, last = sections[i]
            if last < end:
                break
            end, i = max(first, start), i - 1
        return start, end

    def _outside_pages(self, start: int, end: int) -> tuple[int, int]:
        """Return a range without what checked pages cover at its ends."""
        page, end_page = start // PAGE, -(-end // PAGE)
        first = self.checked.find(0, page, end_page)
        if first < 0:
            return end, end
        last = self.checked.rfind(0, page, end_page)
        return max(start, first * PAGE), min(end, (last + 1) * PAGE)

    def _unchecked_nbytes(self, start: int, end: int) -> int:
        """Return how many bytes the unchecked pages of a range have, or a little more."""
        page, end_page = start // PAGE, -(-end // PAGE) if end > start else 0
        n_pages = self.checked.count(0, page, end_page)
        return min(n_pages * PAGE, self._data_end - page * PAGE)

    def _damaged(self, part: str, what: str, expected: int, found: int) -> DczError:
        where = f"{self._file.name}: {what}: " if what else f"{self._file.name}: "
        if isinstance(self._file, RangedFile) and self._file.has_changed():
            return DczError(f"{where}the file has changed since it was opened")
        return DczError(
            f"{where}the {part} is damaged: expected CRC-32 {expected:08x}, found {found:08x}"
        )


def unused_memory(nbytes: int, name: str) -> memoryview:
    """Return so many zeros, which take memory only where something else is written."""
    try:
        memory = mmap.mmap(-1, nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
    except (OSError, OverflowError):
        raise DczError(f"{name}: sections of {nbytes} bytes: more than can be addressed") from None
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # else a page of 4 KiB may become one of 2 MiB
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memoryview(memory)
