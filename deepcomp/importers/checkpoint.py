"""Checkpoints of other programs, recognised by what is in them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..arrays import Source, sources
from . import safetensors


@dataclass(frozen=True)
class Checkpoint:
    """A model as another program saved it.

    Attributes
    ----------
    tensors : mapping of str to Source
        For `deepcomp.compress` and `deepcomp.save`. In the order of the file; tensors are read
        when they are fetched, where the format allows. Tied weights stay tied.
    metadata : dict of str to str
        What the file says besides; empty where the format has no such thing.
    """

    tensors: Mapping[str, Source]
    metadata: dict[str, str]


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a model of another format.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    Checkpoint

    Raises
    ------
    ValueError
        If the file has none of the formats, or breaks a rule of its own. The message names it.
    OSError
        If it cannot be read.
    """
    path = os.fsdecode(path)
    tensors, metadata = safetensors.read_file(path)
    return Checkpoint(_listed(tensors), metadata)


def _listed(model: Mapping[str, Any]) -> dict[str, Source]:
    """Fold what was pruned by masks or shared, and refuse what a ``.dcz`` file cannot hold."""
    tensors: dict[str, Source] = {}
    for name, entry in sources(model).items():
        tensors[name] = tensors[entry].renamed(name) if isinstance(entry, str) else entry
    return tensors
