"""Models in files: save and load."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from .compression import encode_found
from .container import Reader
from .errors import DczError
from .folders import open_packed
from .model import CompressedModel
from .readback import compare
from .records import TensorRecord
from .shards import Shards
from .tensor import CompressedTensor
from .urls import is_url, without_credentials
from .writer import Writer

if TYPE_CHECKING:
    import torch

    from .arrays import Source
    from .pipeline import Encoded

CHECKPOINTS = (".safetensors", ".pt", ".pth", ".npz", ".bin")  # names that others' files have


def save(
    model: CompressedModel | torch.nn.Module | Mapping[str, Any],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    verify: bool = False,
) -> None:
    """Write a ``.dcz`` file.

    The bytes go to a temporary file beside the target, which is synced and then renamed: after
    a crash the old file is there, whole, or the new one. A temporary file that a killed process
    left is removed by the next save into its folder. Links are followed; the permissions of the
    old file are kept. The model must not change meanwhile.

    The same model gives the same bytes, at any time and on any machine; but another make of
    zlib may deflate the index, some per cent of a file, in another way.

    Parameters
    ----------
    model : CompressedModel, nn.Module, or mapping as of `compress`
        A model that is not compressed is stored exactly, bit for bit: a model that was pruned
        elsewhere gets small, and loses nothing.
    path : str or os.PathLike
    metadata : mapping of str to str, optional
        Kept in the file; by default that of the compressed model.
    verify : bool, default False
        Whether to read the file back before it takes its place, from the disk as far as the
        system lets, to decode all tensors and to compare them with `model`, bit for bit. Takes
        about as long as to load and decode the file, and memory for one dense tensor.

    Raises
    ------
    DczError
        If what is read back with `verify` is not what was to be saved.
    ValueError
        If the metadata are not strings, a tensor has a dtype that a file cannot hold, the path
        is a URL (those can only be loaded), or it ends as a checkpoint's does (``.pt``, ``.pth``,
        ``.bin``, ``.safetensors``, ``.npz``).
    OSError
        If the file cannot be written, or `path` is no regular file.

    After any error an old file at `path` is untouched, and no temporary file stays; but if the
    message says that the folder could not be synced: then the new file is there, and may be the
    old one again after a crash of the system.

    References
    ----------
    ``formats/dcz.md``.

    Examples
    --------
    >>> import deepcomp, numpy as np, tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.dcz")
    ...     deepcomp.save({"w": np.eye(64)}, path)
    ...     path.stat().st_size < 64 * 64 * 8 / 40
    True
    """
    if not isinstance(path, str | bytes | os.PathLike):
        raise TypeError(f"expected a path after the model, not a {type(path).__name__}")
    if isinstance(path, str) and is_url(path):
        where = without_credentials(path)
        raise ValueError(f"{where}: cannot save to a URL: save to a file, and copy it there")
    if os.fsdecode(path).lower().endswith(CHECKPOINTS):
        raise ValueError(
            f"{os.fsdecode(path)}: save writes a .dcz file: expected a name like model.dcz "
            "(deepcomp.exporters.write_checkpoint writes checkpoints)"
        )
    if metadata is None:
        metadata = model.metadata if isinstance(model, CompressedModel) else {}
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ValueError(f"metadata must map strings to strings, not {key!r} to {value!r}")
    originals: Mapping[str, CompressedTensor | Source | str]
    encoded: Iterator[tuple[str, Encoded | tuple[TensorRecord, Iterable[memoryview]] | str]]
    if isinstance(model, CompressedModel):
        tensors = {name: model.aliases.get(name, tensor) for name, tensor in model.items()}
        originals, encoded = tensors, _sections(tensors)
    else:
        from .arrays import sources

        found = sources(model)
        originals, encoded = found, encode_found(found, "save", None, None, None, None, "layer")
    with Writer(path, dict(metadata)) as writer:
        for name, entry in encoded:
            if isinstance(entry, str):
                writer.add_alias(name, entry)
            else:
                writer.add(*entry[:2])
        if verify:
            reader = writer.read_back()
            compare(model_of(reader), originals, reader.name)


def load(
    file: str | os.PathLike[str] | BinaryIO,
    max_dense_bytes: int | None = None,
    mmap: bool = True,
) -> CompressedModel:
    """Open a ``.dcz`` file, or a model in several files.

    The index is read; tensors are decoded when they are asked for, each page of the file checked
    when it is first touched. No code in the file is run: there is none. Any number of threads may
    use a model at a time, and forked processes. Pickles and copies hold the encoded tensors, and
    do not need the file.

    **A path** is mapped into memory, and no descriptor of it stays open. When another file takes
    its name (as `save` does it), or it is deleted, the tensors are those of the old one. When
    somebody cuts it off, the next use raises DczError; in the moment of a decode, the process would
    end by SIGBUS. Changes made in place are noticed only in pages that were not touched before.
    With ``mmap=False`` it is read instead, once, and whatever becomes of it then makes no
    difference: for files that others may cut or write into.

    **A URL** (a string such as ``"https://host/model.dcz"`` or ``"s3://bucket/model.dcz"``) is
    opened with fsspec: ``pip install 'deepcomp[remote]'``. Only what is needed is read, by ranges,
    when it is asked for: 8 KiB at the end and 12 bytes at the beginning (and the rest of an index
    that is larger), then for each tensor its own bytes, or less than 2 % more: `save` gives it a
    checksum in the index, unless it is so large that checking whole pages of 64 KiB adds less, or
    one of the smallest in a file of less than 3000 bytes a tensor. These cost the page or two that
    they are on, as does the second of less than 4 KiB on a page; others there then cost nothing.
    (Files of format version 1.0, of older writers, are read by pages alone.) What was read is kept
    in memory as long as the model or one of its tensors, and not asked for again. If what is behind
    the URL changes, the next bytes that are read raise DczError. A server that sends no ranges
    gives an OSError, not a download. Options for fsspec, and other caches, are given by opening the
    file with it.

    **An open file** must be binary and seekable, and is read in the same way. It stays the
    caller's to close, not before the last tensor was read; nobody else may use its position at
    the same time, and no forked process may use it.

    **An index** ``*.dcz.index.json``, as `compress_checkpoint` writes it, is one model in several
    files. Each is opened when one of its tensors is first asked for.

    **A folder** stands for the ``model.dcz`` or the only index in it; one with both, or with
    several indexes, is refused. Where a ``modules.json`` of sentence-transformers is in it, the
    folder of its first part is looked into. A URL may be that of an index or of a folder too.

    A valid file may be small and its tensors large: up to 2**20 entries a byte, if all are zero.
    Whoever does not trust a file sets `max_dense_bytes`.

    A model may be used in a ``with`` statement, and is closed at its end, or by
    `CompressedModel.close`; neither is needed.

    Parameters
    ----------
    file : str, os.PathLike or binary file
        A path, a URL, or an open file. A ``pathlib.Path`` is never a URL.
    max_dense_bytes : int, optional
        Refuse a file whose tensors take more bytes than this when they are all dense, which is
        known from its index, or whose index does when it is inflated (and more than 2**18). Of
        empty tensors the other extents count, as products have them. Decoding takes some more
        memory for one tensor at a time. By default 16 GiB, or 10,000 times the size of the file if
        that is more; and for the index 2**18 bytes and 16 times the file. No model meets these
        limits that is worth a file; a larger number than the default of the tensors lifts both.
    mmap : bool, default True
        Whether a file at a path is mapped into memory; else all of it is read. Files behind URLs,
        and open files, never are.

    Returns
    -------
    CompressedModel

    Raises
    ------
    DczError
        If the file is not a ``.dcz`` file, is cut off or damaged, or is too large.
    ValueError
        If `max_dense_bytes` or `mmap` is none of these.
    OSError
        If it cannot be read; from a URL or an open file, also later, when a tensor is asked for.
    ImportError
        If fsspec, or what it needs for this URL, is not installed.

    References
    ----------
    ``formats/dcz.md``, sections 2 to 4.

    Examples
    --------
    >>> import deepcomp, numpy as np, os, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "zeros.dcz")
    >>> deepcomp.save({"w": np.zeros((10_000, 10_000), np.float32)}, path)
    >>> os.path.getsize(path) < 1000
    True
    >>> deepcomp.load(path)
    <CompressedModel of 1 tensors, ... of 400000000 bytes>
    >>> deepcomp.load(path, max_dense_bytes=100_000_000)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    deepcomp.errors.DczError: ...zeros.dcz: the tensors take 400000000 bytes when dense:
    expected at most 100000000 (max_dense_bytes)
    >>> with open(path, "rb") as file:
    ...     deepcomp.load(file)["w"].rows(5000, 5001).shape
    (1, 10000)
    >>> deepcomp.load("file://" + path)["w"].density  # with fsspec
    0.0
    >>> folder.cleanup()
    """
    if max_dense_bytes is not None and (
        isinstance(max_dense_bytes, bool) or not isinstance(max_dense_bytes, int)
    ):
        raise ValueError(f"max_dense_bytes is {max_dense_bytes!r}: expected an integer or None")
    if not isinstance(mmap, bool):
        raise ValueError(f"mmap is {mmap!r}: expected True or False")
    return model_of(_opened(file, max_dense_bytes, mmap))


def _opened(
    file: str | os.PathLike[str] | BinaryIO, max_dense_bytes: int | None, mmap: bool
) -> Reader | Shards:
    """Open what was given; of a checkpoint, say what reads it."""
    try:
        return open_packed(file, None, max_dense_bytes, mmap)
    except DczError as error:
        path = file if isinstance(file, str | os.PathLike) else ""
        if not os.fsdecode(path).lower().endswith(CHECKPOINTS):
            raise
        raise type(error)(
            f"{error}; a checkpoint is read by deepcomp.importers.read_checkpoint, and its tensors "
            "taken by deepcomp.compress (or by dcz compress)"
        ) from None


def model_of(reader: Reader | Shards) -> CompressedModel:
    """Present an open file, or a model in several files, of which none need be open yet."""
    entries: dict[str, CompressedTensor | str] = {}
    for name, entry in reader.index.entries.items():
        if isinstance(entry, TensorRecord):
            entries[name] = CompressedTensor(entry, partial(reader.section, name), reader.name)
        else:
            entries[name] = entry
    return CompressedModel(entries, reader.index.metadata, reader.overhead, reader.close)


def _sections(
    tensors: Mapping[str, CompressedTensor | str],
) -> Iterator[tuple[str, tuple[TensorRecord, Iterable[memoryview]] | str]]:
    for name, tensor in tensors.items():
        yield name, tensor if isinstance(tensor, str) else (tensor.record, [tensor.section()])
