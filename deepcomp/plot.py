"""Pictures of compressed models and tensors, with matplotlib (the extra ``plot``).

They show what the page of ``dcz report`` shows. Each function draws into the axes it is given, or
into a new figure, and returns the axes.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from . import figures
from .model import CompressedModel
from .report import report_model
from .tables import printable
from .tensor import CompressedTensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# those of the page; readable for the colour-blind, and in grey
_COLOURS = {
    "labels": "#2563a8",
    "gaps": "#d9822b",
    "codebook": "#7b3fa0",
    "exact values": "#0f8f83",
    "raw": "#c2a100",
    "overhead": "#7d8794",
}
_MAX_BARS = 40
_SHOWN = 0.99  # of the bytes, in bars of their own
_LONGEST = 40  # characters of a name


def sizes(packed: CompressedModel, ax: Axes | None = None) -> Axes:
    """Draw what the bytes of a file are: a bar for each tensor, largest first.

    Parameters
    ----------
    packed : CompressedModel
        The smallest tensors share a bar: those of the last hundredth of the bytes, and all but 39
        if there are more than 40.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    DczError
        If the file is damaged or breaks a rule of ``formats/dcz.md``.

    Examples
    --------
    >>> import deepcomp, numpy as np
    >>> packed = deepcomp.compress({"fc.weight": np.eye(100)}, bits=2)
    >>> deepcomp.plot.sizes(packed).get_xlabel()
    'bytes in the file'
    """
    _expect(CompressedModel, packed)
    report = report_model(packed)
    rows = sorted((r for r in report.rows if r.nbytes), key=lambda r: r.nbytes, reverse=True)
    n_own = _count_bars([row.nbytes for row in rows])
    bars = [(_short_name(row.name), figures.by_kind(row.parts)) for row in rows[:n_own]]
    others = [figures.by_kind(row.parts) for row in rows[n_own:]]
    if others:
        summed = {kind: sum(parts[kind] for parts in others) for kind in figures.KINDS}
        bars.append((f"({len(others)} more)", summed))
    bars.append(("(head, index, checksums)", figures.by_kind(report.overhead)))
    ax = _axes(ax, height=1.6 + 0.22 * len(bars))
    ends = [0] * len(bars)
    for kind in figures.KINDS:
        widths = [parts[kind] for _, parts in bars]
        if any(widths):
            ax.barh(range(len(bars)), widths, left=ends, color=_COLOURS[kind], label=kind)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    ax.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize="small", parse_math=False)
    ax.set_ylim(len(bars) - 0.4, -0.6)
    ax.set_xlabel("bytes in the file")
    ratio = report.dense_nbytes / report.file_nbytes
    ax.set_title(f"{report.dense_nbytes:,} bytes in {report.file_nbytes:,} ({ratio:.1f}x)")
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    ax.locator_params(axis="x", nbins=6)
    ax.legend(loc="center right", edgecolor="none", fontsize="small")
    return _finish(ax)


def histogram(tensor: CompressedTensor, ax: Axes | None = None) -> Axes:
    """Draw how often the weights have which values; zeros are left out.

    With a codebook there is a line for each of its values, and a tick below; else there are bins.

    Parameters
    ----------
    tensor : CompressedTensor
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    DczError
        If the tensor's section is damaged or breaks a rule.

    Examples
    --------
    >>> import deepcomp, numpy as np
    >>> packed = deepcomp.compress({"w": np.random.default_rng(0).normal(size=(90, 90))}, bits=4)
    >>> deepcomp.plot.histogram(packed["w"]).get_ylabel()
    'weights'
    """
    _expect(CompressedTensor, tensor)
    found = figures.histogram(tensor)
    values = found.values.clip(-4e307, 4e307)  # matplotlib wants a range that float64 holds
    ax = _axes(ax)
    if found.width:
        ax.bar(values, found.counts, found.width, align="edge", color=_COLOURS["labels"])
        what = f"{found.counts.size} bins"
    else:
        ax.vlines(values, 0, found.counts, color=_COLOURS["labels"], linewidth=1.5)
        floor = [-0.03 * found.counts.max(initial=1)] * values.size
        ax.plot(values, floor, "|", color=_COLOURS["codebook"], markersize=6)
        what = f"{values.size} values in the codebook"
    ax.set_xlabel(f"value ({what})")
    ax.set_ylabel("weights")
    share = 100 * found.n_zeros / max(tensor.record.numel, 1)
    return _finish(ax, tensor, f"{share:.1f} % zeros, not drawn" if share else "no zeros")


def zeros(tensor: CompressedTensor, ax: Axes | None = None) -> Axes:
    """Draw the pattern of zeros: the darker, the more entries are kept.

    Parameters
    ----------
    tensor : CompressedTensor
        Is drawn as a matrix of ``shape[0]`` rows, a vector as one row.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    DczError
        If the tensor's section is damaged or breaks a rule.

    Examples
    --------
    >>> import deepcomp, numpy as np
    >>> packed = deepcomp.compress({"w": np.eye(100)})
    >>> deepcomp.plot.zeros(packed["w"]).get_images()[0].get_array().shape
    (100, 100)
    """
    _expect(CompressedTensor, tensor)
    found = figures.zeros(tensor)
    rows, columns = found.shape
    ax = _axes(ax)
    image = ax.imshow(
        100 * found.density,
        cmap="Blues",
        vmin=0,
        vmax=100 * found.highest or 1,
        extent=(0, max(columns, 1), max(rows, 1), 0),
        aspect="equal" if 0.2 < columns / max(rows, 1) < 5 else "auto",
        interpolation="nearest",
    )
    ax.figure.colorbar(image, ax=ax, label="kept, %", shrink=0.8)
    ax.set_xlabel("column")
    ax.set_ylabel("row")
    size = "an entry" if found.cell == 1 else f"{found.cell}x{found.cell} entries"
    return _finish(ax, tensor, f"a cell is {size}")


def code_lengths(tensor: CompressedTensor, ax: Axes | None = None) -> Axes:
    """Draw the code lengths of a tensor's streams beside the bits that their symbols carry.

    Parameters
    ----------
    tensor : CompressedTensor
        A raw tensor has no codes: its axes stay empty.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    DczError
        If the tensor's section is damaged or breaks a rule.

    Examples
    --------
    >>> import deepcomp, numpy as np
    >>> packed = deepcomp.compress({"w": np.random.default_rng(0).normal(size=(90, 90))}, bits=4)
    >>> deepcomp.plot.code_lengths(packed["w"]).get_ylabel()
    'bits'
    """
    _expect(CompressedTensor, tensor)
    codes = figures.code_lengths(tensor)
    ax = _axes(ax)
    for i, code in enumerate(codes):
        edges = [k + 0.5 for k in range(code.counts.size + 1)]
        bits = f"{code.name}: {code.mean_bits:.2f} bits, entropy {code.entropy:.2f}"
        ax.stairs(code.code_lengths, edges, baseline=None, color=f"C{i}", linewidth=1.8, label=bits)
        ax.stairs(code.ideal, edges, baseline=None, color=f"C{i}", linewidth=1.1, linestyle="--")
    if codes:
        ax.plot([], [], color="0.4", linestyle="--", linewidth=1.1, label="ideal")
        ax.legend(frameon=False, fontsize="small", loc="lower right")
    ax.set_xlabel("symbols, from the most to the least frequent")
    ax.set_ylabel("bits")
    ax.set_ylim(bottom=0)
    return _finish(ax, tensor, "code lengths" if codes else "raw, without codes")


def _expect(kind: type, found: object) -> None:
    if not isinstance(found, kind):
        hint = ": give one of its tensors, packed[name]" if kind is CompressedTensor else ""
        raise TypeError(f"expected a {kind.__name__}, not a {type(found).__name__}{hint}")


def _axes(ax: Axes | None, height: float = 3.4) -> Axes:
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            "deepcomp.plot needs matplotlib: pip install 'deepcomp[plot]'", name=error.name
        ) from error
    return pyplot.subplots(figsize=(6.4, height), layout="constrained")[1]


def _finish(ax: Axes, tensor: CompressedTensor | None = None, note: str = "") -> Axes:
    ax.spines[["top", "right"]].set_visible(False)
    if tensor is not None:
        name = _short_name(tensor.name)
        ax.set_title(f"{name}: {note}", fontsize="medium", parse_math=False)
    return ax


def _count_bars(sizes: list[int]) -> int:
    """Return how many tensors, of sizes that fall, have a bar of their own."""
    n_large = 1 + sum(end < _SHOWN * sum(sizes) for end in accumulate(sizes))
    n_own = min(n_large, _MAX_BARS - 1)
    return n_own if n_own < len(sizes) - 1 else len(sizes)  # one tensor needs no bar to share


def _short_name(name: str) -> str:
    """Leave out the middle: names of a model differ at both ends."""
    shown = printable(name)
    half = _LONGEST // 2 - 2
    return shown if len(shown) <= _LONGEST else f"{shown[:half]}...{shown[-half:]}"
