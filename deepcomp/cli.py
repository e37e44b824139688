"""The command line: ``dcz-inspect``."""

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence

from . import __version__
from .container import Reader
from .errors import DczError
from .report import SORT_KEYS, make_report, printable, to_json, to_text

EXIT_DAMAGED = 1
EXIT_UNREADABLE = 2


def inspect_main(arguments: Sequence[str] | None = None) -> int:
    """Run ``dcz-inspect``.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Returns
    -------
    int
        Exit status: 0, 1 if ``--verify`` found damage, 2 if the file cannot be read.
    """
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # any name can be printed on any terminal
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        reader = Reader(options.file)
        if options.verify:
            return _verify(reader)
        report = make_report(reader)
    except DczError as error:
        return _fail(str(error), EXIT_UNREADABLE)
    except OSError as error:
        return _fail(f"{options.file}: {error.strerror or error}", EXIT_UNREADABLE)
    try:
        if options.json:
            print(json.dumps(to_json(report), indent=1))
        else:
            print(to_text(report, options.sort, options.layers))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dcz-inspect",
        description="Print what the bytes of a .dcz file are, for each tensor and in all.",
        epilog="Exit status: 0, 1 if --verify finds damage, 2 if the file cannot be read.",
    )
    parser.add_argument("file", metavar="FILE", help="a .dcz file")
    parser.add_argument("--json", action="store_true", help="print JSON (stable schema)")
    parser.add_argument(
        "--sort",
        choices=SORT_KEYS,
        default="file",
        help="order of the tensors (default: as in the file)",
    )
    parser.add_argument(
        "--layers",
        metavar="PATTERN",
        default="*",
        help="list only tensors whose names match, as 'conv*.weight'",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="check every page and decode every tensor instead of printing the tables",
    )
    parser.add_argument("--version", action="version", version=f"deepcomp {__version__}")
    return parser


def _verify(reader: Reader) -> int:
    from .storage import model_of

    try:
        reader.check_all_pages()
        model = model_of(reader)
        for tensor in model.values():
            tensor.verify()
    except DczError as error:
        return _fail(str(error), EXIT_DAMAGED)
    print(f"{printable(reader.name)}: whole ({len(model)} tensors, {reader.n_pages} pages)")
    return 0


def _fail(message: str, status: int) -> int:
    print(f"dcz-inspect: {printable(message)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(inspect_main())
