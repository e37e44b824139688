"""A report as text: what ``dcz inspect`` prints. Standard library only."""

from fnmatch import fnmatchcase

from .report import Report, Row
from .tables import printable, to_table

SORT_KEYS = ("file", "name", "weights", "kept", "bytes", "ratio")


def to_text(report: Report, sort: str = "file", pattern: str = "*") -> str:
    """Lay a report out as two tables, whose columns of bytes add up to the file.

    The ratio to float32 has a column only if some tensor is of another dtype.

    Parameters
    ----------
    report : Report
    sort : {"file", "name", "weights", "kept", "bytes", "ratio"}
        All but the first two from large to small.
    pattern : str
        Only tensors whose names match are listed; the others are summed up in one line.

    Returns
    -------
    str
    """
    shown = [row for row in report.rows if fnmatchcase(row.name, pattern)]
    hidden = [row for row in report.rows if not fnmatchcase(row.name, pattern)]
    _sort(shown, sort)
    head = ["tensor", "shape", "dtype", "layout", "weights", "kept %"]
    head += ["bits/weight", "Huffman", "bits/index", "Huffman", "bytes", "ratio", "vs f32"]
    lines = [_cells(row) for row in shown]
    if hidden:
        n_bytes = sum(row.nbytes for row in hidden)
        lines.append([f"({len(hidden)} more)", *[""] * 9, f"{n_bytes:,}", "", ""])
    for what, n_bytes in report.overhead.items():
        lines.append([f"({what})", *[""] * 9, f"{n_bytes:,}", "", ""])
    weights = sum(row.n_weights for row in report.rows if row.tied_to is None)
    ratio, ratio_float32 = (
        f"{n / report.file_nbytes:.2f}x" for n in (report.dense_nbytes, report.float32_nbytes)
    )
    total = ["file", *[""] * 3, f"{weights:,}", *[""] * 5, f"{report.file_nbytes:,}"]
    total += [ratio, ratio_float32]
    dense = f"{report.dense_nbytes:,} bytes "
    if all(row.dtype == "float32" for row in report.rows):  # both ratios are the same
        head, total, *lines = (line[:-1] for line in (head, total, *lines))
        dense += f"({ratio} the file)"
    else:
        dense += f"at the tensors' own dtypes ({ratio} the file), "
        dense += f"{report.float32_nbytes:,} bytes as float32 ({ratio_float32})"
    text = to_table(head, [*lines, total], n_left=4)
    parts = [
        [part, f"{n:,}", f"{100 * n / report.file_nbytes:.1f}"]
        for part, n in report.parts().items()
    ]
    parts.append(["file", f"{report.file_nbytes:,}", "100.0"])
    return f"{text}\n\n{to_table(['part', 'bytes', '%'], parts, n_left=1)}\n\ndense: {dense}"


def _sort(rows: list[Row], key: str) -> None:
    if key == "name":
        rows.sort(key=lambda row: row.name)
    elif key != "file":
        attribute = {"weights": "n_weights", "bytes": "nbytes"}.get(key, key)
        rows.sort(key=lambda row: -(getattr(row, attribute) or 0))


def _cells(row: Row) -> list[str]:
    def number(value: float | None, form: str = ".1f") -> str:
        return "-" if value is None else format(value, form)

    layout = row.layout if row.tied_to is None else f"= {printable(row.tied_to)}"
    kept = None if row.kept is None else 100 * row.kept
    return [
        printable(row.name),
        "x".join(map(str, row.shape)) or "scalar",
        row.dtype,
        layout,
        f"{row.n_weights:,}",
        number(kept),
        number(row.weight_bits),
        number(row.weight_bits_huffman),
        number(row.index_bits),
        number(row.index_bits_huffman),
        f"{row.nbytes:,}",
        "-" if row.ratio is None else f"{row.ratio:.2f}x",
        "-" if row.ratio_float32 is None else f"{row.ratio_float32:.2f}x",
    ]
