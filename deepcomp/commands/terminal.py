"""What all verbs share: exit statuses, and how text gets to the terminal."""

import json
import os
import sys
from typing import Any

EXIT_CONTENT = 1
EXIT_UNUSABLE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count

_COLORS = {"red": 31, "green": 32}


class CommandError(Exception):
    """Raise to end a verb with a line on standard error and an exit status."""

    def __init__(self, message: str, status: int = EXIT_UNUSABLE) -> None:
        super().__init__(message)
        self.status = status


def show(text: str) -> None:
    """Print a text; that its reader, such as ``head``, has seen enough is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _discard_output()
    except OSError:  # a full disk
        _discard_output()
        raise


def show_json(values: dict[str, Any]) -> None:
    """Print an object for machines."""
    show(json.dumps(values, indent=1, allow_nan=False))


def colored(text: str, color: str) -> str:
    """Color a text for a terminal, unless ``NO_COLOR`` is set.

    Examples
    --------
    >>> colored("whole", "green")  # here no terminal listens
    'whole'
    """
    if not is_terminal() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_COLORS[color]}m{text}\x1b[0m"


def is_terminal() -> bool:
    """Say whether somebody looks at standard output."""
    return sys.stdout is not None and sys.stdout.isatty()  # None: closed by the shell


def _discard_output() -> None:
    """Send what is still to be printed nowhere: Python would complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
