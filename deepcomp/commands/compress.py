"""``dcz compress``: a checkpoint of whatever kind -> a ``.dcz`` file, and what that cost."""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..container import Reader
from ..report import Report, Row, make_report
from ..tables import printable, to_table
from .settings import NAMES, RULES, combine
from .streams import STANDARD, display_name, input_path, output_path, refuse_same_file
from .terminal import EXIT_CONTENT, CommandError, show, show_json

if TYPE_CHECKING:
    from ..arrays import Source
    from ..difference import Difference
    from ..importers import Checkpoint
    from ..model import CompressedModel

Found = Mapping[str, "Source | str"]


@dataclass(frozen=True)
class _Result:
    """What was done: sizes in bytes, and the error of each tensor by its name."""

    source: str
    target: str
    source_nbytes: int
    report: Report
    errors: dict[str, Difference]
    weights: set[str]
    seconds: float


def run(options: argparse.Namespace) -> int:
    """Compress a checkpoint, and print a summary unless the file itself is the output."""
    if options.json and options.output == STANDARD:
        raise CommandError("--json and the file both want standard output: name a file")
    if _is_large(options):
        from .large import run_large

        return run_large(options)
    if options.jobs is not None:
        raise CommandError("--jobs is for a folder of shards, and OUT must not end with .dcz")
    start = time.perf_counter()
    with input_path(options.input) as source, output_path(options.output) as target:
        for file in checkpoint_files(source):
            refuse_same_file(file, target)
        _check_target(target)
        checkpoint = read(source)
        found, packed = _compress(checkpoint, options)
        errors = _save(found, packed, target, checkpoint.metadata)
        result = _Result(
            display_name(options.input),
            target,
            checkpoint_nbytes(source),
            make_report(Reader(target)),
            errors,
            {name for name, s in found.items() if not isinstance(s, str) and s.is_weight},
            time.perf_counter() - start,
        )
    if options.json:
        show_json(_to_json(result))
    elif options.output != STANDARD:
        show(_to_text(result))
    return 0


def _is_large(options: argparse.Namespace) -> bool:
    """Say whether shards become shards."""
    path = options.input
    is_sharded = os.path.isdir(path) or path.endswith(".safetensors.index.json")
    return is_sharded and options.output != STANDARD and not options.output.endswith(".dcz")


def _check_target(path: str) -> None:
    """Raise OSError if the file could not be written: now, not after the work."""
    from ..files import Replacement

    Replacement(path).close()


def read(path: str) -> Checkpoint:
    """Open a checkpoint; CommandError if it is none."""
    from ..importers import read_checkpoint

    try:
        return read_checkpoint(path)
    except ValueError as error:
        raise CommandError(str(error)) from error


def _compress(checkpoint: Checkpoint, options: argparse.Namespace) -> tuple[Found, CompressedModel]:
    from ..arrays import sources
    from ..compression import compress

    try:
        found = sources(checkpoint.tensors)
    except ValueError as error:
        raise CommandError(str(error), EXIT_CONTENT) from error
    settings = settings_for(found, options)
    try:
        return found, compress(checkpoint.tensors, scope=options.scope, **settings)
    except ValueError as error:
        raise CommandError(str(error), EXIT_CONTENT) from error


def settings_for(found: Found, options: argparse.Namespace) -> dict[str, Any]:
    """Return arguments of `compress`; CommandError if they do not fit the model."""
    from ..rules import assign, pruning_rule

    tensors = [s for s in found.values() if not isinstance(s, str)]
    general = {name: getattr(options, name) for name in NAMES}
    settings = combine(general, options.set, any(t.is_weight for t in tensors))
    try:
        pruning_rule(**{name: settings[name] for name in RULES}, scope=options.scope)
        for name in NAMES:
            assign(name, settings[name], tensors, lambda *_: None)  # does each pattern match?
    except ValueError as error:
        raise CommandError(str(error)) from error
    return settings


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
    return sum(os.path.getsize(file) for file in checkpoint_files(path))


