"""The order of the tasks that compress a checkpoint; what they do is in `part_tasks`."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from math import prod
from typing import Any, TypeVar

from . import counts
from .codebook_passes import Fit, codebook_passes
from .cut_passes import NOTHING, Cut, check_finite_passes, cut_passes
from .extents import Extent
from .large_model import LargeModel, LargeTensor, ShardFile, batches, name_all
from .losses import EXACT, Loss, add, in_order
from .part_tasks import (
    Pieces,
    Stage,
    Whole,
    assemble,
    count_part,
    encode_piece,
    encode_wholes,
    evaluate,
    is_whole,
)
from .passes import Pass, Passes
from .plans import Plan, make_plan
from .records import ITEMSIZE
from .urls import join
from .workers import Task, Workers

T = TypeVar("T")
_Asked = tuple[Pass | None, Sequence[Stage]]  # None: count; and what is done to each part before
_Staged = Generator[_Asked, list[Any], T]
_Prepared = tuple[Plan, list[Stage], Loss]
_N_PASSES = {1: 3, 2: 3, 4: 6, 8: 7}  # of a large tensor, by bytes of an entry: about so many
_ENCODING = 0.3  # about so much of the work on it is done when they are over


def run(
    workers: Workers, model: LargeModel, shards: list[ShardFile], folder: str, task_numel: int
) -> dict[str, Loss]:
    """Write all shards that are not there yet.

    Parameters
    ----------
    workers : Workers
    model : LargeModel
    shards : list of ShardFile
    folder : str
        For the parts; a path or a URL.
    task_numel : int

    Returns
    -------
    dict of str to Loss
        Of the tensors of these shards: what is in the others is not known any more.
    """
    checks = [
        Task(name_all(s.tensors), 0, is_whole, (s.path, [t.name for t in s.tensors]))
        for s in shards
    ]
    are_whole = workers.run(checks)
    for shard, is_done in zip(shards, are_whole, strict=True):
        workers.skip(sum(t.numel for t in shard.tensors) if is_done else 0)
    todo = [s for s, is_done in zip(shards, are_whole, strict=True) if not is_done]
    cuts = _common_cuts(workers, model, task_numel) if todo else {}
    paths = _Paths(folder, model.tensors)
    wholes: list[Task] = []
    large: list[LargeTensor] = []
    contents: list[list[str]] = []
    for shard in todo:
        contents.append([])
        for batch in batches(shard.tensors, task_numel):
            contents[-1].append(paths.of(batch))
            if len(batch[0].extents) > 1:
                large += batch
            else:
                wholes.append(_whole_task(contents[-1][-1], batch, cuts))
    pieces, losses = _encode_large(workers, wholes, large, cuts, paths)
    workers.run([_assembly(s, [pieces.get(c, c) for c in cs]) for s, cs in zip(todo, contents)])
    return losses


def _assembly(shard: ShardFile, contents: list[str | Pieces]) -> Task:
    arguments = (shard.path, [tensor.name for tensor in shard.tensors], contents)
    return Task(name_all(shard.tensors), 0, assemble, arguments)


class _Paths:
    """Names of files of parts: the numbers of the first and the last tensor, or of its entries."""

    def __init__(self, folder: str, tensors: list[LargeTensor]) -> None:
        self._folder = folder
        self._numbers = {tensor.name: i for i, tensor in enumerate(tensors)}

    def of(self, batch: list[LargeTensor]) -> str:
        first, last = self._numbers[batch[0].name], self._numbers[batch[-1].name]
        return join(self._folder, f"{first:06d}-{last:06d}.dcz")

    def of_piece(self, extent: Extent) -> str:
        name = f"{self._numbers[extent.name]:06d}-{extent.first}-{extent.last}.dcz"
        return join(self._folder, name)


def _whole_task(path: str, batch: list[LargeTensor], cuts: dict[str, list[Cut]]) -> Task:
    tensors = [
        Whole(t.extents[0], t.shape, t.bits, None, cuts[t.name][0])
        if t.name in cuts
        else Whole(t.extents[0], t.shape, t.bits, t.rule, None)
        for t in batch
    ]
    return Task(name_all(batch), sum(t.numel for t in batch), encode_wholes, (path, tensors))


def _common_cuts(workers: Workers, model: LargeModel, task_numel: int) -> dict[str, list[Cut]]:
    """Find where tensors are cut that are counted together."""
    cuts: dict[str, list[Cut]] = {}
    for group in model.groups:
        extents = [extent for tensor in group for extent in tensor.extents]
        assert group[0].rule is not None
        found = iter(_drive(workers, _group_passes(*group[0].rule, extents), extents, task_numel))
        cuts |= {tensor.name: [next(found) for _ in tensor.extents] for tensor in group}
    return cuts


def _group_passes(what: str, number: float, extents: list[Extent]) -> Passes[list[Cut]]:
    sizes, names = [(e.dtype, e.numel) for e in extents], [e.name for e in extents]
    return (yield from cut_passes(what, number, sizes, names))


def _drive(workers: Workers, passes: Passes[T], extents: list[Extent], most: int) -> T:
    """Run passes over the extents of many tensors, a few of them in each task."""
    parts: list[list[tuple[Extent, Stage]]] = []
    room = 0
    for extent in extents:
        if extent.numel > room or not parts:
            parts.append([])
            room = most
        parts[-1].append((extent, Stage()))
        room -= extent.numel
    try:
        asked = next(passes)
        while True:
            tasks = [Task(_what(p[0][0]), 0, evaluate, (asked, p)) for p in parts]
            asked = passes.send([answer for some in workers.run(tasks) for answer in some])
    except StopIteration as end:
        result: T = end.value
        return result


def _encode_large(
    workers: Workers,
    tasks: list[Task],
    large: list[LargeTensor],
    cuts: dict[str, list[Cut]],
    paths: _Paths,
) -> tuple[dict[str, Pieces], dict[str, Loss]]:
    """Encode tensors that are cut, all at a time, and other tensors in the first round.

    Returns
    -------
    dict of str to Pieces
        By `_Paths.of` the tensor.
    dict of str to Loss
        Of all of them.
    """
    pieces: dict[str, Pieces] = {}
    losses: dict[str, Loss] = {}
    at_work = [(t, _tensor_passes(t, cuts.get(t.name))) for t in large]
    asked: dict[str, _Asked] = {t.name: next(passes) for t, passes in at_work}
    while tasks or at_work:
        n_others = len(tasks)
        for tensor, _ in at_work:
            tasks += _evaluations(tensor, *asked[tensor.name])
        results = workers.run(tasks)
        for result in results[:n_others]:
            losses |= result or {}  # `encode_piece` has none
        answers = iter(results[n_others:])
        tasks, going_on = [], []
        for tensor, passes in at_work:
            try:
                of_tensor = [answer for _ in tensor.extents for answer in next(answers)]
                asked[tensor.name] = passes.send(of_tensor)
                going_on.append((tensor, passes))
            except StopIteration as end:
                plan, stages, losses[tensor.name] = end.value
                made = _pieces(tensor, plan, stages, paths)
                pieces[paths.of([tensor])] = made
                tasks += _encodings(tensor, made)
        at_work = going_on
    return pieces, losses


def _evaluations(tensor: LargeTensor, asked: Pass | None, stages: Sequence[Stage]) -> list[Task]:
    share = (1 - _ENCODING) / _N_PASSES[ITEMSIZE[tensor.dtype]]
    parts = list(zip(tensor.extents, stages, strict=True))
    if asked is None:
        return [Task(_what(e), e.numel * share, count_part, (e, stage)) for e, stage in parts]
    return [Task(_what(e), e.numel * share, evaluate, (asked, [(e, stage)])) for e, stage in parts]


def _encodings(tensor: LargeTensor, pieces: Pieces) -> list[Task]:
    if pieces.plan.layout == "raw":
        return []
    return [
        Task(
            _what(extent),
            extent.numel * _ENCODING,
            encode_piece,
            (path, extent, stage, pieces.plan),
        )
        for path, (extent, stage) in zip(pieces.paths, pieces.parts, strict=True)
    ]


def _pieces(tensor: LargeTensor, plan: Plan, stages: list[Stage], paths: _Paths) -> Pieces:
    of_pieces = () if plan.layout == "raw" else tuple(map(paths.of_piece, tensor.extents))
    return Pieces(tensor.shape, plan, tuple(zip(tensor.extents, stages, strict=True)), of_pieces)


def _tensor_passes(tensor: LargeTensor, cuts: list[Cut] | None) -> _Staged[_Prepared]:
    """Find out all that must be known of a tensor before its pieces can be encoded."""
    extents = tensor.extents
    stages = [Stage() for _ in extents]
    if cuts is None and tensor.rule is not None:
        sizes, names = [(e.dtype, e.numel) for e in extents], [tensor.name for _ in extents]
        cuts = yield from _at(stages, cut_passes(*tensor.rule, sizes, names))
    elif cuts is None and tensor.bits is not None:
        passes = check_finite_passes([(tensor.name, tensor.dtype) for _ in extents])
        yield from _at(stages, passes)
    if cuts is not None or tensor.bits is not None:
        stages = [Stage(cut) for cut in cuts or [NOTHING] * len(extents)]
    fit = Fit(loss=EXACT)
    if tensor.bits is not None:
        numel = prod(tensor.shape)
        fit = yield from _at(stages, codebook_passes(tensor.bits, tensor.dtype, numel))
        stages = [Stage(stage.cut, fit.codebook) for stage in stages]
    found, of_cuts, of_sharing = zip(*(yield None, stages), strict=True)
    loss = in_order(add(of_cuts), fit.loss or add(of_sharing))
    return make_plan(counts.add(found), ITEMSIZE[tensor.dtype]), stages, loss


def _at(stages: list[Stage], passes: Passes[T]) -> _Staged[T]:
    """Run passes over parts to which something was done before."""
    try:
        asked = next(passes)
        while True:
            answers = yield asked, stages
            asked = passes.send(answers)
    except StopIteration as end:
        result: T = end.value
        return result


def _what(extent: Extent) -> str:
    return f"tensor {extent.name!r}, entries from {extent.first} up to {extent.last}"
