"""What a path or a URL stands for: a file, an index of shards, or a folder that has one of them.

Standard library only.
"""

import contextlib
import errno
import json
import os
import shlex
from typing import BinaryIO

from .container import Reader
from .errors import DczError
from .job import JOB_NAME
from .shards import INDEX_NAME, INDEX_SUFFIX, Shards
from .urls import is_url, join, shown

WEIGHTS_NAME = "model.dcz"
MODULES_NAME = "modules.json"  # of sentence-transformers

_CHECKPOINTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
_MAX_MODULES_NBYTES = 1 << 20


def open_packed(
    file: str | os.PathLike[str] | BinaryIO,
    name: str | None = None,
    max_dense_bytes: int | None = None,
    mmap: bool = True,
) -> Reader | Shards:
    """Open a ``.dcz`` file, an index of shards, or the one of them that is in a folder.

    Parameters
    ----------
    file : str, os.PathLike or binary file
        A path, a URL, or an open file.
    name : str, optional
        Of a file, for messages; by default its own.
    max_dense_bytes, mmap
        See `storage.load`.

    Raises
    ------
    DczError
        If a folder has none or two, and as of `Reader` and `Shards`.
    OSError
        If it cannot be read.
    """
    settings = max_dense_bytes, mmap
    if isinstance(file, str) and is_url(file):
        return _open_url(file, name, settings)
    path = os.fsdecode(file) if isinstance(file, str | bytes | os.PathLike) else ""
    if is_url(path) or not (path.endswith(INDEX_SUFFIX) or os.path.isdir(path)):
        return Reader(file, name, *settings)
    if os.path.isdir(path):
        found = packed_in(path)
        if found is None:
            raise DczError(_none_in(main_folder(path)))
        if not found.endswith(INDEX_SUFFIX):
            return Reader(found, None, *settings)
        path = found
    return Shards(path, *settings)


def packed_in(folder: str) -> str | None:
    """Return the path of ``model.dcz``, or of the only index of shards, in a folder.

    Raises
    ------
    DczError
        If there is more than one.
    """
    folder = main_folder(folder)
    names = sorted(os.listdir(folder))
    found = [name for name in names if name.endswith(INDEX_SUFFIX) or name == WEIGHTS_NAME]
    if len(found) > 1:
        raise DczError(
            f"{folder}: expected {WEIGHTS_NAME} or one *{INDEX_SUFFIX} in the folder, "
            f"found {_listed(found)}: give the path of the one that is meant"
        )
    return os.path.join(folder, found[0]) if found else None


def main_folder(folder: str) -> str:
    """Return where the weights of a model are: in the folder itself, or in one that is in it.

    Of the models of sentence-transformers, ``modules.json`` lists the parts, each with its folder:
    the first computes from the text, and is the model; the others follow it.
    """
    path = os.path.join(folder, MODULES_NAME)
    if not os.path.isfile(path):  # a named pipe must not be waited for
        return folder
    try:
        with open(path, "rb") as file:
            modules = json.loads(file.read(_MAX_MODULES_NBYTES))
    except (ValueError, RecursionError):
        return folder
    first = modules[0] if isinstance(modules, list) and modules else None
    name = first.get("path") if isinstance(first, dict) else None
    if not isinstance(name, str) or os.path.basename(name) != name or name in ("", ".", ".."):
        return folder
    part = os.path.join(folder, name)
    return part if os.path.isdir(part) else folder


def _none_in(folder: str) -> str:
    """Say that a folder has no model, what is there, and what makes one of it."""
    names = sorted(os.listdir(folder))
    files = [name for name in names if name.endswith(".dcz")]
    hint = ""
    if JOB_NAME in names:
        hint = ": dcz compress did not finish it: the same command goes on"
    elif files:
        hint = f": there is {files[0]}: give the path of the file"
    elif any(name.endswith(_CHECKPOINTS) for name in names):
        hint = f" ({way_to_pack(folder)} makes one, exact)"
    return (
        f"{folder}: expected {WEIGHTS_NAME} or one *{INDEX_SUFFIX} in the folder, "
        f"found {_listed(names)}{hint}"
    )


def way_to_pack(folder: str) -> str:
    """Return the command that makes ``model.dcz`` of the checkpoint in a folder."""
    return shlex.join(
        ["dcz", "compress", folder, os.path.join(folder, WEIGHTS_NAME), "--bits", "none"]
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "") or "nothing"


def _open_url(url: str, name: str | None, settings: tuple[int | None, bool]) -> Reader | Shards:
    """Open what is behind a URL; that of a folder need not end with a slash."""
    start = url.partition("?")[0]
    if start.endswith(INDEX_SUFFIX):
        return Shards(url, *settings)
    if not start.endswith("/"):
        try:
            return Reader(url, name, *settings)
        except (FileNotFoundError, IsADirectoryError):
            if start.endswith(".dcz"):
                raise
    with contextlib.suppress(FileNotFoundError):
        return Shards(join(url, INDEX_NAME), *settings)
    with contextlib.suppress(FileNotFoundError):
        return Reader(join(url, WEIGHTS_NAME), None, *settings)
    what = f"neither a file, nor a folder with {INDEX_NAME} or {WEIGHTS_NAME}"
    raise FileNotFoundError(errno.ENOENT, what, shown(url))
