"""Files of a command line, where ``-`` stands for standard input or output."""

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from ..container import Reader
from ..errors import DczError
from ..folders import open_packed
from ..shards import Shards
from ..urls import shown
from .terminal import CommandError, is_terminal

STANDARD = "-"


@contextmanager
def input_path(path: str) -> Iterator[str]:
    """Give the path of an input. Standard input is copied: a file is read from its end."""
    if path != STANDARD:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="deepcomp-") as folder:
        copy = os.path.join(folder, "standard-input")
        if sys.stdin is None:
            raise CommandError("standard input is closed")
        with open(copy, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield copy


@contextmanager
def output_path(path: str) -> Iterator[str]:
    """Give the path under which an output is written; standard output gets it when it is whole."""
    if path != STANDARD:
        yield path
        return
    if sys.stdout is None:
        raise CommandError("standard output is closed")
    if is_terminal():
        raise CommandError("a terminal shows no binary data: redirect it, or name a file")
    with tempfile.TemporaryDirectory(prefix="deepcomp-") as folder:
        copy = os.path.join(folder, "standard-output")
        yield copy
        with open(copy, "rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()


def open_file(path: str) -> Reader | Shards:
    """Open a ``.dcz`` file, a model in several files, a folder with one of them, or standard input.

    Raises
    ------
    CommandError
        If there is no use in reading on: it is not one, is cut off, is of a newer version, or its
        index is damaged; or a folder has none, or two. Damage elsewhere is found later, and is
        another exit status.
    OSError
        If it cannot be opened.
    """
    with input_path(path) as found:  # a copy may be deleted: the file stays open
        try:
            return open_packed(found, display_name(path))
        except DczError as error:
            raise CommandError(f"{error}{_way_on(path)}") from error


def _way_on(path: str) -> str:
    """Say how to get a ``.dcz`` file of what is named as a checkpoint."""
    from ..storage import CHECKPOINTS

    if not path.lower().endswith(CHECKPOINTS) or os.path.isdir(path):
        return ""
    other = f"{os.path.splitext(path)[0]}.dcz"
    command = shlex.join(["dcz", "compress", path, other, "--bits", "none"])
    return f"; of a checkpoint, this makes one: {command}"


def display_name(path: str) -> str:
    """Return how messages call an input."""
    return "standard input" if path == STANDARD else shown(path)


def refuse_own_file(reader: Reader | Shards, target: str) -> None:
    """Raise CommandError if a file that is open would be written over."""
    for path in reader.paths if isinstance(reader, Shards) else [reader.name]:
        refuse_same_file(path, target)


def refuse_same_file(source: str, target: str) -> None:
    """Raise CommandError if a file would be written over its own input."""
    both_are_there = os.path.exists(source) and os.path.exists(target)
    if both_are_there and os.path.samefile(source, target):
        raise CommandError(f"{target}: input and output are the same file")
