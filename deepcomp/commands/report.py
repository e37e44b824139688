"""``dcz report``: a ``.dcz`` file -> one HTML page."""

import argparse
import os

from .streams import STANDARD, open_file, refuse_own_file
from .terminal import show


def run(options: argparse.Namespace) -> int:
    """Write the page."""
    reader = open_file(options.input)
    refuse_own_file(reader, options.output)
    from ..files import Replacement
    from ..page import make_page
    from ..storage import model_of

    page = make_page(model_of(reader), os.path.basename(reader.name))
    if options.output == STANDARD:
        show(page)
        return 0
    with Replacement(options.output) as file:
        file.write(page.encode())
    return 0
