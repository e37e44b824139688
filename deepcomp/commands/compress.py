"""``dcz compress``: a checkpoint of whatever kind -> a ``.dcz`` file, and what that cost."""

from __future__ import annotations

import argparse
import math
import os
import sys
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

_CHECKPOINTS = (".safetensors", ".pt", ".pth", ".npz", ".bin")
_LARGE_PART = 0.01  # of a file

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
    _check(options)
    start = time.perf_counter()
    with input_path(options.input) as source, output_path(options.output) as target:
        refuse_same_file(source, target)
        _check_target(target)
        checkpoint = _read(source, options.key)
        found, packed = _compress(checkpoint, options)
        errors = _measure(found, packed)
        _save(packed, target, checkpoint.metadata)
        result = _Result(
            display_name(options.input),
            target,
            _nbytes(source),
            make_report(Reader(target)),
            errors,
            {name for name, s in found.items() if not isinstance(s, str) and s.is_weight},
            time.perf_counter() - start,
        )
        notes = _notes(result, found)
    if options.json:
        show_json(_to_json(result))
    elif options.output != STANDARD:
        show(_to_text(result))
    for note in notes:
        print(f"dcz compress: {note}", file=sys.stderr)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuse what cannot be meant, before anything is read."""
    if options.json and options.output == STANDARD:
        raise CommandError("--json and the file both want standard output: name a file")
    if options.output.lower().endswith(_CHECKPOINTS):
        raise CommandError(
            f"{options.output}: the file that is written is a .dcz file: expected a name like "
            "OUT.dcz (dcz decompress writes checkpoints)"
        )
    chosen = [vars(options), *(values for _, values in options.set)]
    if options.scope == "global" and all(c.get(rule) is None for c in chosen for rule in RULES):
        raise CommandError("--scope global is about pruning: --sparsity or --std is missing")


def _check_target(path: str) -> None:
    """Raise OSError if the file could not be written: now, not after the work."""
    from ..files import Replacement

    Replacement(path).close()


def _read(path: str, key: str | None) -> Checkpoint:
    from ..importers import read_checkpoint

    try:
        checkpoint = read_checkpoint(path, key)
    except ValueError as error:
        raise CommandError(str(error)) from error
    if not checkpoint.tensors:
        raise CommandError(f"{path}: no tensors found")
    return checkpoint


def _compress(checkpoint: Checkpoint, options: argparse.Namespace) -> tuple[Found, CompressedModel]:
    from ..arrays import sources
    from ..compression import compress
    from ..pipeline import NotFiniteError

    where = display_name(options.input)
    try:
        found = sources(checkpoint.tensors)
    except ValueError as error:
        raise CommandError(str(error), EXIT_CONTENT) from error
    settings = _settings(found, options)
    try:
        return found, compress(checkpoint.tensors, scope=options.scope, **settings)
    except NotFiniteError as error:
        rule = next((f",{name}=none" for name in RULES if settings[name] is not None), "")
        raise CommandError(
            f"{where}: tensor {error.tensor!r} has NaN or infinite entries: it cannot be pruned or "
            f"shared (--set '{error.tensor}:bits=none{rule}' stores it exactly)",
            EXIT_CONTENT,
        ) from error
    except ValueError as error:
        raise CommandError(str(error), EXIT_CONTENT) from error


def _settings(found: Found, options: argparse.Namespace) -> dict[str, Any]:
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


def _save(packed: CompressedModel, target: str, metadata: Mapping[str, str]) -> None:
    from ..storage import save

    save(packed, target, metadata)


def _nbytes(path: str) -> int:
    """Return the bytes of a checkpoint: a file, or a folder of shards."""
    if not os.path.isdir(path):
        return os.path.getsize(path)
    with os.scandir(path) as entries:
        return sum(e.stat().st_size for e in entries if e.name.endswith((".safetensors", ".bin")))


def _notes(result: _Result, found: Found) -> list[str]:
    """Say what may be a mistake."""
    notes = []
    gone = [row.name for row in result.report.rows if row.nnz == 0 and _lost_weights(row, result)]
    if gone:
        names = ", ".join(map(printable, gone[:5])) + (", ..." if gone[5:] else "")
        notes.append(f"every entry became zero: {names}")
    report = result.report
    if report.parts().get("signs", 0) > _LARGE_PART * report.file_nbytes:
        signed = [
            row.name for row in report.rows if row.name in result.weights and row.parts.get("signs")
        ]
        n = sum(_n_negative_zeros(found[name]) for name in signed)
        notes.append(f"{n:,} zeros are -0.0; --threshold 0 drops their signs")
    return notes


def _lost_weights(row: Row, result: _Result) -> bool:
    return row.name in result.errors and result.errors[row.name].n_zeros > 0


def _n_negative_zeros(source: Source | str) -> int:
    import numpy as np

    assert not isinstance(source, str)
    patterns = source.weight().patterns
    return int(np.count_nonzero(patterns == 1 << (8 * patterns.itemsize - 1)))


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
                "largest_error": None if error is None else error.largest,
                "mean_square_error": None if error is None else error.mean_square,
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
        if nbytes >= report.file_nbytes:
            ratio = f"{nbytes / report.file_nbytes:.2f}x smaller"
        else:
            ratio = f"{report.file_nbytes / max(nbytes, 1):.2f}x larger"
        lines.append(f"  {ratio} than {what}: {nbytes:,} bytes")
    return "\n".join(lines)
