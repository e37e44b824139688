"""Checkpoints of other programs, recognised by what is in them."""

import contextlib
import errno
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ..arrays import Source, sources
from ..container import MAGIC
from ..decode import Patterns
from ..errors import DczError
from ..folders import WEIGHTS_NAME, main_folder, packed_in
from ..places import nbytes_of
from ..shards import INDEX_SUFFIX, Shards
from ..urls import beside, is_url, join, shown
from . import bitmask, dcz, npz, pytorch, safetensors

_LOCAL_ONLY = (".pt", ".pth", ".bin", ".bin.index.json", ".npz", ".dcz")
_ADAPTER = "adapter_model."  # of PEFT, beside the model that it adapts
_EXPECTED = "a .safetensors file or a folder of them, a PyTorch checkpoint or an .npz or .dcz file"


@dataclass(frozen=True)
class Checkpoint:
    """A model as another program saved it.

    Attributes
    ----------
    tensors : mapping of str to Source
        For `deepcomp.compress` and `deepcomp.save`, which take it as it is. In the order of the
        file; tensors are read when they are fetched, where the format allows. Tied weights stay
        tied.
    metadata : dict of str to str
        What the file says besides; empty where the format has no such thing.
    left_out : list of str
        The keys of what a PyTorch checkpoint holds beside the weights, as ``"optimizer"``.
    """

    tensors: Mapping[str, Source]
    metadata: dict[str, str]
    left_out: list[str] = field(default_factory=list)


def read_checkpoint(path: str | os.PathLike[str], key: str | None = None) -> Checkpoint:
    """Open a model of another format.

    * A ``.safetensors`` file, or a folder of them with an index, of any dtype that a ``.dcz`` file
      can hold. A tied weight that only the metadata name (``safetensors.torch.save_model``) is
      there again. Weights in the format ``sparse-bitmask`` of compressed-tensors are unfolded.
    * A PyTorch checkpoint: a state_dict, or one under the keys ``state_dict``,
      ``model_state_dict``, ``model_state``, ``model``, ``module``, ``net`` or ``params`` (the first
      of them that is there), or in a folder ``pytorch_model.bin`` or its shards with their index.
      Names are not changed: a ``module.`` in front stays. Sparse tensors are taken. Needs torch
      2.10: older ones can be made to run code in a file.
    * An ``.npz`` file, or one matrix of ``scipy.sparse.save_npz``, which gets the name of its file.
    * A ``.dcz`` file, its index of shards, or a folder with one of them and nothing of the others:
      a model that was compressed before, as it is now. Each tensor is decoded as a whole.

    Models pruned with ``torch.nn.utils.prune`` or shared by `deepcomp.share_weights` are folded, as
    by `deepcomp.compress`. No code in a file is run, and no object is unpickled.

    A file is mapped while it is in use: do not change it meanwhile. A small file can hold a sparse
    matrix that is large when it is dense, as a ``.dcz`` file can.

    Parameters
    ----------
    path : str or os.PathLike
        Of a file, a folder with one model, or an index ``*.safetensors.index.json``. In a folder of
        sentence-transformers the first part that ``modules.json`` lists is the model. Safetensors
        files can be behind a URL (the extra ``remote``) and are read by ranges; in a folder there
        they need their usual names, ``model.safetensors`` or ``model.safetensors.index.json``.
    key : str, optional
        Of the state_dict in a PyTorch checkpoint, where it is none of the usual ones.

    Returns
    -------
    Checkpoint

    Raises
    ------
    ValueError
        If it has none of these formats, or breaks a rule of its own: at once, or when a tensor is
        fetched. The message names the file and the tensor.
    ImportError
        If it is a PyTorch checkpoint and torch is not there, or is older than 2.10.
    OSError
        If it cannot be read.

    Examples
    --------
    >>> import deepcomp, numpy as np, pathlib, tempfile
    >>> from deepcomp.importers import read_checkpoint
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.npz")
    ...     np.savez(path, **{"fc.weight": np.eye(64), "fc.bias": np.ones(64)})
    ...     checkpoint = read_checkpoint(path)
    ...     deepcomp.compress(checkpoint.tensors, bits=2)
    <CompressedModel of 2 tensors, ... of 33280 bytes, exact>
    """
    path = os.fsdecode(path)
    left_out: list[str] = []
    if is_url(path):
        tensors, metadata = _read_url(path, key)
    else:
        path = _model_in(main_folder(path)) if os.path.isdir(path) else path
        tensors, metadata = _read(path, key, left_out)
    where = shown(path)
    try:
        return Checkpoint(_listed(where, tensors), metadata, list(dict.fromkeys(left_out)))
    except (ValueError, RuntimeError) as error:  # torch's own are RuntimeErrors
        raise ValueError(f"{where}: {error}") from None


def files_of(path: str) -> list[str]:
    """List the files, by path or URL, in which `read_checkpoint` finds the tensors.

    An index is not among them; that of shards of a ``.dcz`` model is, which is part of it.

    Raises
    ------
    ValueError, OSError
        If there is no model, or its index cannot be read.
    """
    if is_url(path):
        path = _model_at(path)
    elif os.path.isdir(path):
        path = _model_in(main_folder(path))
    name = path.partition("?")[0] if is_url(path) else os.path.basename(path)
    if name.endswith(INDEX_SUFFIX):
        return Shards(path).paths
    if not name.endswith(safetensors.INDEX_SUFFIX) and name != pytorch.INDEX_NAME:
        return [path]
    return [beside(path, file) for file in dict.fromkeys(safetensors.read_index(path).values())]


