"""Write the tables of layers in README.md and docs/performance.md from RESULTS.md.

``python -m benchmarks.tables`` after a run; a test fails where a page says something else.
"""

import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/performance.md")
DENSE, INT8, BF16 = "dense float32", "int8", "bfloat16"
BATCHES = (1, 8, 64, 256)
LAYERS = "layer, kept"
CROSSOVERS = "the other one is faster above"
Ratios = dict[tuple[str, str, str], float]


def ratios(results: str) -> Ratios:
    """Return the ratio of each row that has one, by group, row and rival."""
    found, group = {}, ""
    for line in results.splitlines():
        if line.startswith("## "):
            group = line[3:]
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 4 and re.fullmatch(r"[\d,.]+", cells[4]):
            key = group, cells[1], cells[3].partition(":")[0]
            found[key] = float(cells[4].replace(",", ""))
    return found


def layers(found: Ratios) -> list[str]:
    """Return the rows of the layers, times as fast as dense and, in brackets, int8."""
    group = "Sparse layers, batch {}, one thread"
    names = dict.fromkeys(what for g, what, _ in found if g == group.format(1))
    rows = []
    for name in names:
        cells = []
        for batch in BATCHES:
            gains = [found.get((group.format(batch), name, rival)) for rival in (DENSE, INT8)]
            dense, int8 = gains
            cells.append(f"{_short(dense)} ({int8:.1f})" if dense and int8 else "")
        rows.append(f"| {name.replace(' kept', '')} | {' | '.join(cells)} |")
    return rows


def _short(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:.0f}"


def crossovers(
    found: Ratios,
    rivals: tuple[str, ...] = (DENSE, BF16, INT8),
    batches: tuple[int, ...] = (1, 8, 64),
) -> list[str]:
    """Return the rows of the densities from which on a rival is the faster one."""
    rows = []
    for rival in rivals:
        cells = []
        for batch in batches:
            at = re.compile(rf"([\d.]+) % kept, batch {batch}")
            points = [
                (float(m[1]), ratio)
                for (group, what, name), ratio in found.items()
                if "by density" in group and name == rival and (m := at.fullmatch(what))
            ]
            cells.append(_crossing(points))
        rows.append(f"| {rival} | {' | '.join(cells)} |")
    return rows


def _crossing(points: list[tuple[float, float]]) -> str:
    densities, gains = map(np.array, zip(*sorted(points), strict=True))
    if gains.min() >= 1:
        return f"never up to {densities[-1]:.0f} %"
    last = int(np.argmax(gains < 1))  # the first density at which the rival is faster
    if last == 0:
        return f"at {densities[0]:.0f} % already"
    pair = slice(last - 1, last + 1)
    return f"{np.interp(0, -np.log(gains[pair]), densities[pair]):.0f} % kept"


def updated(page: str, results: str) -> str:
    """Return a page with its tables as the results have them."""
    found = ratios(results)
    for head, rows in ((LAYERS, layers(found)), (CROSSOVERS, crossovers(found))):
        table = re.compile(rf"(\| {head} \|.*\n\|[-|]+\n)(?:\|.*\n)+")
        page = table.sub(lambda match, rows=rows: match[1] + "\n".join(rows) + "\n", page)
    return page


if __name__ == "__main__":
    measured = (ROOT / "benchmarks/RESULTS.md").read_text()
    for name in PAGES:
        path = ROOT / name
        path.write_text(updated(path.read_text(), measured))
