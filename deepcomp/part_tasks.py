"""What one task does to its part of a checkpoint, in whatever process.

A task gets a small message: where entries are, what to do, and the name of the file to write. It
reads and writes by itself. A file that is there and whole is left alone, and appears only when it
is whole, so that a task which runs twice does no harm. Parts need not be durable: one that a crash
of the system has damaged is made again.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from . import prune
from .codebook_passes import put_codebook
from .container import Reader
from .counts import Counts, count_entries
from .cut_passes import Cut, cut_passes
from .decode import Patterns
from .encode import Weight, encode_part, record_of
from .errors import DczError
from .extents import Extent
from .limits import ANY_SIZE
from .losses import EXACT, Loss
from .passes import Pass, drive, over
from .pipeline import Encoded, check_finite, encode_weight, put_cut
from .places import remove_file
from .plans import Plan
from .records import ITEMSIZE, MAX_BLOCK_NUMEL, TensorRecord
from .writer import Writer


@dataclass(frozen=True)
class Stage:
    """What was done to a part before it is looked at.

    Attributes
    ----------
    cut : Cut or None
    codebook : ndarray of unsigned integers, or None
    """

    cut: Cut | None = None
    codebook: Patterns | None = None


@dataclass(frozen=True)
class Whole:
    """A tensor that one task compresses.

    Attributes
    ----------
    extent : Extent
    shape : tuple of int
    bits : int or None
    rule : (str, float) or None
        As `cut_passes` takes it, if the tensor is cut for itself.
    cut : Cut or None
        If it is cut together with others.
    """

    extent: Extent
    shape: tuple[int, ...]
    bits: int | None
    rule: tuple[str, float] | None
    cut: Cut | None


@dataclass(frozen=True)
class Pieces:
    """A tensor that many tasks have encoded, each a piece.

    Attributes
    ----------
    shape : tuple of int
    plan : Plan
    parts : tuple of (Extent, Stage)
        The pieces, in order.
    paths : tuple of str
        Their files.
    """

    shape: tuple[int, ...]
    plan: Plan
    parts: tuple[tuple[Extent, Stage], ...]
    paths: tuple[str, ...]


def naming(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function; its errors get the names of the tensors."""
    try:
        return function(*arguments)
    except OSError as error:
        message = f"{what}: {error.strerror or error}"
        if error.errno is None:
            raise OSError(message) from error
        raise OSError(error.errno, message, error.filename) from error
    except DczError as error:
        raise DczError(f"{what}: {error}") from error
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith("tensor ") else f"{what}: {text}") from error
    except MemoryError as error:
        raise MemoryError(f"{what}: not enough memory: {error}") from error


def evaluate(asked: Pass, parts: Sequence[tuple[Extent, Stage]]) -> list[Any]:
    """Return the answers of some parts to a pass."""
    answers = []
    for extent, stage in parts:
        patterns = _read(extent, stage)
        answers.append(asked.function(patterns, extent.dtype, *asked.arguments))
    return answers


def count_part(extent: Extent, stage: Stage) -> list[tuple[Counts, Loss, Loss | None]]:
    """Count what occurs in a part that begins with a block; return what it lost besides.

    Returns
    -------
    list of one (Counts, Loss, Loss or None)
        What cutting took away, and what sharing changed, if `put_codebook` knows it.
    """
    patterns = extent.read()
    cut, shared = EXACT, None
    if stage.cut is not None:
        cut = put_cut(patterns, extent.dtype, stage.cut, patterns)
    if stage.codebook is not None:
        shared = put_codebook(patterns, extent.dtype, stage.codebook)
    return [(count_entries(patterns, extent.dtype, MAX_BLOCK_NUMEL), cut, shared)]


def encode_wholes(path: str, tensors: Sequence[Whole]) -> dict[str, Loss]:
    """Compress tensors, one after the other, into a file; return what each lost."""
    if is_whole(path, [t.extent.name for t in tensors]):
        kept = json.loads(Reader(path).index.metadata["losses"])
        return {name: Loss(*sums) for name, sums in kept.items()}
    losses: dict[str, Loss] = {}
    metadata: dict[str, str] = {}
    with Writer(path, metadata, durable=False) as writer:
        for tensor in tensors:
            encoded = compress_whole(tensor)
            writer.add(encoded.record, encoded.section)
            losses[encoded.record.name] = encoded.loss
        metadata["losses"] = json.dumps(losses)  # for a call that goes on; the shard is without
    return losses


