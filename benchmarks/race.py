"""Time something beside its rivals."""

import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from pytest_benchmark.fixture import BenchmarkFixture

from .report import Results

Action = Callable[[], Any]
OURS = "deepcomp"
N_ROUNDS, MOST_ROUNDS = 45, 400  # of two threads


def race(
    benchmark: BenchmarkFixture,
    ours: Action,
    rivals: Mapping[str, Action] | None = None,
    rounds: int = 15,
) -> dict[str, float]:
    """Time our action and its rivals in turn, so that a noisy machine is noisy for all.

    Every round runs each of them once. What they return is freed outside of the timing. One round
    more, in front, is not counted.

    Parameters
    ----------
    benchmark : BenchmarkFixture
        Times ours.
    ours : callable
    rivals : mapping of str to callable, optional
    rounds : int, default 15

    Returns
    -------
    dict of str to float
        Median seconds; ours is ``"deepcomp"``.
    """
    rivals = rivals or {}
    times: dict[str, list[float]] = {name: [] for name in rivals}
    kept: list[Any] = []

    def run_rivals() -> None:
        kept.clear()
        for name, rival in rivals.items():
            seconds, result = once(rival)
            del result
            times[name].append(seconds)

    benchmark.pedantic(
        lambda: kept.append(ours()), setup=run_rivals, rounds=rounds, warmup_rounds=1
    )
    medians = {name: median(seconds[1:]) for name, seconds in times.items()}
    return {OURS: benchmark.stats.stats.median, **medians}


def once(action: Action) -> tuple[float, Any]:
    """Run a slow action once; return the seconds it took, and what it returned."""
    start = perf_counter()
    result = action()
    return perf_counter() - start, result


class TwoThreads(NamedTuple):
    """Median seconds of an action with one thread and with two, and of a control.

    Attributes
    ----------
    one, two, control_one, control_two : float
    counted : str
        How many rounds were counted, and of how many.
    """

    one: float
    two: float
    control_one: float
    control_two: float
    counted: str

    def add_control(self, results: Results, group: str) -> None:
        """Add what the control gained, and in how many rounds."""
        what = f"control: CRC-32 on two threads, times faster, {self.counted}"
        rival = ("one thread", 1e3 * self.control_one)
        gain = self.control_one / self.control_two
        results.add(group, what, 1e3 * self.control_two, "ms", "", rival, gain)


def race_two_threads(one: Action, two: Action) -> TwoThreads:
    """Time an action with one thread and with two, while the machine has two cores for us.

    A control runs in every round: CRC-32, which needs no memory to speak of and nothing of ours. A
    round counts if it took no more than 1.1 times its least time with one thread, and with two no
    more than that over 1.7; else a core was doing something else, as those of a shared machine
    often are, and the round says nothing about us. If too few count, all are taken.
    """
    halves = np.split(np.ones(1 << 26, np.uint8), 2)
    rounds: list[list[float]] = []
    counted = rounds
    with ThreadPoolExecutor(2) as pool:
        actions = (
            one,
            two,
            lambda: list(map(zlib.crc32, halves)),
            lambda: list(pool.map(zlib.crc32, halves)),
        )
        for action in actions:
            action()
        while len(rounds) < N_ROUNDS or (len(counted) < N_ROUNDS and len(rounds) < MOST_ROUNDS):
            rounds.append([once(action)[0] for action in actions])
            least = min(control for _, _, control, _ in rounds)
            counted = [r for r in rounds if r[2] <= 1.1 * least and r[3] <= least / 1.7]
    if len(counted) < N_ROUNDS // 3:
        counted = rounds
    found = f"{len(counted)} of {len(rounds)} rounds"
    return TwoThreads(*map(median, zip(*counted, strict=True)), found)
