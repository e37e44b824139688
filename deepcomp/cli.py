"""The command line: ``dcz`` with its verbs, and ``dcz-inspect``.

What a verb does is in ``commands/``, imported when it is asked for: help, wrong arguments and
``inspect`` without ``--verify`` need the standard library only.
"""

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from .commands import arguments as parsers
from .commands.terminal import EXIT_CONTENT, EXIT_INTERRUPTED, EXIT_UNUSABLE, CommandError
from .errors import DczError
from .tables import printable

_DEPENDENCIES = ("numpy", "tqdm")  # of all verbs but `inspect`
_LONGEST_MESSAGE = 2000  # characters; a path alone can have 4096


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``dcz``.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Returns
    -------
    int
        Exit status: 0; 1 if something is wrong with what is in a file (`diff`: also if the files
        differ); 2 for wrong usage, and for files that cannot be opened (no ``.dcz`` file, cut off,
        of a newer version) or written; 130 after Ctrl-C.

    Raises
    ------
    SystemExit
        After ``--help``, ``--version`` and ``--print-completion``, with status 0, and if the
        arguments are wrong, with status 2.

    Examples
    --------
    >>> main(["inspect", "missing.dcz"])
    2
    """
    parser = parsers.dcz_parser()
    given = sys.argv[1:] if arguments is None else arguments
    if not given:
        parser.print_help(sys.stderr)
        return EXIT_UNUSABLE
    options = parser.parse_args(given)
    return _run(options, f"{parser.prog} {options.verb}")


def inspect_main(arguments: Sequence[str] | None = None) -> int:
    """Run ``dcz-inspect``.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Returns
    -------
    int
        Exit status: 0, 1 if the file is damaged, 2 if it cannot be opened.
    """
    parser = parsers.inspect_parser()
    return _run(parser.parse_args(arguments), parser.prog)


def command() -> None:
    """Be the program ``dcz``: as `main`, and ended by the signal after Ctrl-C.

    Shells call that status 130, and leave the loop in which they were.
    """
    status = main()
    if status == EXIT_INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    sys.exit(status)


def _run(options: argparse.Namespace, program: str) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):  # any name can be printed on any terminal
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        verb = import_module(f".commands.{options.verb}", __package__)
        status: int = verb.run(options)
        return status
    except KeyboardInterrupt:
        message, status = "interrupted", EXIT_INTERRUPTED
    except CommandError as error:
        message, status = str(error), error.status
    except DczError as error:
        message, status = str(error), EXIT_CONTENT
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str) else ""
        message, status = f"{where}{error.strerror or error}", EXIT_UNUSABLE
    except ImportError as error:  # an extra that is not installed; the message names it
        is_ours = error.name in _DEPENDENCIES
        message = f"needs {error.name}: pip install {error.name}" if is_ours else str(error)
        status = EXIT_UNUSABLE
    except MemoryError as error:
        message, status = f"not enough memory: {error}".removesuffix(": "), EXIT_UNUSABLE
    print(f"{program}: {_shortened(printable(message))}", file=sys.stderr)
    return status


def _shortened(message: str) -> str:
    """Leave out the middle of what a hostile file makes a long message of."""
    if len(message) <= _LONGEST_MESSAGE:
        return message
    half = _LONGEST_MESSAGE // 2
    return f"{message[:half]} [...] {message[-half:]}"


if __name__ == "__main__":
    command()
