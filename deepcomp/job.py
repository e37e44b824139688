"""What is compressed into a folder, written down before it begins: work goes on, or is refused."""

import json
from typing import Any

from . import __version__
from .places import make_folder, names_in, read_whole, write_whole
from .urls import join, shown

JOB_NAME = "model.dcz.job.json"
PARTS_NAME = "parts"


def begin(target: str, job: dict[str, Any]) -> None:
    """Make the folder, and write down what is compressed into it, or compare it with what is there.

    Parameters
    ----------
    target : str
        Path or URL of the folder.
    job : dict
        Of what JSON can hold; arguments by their names, and in ``source`` the stamps of files.

    Raises
    ------
    ValueError
        If the folder was begun with other arguments, for a checkpoint that has changed since, or
        holds another model.
    OSError
        If the folder cannot be made or written.
    """
    make_folder(target)
    job = json.loads(json.dumps({"deepcomp": __version__, **job}))
    found = [name for name in names_in(target) if ".dcz" in name]
    if JOB_NAME in found:
        _compare(target, job)
    elif found:
        raise ValueError(
            f"{shown(target)}: has {found[0]!r}, but no {JOB_NAME}: give another folder"
        )
    else:
        path = join(target, JOB_NAME)
        write_whole(path, json.dumps(job, indent=1, sort_keys=True).encode())
    make_folder(join(target, PARTS_NAME))


def _compare(target: str, job: dict[str, Any]) -> None:
    path = join(target, JOB_NAME)
    try:
        before = json.loads(read_whole(path))
        assert isinstance(before, dict)
    except (ValueError, AssertionError):
        raise ValueError(f"{shown(path)}: damaged: expected a JSON object") from None
    changed = _changed(before.get("source"), job["source"])
    if changed:
        raise ValueError(
            f"{shown(target)}: {changed} has changed since this folder was begun, or is another "
            "one: delete the folder, or give another"
        )
    for name in sorted(job.keys() | before.keys()):
        if before.get(name) != job.get(name):
            raise ValueError(
                f"{shown(target)}: begun with {name} = {_short(before.get(name))}, now it is "
                f"{_short(job.get(name))}: give the same arguments, or another folder"
            )


def _changed(before: Any, now: list[list[str | int]]) -> str:
    """Return which file is another one now, under the same name; empty if names differ as well."""
    stamps = before if isinstance(before, list) else []
    names = [stamp[0] if isinstance(stamp, list) and stamp else None for stamp in stamps]
    if names != [stamp[0] for stamp in now]:
        return ""
    return next((str(b[0]) for a, b in zip(stamps, now) if a != b), "")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
