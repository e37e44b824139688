"""Models in several files: the index of shards, and shards that are opened when they are needed.

``formats/dcz.md``, section 11. Standard library only.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .container import MAX_INDEX_NBYTES, Reader
from .errors import DczError, UnsupportedVersionError
from .files import closed_message
from .index import (
    MAX_INTEGER,
    canonical_json,
    check_integer,
    check_version,
    entry_from_json,
    entry_to_json,
    expect,
    expect_keys,
    least_version,
    parse_value,
    short,
)
from .limits import check_dense_nbytes, check_index_nbytes
from .ranges import open_file
from .records import MAX_CRC32, TensorRecord
from .urls import beside

INDEX_SUFFIX = ".dcz.index.json"
INDEX_NAME = "model" + INDEX_SUFFIX
_VERSION = (1, 1)  # all of its major version up to it are read
_SMALLEST_FILE = 36  # bytes; section 2


@dataclass(frozen=True)
class Shard:
    """A file of a model, as the index of shards describes it.

    Attributes
    ----------
    name : str
        Of a file in the folder of the index.
    nbytes : int
    crc32 : int
        The checksum in its trailer.
    """

    name: str
    nbytes: int
    crc32: int


@dataclass(frozen=True)
class ShardIndex:
    """What a model in several files holds.

    Attributes
    ----------
    metadata : dict of str to str
    shards : list of Shard
    entries : dict of str to TensorRecord or str
        By tensor name, in the order of the model; a string is an alias.
    shard_of : dict of str to int
        For each tensor that is no alias, its shard.
    """

    metadata: dict[str, str]
    shards: list[Shard]
    entries: dict[str, TensorRecord | str]
    shard_of: dict[str, int]


def encode_shard_index(index: ShardIndex) -> bytes:
    """Write an index of shards as canonical JSON.

    Parameters
    ----------
    index : ShardIndex

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If it would be larger than an index may be.
    """
    tensors = []
    for name, entry in index.entries.items():
        item = entry_to_json(name, entry)
        if name in index.shard_of:
            item["shard"] = index.shard_of[name]
        tensors.append(item)
    text = canonical_json(
        {
            "format": ["dcz-shards", *least_version(index.entries)],
            "metadata": index.metadata,
            "shards": [vars(shard) for shard in index.shards],
            "tensors": tensors,
        }
    )
    raw = text.encode()
    if len(raw) > MAX_INDEX_NBYTES:
        raise ValueError(f"an index of {len(raw)} bytes: at most {MAX_INDEX_NBYTES} fit")
    return raw


def decode_shard_index(raw: bytes) -> ShardIndex:
    """Read and check an index of shards.

    Parameters
    ----------
    raw : bytes

    Returns
    -------
    ShardIndex

    Raises
    ------
    DczError
        If any rule of section 11 is broken.
    UnsupportedVersionError
        If it has another version.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DczError(f"the index is not UTF-8: {error}") from None
    format_, position = parse_value(text, expect(text, 0, '{"format":'))
    version = _version(format_)
    metadata, position = parse_value(text, expect(text, position, ',"metadata":'))
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise DczError("index: metadata is not an object of strings")
    shard_list, position = parse_value(text, expect(text, position, ',"shards":'))
    shards = _shards(shard_list)
    position = expect(text, position, ',"tensors":[')
    entries: dict[str, TensorRecord | str] = {}
    shard_of: dict[str, int] = {}
    while text[position : position + 1] != "]":
        if entries:
            position = expect(text, position, ",")
        item, position = parse_value(text, position)
        _add(item, entries, shard_of, len(shards))
    if expect(text, position, "]}") != len(text):
        raise DczError("index: something follows its end")
    check_version(entries, version)
    if empty := set(range(len(shards))) - set(shard_of.values()):
        raise DczError(f"index: shard {short(shards[min(empty)].name)} has no tensor")
    return ShardIndex(metadata, shards, entries, shard_of)


