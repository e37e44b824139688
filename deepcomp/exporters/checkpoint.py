"""Compressed models as checkpoints of other programs."""

import os
from pathlib import PurePath

from ..model import CompressedModel
from . import safetensors

FORMATS = {".safetensors": "safetensors", ".pt": "pt", ".pth": "pt", ".npz": "npz"}


def write_checkpoint(
    packed: CompressedModel, path: str | os.PathLike[str], format: str | None = None
) -> None:
    """Write the dense tensors of a compressed model for other programs.

    Parameters
    ----------
    packed : CompressedModel
    path : str or os.PathLike
    format : {"safetensors", "pt", "npz"}, optional
        By default as the ending of `path` says.
    """
    if format is None:
        format = FORMATS.get(PurePath(os.fsdecode(path)).suffix.lower())
    if format == "safetensors":
        safetensors.write_file(packed, path)
    else:
        raise ValueError(f"format is {format!r}: expected 'safetensors', 'pt' or 'npz'")
