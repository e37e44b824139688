"""Patterns of names, as in a shell. Standard library only."""

from fnmatch import fnmatchcase


def matches(name: str, pattern: str) -> bool:
    """Return whether a pattern matches a tensor's name, or the name of its module.

    Examples
    --------
    >>> matches("encoder.fc1.weight", "encoder.*"), matches("fc1.weight", "fc?")
    (True, True)
    """
    module = name.rpartition(".")[0]
    return fnmatchcase(name, pattern) or (module != "" and fnmatchcase(module, pattern))
