"""Compressed models and tensors as HTML tables, for notebooks. Standard library only.

Only the index is read: a table costs nothing, whatever the size of the file.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from .losses import text_of
from .tables import printable

if TYPE_CHECKING:
    from .model import CompressedModel
    from .tensor import CompressedTensor

MAX_ROWS = 60
_COLUMNS = ("tensor", "shape", "dtype", "layout", "kept %", "bits", "bytes", "ratio")
_ERROR = "relative error"  # a column only where one is known


def model_html(packed: CompressedModel) -> str:
    """Return a table with a row for each tensor; of a long model, the first `MAX_ROWS`."""
    own = [tensor for name, tensor in packed.items() if name not in packed.aliases]
    nbytes = sum(t.nbytes for t in own)
    dense_nbytes = sum(t.record.dense_nbytes for t in own)
    rows = []
    for name, tensor in list(packed.items())[:MAX_ROWS]:
        first = packed.aliases.get(name)
        rows.append(_cells(tensor) if first is None else [name, f"= {first}", *[""] * 7])
    if len(packed) > MAX_ROWS:
        rows.append([f"... and {len(packed) - MAX_ROWS} more", *[""] * 8])
    sizes = f"{nbytes:,}", _ratio(dense_nbytes, nbytes)
    rows.append(["all tensors", *[""] * 5, *sizes, _error(packed.relative_error)])
    n_tensors = f"{len(packed)} tensor{'' if len(packed) == 1 else 's'}"
    caption = f"CompressedModel: {n_tensors}, {dense_nbytes:,} bytes in {nbytes:,}"
    return _table(caption, rows)


def tensor_html(tensor: CompressedTensor) -> str:
    """Return a table of one row."""
    return _table("CompressedTensor", [_cells(tensor)])


def _cells(tensor: CompressedTensor) -> list[str]:
    record = tensor.record
    return [
        record.name,
        "×".join(map(str, record.shape)) or "scalar",
        record.dtype,
        record.layout,
        "" if record.nnz is None else f"{100 * record.nnz / record.numel:.1f}",
        str(record.bits or ""),
        f"{record.section_nbytes:,}",
        _ratio(record.dense_nbytes, record.section_nbytes),
        _error(tensor.relative_error),
    ]


def _ratio(before: int, after: int) -> str:
    return f"{before / after:.2f}×" if after else ""


def _error(relative_error: float | None) -> str:
    return "" if relative_error is None else text_of(relative_error)


def _table(caption: str, rows: list[list[str]]) -> str:
    """Make a table of texts, which are escaped; numbers stand to the right."""
    head = [*_COLUMNS, _ERROR]
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]

    def line(tag: str, cells: list[str]) -> str:
        aligned = zip(["left"] * 4 + ["right"] * (len(head) - 4), cells, strict=True)
        return "".join(
            f'<{tag} style="text-align:{side}">{escape(printable(cell))}</{tag}>'
            for side, cell in aligned
        )

    body = "".join(f"<tr>{line('td', cells)}</tr>" for cells in rows)
    return (
        f'<table style="font-variant-numeric:tabular-nums"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{line('th', head)}</tr></thead><tbody>{body}</tbody></table>"
    )