def checkpoint_files(path: str) -> list[str]:
    """List the files of a checkpoint: one, or shards, which a folder or an index stands for."""
    if path.endswith(".safetensors.index.json"):
        path = os.path.dirname(path) or os.curdir
    if not os.path.isdir(path):
        return [path]
    with os.scandir(path) as entries:
        return [entry.path for entry in entries if entry.name.endswith(".safetensors")]


def _to_json(result: _Result) -> dict[str, Any]:
    report = result.report
    tensors = []
    for row in report.rows:
        error = result.errors.get(row.name)
        tensors.append(
            {
                "name": row.name,
                "dtype": row.dtype,
                "shape": list(row.shape),
                "tied_to": row.tied_to,
                "n_weights": row.n_weights,
                "nnz": row.nnz,
                "dense_nbytes": row.dense_nbytes,
                "nbytes": row.nbytes,
                "is_exact": None if error is None else error.n_different == 0,
                "largest_error": None if error is None else _finite(error.largest),
                "mean_square_error": None if error is None else _finite(error.mean_square),
            }
        )
    return {
        "schema": 1,
        "input": result.source,
        "output": result.target,
        "input_nbytes": result.source_nbytes,
        "dense_nbytes": report.dense_nbytes,
        "float32_nbytes": report.float32_nbytes,
        "file_nbytes": report.file_nbytes,
        "compression_ratio": report.dense_nbytes / report.file_nbytes,
        "compression_ratio_float32": report.float32_nbytes / report.file_nbytes,
        "compression_ratio_input": result.source_nbytes / report.file_nbytes,
        "seconds": result.seconds,
        "tensors": tensors,
    }


def _finite(number: float) -> float | None:
    """Return a number that JSON can hold: the square of a float64 may be infinite."""
    return number if math.isfinite(number) else None


def _to_text(result: _Result) -> str:
    """Lay out a row for each weight and each tensor that changed, and the ratio."""
    report = result.report
    shown = [row for row in report.rows if _is_shown(row, result)]
    hidden = [row for row in report.rows if not _is_shown(row, result)]
    head = ["tensor", "shape", "dtype", "kept %", "bytes", "ratio"]
    head += ["largest error", "mean square error"]
    lines = [_cells(row, result.errors[row.name]) for row in shown]
    if hidden:
        nbytes = sum(row.nbytes for row in hidden)
        lines.append([f"({len(hidden)} others)", *[""] * 3, f"{nbytes:,}", "", "exact", "exact"])
    overhead = sum(report.overhead.values())
    lines.append(["(index and checksums)", *[""] * 3, f"{overhead:,}", *[""] * 3])
    ratio = f"{report.dense_nbytes / report.file_nbytes:.2f}x"
    lines.append(["file", *[""] * 3, f"{report.file_nbytes:,}", ratio, "", ""])
    return f"{to_table(head, lines, n_left=3)}\n\n{_summary(result)}"


def _is_shown(row: Row, result: _Result) -> bool:
    error = result.errors.get(row.name)
    return error is not None and (row.name in result.weights or error.n_different > 0)


def _cells(row: Row, error: Difference) -> list[str]:
    is_exact = error.n_different == 0
    return [
        printable(row.name),
        "x".join(map(str, row.shape)) or "scalar",
        row.dtype,
        "-" if row.kept is None else f"{100 * row.kept:.1f}",
        f"{row.nbytes:,}",
        "-" if row.ratio is None else f"{row.ratio:.2f}x",
        "exact" if is_exact else f"{error.largest:.3g}",
        "exact" if is_exact else f"{error.mean_square:.3g}",
    ]


def _summary(result: _Result) -> str:
    """Say how small the file is, and against what."""
    report = result.report
    sizes = {"its tensors when dense": report.dense_nbytes}
    if report.float32_nbytes != report.dense_nbytes:
        sizes["the same as float32"] = report.float32_nbytes
    sizes[printable(result.source)] = result.source_nbytes
    lines = [f"{printable(result.target)}: {report.file_nbytes:,} bytes, {result.seconds:.1f} s"]
    for what, nbytes in sizes.items():
        lines.append(f"  {nbytes / report.file_nbytes:.2f}x smaller than {what}: {nbytes:,} bytes")
    return "\n".join(lines)