def _version(value: Any) -> tuple[int, int]:
    name, major, minor = value if isinstance(value, list) and len(value) == 3 else (None,) * 3
    if name != "dcz-shards" or type(major) is not int or type(minor) is not int:
        raise DczError(f"index: format {short(value)}: expected ['dcz-shards', 1, 0] or 1, 1")
    if major != _VERSION[0] or minor > _VERSION[1]:
        raise UnsupportedVersionError(
            f"index of shards, version {major}.{minor}: "
            f"this deepcomp reads versions 1.0 to {_VERSION[0]}.{_VERSION[1]}"
        )
    return major, minor


def _shards(items: Any) -> list[Shard]:
    if not isinstance(items, list):
        raise DczError(f"index: shards is {short(items)}: expected an array")
    shards: dict[str, Shard] = {}
    for item in items:
        expect_keys(item, {"crc32", "name", "nbytes"}, "index: a shard")
        name = item["name"]
        is_name = isinstance(name, str) and name.endswith(".dcz")
        if not is_name or any(c in "/\\" or c < " " for c in name):
            raise DczError(f"index: {short(name)} is not the name of a shard")
        if name in shards:
            raise DczError(f"index: shard {short(name)} is there twice")
        check_integer(item["nbytes"], f"nbytes of {short(name)}", _SMALLEST_FILE, MAX_INTEGER)
        check_integer(item["crc32"], f"crc32 of {short(name)}", 0, MAX_CRC32)
        shards[name] = Shard(name, item["nbytes"], item["crc32"])
    return list(shards.values())


def _add(
    item: Any, entries: dict[str, TensorRecord | str], shard_of: dict[str, int], n_shards: int
) -> None:
    """Check the object of a tensor, and take it in."""
    name = item.get("name") if isinstance(item, dict) else None
    if not isinstance(name, str):
        raise DczError(f"index: a tensor has no name: {short(item)}")
    if name in entries:
        raise DczError(f"index: tensor {short(name)} is there twice")
    try:
        if "alias" not in item:
            shard_of[name] = check_integer(item.pop("shard", None), "shard", 0, n_shards - 1)
        entries[name] = entry_from_json(item, entries)
    except DczError as error:
        raise DczError(f"index: tensor {short(name)}: {error}") from None


