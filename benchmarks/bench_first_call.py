"""What the first call of a sparse layer costs in a fresh process, beside a dense layer's."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

from .report import Results

N_PROCESSES = 5  # of each kind, in turn
DENSE = "nn.Linear"


def first_call(kind: str) -> dict[str, Any]:
    """Return what a process of its own has measured."""
    command = [sys.executable, "-m", f"{__package__}.first_call", kind]
    root = Path(__file__).parents[1]
    run = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def test_first_call(benchmark: BenchmarkFixture, results: Results) -> None:
    found: dict[str, list[dict[str, Any]]] = {"dense": [], "sparse": []}

    def measure() -> None:
        for kind, runs in found.items():
            runs.append(first_call(kind))

    benchmark.pedantic(measure, rounds=N_PROCESSES)
    dense, sparse = (
        {
            key: median(run[key] for run in runs)
            for key in ("seconds", "restore", "modules", "nbytes")
        }
        for runs in found.values()
    )
    assert not any(run["compiler"] for runs in found.values() for run in runs)
    group = "The first call of a 300x784 layer in a fresh process, with gradients, CPU time"
    ours, theirs = 1e3 * sparse["seconds"], 1e3 * dense["seconds"]
    results.add(group, "time", ours, "ms", "", (DENSE, theirs))
    results.add(group, "more than a dense layer's first call", ours - theirs, "ms", "<= 50")
    results.add(group, "modules imported by the call", sparse["modules"], "", "<= 0")
    megabytes = sparse["nbytes"] / 1e6
    results.add(group, "memory", megabytes, "MB", "", (DENSE, dense["nbytes"] / 1e6))
    restored = 1e3 * sparse["restore"], 1e3 * dense["restore"]
    what = "restore before it, with its imports"
    results.add(group, what, restored[0], "ms", "", ("dense", restored[1]))
