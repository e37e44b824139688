"""Which setting each tensor gets: one number for all weights, or a mapping of patterns."""

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from .arrays import Source

T = TypeVar("T", int, float)


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
        A number goes to every weight: float tensors of two or more dimensions. In a mapping, the
        first pattern (as in a shell: ``*``, ``?``, ``[...]``) that matches the tensor's name, or
        the name of its module, decides; tensors that none matches get no setting. A pattern
        stands for the weights it matches; if it matches none, for the other float tensors.
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
        If a pattern matches no tensor of a float dtype.
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
        matching = [t for t in tensors if t.is_float and _matches(t.name, pattern)]
        if not matching:
            raise ValueError(f"{what}: the pattern {pattern!r} matches no float tensor")
        weights = [t for t in matching if t.is_weight]
        for tensor in weights or matching:
            assigned.setdefault(tensor.name, value)
    return {name: value for name, value in assigned.items() if value is not None}


def _matches(name: str, pattern: str) -> bool:
    module = name.rpartition(".")[0]
    return fnmatchcase(name, pattern) or (module != "" and fnmatchcase(module, pattern))
