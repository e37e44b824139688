"""``dcz report``: a ``.dcz`` file -> one HTML page."""

import argparse

from .streams import STANDARD, display_name, open_file, refuse_same_file, trouble_is_unusable
from .terminal import show


def run(options: argparse.Namespace) -> int:
    """Write the page."""
    refuse_same_file(options.input, options.output)
    with trouble_is_unusable():
        reader = open_file(options.input)
    from ..files import Replacement
    from ..page import make_page
    from ..storage import model_of

    page = make_page(model_of(reader), display_name(options.input))
    if options.output == STANDARD:
        show(page)
        return 0
    file = Replacement(options.output)
    try:
        file.write(page.encode())
        file.sync()
        file.commit()
    finally:
        file.close()
    return 0
