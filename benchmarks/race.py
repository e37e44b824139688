"""Time something beside its rivals."""

from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter
from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

Action = Callable[[], Any]
OURS = "deepcomp"


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
