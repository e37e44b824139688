"""The files beside the weights of a model: config, tokenizer, templates, other parts; copied.

Standard library only.
"""

import os
from collections.abc import Collection
from fnmatch import fnmatchcase

from .folders import WEIGHTS_NAME, main_folder
from .job import JOB_NAME
from .places import make_folder, replacement
from .shards import INDEX_SUFFIX
from .urls import is_url, join

# What other files with the same weights are called, and what trainers keep beside them.
_SAME_WEIGHTS = (
    *("model*.safetensors", "consolidated*.safetensors", "consolidated*.pth", "pytorch_model*.bin"),
    *("tf_model*.h5", "flax_model*.msgpack", "rust_model*.ot", "model*.ckpt*", "*.gguf"),
    *("*.onnx", "*.onnx_data", "*.dcz", "optimizer.pt", "optimizer.bin"),
)
_SAME_MODEL = ("onnx", "openvino", "coreml", "original", "checkpoint-*")  # folders
_UNSAID = (".index.json", JOB_NAME, WEIGHTS_NAME)  # the new folder has its own, or needs none


def copy_companions(
    source: str, target: str, weights: Collection[str] = (), without: Collection[str] = ()
) -> list[str]:
    """Copy what is beside the weights of a model from one folder into another.

    All files of all folders are copied, those of other parts with their weights, but not: files
    with the same weights (`weights`, and those that are called as the weights of other frameworks,
    or of trainers, are) and their indexes; folders with the same model in another form; links to
    folders, devices and the like; and names that begin with a dot. A link to a file is copied as
    the file. Each file takes the place of an old one when it is whole; others that are in the
    target stay.

    Parameters
    ----------
    source, target : str
        Folders; the second, or its URL, is made. Nothing is done if they are the same.
    weights : collection of str
        Paths of files that have been compressed.
    without : collection of str
        Patterns for names beside the weights that are not copied, as others are written.

    Returns
    -------
    list of str
        What was left out, as paths in `source`, but for `weights`, indexes, an older ``model.dcz``,
        `without`, and names that begin with a dot.

    Raises
    ------
    ValueError
        If a file would be written over one of `source`.
    OSError
        If a file cannot be read or written.
    """
    own = None if is_url(target) else os.path.realpath(target)
    if own == os.path.realpath(source):
        return []
    copied, left_out = _listed(source, own, {os.path.realpath(path) for path in weights})
    beside = os.path.relpath(main_folder(source), source)
    for name in list(copied):
        folder, file = os.path.split(name)
        if (folder or os.curdir) == beside and file and any(fnmatchcase(file, p) for p in without):
            copied.remove(name)
    if own is not None:
        _refuse_own(source, own, copied)
    make_folder(target)
    for name in copied:
        path = join(target, name)
        if name.endswith(os.sep):  # an empty one may be a part that has no settings
            make_folder(path)
            continue
        with open(os.path.join(source, name), "rb") as original, replacement(path) as copy:
            while piece := original.read(1 << 20):
                copy.write(piece)
    return left_out


def _listed(
    source: str, target: str | None, weights: Collection[str]
) -> tuple[list[str], list[str]]:
    """List the files that are copied, and what else is there, as paths in `source`."""
    copied, left_out = [], []
    main = main_folder(source)
    for folder, folders, names in os.walk(source, onerror=_raise):
        for name in sorted(folders):
            path = os.path.join(folder, name)
            if name.startswith(".") or os.path.realpath(path) == target:
                folders.remove(name)
            elif os.path.islink(path) or (path != main and _is_same_model(path)):
                folders.remove(name)
                left_out.append(os.path.relpath(path, source) + os.sep)
            else:
                copied.append(os.path.relpath(path, source) + os.sep)
        for name in sorted(names):
            path = os.path.join(folder, name)
            if name.startswith("."):
                continue
            is_same = folder == main and (_is_same_weights(name) or name.endswith(_UNSAID))
            if not is_same and os.path.isfile(path) and os.path.realpath(path) not in weights:
                copied.append(os.path.relpath(path, source))
            elif os.path.realpath(path) not in weights and not name.endswith(_UNSAID):
                left_out.append(os.path.relpath(path, source))
    return sorted(copied), sorted(left_out)


def _raise(error: OSError) -> None:
    raise error  # else a folder that cannot be read would be taken for an empty one


def _is_same_weights(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _SAME_WEIGHTS)


def _is_same_model(folder: str) -> bool:
    """Say whether a folder has the model in another form, or another compressed one."""
    if any(fnmatchcase(os.path.basename(folder), pattern) for pattern in _SAME_MODEL):
        return True
    return any(name.endswith((".dcz", INDEX_SUFFIX)) for name in os.listdir(folder))


def _refuse_own(source: str, target: str, names: Collection[str]) -> None:
    """Raise ValueError where the target is around the source, and its files would go there."""
    start = os.path.join(os.path.realpath(source), "")
    if target.startswith(start):
        return
    for name in names:
        path = os.path.realpath(os.path.join(target, name))
        if path.startswith(start):
            raise ValueError(f"{path}: would be written over: give a folder outside of {source}")
