"""Checkpoints larger than memory: compressed in parts, by any number of processes.

**The result** is a folder: shards ``model-00001-of-00005.dcz``, each a file as any other, and an
index of shards ``model.dcz.index.json`` (``formats/dcz.md``, section 11), which `deepcomp.load`
presents as one model. Which tensors a shard has follows from the checkpoint and `shard_nbytes`.

**A task** is a small message for one worker: which entries of which file, what to do, and which
file to write (`part_tasks`). A few small tensors are one task: all stages, and the sections in a
file under ``parts``. A tensor of more than `task_numel` entries is cut into pieces of so many, but
never one of up to `records.MAX_WHOLE_NUMEL`, whose rows of zeros `encode` may leave out.
What must be known of all of it (its threshold, codebook and codes) is found in passes over the
pieces; their answers are counts that add up, so the bytes are those of one piece. Then each piece
is encoded into a file under ``parts``. At last the parts of a shard are put together. What
travels between processes besides: histograms, codebooks, and codes.

**In rounds**: all that can be done now is given to joblib at once; what it makes possible follows
in the next round. Shards that are whole are verified and left alone, parts too: this is how a
second call goes on. `job` refuses one with other arguments.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from . import job
from .losses import warn
from .places import absolute, remove_folder, write_whole
from .records import MAX_BLOCK_NUMEL
from .urls import is_url, join

if TYPE_CHECKING:
    from .large_model import LargeModel, ShardFile
    from .model import CompressedModel

TASK_NUMEL = 1 << 25
SHARD_NBYTES = 5_000_000_000


def compress_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    bits: int | Mapping[str, int] | None = 5,
    sparsity: float | Mapping[str, float] | None = None,
    threshold: float | Mapping[str, float] | None = None,
    std: float | Mapping[str, float] | None = None,
    scope: str = "layer",
    exclude: str | Iterable[str] | None = None,
    shard_nbytes: int = SHARD_NBYTES,
    task_numel: int = TASK_NUMEL,
    n_jobs: int | None = None,
) -> CompressedModel:
    """Compress a checkpoint that need not fit in memory, into a folder of shards.

    What is beside the weights in a folder, as config, tokenizer and other parts of a model, is
    copied into the new one, so that `hf.from_pretrained` and others find it; but not weights in
    other formats, which a warning names, and nothing from a URL.

    The tensors become what `compress` makes of them, byte for byte, whatever the number of
    workers, the backend and `task_numel`. A call that was interrupted is made again with the same
    arguments, and goes on. The checkpoint must not change meanwhile.

    Work is shared out by joblib: ``with joblib.parallel_config(backend="dask")`` (or "ray",
    "loky", "threading") around the call decides where. All workers must see both folders.

    **A URL**, of the checkpoint or of the folder, is a string such as ``"s3://bucket/folder"``, and
    goes to fsspec (the extra ``remote``). The checkpoint must be safetensors then. What is secret
    in a URL is in no message, and in no file that is written.

    Parameters
    ----------
    source : str or os.PathLike
        A checkpoint as of `importers.read_checkpoint`: a safetensors file, or a folder of them with
        an index, is read by ranges; a tensor of another format must fit in memory. Or a URL.
    target : str or os.PathLike
        A folder, or its URL; is made if it is not there. Where the weights of `source` are in a
        part of it, see `importers.read_checkpoint`, the shards are in the same part of this one.
    bits, sparsity, threshold, std, scope, exclude
        See `compress`, of a mapping.
    shard_nbytes : int, default 5 GB
        A shard takes tensors, in order, up to so many bytes when they are dense, and one at least.
    task_numel : int, default 2**25
        The most weights that a worker has in memory; larger tensors are cut (from 2**24 weights
        on: smaller ones never are). A multiple of 2**20.
        A worker needs some 100 MB and about 3 bytes for each of them (of bfloat16).
    n_jobs : int, optional
        Number of workers, as of ``joblib.Parallel``: -1 for all cores. By default one, or what
        ``joblib.parallel_config`` says.

    Returns
    -------
    CompressedModel
        What `load` returns for `target`; the relative errors are known besides, but not those of
        shards that an earlier call finished.

    Warns
    -----
    LossWarning
        As of `compress`.

    Raises
    ------
    ValueError
        If a setting is not possible, the folder was begun with other arguments, or a tensor
        cannot be compressed. The message names the tensor; what was finished stays.
    OSError
        If a file cannot be read or written.
    ImportError
        If more than one worker is wanted, and joblib is missing: ``deepcomp[parallel]``. If what a
        URL needs is missing: ``deepcomp[remote]``, or a package for that kind of storage.
    RuntimeError
        If workers die again and again.

    Examples
    --------
    >>> import deepcomp, numpy as np, os, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> source, target = (os.path.join(folder.name, name) for name in ("model.npz", "packed"))
    >>> np.savez(source, w=np.eye(64), b=np.ones(64))
    >>> deepcomp.compress_checkpoint(source, target, bits=2)
    <CompressedModel of 2 tensors, ... of 33280 bytes, exact>
    >>> sorted(os.listdir(target))
    ['model-00001-of-00001.dcz', 'model.dcz.index.json', 'model.dcz.job.json']
    >>> folder.cleanup()
    """
    from .large_model import open_model, shards_of
    from .rounds import run
    from .rules import listed
    from .shards import INDEX_NAME
    from .storage import load
    from .workers import Workers

    _check("shard_nbytes", shard_nbytes, 1)
    _check("task_numel", task_numel, MAX_BLOCK_NUMEL)
    if n_jobs == 0:
        raise ValueError("n_jobs is 0: expected a number of workers, or -1 for one a core")
    folders = absolute(source), absolute(target)
    source, target = _main_folders(*folders)
    exact = listed(exclude)
    model = open_model(source, (bits, sparsity, threshold, std, scope, exact), task_numel)
    job.begin(
        target,
        {
            "bits": _plain(bits),
            "sparsity": _plain(sparsity),
            "threshold": _plain(threshold),
            "std": _plain(std),
            "scope": scope,
            "exclude": exact or None,  # folders begun by older ones have no such argument
            "shard_nbytes": shard_nbytes,
            "source": model.stamps,
            "metadata": model.metadata,
        },
    )
    shards = shards_of(model, target, shard_nbytes)
    with Workers(n_jobs, sum(t.numel for t in model.tensors)) as workers:
        losses = run(workers, model, shards, join(target, job.PARTS_NAME), task_numel)
    _finish(model, shards, target, folders)
    packed = load(join(target, INDEX_NAME))
    for name, loss in losses.items():
        packed[name].loss = loss
    warn(losses)
    return packed


def _finish(
    model: LargeModel, shards: list[ShardFile], target: str, folders: tuple[str, str]
) -> None:
    """Remove the parts, and write the index of shards, last: with it, the model is whole."""
    from .container import Reader
    from .limits import ANY_SIZE
    from .shards import INDEX_NAME, describe, encode_shard_index

    remove_folder(join(target, job.PARTS_NAME))
    _copy_companions(*folders)
    readers = ((s.name, Reader(s.path, max_dense_bytes=ANY_SIZE)) for s in shards)
    index = describe(model.metadata, readers, model.names, model.aliases)
    write_whole(join(target, INDEX_NAME), encode_shard_index(index))


def _main_folders(source: str, target: str) -> tuple[str, str]:
    """Return where the weights are, and where those that are made of them go."""
    from .folders import main_folder

    if is_url(source) or not os.path.isdir(source):
        return source, target
    main = main_folder(source)
    return main, target if main == source else join(target, os.path.basename(main))


def _copy_companions(source: str, target: str) -> None:
    """Copy what is beside the weights, and say what is left out."""
    from .companions import copy_companions
    from .importers.checkpoint import files_of

    if is_url(source) or not os.path.isdir(source):  # of a file nothing else was given
        return
    if left_out := copy_companions(source, target, files_of(source)):
        warnings.warn(f"{source}: not copied: {', '.join(left_out)}", stacklevel=4)


def _check(name: str, value: Any, step: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or value % step:
        multiple = f", a multiple of {step}" if step > 1 else ""
        raise ValueError(f"{name} is {value!r}: expected a positive integer{multiple}")


def _plain(setting: Any) -> Any:
    """Return a setting as JSON keeps it: of a mapping, the order counts."""
    return [[k, v] for k, v in setting.items()] if isinstance(setting, Mapping) else setting
