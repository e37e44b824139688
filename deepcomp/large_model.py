"""A checkpoint that is compressed in parts: its tensors, their settings, and its shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from .arrays import Source, sources
from .extents import Extent, extents_of, stamps
from .importers import read_checkpoint
from .pipeline import groups, settings_of
from .records import ITEMSIZE, MAX_WHOLE_NUMEL
from .urls import join


@dataclass(frozen=True)
class LargeTensor:
    """A tensor, its settings, and the extents that tasks read.

    Attributes
    ----------
    name, dtype : str
    shape : tuple of int
    bits : int or None
    rule : (str, float) or None
    extents : list of Extent
        One unless the tensor is cut.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bits: int | None
    rule: tuple[str, float] | None
    extents: list[Extent]

    @property
    def numel(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes when it is dense."""
        return self.numel * ITEMSIZE[self.dtype]


class LargeModel(NamedTuple):
    """A checkpoint that is to be compressed.

    Attributes
    ----------
    tensors : list of LargeTensor
    names : list of str
        All of them, in order.
    aliases : dict of str to str
    groups : list of list of LargeTensor
        Those that are cut together.
    metadata : dict of str to str
    stamps : list
        Of the files: see `extents.stamps`.
    """

    tensors: list[LargeTensor]
    names: list[str]
    aliases: dict[str, str]
    groups: list[list[LargeTensor]]
    metadata: dict[str, str]
    stamps: list[Any]


def open_model(path: str, settings: tuple[Any, ...], task_numel: int) -> LargeModel:
    """List the tensors of a checkpoint with their settings; nothing is read but its headers."""
    checkpoint = read_checkpoint(path)
    found = sources(checkpoint.tensors)
    own = [s for s in found.values() if not isinstance(s, str)]
    bits_of, what, numbers = settings_of(own, *settings)

    def opened(s: Source) -> LargeTensor:
        rule = (what, numbers[s.name]) if s.name in numbers else None
        numel = prod(s.shape)
        most = task_numel if numel > MAX_WHOLE_NUMEL else MAX_WHOLE_NUMEL
        extents = extents_of(s, path, numel, most)
        return LargeTensor(s.name, s.dtype, s.shape, bits_of.get(s.name), rule, extents)

    tensors = {s.name: opened(s) for s in own}
    scope = settings[4]
    together: list[list[LargeTensor]] = []
    if scope == "global" and what != "threshold":
        chosen = [s for s in own if s.name in numbers]
        together = [[tensors[s.name] for s in g] for g in groups(chosen, numbers, scope)]
    aliases = {name: entry for name, entry in found.items() if isinstance(entry, str)}
    metadata = dict(checkpoint.metadata)
    return LargeModel(
        list(tensors.values()), list(found), aliases, together, metadata, stamps(path, own)
    )


class ShardFile(NamedTuple):
    """A shard to be written.

    Attributes
    ----------
    name : str
    path : str
        Or a URL.
    tensors : list of LargeTensor
    """

    name: str
    path: str
    tensors: list[LargeTensor]


def shards_of(model: LargeModel, target: str, nbytes: int) -> list[ShardFile]:
    """Share the tensors out among files."""
    contents: list[list[LargeTensor]] = []
    room = 0
    for tensor in model.tensors:
        if tensor.nbytes > room or not contents:
            contents.append([])
            room = nbytes
        contents[-1].append(tensor)
        room -= tensor.nbytes
    names = [f"model-{i:05d}-of-{len(contents):05d}.dcz" for i in range(1, len(contents) + 1)]
    return [ShardFile(n, join(target, n), c) for n, c in zip(names, contents, strict=True)]


def batches(tensors: Sequence[LargeTensor], most: int) -> Iterator[list[LargeTensor]]:
    """Yield the tensors of a shard as tasks take them: a few small ones, or one that is cut."""
    batch: list[LargeTensor] = []
    for tensor in tensors:
        is_cut = len(tensor.extents) > 1
        if batch and (is_cut or sum(t.numel for t in batch) + tensor.numel > most):
            yield batch
            batch = []
        batch.append(tensor)
        if is_cut:
            yield batch
            batch = []
    if batch:
        yield batch


def name_all(tensors: Sequence[LargeTensor]) -> str:
    """Return the names of tensors for a message."""
    if len(tensors) == 1:
        return f"tensor {tensors[0].name!r}"
    return f"tensors {tensors[0].name!r} to {tensors[-1].name!r} ({len(tensors)})"
