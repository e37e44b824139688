"""What ``dcz compress`` prints: how small each tensor and the file became, and what that cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..losses import note_on, text_of
from ..report import Report, Row
from ..tables import printable, to_table

if TYPE_CHECKING:
    from ..arrays import Source
    from ..difference import Difference
    from ..model import CompressedModel

_LARGE_PART = 0.01  # of a file
_MOST_NAMES = 20


@dataclass(frozen=True)
class Result:
    """What was done: sizes in bytes, the error of each tensor by its name, what was left out."""

    source: str
    target: str
    source_nbytes: int
    report: Report
    errors: dict[str, Difference]
    weights: set[str]
    seconds: float
    packed: CompressedModel
    left_out: list[str]


def notes_on(result: Result, found: Mapping[str, Source | str]) -> list[str]:
    """Say what may be a mistake: a line for each."""
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
    if result.left_out:
        notes.append(left_out_note(result.source, result.left_out))
    if note := note_on(result.packed.losses, "--exact"):
        notes.append(note)
    return notes


def left_out_note(source: str, left_out: list[str]) -> str:
    """Say what of a training checkpoint is not in the file, and that sizes are without it."""
    names = ", ".join(map(printable, left_out[:_MOST_NAMES]))
    names += ", ..." if left_out[_MOST_NAMES:] else ""
    return f"left out of {printable(source)}: {names}; ratios are those of its weights"


def _lost_weights(row: Row, result: Result) -> bool:
    return row.name in result.errors and result.errors[row.name].n_zeros > 0


def _n_negative_zeros(source: Source | str) -> int:
    import numpy as np

    assert not isinstance(source, str)
    patterns = source.weight().patterns
    return int(np.count_nonzero(patterns == 1 << (8 * patterns.itemsize - 1)))


def to_json(result: Result) -> dict[str, Any]:
    """Return what was done as JSON values."""
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
                "relative_error": None if error is None else result.packed[row.name].relative_error,
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
        "compression_ratio_input": None
        if result.left_out
        else result.source_nbytes / report.file_nbytes,
        "left_out": result.left_out,
        "relative_error": result.packed.relative_error,
        "seconds": result.seconds,
        "tensors": tensors,
    }


def _finite(number: float) -> float | None:
    """Return a number that JSON can hold: the square of a float64 may be infinite."""
    return number if math.isfinite(number) else None


def to_text(result: Result) -> str:
    """Lay out a row for each weight and each tensor that changed, and the ratio."""
    report = result.report
    shown = [row for row in report.rows if _is_shown(row, result)]
    hidden = [row for row in report.rows if not _is_shown(row, result)]
    head = ["tensor", "shape", "dtype", "kept %", "bytes", "ratio"]
    head += ["relative error", "largest error"]
    lines = [_cells(row, result) for row in shown]
    if hidden:
        nbytes = sum(row.nbytes for row in hidden)
        lines.append([f"({len(hidden)} others)", *[""] * 3, f"{nbytes:,}", "", "exact", "exact"])
    overhead = sum(report.overhead.values())
    lines.append(["(index and checksums)", *[""] * 3, f"{overhead:,}", *[""] * 3])
    ratio = f"{report.dense_nbytes / report.file_nbytes:.2f}x"
    error = text_of(result.packed.relative_error or 0.0)
    lines.append(["file", *[""] * 3, f"{report.file_nbytes:,}", ratio, error, ""])
    return f"{to_table(head, lines, n_left=3)}\n\n{_summary(result)}"


def _is_shown(row: Row, result: Result) -> bool:
    error = result.errors.get(row.name)
    return error is not None and (row.name in result.weights or error.n_different > 0)


def _cells(row: Row, result: Result) -> list[str]:
    error = result.errors[row.name]
    return [
        printable(row.name),
        "x".join(map(str, row.shape)) or "scalar",
        row.dtype,
        "-" if row.kept is None else f"{100 * row.kept:.1f}",
        f"{row.nbytes:,}",
        "-" if row.ratio is None else f"{row.ratio:.2f}x",
        text_of(result.packed[row.name].relative_error or 0.0),
        "exact" if error.n_different == 0 else f"{error.largest:.3g}",
    ]


def _summary(result: Result) -> str:
    """Say how small the file is, and against what."""
    report = result.report
    sizes = {"its tensors when dense": report.dense_nbytes}
    if report.float32_nbytes != report.dense_nbytes:
        sizes["the same as float32"] = report.float32_nbytes
    if not result.left_out:  # else it is no measure of the weights
        sizes[printable(result.source)] = result.source_nbytes
    lines = [f"{printable(result.target)}: {report.file_nbytes:,} bytes, {result.seconds:.1f} s"]
    for what, nbytes in sizes.items():
        if nbytes >= report.file_nbytes:
            ratio = f"{nbytes / report.file_nbytes:.2f}x smaller"
        else:
            ratio = f"{report.file_nbytes / max(nbytes, 1):.2f}x larger"
        lines.append(f"  {ratio} than {what}: {nbytes:,} bytes")
    return "\n".join(lines)
