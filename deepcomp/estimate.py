"""What it would take to compress a checkpoint: measured on a small sample of its weights."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from .large import TASK_NUMEL
from .large_model import LargeModel, LargeTensor, open_model
from .part_tasks import Whole, compress_whole
from .places import absolute
from .records import ITEMSIZE

_SAMPLE = 1 << 22  # entries of a tensor, from its middle
_MAX_SAMPLES = 3  # of tensors with the same dtype and settings
_PASSES = 1.25  # a tensor in pieces takes so many times as long: it is read again in each pass
_BASE_NBYTES = 120_000_000  # of a process: Python, NumPy, tables
_BYTES_A_BYTE = 2.0  # of memory, for each byte that a task reads; measured: 0.6 to 1.5


@dataclass(frozen=True)
class Estimate:
    """What `compress_checkpoint` is expected to take.

    Attributes
    ----------
    n_tensors, n_weights : int
    dense_nbytes : int
    nbytes : int
        Of the result; some per cent more or less.
    core_seconds : float
        On cores like that of the sample, nothing else running, and files read as fast as here.
    memory_nbytes : int
        Of each process, at most.
    """

    n_tensors: int
    n_weights: int
    dense_nbytes: int
    nbytes: int
    core_seconds: float
    memory_nbytes: int

    def seconds(self, n_jobs: int) -> float:
        """Return how long it would take with so many workers."""
        return self.core_seconds / n_jobs


def estimate(path: str | os.PathLike[str], settings: tuple[Any, ...]) -> Estimate:
    """Compress a sample of a checkpoint in memory, and expect the rest to be like it.

    Parameters
    ----------
    path : str or os.PathLike
        As of `compress_checkpoint`.
    settings : tuple
        ``bits, sparsity, threshold, std, scope, exclude`` as of `compress_checkpoint`. Tensors that
        are cut together are measured as if each were cut for itself.

    Returns
    -------
    Estimate

    Raises
    ------
    ValueError, OSError
        As of `compress_checkpoint`.
    """
    model = open_model(absolute(path), settings, TASK_NUMEL)
    nbytes = seconds = 0.0
    for kind in _kinds(model):
        of_one, took = _measure(kind)
        numel = sum(t.numel for t in kind)
        nbytes += of_one * numel
        pieces = sum(t.numel for t in kind if len(t.extents) > 1)
        seconds += took * (numel + (_PASSES - 1) * pieces)
    largest = max((min(t.numel, TASK_NUMEL) * ITEMSIZE[t.dtype] for t in model.tensors), default=0)
    return Estimate(
        len(model.names),
        sum(t.numel for t in model.tensors),
        sum(t.nbytes for t in model.tensors),
        round(nbytes),
        seconds,
        round(_BASE_NBYTES + _BYTES_A_BYTE * largest),
    )


def _kinds(model: LargeModel) -> list[list[LargeTensor]]:
    """Group tensors by what decides how small they get."""
    kinds: dict[tuple[Any, ...], list[LargeTensor]] = {}
    for tensor in model.tensors:
        is_large = tensor.numel > _SAMPLE
        kinds.setdefault((tensor.dtype, tensor.bits, tensor.rule, is_large), []).append(tensor)
    return list(kinds.values())


def _measure(kind: list[LargeTensor]) -> tuple[float, float]:
    """Compress samples of some tensors; return the bytes and the seconds of an entry."""
    step = -(-len(kind) // _MAX_SAMPLES)
    wholes = [_sample(tensor) for tensor in kind[step // 2 :: step]]
    compress_whole(wholes[0])  # what is only done once takes no part
    numel = nbytes = 0
    times = []
    for whole in wholes:
        start = time.perf_counter()
        record = compress_whole(whole).record
        times.append((time.perf_counter() - start) / max(whole.extent.numel, 1))
        numel, nbytes = numel + whole.extent.numel, nbytes + record.section_nbytes
    return nbytes / max(numel, 1), median(times)


def _sample(tensor: LargeTensor) -> Whole:
    first = max(0, (tensor.numel - _SAMPLE) // 2)
    last = min(first + _SAMPLE, tensor.numel)
    extent = replace(tensor.extents[0], first=first, last=last)
    shape = tensor.shape if last - first == tensor.numel else (last - first,)
    return Whole(extent, shape, tensor.bits, tensor.rule, None)
