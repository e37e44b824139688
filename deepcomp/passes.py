"""Reading tensors pass by pass: what is asked, apart from where the tensors are.

What can only be known of all entries together (a threshold, a codebook) is written as a generator.
It yields what to find out of each part of some tensors, gets the answers of all parts, in order,
and returns what follows from them. Its caller decides what the parts are: whole tensors in
memory, or ranges of rows that other processes read. The answers of parts are counts, sums in a
fixed order, or extremes, so that the result is the same for all parts.
"""

from collections.abc import Callable, Generator, Iterable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Patterns = NDArray[np.unsignedinteger]
T = TypeVar("T")


class Pass(NamedTuple):
    """What to find out of each part.

    Attributes
    ----------
    function : callable
        Of a module, so that its name is enough for another process. Is called with the patterns of
        a part, its dtype and the arguments, and returns what is small. Does not change the part.
    arguments : tuple
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


Passes = Generator[Pass, list[Any], T]


def drive(passes: Passes[T], evaluate: Callable[[Pass], list[Any]]) -> T:
    """Run passes, one after the other, and return their result.

    Parameters
    ----------
    passes : generator
    evaluate : callable
        Returns the answers of all parts, in order.

    Examples
    --------
    >>> def n_entries():
    ...     return sum((yield Pass(lambda patterns, dtype: patterns.size)))
    >>> parts = np.split(np.zeros(5, np.uint8), [3])
    >>> drive(n_entries(), over((part, "uint8") for part in parts))
    5
    """
    try:
        asked = next(passes)
        while True:
            asked = passes.send(evaluate(asked))
    except StopIteration as end:
        result: T = end.value
        return result


def over(parts: Iterable[tuple[Patterns, str]]) -> Callable[[Pass], list[Any]]:
    """Return what evaluates passes over parts that are in memory, given with their dtypes."""
    return lambda asked: [
        asked.function(patterns, dtype, *asked.arguments) for patterns, dtype in parts
    ]
