"""Schedules: how much of the final sparsity is reached after so many steps.

A schedule is a function from the number of steps of a `Pruner` to a fraction, 0 to 1: at 0.5,
half of the entries (or half of the threshold) that will be pruned in the end. Any function that
does not fall will do; these are the usual ones.
"""

from collections.abc import Callable
from numbers import Integral
from typing import Any

Schedule = Callable[[int], float]


def once(step: int = 0) -> Schedule:
    """Prune everything at one step.

    Parameters
    ----------
    step : int, default 0
        0 is when the `Pruner` is made.

    Returns
    -------
    callable

    Examples
    --------
    >>> [once(2)(step) for step in range(4)]
    [0.0, 0.0, 1.0, 1.0]
    """
    _check("step", step, 0)
    return lambda now: 1.0 if now >= step else 0.0


def in_steps(n: int, every: int, begin: int = 0) -> Schedule:
    """Prune in equal parts, with retraining in between.

    Parameters
    ----------
    n : int
        Number of parts.
    every : int
        Steps from one part to the next.
    begin : int, default 0
        Step of the first part.

    Returns
    -------
    callable

    References
    ----------
    Han, Pool, Tran, Dally, "Learning both Weights and Connections for Efficient Neural
    Networks", NIPS 2015, section 3.4 (iterative pruning).

    Examples
    --------
    >>> schedule = in_steps(2, every=100)
    >>> schedule(0), schedule(99), schedule(100)
    (0.5, 0.5, 1.0)
    """
    _check("n", n, 1)
    _check("every", every, 1)
    _check("begin", begin, 0)

    def fraction(now: int) -> float:
        return min(1.0, ((now - begin) // every + 1) / n) if now >= begin else 0.0

    return fraction


def cubic(end: int, begin: int = 0, every: int = 1) -> Schedule:
    """Prune fast at first, while there is much to spare, and ever more slowly.

    Parameters
    ----------
    end : int
        Step at which the final sparsity is reached.
    begin : int, default 0
        Step after which pruning begins.
    every : int, default 1
        Steps from one change of the masks to the next.

    Returns
    -------
    callable
        1 - (1 - t)**3, where t rises from 0 to 1 between `begin` and `end`.

    References
    ----------
    Zhu and Gupta, "To prune, or not to prune", 2017, equation 1.

    Examples
    --------
    >>> schedule = cubic(end=100)
    >>> schedule(0), schedule(50), schedule(100)
    (0.0, 0.875, 1.0)
    """
    _check("begin", begin, 0)
    _check("end", end, begin + 1)
    _check("every", every, 1)

    def fraction(now: int) -> float:
        if now >= end:
            return 1.0
        t = max(0, now - begin) // every * every / (end - begin)
        return 1 - (1 - t) ** 3

    return fraction


def _check(what: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{what} is {value!r}: expected an integer of {least} or more")
