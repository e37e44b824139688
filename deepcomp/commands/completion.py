"""``dcz --print-completion``: a script that lets a shell complete the command."""

import argparse
from typing import Any

from .terminal import EXIT_UNUSABLE, show

_FILES = ("IN", "OUT", "IN.dcz", "OUT.dcz", "A.dcz", "B.dcz", "PAGE.html", "FILE")  # metavars


class PrintCompletion(argparse.Action):
    """Print a script that lets a shell complete the command, and end."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        try:
            import shtab
        except ImportError:
            parser.error("--print-completion needs shtab: pip install 'deepcomp[completion]'")
        for action in _all_actions(parser):
            if action.metavar in _FILES:  # a shell completes names of files
                vars(action)["complete"] = shtab.FILE
        try:
            show(shtab.complete(parser, values))
        except OSError as error:
            parser.exit(EXIT_UNUSABLE, f"{parser.prog}: {error.strerror}\n")
        parser.exit(0)


def _all_actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """List the arguments of a parser and of its verbs."""
    actions = list(parser._actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                actions += verb._actions
    return actions
