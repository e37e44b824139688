"""The rows of a benchmark run, and the file RESULTS.md that they end in."""

import operator
import os
import platform
import sys
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

PACKAGES = (
    "numpy",
    "torch",
    "safetensors",
    "zstandard",
    "scikit-learn",
    "kmeans1d",
    "dahuffman",
    "pytest-benchmark",
)

COMPARE = {">=": operator.ge, "<=": operator.le, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class Row:
    """One figure; `met` is None where there is no bar."""

    what: str
    figure: str
    rival: str
    ratio: str
    bar: str
    met: bool | None


@dataclass
class Results:
    """The rows of a run, by group, in the order in which they were measured."""

    groups: dict[str, list[Row]] = field(default_factory=dict)

    def add(
        self,
        group: str,
        what: str,
        figure: float,
        unit: str,
        bar: str = "",
        rival: tuple[str, float] | None = None,
        ratio: float | None = None,
    ) -> None:
        """Add a figure, and judge it.

        Parameters
        ----------
        group, what : str
            The table, and the row in it.
        figure : float
        unit : str
        bar : str, optional
            As ``">= 1.2"``. It is for the ratio if there is one, else for the figure.
        rival : (str, float), optional
            Its name, and its figure in the same unit.
        ratio : float, optional
            By default the figure over the rival's.
        """
        if rival is not None and ratio is None:
            ratio = figure / rival[1]
        met = None
        if bar:
            sign, number = bar.split()
            judged = figure if ratio is None else ratio
            met = COMPARE[sign](judged, float(number))
        row = Row(
            what,
            f"{_number(figure)} {unit}".rstrip(),
            "" if rival is None else f"{rival[0]}: {_number(rival[1])} {unit}".rstrip(),
            "" if ratio is None else _number(ratio),
            bar and (f"ratio {bar}" if ratio is not None else f"{bar} {unit}"),
            met,
        )
        self.groups.setdefault(group, []).append(row)

    @property
    def missed(self) -> list[tuple[str, Row]]:
        """Every row that is short of its bar, with its group."""
        return [(g, row) for g, rows in self.groups.items() for row in rows if row.met is False]


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if 0.9 < value < 1.1:
        return f"{value:.4f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def write_results(
    path: Path, results: Results, command: str, load: str, not_measured: list[tuple[str, str]]
) -> None:
    """Write RESULTS.md anew; nothing of an earlier run stays.

    Parameters
    ----------
    path : Path
    results : Results
    command : str
        What was run.
    load : str
        How busy the machine was.
    not_measured : list of (str, str)
        Tests that were skipped or failed, and why.
    """
    n_bars = sum(row.met is not None for rows in results.groups.values() for row in rows)
    lines = [
        "# Benchmark results",
        "",
        "Written by the run itself; how to read it is in [README.md](README.md).",
        "",
        *(f"* {what}: {value}" for what, value in _circumstances(command, load)),
        "",
        f"**{n_bars - len(results.missed)} of {n_bars} bars met.**"
        + "".join(f"\n* missed: {g}: {row.what} ({row.bar})" for g, row in results.missed),
    ]
    for group, rows in results.groups.items():
        lines += ["", f"## {group}", "", "| what | deepcomp | rival | ratio | bar | met |"]
        lines += ["|---|---|---|---|---|---|"]
        for row in rows:
            met = {None: "", True: "yes", False: "**missed**"}[row.met]
            cells = (row.what, row.figure, row.rival, row.ratio, row.bar, met)
            lines.append(f"| {' | '.join(cells)} |")
    if not_measured:
        lines += ["", "## Not measured in this run", "", "| test | why |", "|---|---|"]
        lines += [f"| `{test}` | {why} |" for test, why in not_measured]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _circumstances(command: str, load: str) -> list[tuple[str, str]]:
    import deepcomp
    from deepcomp import _kernels

    info = _kernels.build_info()
    build = ", debug build" if info["debug"] else ""
    cores = len(os.sched_getaffinity(0))
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    return [
        ("date", datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
        ("command", f"`{command}`"),
        ("processor", f"{_processor()}, {os.cpu_count()} cores"),
        ("used", f"{cores} core(s), OMP_NUM_THREADS {threads}; {load}"),
        ("deepcomp", f"{deepcomp.__version__}, {info['kernels']} kernels, {info['isa']}{build}"),
        ("Python", f"{platform.python_version()} on {sys.platform}"),
        ("packages", ", ".join(f"{name} {_version(name)}" for name in PACKAGES)),
    ]


def _version(package: str) -> str:
    try:
        return version(package)
    except ImportError:
        return "missing"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    facts = {}
    for line in lines:
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name") or platform.processor() or platform.machine()
    numbers = [facts.get(key, "?") for key in ("cpu family", "model", "stepping")]
    return f"{name} (family {numbers[0]}, model {numbers[1]}, stepping {numbers[2]})"
