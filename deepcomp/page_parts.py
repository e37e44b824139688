"""The parts of a page that need no script: totals, bars, the table. Numbers -> HTML.

Every text that comes from a file passes `text`. Styles are classes, sizes are attributes of SVG:
the page's content security policy knows no inline style.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, NamedTuple

from .figures import KINDS, by_kind
from .losses import suffix, text_of
from .report import Report, Row
from .tables import printable


class _Column(NamedTuple):
    """A column: its title in the table, where it stands alone, and its classes.

    A number is sorted from large to small first.
    """

    title: str
    full: str
    css: str
    is_number: bool


_PARTS = "of which"
_COLUMNS = (
    _Column("tensor", "tensor", "", False),
    _Column("shape", "shape", "wide left", True),
    _Column("dtype", "dtype", "wide left", False),
    _Column("layout", "layout", "middle left", False),
    _Column("weights", "weights", "wide", True),
    _Column("kept\n%", "kept, %", "", True),
    _Column("bits/\nweight", "bits/weight", "wide", True),
    _Column("Huffman", "bits/weight after Huffman", "wide", True),
    _Column("bits/\nindex", "bits/index", "wide", True),
    _Column("Huffman", "bits/index after Huffman", "wide", True),
    _Column("bytes", "bytes", "", True),
    _Column(_PARTS, "", "middle left", False),
    _Column("ratio", "ratio", "", True),
    _Column("against\nfloat32", "ratio against float32", "wide", True),
)
_ERROR = _Column("relative\nerror", "relative error", "", True)  # only where one is known


def text(raw: str) -> str:
    """Return a text from a file as HTML: nothing in it is markup, or hides other text."""
    return escape(printable(raw))


def short_bytes(n: int) -> str:
    """Return a size in the unit that suits it, powers of 1000.

    Examples
    --------
    >>> short_bytes(999), short_bytes(7991635), short_bytes(243860896)
    ('999 B', '7.99 MB', '244 MB')
    """
    if n < 1000:
        return f"{n} B"
    n = round(n, 3 - len(str(n)))  # three digits that count
    power = min((len(str(n)) - 1) // 3, 4)
    number = f"{n / 1000**power:#.3g}".rstrip(".")
    return f"{number} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def facts(report: Report) -> str:
    """Say in a line what the file is."""
    own = [row for row in report.rows if row.tied_to is None]
    n_weights = sum(row.n_weights for row in own)
    tied = len(report.rows) - len(own)
    names = f" and {_plural(tied, 'tied name')}" if tied else ""
    return (
        f"{_plural(len(own), 'tensor')}{names}, {_plural(n_weights, 'weight')}, "
        f".dcz format {report.format_version}{suffix(report.relative_error)}"
    )


def totals(report: Report) -> str:
    """Make the large figures: before, after, ratio, kept."""
    coded = [row for row in report.rows if row.tied_to is None and row.nnz is not None]
    n_coded = sum(row.n_weights for row in coded)
    n_kept = sum(row.nnz or 0 for row in coded)
    tiles = [
        ("Before", short_bytes(report.dense_nbytes), f"{report.dense_nbytes:,} bytes, dense"),
        ("After", short_bytes(report.file_nbytes), f"{report.file_nbytes:,} bytes, whole file"),
        (
            "Ratio",
            f"{report.dense_nbytes / report.file_nbytes:.2f}×",
            f"{report.float32_nbytes / report.file_nbytes:.2f}× against float32",
        ),
        (
            "Kept",
            f"{100 * n_kept / n_coded:.1f} %" if n_coded else "all",
            f"{n_kept:,} of {n_coded:,} weights in coded tensors" if n_coded else "all is raw",
        ),
    ]
    return "\n".join(
        f"<div><span>{what}</span><b>{figure}</b><span>{note}</span></div>"
        for what, figure, note in tiles
    )


def bars(report: Report) -> str:
    """Draw before and after to one scale, and what the bytes are enlarged."""
    kinds = by_kind(report.parts())
    after = [(kind.split()[0], n) for kind, n in kinds.items()]
    scale = max(report.dense_nbytes, report.file_nbytes)
    dense = _bar([("before", report.dense_nbytes)], scale, f"before: {report.dense_nbytes} bytes")
    small = _bar(after, scale, f"after: {report.file_nbytes} bytes, to the same scale")
    what = ", ".join(f"{kind} {n}" for kind, n in kinds.items())
    large = _bar(after, report.file_nbytes, f"bytes of the file: {what}")
    lines = [
        ("", "Before", dense, short_bytes(report.dense_nbytes)),
        ("", "After", small, short_bytes(report.file_nbytes)),
        (" large", "Enlarged", large, "100 %"),
    ]
    return "\n".join(
        f'<div class="bar{css}"><span>{name}</span>{svg}<span>{size}</span></div>'
        for css, name, svg, size in lines
    )


def legend(report: Report) -> str:
    """List what the bytes are; the numbers add up to the file."""
    parts = report.parts()
    items = []
    for kind, names in KINDS.items():
        n = sum(parts.get(name, 0) for name in names)
        present = [name for name in names if parts.get(name)]
        detail = ", ".join(f"{name} {parts[name]:,}" for name in present) if present[1:] else ""
        note = f'<span class="note">{detail}</span>' if detail else ""
        items.append(
            f'<li><svg aria-hidden="true"><rect class="k-{kind.split()[0]}"/></svg>'
            f'<span>{kind}</span><span class="bytes">{n:,}</span>'
            f"<span>{100 * n / report.file_nbytes:.1f} %</span>{note}</li>"
        )
    return "\n".join(items)


def layouts(report: Report) -> str:
    """List the layouts that occur, as options of the filter."""
    found = dict.fromkeys(row.layout for row in report.rows)
    return "".join(f"<option>{layout}</option>" for layout in found)


def metadata(report: Report) -> str:
    """Show the user's own metadata, if there are any."""
    if not report.metadata:
        return ""
    items = "".join(
        f"<div><dt>{text(key)}</dt><dd>{text(value)}</dd></div>"
        for key, value in report.metadata.items()
    )
    return f'<section class="glossary"><h2>Metadata</h2><dl>{items}</dl></section>'


