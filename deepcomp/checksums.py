"""Which tensors get a checksum of their own, so that one can be read without its whole pages.

What a file may hold is in ``formats/dcz.md``, section 4; what is chosen here is this writer's
policy. Standard library only.
"""

from collections.abc import Callable
from dataclasses import replace

from .index import Index
from .pages import PAGE
from .records import TensorRecord

# A checksum takes 7 to 9 bytes of the index, at most 0.3 % of so many bytes of sections.
NBYTES_A_CHECKSUM = 3000


def with_checksums(index: Index, start: int, crc32_of: Callable[[str], int]) -> Index:
    """Return the index with a checksum for each section that is small beside its pages.

    It gets one if the pages that it touches have at least 2 % more bytes. Where a file has so many
    sections that it would grow by 0.3 %, as one of less than 600 KB with 200 tensors may, the
    smallest get none. A file of a single page needs none at all: it is small anyhow.

    Parameters
    ----------
    index : Index
        Checksums that it has already, of another file, are left out.
    start : int
        Where the first section begins.
    crc32_of : callable
        Returns the CRC-32 of the section of a tensor.

    Returns
    -------
    Index

    Examples
    --------
    >>> from deepcomp.records import TensorRecord
    >>> sizes = {"small": 100, "medium": 100_000, "large": 10_000_000}
    >>> entries = {name: TensorRecord(name, "uint8", (n,), "raw", n) for name, n in sizes.items()}
    >>> chosen = with_checksums(Index({}, entries), 12, lambda name: 0)
    >>> [name for name, record in chosen.entries.items() if record.crc32 is not None]
    ['small', 'medium']
    """
    plain = without_checksums(index)
    records = [entry for entry in plain.entries.values() if isinstance(entry, TensorRecord)]
    data_end = start + sum(record.section_nbytes for record in records)
    if data_end <= PAGE:
        return plain
    candidates = []
    for record in records:
        end = start + record.section_nbytes
        pages_nbytes = min(-(-end // PAGE) * PAGE, data_end) - start // PAGE * PAGE
        if record.section_nbytes and 50 * pages_nbytes >= 51 * record.section_nbytes:
            candidates.append(record)
        start = end
    candidates.sort(key=lambda record: record.section_nbytes, reverse=True)
    entries = dict(plain.entries)
    for record in candidates[: data_end // NBYTES_A_CHECKSUM]:
        entries[record.name] = replace(record, crc32=crc32_of(record.name))
    return Index(plain.metadata, entries)


def without_checksums(index: Index) -> Index:
    """Return the index without checksums of sections."""
    entries = dict(index.entries)
    for name, entry in entries.items():
        if isinstance(entry, TensorRecord) and entry.crc32 is not None:
            entries[name] = replace(entry, crc32=None)
    return Index(index.metadata, entries)
