"""Settings of ``dcz compress``: texts of the command line -> arguments of `deepcomp.compress`.

Standard library only: wrong ones are refused before anything is imported or read.
"""

import argparse
import math
from collections.abc import Iterable
from typing import Any

from .terminal import CommandError

Layer = tuple[str, dict[str, float | None]]
NAMES = ("bits", "sparsity", "threshold", "std")
RULES = NAMES[1:]  # of pruning: one of them at most


def bits(text: str) -> int | None:
    """Read a number of bits.

    Examples
    --------
    >>> bits("5"), bits("none")
    (5, None)
    """
    if text == "none":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 8:
        raise argparse.ArgumentTypeError(f"{text!r}: expected 1 to 8, or none")
    return int(text)


def sparsity(text: str) -> float:
    """Read a fraction of the entries.

    Examples
    --------
    >>> sparsity("0.9")
    0.9
    """
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a fraction from 0 to less than 1, as 0.9"
        )
    return value


def magnitude(text: str) -> float:
    """Read a threshold, or a multiple of the standard deviation."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number that is not negative")
    return value


def jobs(text: str) -> int:
    """Read a number of processes.

    Examples
    --------
    >>> jobs("8"), jobs("-1")
    (8, -1)
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1 and number != -1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 1, or -1")
    return number


def nbytes(text: str) -> int:
    """Read a number of bytes, with a unit if there is one.

    Examples
    --------
    >>> nbytes("5GB"), nbytes("1000")
    (5000000000, 1000)
    """
    number, unit = text, 1
    for suffix, factor in (("KB", 10**3), ("MB", 10**6), ("GB", 10**9), ("TB", 10**12)):
        if text.upper().endswith(suffix):
            number, unit = text[:-2].strip(), factor
    if not number.isdecimal() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of bytes, as 5GB")
    return int(number) * unit


def layer(text: str) -> Layer:
    """Read what ``--set`` says: settings for the layers that a pattern matches.

    Examples
    --------
    >>> layer("conv*:bits=8,sparsity=0.3")
    ('conv*', {'bits': 8, 'sparsity': 0.3})
    """
    pattern, _, rest = text.rpartition(":")
    pairs = [part.partition("=") for part in rest.split(",")]
    if not pattern or not all(equals for _, equals, _ in pairs):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected PATTERN:SETTING=VALUE[,...], as 'conv*:bits=8,sparsity=0.3'"
        )
    values: dict[str, float | None] = {}
    for name, _, value in pairs:
        if name not in NAMES or name in values:
            what = "given twice" if name in values else f"expected one of {', '.join(NAMES)}"
            raise argparse.ArgumentTypeError(f"{text!r}: {name!r}: {what}")
        if value == "none":
            values[name] = None
        else:
            values[name] = {"bits": bits, "sparsity": sparsity}.get(name, magnitude)(value)
    return pattern, values


def combine(general: dict[str, Any], layers: Iterable[Layer], has_weights: bool) -> dict[str, Any]:
    """Put settings for all layers and settings for some together.

    Parameters
    ----------
    general : dict of str to number or None
        By the names in `NAMES`.
    layers : iterable of (str, dict)
        As `layer` returns them; the first pattern that matches a tensor decides.
    has_weights : bool
        Whether the model has any weight. Without one, the general settings have no meaning.

    Returns
    -------
    dict of str to number, dict or None
        As `deepcomp.compress` takes them.

    Raises
    ------
    CommandError
        If a pattern gets a setting twice.

    Examples
    --------
    >>> combine({"bits": 5, "sparsity": None}, [("conv*", {"bits": 8})], True)
    {'bits': {'conv*': 8, '*': 5}, 'sparsity': None}
    """
    combined = dict(general)
    for name, value in general.items():
        patterns: dict[str, float | None] = {}
        for pattern, values in layers:
            if name in values and pattern in patterns:
                raise CommandError(f"--set: {name} of {pattern!r} is given twice")
            if name in values:
                patterns[pattern] = values[name]
        if patterns and value is not None and has_weights:
            patterns.setdefault("*", value)
        combined[name] = patterns or value
    return combined


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number") from None