def table(report: Report) -> str:
    """Make the table of all tensors; its column of bytes adds up to the file."""
    largest = max((row.nbytes for row in report.rows), default=0)
    is_known = any(row.relative_error is not None for row in report.rows)
    columns = (*_COLUMNS, _ERROR) if is_known else _COLUMNS
    head = "".join(map(_head, columns))
    body = "\n".join(_line(i, row, largest, columns) for i, row in enumerate(report.rows))
    foot = [_foot_line(columns, tensor=f"({what})", bytes=n) for what, n in report.overhead.items()]
    totals = {"ratio": f"{report.dense_nbytes / report.file_nbytes:.2f}×"}
    if report.relative_error is not None:
        totals[_ERROR.title] = text_of(report.relative_error)
    foot.append(_foot_line(columns, tensor="file", bytes=report.file_nbytes, **totals))
    return (
        f'<table id="tensors"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody>\n<tfoot>{chr(10).join(foot)}</tfoot></table>"
    )


def _head(column: _Column) -> str:
    attributes = f'scope="col"{_class(column.css)}'
    if column.title != _PARTS:
        attributes += f' aria-sort="none" data-full="{column.full}"'
        attributes += f' data-number="{int(column.is_number)}"'
    return f"<th {attributes}>{column.title}</th>"


def _line(i: int, row: Row, largest: int, columns: Sequence[_Column]) -> str:
    shape = "×".join(map(str, row.shape)) or "scalar"
    under = shape if row.tied_to is None else f"= {row.tied_to}"
    css = "shape" if row.tied_to is None else "shape tied"
    shown = text(row.name).replace(".", ".<wbr>")  # where a long name may be broken
    name = f'<span class="name">{shown}</span><span class="{css}">{text(under)}</span>'
    cells: list[tuple[str, object]] = [
        (name, row.name),
        (shape, row.n_weights),
        (row.dtype, row.dtype),
        (row.layout, row.layout),
        (f"{row.n_weights:,}", row.n_weights),
        _number(None if row.kept is None else 100 * row.kept, ".1f"),
        _number(row.weight_bits, ".1f"),
        _number(row.weight_bits_huffman, ".1f"),
        _number(row.index_bits, ".1f"),
        _number(row.index_bits_huffman, ".1f"),
        (f"{row.nbytes:,}", row.nbytes),
        (_mini(row, largest), ""),
        _number(row.ratio, ".2f", "×"),
        _number(row.ratio_float32, ".2f", "×"),
        _number(row.relative_error, ".3g"),
    ]
    filled = "".join(
        f'<td{_class(column.css)} data-value="{text(str(value))}">{shown}</td>'
        for column, (shown, value) in zip(columns, cells)
    )
    return f'<tr class="row" data-row="{i}" data-layout="{row.layout}">{filled}</tr>'


def _foot_line(columns: Sequence[_Column], **filled: Any) -> str:
    """Fill some cells, by the titles of their columns."""
    nbytes = filled["bytes"]
    filled["bytes"] = f"{nbytes:,}"
    cells = "".join(f"<td{_class(c.css)}>{filled.get(c.title, '')}</td>" for c in columns)
    return f'<tr data-bytes="{nbytes}">{cells}</tr>'


def _mini(row: Row, largest: int) -> str:
    kinds = by_kind(row.parts)
    label = ", ".join(f"{kind} {n}" for kind, n in kinds.items() if n) or "nothing of its own"
    segments = [(kind.split()[0], n) for kind, n in kinds.items()]
    return _bar(segments, largest, label, "mini")


def _bar(segments: Iterable[tuple[str, int]], scale: int, label: str, css: str = "") -> str:
    """Draw segments side by side, 1000 units wide for `scale` bytes."""
    rects, x = [], 0.0
    for kind, n in segments:
        width = 1000 * n / scale if scale else 0
        if n:
            rects.append(f'<rect class="k-{kind}" x="{x:.1f}" width="{width:.1f}" height="10"/>')
        x += width
    return (
        f'<svg{_class(css)} viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}"><title>{label}</title>{"".join(rects)}</svg>'
    )


def _number(value: float | None, form: str, unit: str = "") -> tuple[str, object]:
    return ("–", "") if value is None else (f"{value:{form}}{unit}", f"{value:.6g}")


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""


def _plural(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
