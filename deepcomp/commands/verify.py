"""``dcz verify``: are these files whole, to the last entry?"""

import argparse
import sys
from typing import Any

from ..errors import DczError
from ..tables import printable
from .inspect import check
from .streams import display_name, open_file
from .terminal import EXIT_CONTENT, EXIT_UNUSABLE, CommandError, colored, show, show_json

_STATUS = {"whole": 0, "damaged": EXIT_CONTENT, "unreadable": EXIT_UNUSABLE}


def run(options: argparse.Namespace) -> int:
    """Check file after file; a bad one does not keep the others from being checked."""
    results = []
    for path in options.files:
        results.append(_verify(path))
        if not options.json:
            show(_to_text(results[-1]))
    if options.json:
        show_json({"schema": 1, "files": results})
    n_bad = sum(result["status"] != "whole" for result in results)
    if n_bad:
        print(f"dcz verify: {n_bad} of {len(results)} files not whole", file=sys.stderr)
    return max(_STATUS[result["status"]] for result in results)


def _verify(path: str) -> dict[str, Any]:
    name = display_name(path)
    try:
        message = check(open_file(path))
        status = "whole"
    except CommandError as error:
        status, message = "unreadable", str(error)
    except DczError as error:
        status, message = "damaged", str(error)
    except OSError as error:
        status, message = "unreadable", error.strerror or str(error)
    return {"file": name, "status": status, "message": message.removeprefix(f"{name}: ")}


def _to_text(result: dict[str, Any]) -> str:
    if result["status"] == "whole":
        return f"{printable(result['file'])}: {colored(result['message'], 'green')}"
    status = colored(result["status"].upper(), "red")
    return f"{printable(result['file'])}: {status}: {printable(result['message'])}"