def _read_url(url: str, key: str | None) -> tuple[Mapping[str, Any], dict[str, str]]:
    """Read a safetensors file or an index behind a URL, or the one in a folder there."""
    path = _model_at(url)
    if key is not None:
        raise ValueError(f"{shown(url)}: a key is for PyTorch checkpoints")
    is_index = path.partition("?")[0].endswith(safetensors.INDEX_SUFFIX)
    read = safetensors.read_shards if is_index else safetensors.read_file
    return _unfolded(shown(path), *read(path))


def _model_at(url: str) -> str:
    """Return the URL of a file, or of the index or the file in a folder."""
    if url.partition("?")[0].lower().endswith(_LOCAL_ONLY):
        raise ValueError(
            f"{shown(url)}: of a URL a .safetensors file, its index or a folder with one is read: "
            "download it first"
        )
    if url.partition("?")[0].endswith((safetensors.INDEX_SUFFIX, ".safetensors")):
        return url
    names = ("model" + safetensors.INDEX_SUFFIX, "model.safetensors")
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            nbytes_of(join(url, name))
            return join(url, name)
    raise FileNotFoundError(errno.ENOENT, f"expected {' or '.join(names)} there", shown(url))


def _model_in(folder: str) -> str:
    """Find the index of a folder, or its only file."""
    names = sorted(os.listdir(folder))
    endings = (safetensors.INDEX_SUFFIX, ".safetensors", pytorch.INDEX_NAME, pytorch.FILE_NAME)
    own = [name for name in names if not name.startswith(_ADAPTER)]
    kinds = ([name for name in own if name.endswith(ending)] for ending in endings)
    found: list[str] = next(filter(None, kinds), [])
    packed = packed_in(folder) if not found else None
    if packed is not None:
        return packed
    if len(found) != 1:
        listed = ", ".join((found or names)[:5]) or "nothing"
        hint = ": give the path of the file" if found else ""
        if len(found) > 1 and found[0].endswith(".safetensors"):
            hint += (
                f", or, if together they are one model, write a model{safetensors.INDEX_SUFFIX}: "
                '{"weight_map": {TENSOR: FILE, ...}}'
            )
        raise ValueError(
            f"{folder}: expected one *{safetensors.INDEX_SUFFIX}, one .safetensors file, one "
            f"{pytorch.FILE_NAME}, {WEIGHTS_NAME} or one *{INDEX_SUFFIX} in the folder, "
            f"found {listed}{hint}"
        )
    return os.path.join(folder, found[0])


def _read(
    path: str, key: str | None, left_out: list[str]
) -> tuple[Mapping[str, Any], dict[str, str]]:
    """Read the tensors and the metadata of a file, by its content, or else by its name.

    What else a PyTorch checkpoint holds is added to `left_out`.
    """

    def read_pytorch(file: str) -> tuple[Mapping[str, Any], dict[str, str]]:
        state_dict, others = pytorch.read_file(file, key)
        left_out.extend(others)
        return state_dict, {}

    if os.path.basename(path) == pytorch.INDEX_NAME:
        return safetensors.read_shards(path, read_pytorch)
    file_nbytes = os.stat(path).st_size
    if not os.path.isfile(path):
        raise ValueError(f"{path}: expected {_EXPECTED}, found no regular file")
    with open(path, "rb") as file:
        start = file.read(16)
    names = _members(path) if start.startswith(b"PK") else []
    is_index = path.endswith(safetensors.INDEX_SUFFIX)
    is_safetensors = safetensors.looks_like_safetensors(start, file_nbytes)
    is_safetensors |= path.endswith(".safetensors") and not names
    is_pickle = start.startswith(b"\x80") and not is_safetensors  # as of torch 1.5
    if is_pickle or any(name.endswith("data.pkl") for name in names):
        return read_pytorch(path)
    if key is not None:
        raise ValueError(f"{path}: a key is for PyTorch checkpoints")
    if start.startswith(MAGIC) or path.endswith(INDEX_SUFFIX):
        return dcz.read_file(path)
    if is_index or is_safetensors:
        read = safetensors.read_shards if is_index else safetensors.read_file
        return _unfolded(path, *read(path))
    if npz.looks_like_npz(names) or (path.endswith(".npz") and start.startswith(b"PK")):
        return npz.read_file(path), {}
    found = f"a file that starts with {start!r}" if start else "an empty file"
    raise ValueError(f"{path}: expected {_EXPECTED}, found {found}")


def _members(path: str) -> list[str]:
    """List what is in a zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ValueError(f"{path}: a damaged archive: {error}") from None


def _unfolded(
    path: str, tensors: dict[str, Source], metadata: dict[str, str]
) -> tuple[dict[str, Source], dict[str, str]]:
    try:
        return bitmask.unfold(tensors), metadata
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _listed(path: str, model: Mapping[str, Any]) -> dict[str, Source]:
    """Fold what was pruned by masks or shared, and refuse what a ``.dcz`` file cannot hold."""
    tensors: dict[str, Source] = {}
    for name, entry in sources(model).items():
        if isinstance(entry, str):
            tensors[name] = tensors[entry].renamed(name)
        else:
            tensors[name] = replace(entry, fetch=partial(_fetch, path, entry))
    return tensors


def _fetch(path: str, source: Source) -> Patterns:
    """Let an error name the file."""
    try:
        return source.weight().patterns
    except ValueError as error:
        if isinstance(error, DczError) or str(error).startswith(path):
            raise
        raise ValueError(f"{path}: {error}") from None
    except RuntimeError as error:  # of torch: no memory for a view of one entry as a large tensor
        raise ValueError(f"{path}: tensor {source.name!r}: {str(error).splitlines()[0]}") from None
