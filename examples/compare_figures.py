"""The figures of compare.py: accuracy, bytes and speed of all methods against one another."""

from pathlib import Path
from typing import Any

from matplotlib import pyplot
from matplotlib.lines import Line2D

Row = dict[str, Any]

# Colours tell what kind of method it is, and signs the method.
STYLES = {
    "dense": ("black", "*"),
    "weights, magnitude": ("tab:blue", "o"),
    "filters, L1": ("tab:orange", "s"),
    "filters, FPGM": ("tab:orange", "D"),
    "ThiNet": ("tab:red", "^"),
    "ThiNet, reconstructed": ("tab:red", "v"),
    "low rank": ("tab:purple", "P"),
    "k-means": ("tab:green", "o"),
    "uniform grid": ("tab:green", "s"),
    "ternary": ("tab:green", "^"),
    "binary": ("tab:green", "v"),
    "student": ("tab:gray", "o"),
    "student, soft targets": ("tab:gray", "s"),
    "student, soft targets, hints": ("tab:gray", "^"),
}
FIGURES = {
    "compared_speed_size": ("ratio", "speed-up"),
    "compared_accuracy_speed": ("speed-up", "accuracy %"),
    "compared_accuracy_size": ("bytes", "accuracy %"),
}
LABELS = {
    "ratio": "times smaller than the float32 file",
    "speed-up": "times as fast as the dense original",
    "accuracy %": "accuracy on the test images, %",
    "bytes": "bytes of the .dcz file",
}


def draw(rows: list[Row], output: Path) -> None:
    """Write the three figures as PNG."""
    for name, (x, y) in FIGURES.items():
        figure, axes = pyplot.subplots(1, 2, figsize=(11, 5.6), sharey=True, layout="constrained")
        for axis, tuned in zip(axes, (0, 1)):
            own = [row for row in rows if row["fine-tuned"] == tuned]
            _panel(axis, own, x, y)
            axis.set_title("fine-tuned" if tuned else "without fine-tuning", fontsize="medium")
        limits = [f(axis.get_xlim()[i] for axis in axes) for i, f in ((0, min), (1, max))]
        for axis in axes:
            axis.set_xlim(limits)
        axes[0].set_ylabel(LABELS[y])
        _legend(figure, rows)
        figure.savefig(output / f"{name}.png", dpi=120)
        pyplot.close(figure)


def _panel(axis: Any, rows: list[Row], x: str, y: str) -> None:
    for method, (color, marker) in STYLES.items():
        for is_exact in (True, False):
            own = [r for r in rows if r["method"] == method and (r["bits"] == "exact") == is_exact]
            axis.plot(
                [row[x] for row in own],
                [row[y] for row in own],
                color=color,
                marker=marker,
                markersize=9 if marker == "*" else 6,
                markerfacecolor="white" if is_exact else color,
                linestyle="" if "student" in method else "--" if is_exact else "-",
                linewidth=0.8,
                alpha=0.9,
            )
    longer = [row for row in rows if "longer" in row["strength"]]
    for row in longer[:1] if y == "accuracy %" else ():
        axis.annotate(
            "trained longer", (row[x], row[y]), (-6, 7), textcoords="offset points",
            ha="right", fontsize="small", color="dimgray",
        )  # fmt: skip
    axis.set_xlabel(LABELS[x])
    if x in ("bytes", "ratio"):
        axis.set_xscale("log")
        ticks = (10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)
        ticks = ticks if x == "bytes" else (1, 2, 5, 10, 20, 50)
        axis.set_xticks(ticks, [f"{t // 1000} K" if x == "bytes" else f"{t}" for t in ticks])
        axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _legend(figure: Any, rows: list[Row]) -> None:
    found = {row["method"] for row in rows}
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", label=method)
        for method, (color, marker) in STYLES.items()
        if method in found
    ]
    for title, face in (("exact values", "white"), ("shared values", "black")):
        handles.append(
            Line2D([], [], color="black", marker="o", ls="", markerfacecolor=face, label=title)
        )
    figure.legend(
        handles=handles, frameon=False, loc="outside lower center", ncols=5, fontsize="small"
    )
