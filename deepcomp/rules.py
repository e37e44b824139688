"""Settings: which are possible, and which one each tensor gets."""

import numbers
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from .arrays import Source
from .patterns import matches

T = TypeVar("T")
Rule = float | Mapping[str, float] | None
Names = str | Iterable[str] | None


def assign(
    what: str,
    setting: T | Mapping[str, T] | None,
    tensors: Iterable[Source],
    check: Callable[[str, str, Any], None],
) -> dict[str, T]:
    """Find the setting of each tensor.

    Parameters
    ----------
    what : str
        Name of the setting, for messages.
    setting : number, mapping of str to number, or None
        A number goes to every weight, see `Source.is_weight`. In a mapping, the first pattern (as
        in a shell: ``*``, ``?``, ``[...]``) that matches the tensor's name, or the name of its
        module, decides; tensors that none matches get no setting. A pattern stands for the weights
        it matches; if it matches none, for the other float tensors, but never for buffers.
    tensors : iterable of Source
    check : callable
        Is called with `what`, a name and a value, and raises if the value is not possible.

    Returns
    -------
    dict of str to number
        Only the tensors that have a setting. A mapping's None takes a tensor out.

    Raises
    ------
    ValueError
        If a pattern matches no tensor of a float dtype that is no buffer.
    """
    tensors = list(tensors)
    if setting is None:
        return {}
    if not isinstance(setting, Mapping):
        names = [t.name for t in tensors if t.is_weight]
        check(what, names[0] if names else "every weight", setting)
        return dict.fromkeys(names, setting)
    assigned: dict[str, T | None] = {}
    for pattern, value in setting.items():
        if value is not None:
            check(what, pattern, value)
        floats = [t for t in tensors if t.is_float and matches(t.name, pattern)]
        matching = [t for t in floats if t.kind != "buffer"]
        if not matching:
            found = "only buffers, which stay exact" if floats else "no float tensor"
            raise ValueError(f"{what}: the pattern {pattern!r} matches {found}")
        weights = [t for t in matching if t.is_weight]
        for tensor in weights or matching:
            assigned.setdefault(tensor.name, value)
    return {name: value for name, value in assigned.items() if value is not None}


def excluded(what: str, exclude: Names, names: Iterable[str]) -> set[str]:
    """Find what stays exact, whatever the settings.

    Parameters
    ----------
    what : str
        Name of the argument, for messages.
    exclude : str, iterable of str, or None
        Patterns of names of tensors or modules.
    names : iterable of str

    Returns
    -------
    set of str
        The names that match.

    Raises
    ------
    ValueError
        If a pattern is no string, or matches nothing.

    Examples
    --------
    >>> sorted(excluded("exclude", "fc*", ["fc1.weight", "fc1.bias", "head.weight"]))
    ['fc1.bias', 'fc1.weight']
    """
    names = list(names)
    found: set[str] = set()
    for pattern in listed(exclude):
        if not isinstance(pattern, str):
            raise ValueError(f"{what}: {pattern!r} is no string: expected names or patterns")
        matching = [name for name in names if matches(name, pattern)]
        if not matching:
            raise ValueError(
                f"{what}: the pattern {pattern!r} matches no tensor (tied ones have the first name)"
            )
        found.update(matching)
    return found


def listed(names: Names) -> list[str]:
    """Return one name, or several, or none, as a list."""
    return [names] if isinstance(names, str) else list(names or [])


def pruning_rule(sparsity: Rule, threshold: Rule, std: Rule, scope: str) -> tuple[str, Rule]:
    """Return the name and the value of the one rule that was given; its value may be None."""
    rules = {"sparsity": sparsity, "threshold": threshold, "std": std}
    given = {what: rule for what, rule in rules.items() if rule is not None}
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} were given: at most one of them can be")
    if scope not in ("layer", "global"):
        raise ValueError(f"scope is {scope!r}: expected 'layer' or 'global'")
    return given.popitem() if given else ("threshold", None)


def check_bits(what: str, name: str, value: Any) -> None:
    """Raise ValueError if a number of bits is not possible."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or not 1 <= value <= 8:
        raise ValueError(f"{what} of {name!r} is {value!r}: expected an integer from 1 to 8")


def check_number(what: str, name: str, value: Any) -> None:
    """Raise ValueError if a sparsity, threshold or std is not possible."""
    is_number = isinstance(value, numbers.Real)
    largest = 1.0 if what == "sparsity" else sys.float_info.max
    in_range = is_number and not isinstance(value, bool) and 0 <= value <= largest
    if not in_range or (what == "sparsity" and value == 1):
        expected = "in [0, 1)" if what == "sparsity" else "finite and not negative"
        raise ValueError(f"{what} of {name!r} is {value!r}: expected a number {expected}")
