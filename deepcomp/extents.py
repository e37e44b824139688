"""Where entries of a checkpoint are: all that another process needs to read them itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .arrays import Source, check_bools
from .decode import Patterns, pattern_dtype
from .places import read_into, stamp
from .records import ITEMSIZE
from .urls import is_url


@dataclass(frozen=True)
class Extent:
    """Some entries of a tensor, of one that is not in memory.

    Attributes
    ----------
    checkpoint : str
        What `importers.read_checkpoint` reads.
    name, dtype : str
    first, last : int
        The entries from `first` up to `last`.
    location : (str, int) or None
        As of `Source`; a path or a URL. Without it the whole tensor is fetched, and then cut.
    """

    checkpoint: str
    name: str
    dtype: str
    first: int
    last: int
    location: tuple[str, int] | None

    @property
    def numel(self) -> int:
        """Number of entries."""
        return self.last - self.first

    def read(self) -> Patterns:
        """Return the entries, in memory of their own.

        Returns
        -------
        ndarray of unsigned integers, shape (numel,)

        Raises
        ------
        ValueError
            If the file does not have them, or a bool is neither 0 nor 1.
        OSError
            If it cannot be read.
        """
        if self.location is None:
            source = _tensors(self.checkpoint)[self.name]
            return source.weight().patterns[self.first : self.last].copy()
        path, offset = self.location
        patterns = np.empty(self.numel, pattern_dtype(ITEMSIZE[self.dtype]))
        room, start = patterns.view(np.uint8).data, offset + self.first * patterns.itemsize
        if is_url(path):
            read_into(path, start, room)
        else:
            _read_file(path, start, room)
        check_bools(self.name, self.dtype, patterns)
        return patterns


def extents_of(source: Source, checkpoint: str, numel: int, most: int) -> list[Extent]:
    """Cut a tensor of `numel` entries into extents of at most `most`."""
    bounds = range(0, max(numel, 1), most)
    return [
        Extent(checkpoint, source.name, source.dtype, a, min(a + most, numel), source.location)
        for a in bounds
    ]


def _read_file(path: str, start: int, room: memoryview) -> None:
    # not mapped: the pages of a map would count as memory of this process
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while room:
            n = file.readinto(room)
            if not n:
                raise ValueError(f"{path}: cut off: {len(room)} bytes of the tensor are missing")
            room = room[n:]


def stamps(checkpoint: str, sources: list[Source]) -> list[list[str | int]]:
    """Return name, size and time of the last change of each file of a checkpoint."""
    paths = {s.location[0] for s in sources if s.location is not None}
    if any(s.location is None for s in sources):
        from .importers.checkpoint import files_of

        paths.update(files_of(checkpoint))
    return [stamp(path) for path in sorted(paths)]


@lru_cache(maxsize=1)  # once in each process, not for each tensor
def _tensors(checkpoint: str) -> Mapping[str, Source]:
    from .importers import read_checkpoint

    return read_checkpoint(checkpoint).tensors
