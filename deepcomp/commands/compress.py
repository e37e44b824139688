"""``dcz compress``: a checkpoint of whatever kind -> a ``.dcz`` file, and what that cost."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
import warnings
from collections.abc import Mapping
from glob import escape
from shlex import quote
from typing import TYPE_CHECKING, Any

from ..container import Reader
from ..errors import LossWarning
from ..limits import ANY_SIZE
from ..report import make_report
from ..shards import INDEX_SUFFIX
from ..urls import is_url
from .settings import NAMES, RULES, combine
from .streams import STANDARD, display_name, input_path, output_path, refuse_same_file
from .summary import Result, notes_on, to_json, to_text
from .terminal import EXIT_CONTENT, CommandError, show, show_json

if TYPE_CHECKING:
    from ..arrays import Source
    from ..difference import Difference
    from ..importers import Checkpoint
    from ..model import CompressedModel

Found = Mapping[str, "Source | str"]


def run(options: argparse.Namespace) -> int:
    """Compress a checkpoint, and print a summary unless the file itself is the output."""
    _check(options)
    if _is_large(options):
        if options.key is not None:
            raise CommandError("--key is for a PyTorch checkpoint, not for a folder of shards")
        from .large import run_large

        return run_large(options)
    if is_url(options.output):
        where = display_name(options.output)
        raise CommandError(f"{where}: behind a URL a folder is written, so no name with .dcz")
    for name in ("jobs", "shard_size"):
        if getattr(options, name) is not None:
            option = f"--{name.replace('_', '-')}"
            if _is_sharded(options.input):
                raise CommandError(
                    f"{option} is for a folder: OUT must not be -, nor end with .dcz"
                )
            where = display_name(options.input)
            raise CommandError(f"{where}: {option} is for a folder of shards, not for one file")
    start = time.perf_counter()
    with input_path(options.input) as source, output_path(options.output) as target:
        _check_target(target)
        refuse_own_input(source, target)
        checkpoint = read(source, options.key)
        found, packed = _compress(checkpoint, options)
        errors = _save(found, packed, target, checkpoint.metadata)
        result = Result(
            display_name(options.input),
            target,
            checkpoint_nbytes(source),
            make_report(Reader(target, max_dense_bytes=ANY_SIZE)),
            errors,
            {name for name, s in found.items() if not isinstance(s, str) and s.is_weight},
            time.perf_counter() - start,
            packed,
            checkpoint.left_out,
        )
        notes = notes_on(result, found)
    if options.json:
        show_json(to_json(result))
    elif options.output != STANDARD:
        show(to_text(result))
    for note in notes:
        print(f"dcz compress: {note}", file=sys.stderr)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuse what cannot be meant, before anything is read."""
    if options.json and options.output == STANDARD:
        raise CommandError("--json and the file both want standard output: name a file")
    from ..storage import CHECKPOINTS

    if options.output.lower().endswith(CHECKPOINTS):
        raise CommandError(
            f"{options.output}: the file that is written is a .dcz file: expected a name like "
            "OUT.dcz (dcz decompress writes checkpoints)"
        )
    chosen = [vars(options), *(values for _, values in options.set)]
    if options.scope == "global" and all(c.get(rule) is None for c in chosen for rule in RULES):
        raise CommandError("--scope global is about pruning: --sparsity or --std is missing")


def _is_large(options: argparse.Namespace) -> bool:
    """Say whether a folder of shards is written: of shards, and wherever a URL is involved."""
    is_large = _is_sharded(options.input) or is_url(options.output)
    return is_large and options.output != STANDARD and not options.output.endswith(".dcz")


def _is_sharded(path: str) -> bool:
    is_index = path.endswith((".safetensors.index.json", INDEX_SUFFIX))
    return os.path.isdir(path) or is_index or is_url(path)


def refuse_own_input(source: str, target: str) -> None:
    """Raise CommandError if a file of a checkpoint would be written over."""
    for file in [] if is_url(source) else checkpoint_files(source):
        refuse_same_file(file, target)


