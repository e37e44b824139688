"""A compressed model as one HTML page, for people who would rather look.

The page holds its styles, its script and its data, and asks the network for nothing: its content
security policy forbids that, and lets no other script run than the one whose hash it names. What
comes from the file is data: texts are escaped, and the script gets numbers only, as JSON.
"""

import json
import sys
from base64 import b64encode
from hashlib import sha256
from html import escape
from importlib import resources
from string import Template
from typing import Any

import numpy as np

from .figures import Histogram, StreamCode, ZeroMap, by_kind, code_lengths, histogram, zeros
from .model import CompressedModel
from .page_parts import bars, facts, layouts, legend, metadata, table, totals
from .report import Row, report_model
from .tables import printable

_CELLS_IN_ALL = 1_000_000  # of the maps of zeros together, a byte each
_SCRIPTS = ("table.js", "treemap.js", "charts.js", "page.js")


def make_page(packed: CompressedModel, name: str = "") -> str:
    """Make a page that shows where the bytes of a model are, and what its weights look like.

    Every tensor is decoded once for each picture, one at a time.

    Parameters
    ----------
    packed : CompressedModel
        As of `load`; of one that was not loaded, the page shows the file that `save` would write.
    name : str, optional
        Of the file, for the title.

    Returns
    -------
    str
        HTML in one piece, to be written as UTF-8.

    Raises
    ------
    DczError
        If the file is damaged or breaks a rule of ``formats/dcz.md``.

    Examples
    --------
    >>> import deepcomp, numpy as np
    >>> packed = deepcomp.compress({"fc.weight": np.eye(100)}, bits=2)
    >>> page = make_page(packed, "eye.dcz")
    >>> "<h1>eye.dcz</h1>" in page, "fc.weight" in page
    (True, True)
    """
    report = report_model(packed, name)
    title = escape(printable(name)) or "a compressed model"
    files = resources.files(__package__) / "page_files"
    style = (files / "page.css").read_text(encoding="utf-8")
    script = "\n".join((files / s).read_text(encoding="utf-8") for s in _SCRIPTS)
    template = (files / "page.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        title=f"{title}: deepcomp report",
        heading=title,
        facts=facts(report),
        totals=totals(report),
        bars=bars(report),
        legend=legend(report),
        layouts=layouts(report),
        table=table(report),
        metadata=metadata(report),
        data=_to_script(_data(packed, report.rows)),
    )


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _to_script(data: Any) -> str:
    """Write JSON that no HTML parser can take for the end of its script."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data(packed: CompressedModel, rows: list[Row]) -> list[dict[str, Any]]:
    """Return what the script draws from, row by row; nothing for the other names of a tensor."""
    n_maps = sum(row.tied_to is None and len(row.shape) > 1 for row in rows)
    max_cells = min(max(_CELLS_IN_ALL // max(n_maps, 1), 256), 1 << 14)
    return [
        {}
        if row.tied_to is not None
        else {
            "dense": row.dense_nbytes,
            "parts": list(by_kind(row.parts).values()),
            "histogram": _histogram(histogram(packed[row.name])),
            "zeros": _zeros(zeros(packed[row.name], max_cells)),
            "codes": [_code(code) for code in code_lengths(packed[row.name])],
        }
        for row in rows
    ]


def _histogram(found: Histogram) -> dict[str, Any]:
    values = found.values if found.width == 0 else found.values[:1]  # the other edges follow
    return {
        "values": _short(values, 5),
        "width": found.width,
        "counts": found.counts.tolist(),
        "n_zeros": found.n_zeros,
        "n_not_finite": found.n_not_finite,
    }


def _zeros(found: ZeroMap) -> dict[str, Any]:
    """Write densities as bytes, 255 from the highest one on; only empty cells are written as 0."""
    highest = found.highest
    shades = np.ceil(found.density * (255 / (highest or 1))).clip(max=255).astype(np.uint8)
    return {
        "shape": found.shape,
        "grid": shades.shape,
        "cell": found.cell,
        "highest": highest,
        "cells": b64encode(shades.tobytes()).decode(),
    }


def _code(code: StreamCode) -> dict[str, Any]:
    return {
        "name": code.name,
        "n_symbols": int(code.counts.sum()),
        "lengths": code.code_lengths.tolist(),
        "ideal": _short(code.ideal, 4),
        "mean_bits": code.mean_bits,
        "entropy": code.entropy,
    }


def _short(values: Any, digits: int) -> list[float]:
    """Round to so many digits that count: a page is to be small."""
    largest = sys.float_info.max  # which would be rounded up, to infinity
    rounded = (float(f"{value:.{digits}g}") for value in values)
    return [min(max(value, -largest), largest) for value in rounded]