def compress_whole(tensor: Whole) -> Encoded:
    """Read, prune, share and encode a tensor."""
    extent = tensor.extent
    weight = Weight(extent.name, extent.dtype, tensor.shape, extent.read())
    cut = tensor.cut
    if tensor.rule is not None:
        passes = cut_passes(*tensor.rule, [(extent.dtype, extent.numel)], [extent.name])
        [cut] = drive(passes, over([(weight.patterns, extent.dtype)]))
    elif cut is None and tensor.bits is not None:
        check_finite(weight)
    return encode_weight(weight, cut, tensor.bits, in_place=True)


def encode_piece(path: str, extent: Extent, stage: Stage, plan: Plan) -> None:
    """Encode the blocks of a part of a tensor into a file of its own."""
    if is_whole(path, ["directory", "payload"]):
        return
    directory, payload = encode_part(_read(extent, stage), plan)
    with Writer(path, {}, durable=False) as writer:
        for name, parts in (("directory", [directory]), ("payload", payload)):
            nbytes = sum(map(len, parts))
            writer.add(TensorRecord(name, "uint8", (nbytes,), "raw", nbytes), parts)


def assemble(path: str, names: Sequence[str], contents: Sequence[str | Pieces]) -> None:
    """Put a shard together, and remove its parts.

    Parameters
    ----------
    path : str
    names : sequence of str
        Of all its tensors.
    contents : sequence of (str or Pieces)
        Files of whole tensors, and tensors in pieces.
    """
    if not is_whole(path, names):
        try:
            _write_shard(path, contents)
        except (DczError, FileNotFoundError):
            if not is_whole(path, names):  # else another worker, taken for lost, has done it
                raise
    for content in contents:
        for part in [content] if isinstance(content, str) else content.paths:
            remove_file(part)


def _write_shard(path: str, contents: Sequence[str | Pieces]) -> None:
    with Writer(path, {}) as writer:
        for content in contents:
            if isinstance(content, str):
                reader = Reader(content, max_dense_bytes=ANY_SIZE)
                for name, record in reader.index.entries.items():
                    assert isinstance(record, TensorRecord)
                    writer.add(record, [reader.section(name)])
            else:
                _join(writer, content)


def is_whole(path: str, names: Sequence[str]) -> bool:
    """Return whether a file is there, has these tensors, and is not damaged."""
    try:
        reader = Reader(path, max_dense_bytes=ANY_SIZE)
        reader.check_all_pages(keep=False)
    except (DczError, OSError):
        return False
    return list(reader.index.entries) == list(names)


def _read(extent: Extent, stage: Stage) -> Patterns:
    patterns = extent.read()
    if stage.cut is not None:
        prune.keep_at_least(patterns, stage.cut.least, stage.cut.n_ties_to_remove, out=patterns)
    if stage.codebook is not None:
        put_codebook(patterns, extent.dtype, stage.codebook)
    return patterns


def _join(writer: Writer, tensor: Pieces) -> None:
    """Write the section of a tensor in pieces, or its entries as they are if that is no longer."""
    extent, plan = tensor.parts[0][0], tensor.plan
    dense_nbytes = prod(tensor.shape) * ITEMSIZE[extent.dtype]
    nbytes = len(plan.head())
    for path in tensor.paths:
        records = Reader(path).index.entries.values()
        nbytes += sum(r.section_nbytes for r in records if isinstance(r, TensorRecord))
    if plan.layout == "raw" or nbytes >= dense_nbytes:  # the plan leaves out the directory
        raw = TensorRecord(extent.name, extent.dtype, tensor.shape, "raw", dense_nbytes)
        writer.add(raw, (_read(*part).data for part in tensor.parts))
        return
    record = record_of(extent.name, extent.dtype, tensor.shape, plan, nbytes)
    section = [plan.head()]
    # each is opened again, as what a reader of a URL has fetched it keeps
    section_parts = (
        Reader(path).section(name) for name in ("directory", "payload") for path in tensor.paths
    )
    writer.add(record, (part for parts in (section, section_parts) for part in parts))
