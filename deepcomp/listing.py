"""A report as text: what ``dcz inspect`` prints. Standard library only."""

from fnmatch import fnmatchcase
from math import prod

from .report import Report, Row
from .tables import printable, to_table

SORT_KEYS = ("file", "name", "weights", "kept", "bytes", "ratio")


def to_text(report: Report, sort: str = "file", pattern: str = "*") -> str:
    """Lay a report out as two tables, whose columns of bytes add up to the file.

    The ratio to float32 has a column only if some tensor is of another dtype. The two factors of a
    layer of low rank stand below it; their bytes are in a column of their own, as those of the
    layer are the sum.

    Parameters
    ----------
    report : Report
    sort : {"file", "name", "weights", "kept", "bytes", "ratio"}
        All but the first two from large to small.
    pattern : str
        Only tensors whose names match are listed, or the name of the layer whose factors they
        are; the others are summed up in one line.

    Returns
    -------
    str
    """
    units, hidden = _listed(report, pattern)
    _sort(units, sort)
    head = ["tensor", "shape", "dtype", "layout", "weights", "kept %", "bits/weight", "Huffman"]
    head += ["bits/index", "Huffman", "bytes", "of which", "ratio", "vs f32"]
    lines = []
    for first, *factors in units:
        lines += [_cells(first), *(_factor_cells(factor, first.name) for factor in factors)]
    overhead = {f"{len(hidden)} more": sum(row.nbytes for row in hidden)} if hidden else {}
    for what, n_bytes in (overhead | report.overhead).items():
        lines.append([f"({what})", *[""] * 9, f"{n_bytes:,}", "", "", ""])
    weights = sum(row.n_weights for row in report.rows if row.tied_to is None)
    ratios = _ratios(report, report.dense_nbytes, report.float32_nbytes)
    lines.append(["file", *[""] * 3, f"{weights:,}", *[""] * 5, f"{report.file_nbytes:,}", ""])
    lines[-1] += ratios
    left_out = set() if any(len(unit) > 1 for unit in units) else {head.index("of which")}
    if _is_float32(report):  # both ratios are the same
        left_out.add(len(head) - 1)
    head, *lines = ([c for i, c in enumerate(x) if i not in left_out] for x in (head, *lines))
    parts = [
        [part, f"{n:,}", f"{100 * n / report.file_nbytes:.1f}"]
        for part, n in report.parts().items()
    ]
    parts.append(["file", f"{report.file_nbytes:,}", "100.0"])
    tables = to_table(head, lines, n_left=4), to_table(["part", "bytes", "%"], parts, n_left=1)
    return "\n\n".join((*tables, "\n".join(_totals(report))))


def _totals(report: Report) -> list[str]:
    """Say what the tensors are when dense, and what they were before `deepcomp.factorize`."""
    sums = {"dense": (report.dense_nbytes, report.float32_nbytes)}
    pairs = report.pairs()
    if pairs:
        saved = sum(p.layer.dense_nbytes - sum(f.dense_nbytes for f in p.factors) for p in pairs)
        entries = sum(prod(p.layer.shape) - p.layer.n_weights for p in pairs)
        whole = report.dense_nbytes + saved, report.float32_nbytes + 4 * entries
        sums["dense, whole weights in place of factors"] = whole
    lines = []
    for what, (n_bytes, n_float32) in sums.items():
        ratio, ratio_float32 = _ratios(report, n_bytes, n_float32)
        if _is_float32(report):
            lines.append(f"{what}: {n_bytes:,} bytes ({ratio} the file)")
        else:
            lines.append(
                f"{what}: {n_bytes:,} bytes at the tensors' own dtypes ({ratio} the file), "
                f"{n_float32:,} bytes as float32 ({ratio_float32})"
            )
    return lines


def _is_float32(report: Report) -> bool:
    return all(row.dtype == "float32" for row in report.rows)


def _ratios(report: Report, *n_bytes: int) -> list[str]:
    return [f"{n / report.file_nbytes:.2f}x" for n in n_bytes]


def _listed(report: Report, pattern: str) -> tuple[list[list[Row]], list[Row]]:
    """Return the rows to be shown, a layer of low rank with its factors; and the other rows."""
    pairs = {pair.factors[0].name: pair for pair in report.pairs()}
    matching = {row.name for row in report.rows if fnmatchcase(row.name, pattern)}
    grouped = set()
    for first, pair in list(pairs.items()):
        names = {factor.name for factor in pair.factors}
        if names <= matching or fnmatchcase(pair.layer.name, pattern):
            grouped |= names
        else:
            del pairs[first]
    units, hidden = [], []
    for row in report.rows:
        if row.name in pairs:
            units.append([pairs[row.name].layer, *pairs[row.name].factors])
        elif row.name in matching - grouped:
            units.append([row])
        elif row.name not in grouped:
            hidden.append(row)
    return units, hidden


def _sort(units: list[list[Row]], key: str) -> None:
    if key == "name":
        units.sort(key=lambda unit: unit[0].name)
    elif key != "file":
        attribute = {"weights": "n_weights", "bytes": "nbytes"}.get(key, key)
        units.sort(key=lambda unit: -(getattr(unit[0], attribute) or 0))


def _factor_cells(row: Row, layer: str) -> list[str]:
    """Show a factor below its layer, whose sums have its weights and bytes already."""
    cells = _cells(row)
    name, n_bytes = row.name.removeprefix(f"{layer}."), cells[10]
    return [f"  {printable(name)}", *cells[1:4], "", *cells[5:10], "", n_bytes, *cells[12:]]


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
        "",
        "-" if row.ratio is None else f"{row.ratio:.2f}x",
        "-" if row.ratio_float32 is None else f"{row.ratio_float32:.2f}x",
    ]