def _check_target(path: str) -> None:
    """Raise OSError if the file could not be written: now, not after the work."""
    from ..files import Replacement

    Replacement(path).close()


def read(path: str, key: str | None = None) -> Checkpoint:
    """Open a checkpoint; CommandError if it is none, or an empty one."""
    from ..importers import read_checkpoint

    try:
        checkpoint = read_checkpoint(path, key)
    except ValueError as error:
        raise CommandError(str(error)) from error
    if not checkpoint.tensors:
        raise CommandError(f"{display_name(path)}: no tensors found")
    return checkpoint


def _compress(checkpoint: Checkpoint, options: argparse.Namespace) -> tuple[Found, CompressedModel]:
    from ..arrays import sources
    from ..compression import compress
    from ..cut_passes import NotFiniteError

    where = display_name(options.input)
    try:
        found = sources(checkpoint.tensors)
    except ValueError as error:
        raise CommandError(str(error), EXIT_CONTENT) from error
    settings = settings_for(found, options)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LossWarning)  # `notes_on` says it
            return found, compress(checkpoint.tensors, scope=options.scope, **settings)
    except NotFiniteError as error:
        raise CommandError(
            f"{where}: tensor {error.tensor!r} has NaN or infinite entries: it cannot be pruned or "
            f"shared (--exact {quote(escape(error.tensor))} stores it exactly)",
            EXIT_CONTENT,
        ) from error
    except ValueError as error:
        raise CommandError(str(error), EXIT_CONTENT) from error


def settings_for(found: Found, options: argparse.Namespace) -> dict[str, Any]:
    """Return arguments of `compress`; CommandError if they do not fit the model."""
    from ..rules import assign, excluded, pruning_rule

    tensors = [s for s in found.values() if not isinstance(s, str)]
    general = {name: getattr(options, name) for name in NAMES}
    settings = combine(general, options.set, any(t.is_weight for t in tensors))
    try:
        pruning_rule(**{name: settings[name] for name in RULES}, scope=options.scope)
        for name in NAMES:
            assign(name, settings[name], tensors, lambda *_: None)  # does each pattern match?
        excluded("--exact", options.exact, [t.name for t in tensors])
    except ValueError as error:
        raise CommandError(str(error)) from error
    return {**settings, "exclude": options.exact}


def _measure(found: Found, packed: CompressedModel) -> dict[str, Difference]:
    """Decode every tensor, and compare it with what it was."""
    from tqdm import tqdm

    from ..difference import difference
    from ..prune import chunks

    originals = [s for s in found.values() if not isinstance(s, str)]
    total = sum(math.prod(s.shape) for s in originals)
    errors = {}
    with tqdm(total=total, desc="compare", unit="w", unit_scale=True, delay=1, disable=None) as bar:
        for s in originals:
            original = chunks(s.weight().patterns)
            errors[s.name] = difference(original, packed[s.name].decode_blocks(), s.dtype)
            bar.update(errors[s.name].n_entries)
    return errors


def _save(
    found: Found, packed: CompressedModel, target: str, metadata: Mapping[str, str]
) -> dict[str, Difference]:
    """Write the file; return what it cost. Tensors are fetched again, and may fail only now."""
    from ..storage import save

    try:
        errors = _measure(found, packed)
        save(packed, target, metadata)
    except ValueError as error:
        raise CommandError(str(error), EXIT_CONTENT) from error
    return errors


def checkpoint_nbytes(path: str) -> int:
    """Return the bytes of a checkpoint: a file, or shards."""
    from ..places import nbytes_of

    return sum(nbytes_of(file) for file in checkpoint_files(path))


def checkpoint_files(path: str) -> list[str]:
    """List the files of a checkpoint: one, or shards, which a folder or an index stands for."""
    from ..importers.checkpoint import files_of

    try:
        return files_of(path)
    except ValueError as error:
        raise CommandError(str(error)) from error