class Shards:
    """The shards of a model, each opened when a tensor of it is first asked for.

    Parameters
    ----------
    path : str
        Path or URL of the index.
    max_dense_bytes, mmap
        As of `storage.load`. By default, what a shard takes is looked at when it is opened: what
        the index says of its size may not be true.

    Attributes
    ----------
    name : str
    nbytes : int
        Size of the index and of all shards.
    index_nbytes : int
    index : ShardIndex
    version : tuple of int
        Major and minor version of the format that its tensors need.

    Raises
    ------
    DczError, OSError
        If the index cannot be read, or breaks a rule.
    """

    def __init__(self, path: str, max_dense_bytes: int | None = None, mmap: bool = True) -> None:
        file = open_file(path, None, mmap)
        self.name, self.index_nbytes = file.name, file.nbytes
        if file.nbytes > MAX_INDEX_NBYTES:
            raise DczError(f"{self.name}: {file.nbytes} bytes are too many for an index of shards")
        check_index_nbytes(self.name, file.nbytes, file.nbytes, max_dense_bytes)
        try:
            self.index = decode_shard_index(bytes(file.read(0, file.nbytes)))
        except DczError as error:
            raise type(error)(f"{self.name}: {error}") from None
        file.close()
        entries = self.index.entries
        if max_dense_bytes is not None:
            check_dense_nbytes(self.name, file.nbytes, entries.values(), max_dense_bytes)
        self.nbytes = file.nbytes + sum(shard.nbytes for shard in self.index.shards)
        self.version = least_version(entries)
        self._path, self._max_dense_bytes, self._mmap = path, max_dense_bytes, mmap
        self._is_closed = False
        self._readers: dict[int, Reader] = {}
        self._lock = threading.Lock()

    @property
    def paths(self) -> list[str]:
        """Paths or URLs of the index and of all shards."""
        return [self._path, *(beside(self._path, shard.name) for shard in self.index.shards)]

    @property
    def n_pages(self) -> int:
        """Number of pages of all shards, which are opened for it."""
        return sum(self.reader(i).n_pages for i in range(len(self.index.shards)))

    @property
    def overhead(self) -> dict[str, int]:
        """Bytes of the files that are no tensor's, by what they are."""
        records = [e for e in self.index.entries.values() if isinstance(e, TensorRecord)]
        sections_nbytes = sum(record.section_nbytes for record in records)
        shards_nbytes = self.nbytes - self.index_nbytes - sections_nbytes
        return {"shards": shards_nbytes, "index": self.index_nbytes}

    def check_all_pages(self, keep: bool = True) -> None:
        """Check every page of every shard; see `Reader.check_all_pages`."""
        for i in range(len(self.index.shards)):
            self.reader(i).check_all_pages(keep)

    def section(self, name: str, *part: int) -> memoryview:
        """Return the section of a tensor; see `Reader.section`.

        Raises
        ------
        DczError
            If its shard is damaged, or is not the file that the index describes.
        OSError
            If it cannot be read.
        ValueError
            If the model was closed.
        """
        if self._is_closed:
            raise ValueError(closed_message(self.name, f"tensor {name!r}"))
        return self.reader(self.index.shard_of[name]).section(name, *part)

    def reader(self, i: int) -> Reader:
        """Return a shard, opened and compared with the index of shards."""
        reader = self._readers.get(i)
        if reader is None:
            with self._lock:
                if self._is_closed:  # meanwhile
                    raise ValueError(closed_message(self.name, ""))
                reader = self._readers.get(i) or self._open(i)
                self._readers[i] = reader
        return reader

    def close(self) -> None:
        """Let go of all shards; none is opened any more."""
        with self._lock:
            self._is_closed = True
            for reader in self._readers.values():
                reader.close()

    def _open(self, i: int) -> Reader:
        shard = self.index.shards[i]
        of_shard = [name for name, j in self.index.shard_of.items() if j == i]
        try:
            reader = Reader(beside(self._path, shard.name), None, self._max_dense_bytes, self._mmap)
        except FileNotFoundError as error:
            more = f" and {len(of_shard) - 1} more" if len(of_shard) > 1 else ""
            what = f"{error.strerror}: it has {short(of_shard[0])}{more}, as {self.name} says"
            raise FileNotFoundError(error.errno, what, error.filename) from None
        for what in ("nbytes", "crc32"):
            expected, found = getattr(shard, what), getattr(reader, what)
            if expected != found:
                raise DczError(
                    f"{reader.name}: {what} is {found}: expected {expected}, as {self.name} says"
                )
        expected = {name: self.index.entries[name] for name in of_shard}
        if list(reader.index.entries.items()) != list(expected.items()):
            raise DczError(
                f"{reader.name}: {_difference(expected, reader.index.entries)}: "
                f"not the tensors that {self.name} says"
            )
        return reader

    def __getstate__(self) -> Any:
        raise TypeError("an open model in several files cannot be pickled; its tensors can")


def _difference(expected: dict[str, Any], found: dict[str, Any]) -> str:
    for name in [*expected, *found]:
        if expected.get(name) != found.get(name):
            return f"tensor {short(name)}"
    return "their order"


def describe(
    metadata: dict[str, str],
    readers: Iterable[tuple[str, Reader]],
    order: Iterable[str],
    aliases: dict[str, str],
) -> ShardIndex:
    """Return the index of shards that are written.

    Parameters
    ----------
    metadata : dict of str to str
    readers : iterable of (str, Reader)
        Name and content of each shard, in order.
    order : iterable of str
        All names of the model.
    aliases : dict of str to str
    """
    shards, records, shard_of = [], {}, {}
    for i, (name, reader) in enumerate(readers):
        shards.append(Shard(name, reader.nbytes, reader.crc32))
        records.update(reader.index.entries)
        shard_of.update(dict.fromkeys(reader.index.entries, i))
    entries = {name: aliases.get(name) or records[name] for name in order}
    return ShardIndex(metadata, shards, entries, shard_of)
