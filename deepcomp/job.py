"""What is compressed into a folder, written down before it begins: work goes on, or is refused."""

import json
import os
from typing import Any

from . import __version__
from .files import write_whole

JOB_NAME = "model.dcz.job.json"
PARTS_NAME = "parts"


def begin(target: str, job: dict[str, Any]) -> None:
    """Make the folder, and write down what is compressed into it, or compare it with what is there.

    Parameters
    ----------
    target : str
        Path of the folder.
    job : dict
        Of what JSON can hold; arguments by their names.

    Raises
    ------
    ValueError
        If the folder was begun with other arguments, or holds another model.
    OSError
        If the folder cannot be made or written.
    """
    os.makedirs(target, exist_ok=True)
    job = json.loads(json.dumps({"deepcomp": __version__, **job}))
    path = os.path.join(target, JOB_NAME)
    if os.path.exists(path):
        _compare(target, path, job)
    elif found := [name for name in sorted(os.listdir(target)) if ".dcz" in name]:
        raise ValueError(f"{target}: has {found[0]!r}, but no {JOB_NAME}: give another folder")
    else:
        write_whole(path, json.dumps(job, indent=1, sort_keys=True).encode())
    os.makedirs(os.path.join(target, PARTS_NAME), exist_ok=True)


def _compare(target: str, path: str, job: dict[str, Any]) -> None:
    try:
        with open(path, "rb") as file:
            before = json.load(file)
        assert isinstance(before, dict)
    except (ValueError, AssertionError):
        raise ValueError(f"{path}: damaged: expected a JSON object") from None
    for name in sorted(job.keys() | before.keys()):
        if before.get(name) != job.get(name):
            raise ValueError(
                f"{target}: begun with {name} = {_short(before.get(name))}, now it is "
                f"{_short(job.get(name))}: give the same arguments, or another folder"
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
