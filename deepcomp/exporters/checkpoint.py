"""Compressed models as checkpoints of other programs."""

import os
from pathlib import PurePath

from ..files import Replacement
from ..model import CompressedModel
from . import npz, safetensors

_SUFFIXES = {".safetensors": "safetensors", ".pt": "pt", ".pth": "pt", ".npz": "npz"}


def write_checkpoint(
    packed: CompressedModel, path: str | os.PathLike[str], format: str | None = None
) -> None:
    """Write the dense tensors of a compressed model for other programs.

    Values are the same bit for bit, and dtypes are the same. As `deepcomp.save` does it, the new
    file takes the place of an old one when it is whole, or not at all.

    * "safetensors": tied weights are stored once, under their first name; the metadata name the
      others, as ``safetensors.torch.save_model`` does it, so that its ``load_model`` and
      `read_checkpoint` tie them again. ``load_file`` gives the first name only. Needs neither torch
      nor the library, and memory for one tensor.
    * "pt": ``torch.save`` of a state_dict, tied weights being the same tensor. Without metadata.
      Needs torch, and memory for all tensors.
    * "npz": tied weights are stored under each name. Without metadata. NumPy has no bfloat16 and
      no float8: a model with such tensors is refused. Memory for one tensor.

    Parameters
    ----------
    packed : CompressedModel
    path : str or os.PathLike
    format : {"safetensors", "pt", "npz"}, optional
        By default as the ending of `path` says: ``.safetensors``, ``.pt`` or ``.pth``, ``.npz``.

    Raises
    ------
    ValueError
        If the format is none of these, or cannot hold the model.
    DczError
        If `packed` is of a file that is damaged.
    ImportError
        If the format is "pt" and torch is not there.
    OSError
        If the file cannot be written.

    After any error an old file at `path` is untouched, but as `deepcomp.save` says of folders that
    cannot be synced.

    Examples
    --------
    >>> import deepcomp, numpy as np, pathlib, tempfile
    >>> from deepcomp.exporters import write_checkpoint
    >>> packed = deepcomp.compress({"fc.weight": np.eye(64)}, bits=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.npz")
    ...     write_checkpoint(packed, path)
    ...     bool((np.load(path)["fc.weight"] == np.eye(64)).all())
    True
    """
    if format is None:
        suffix = PurePath(os.fsdecode(path)).suffix
        format = _SUFFIXES.get(suffix.lower())
        if format is None:
            endings = ", ".join(_SUFFIXES)
            raise ValueError(f"{os.fsdecode(path)}: expected a name that ends with {endings}")
    if format not in _SUFFIXES.values():
        raise ValueError(f"format is {format!r}: expected 'safetensors', 'pt' or 'npz'")
    if format == "pt":
        _check_torch(path)
    else:
        (safetensors if format == "safetensors" else npz).check(packed)
    with Replacement(path) as file:
        if format == "safetensors":
            safetensors.write(packed, file)
        elif format == "npz":
            npz.write(packed, file)
        else:
            _write_pt(packed, file)


def _check_torch(path: str | os.PathLike[str]) -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{os.fsdecode(path)}: a PyTorch checkpoint needs torch: pip install 'deepcomp[torch]'",
            name=error.name,
        ) from error


def _write_pt(packed: CompressedModel, file: Replacement) -> None:
    import torch

    torch.save(packed.state_dict(), file)
