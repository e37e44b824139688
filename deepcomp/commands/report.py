"""``dcz report``: a ``.dcz`` file -> one HTML page."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, cast

from .streams import STANDARD, display_name, open_file, refuse_own_file, refuse_same_file
from .terminal import EXIT_CONTENT, CommandError, show

if TYPE_CHECKING:
    from ..model import CompressedModel


def run(options: argparse.Namespace) -> int:
    """Write the page."""
    reader = open_file(options.input)
    refuse_own_file(reader, options.output)
    from ..files import Replacement
    from ..page import make_page
    from ..storage import model_of

    packed = model_of(reader)
    if options.original is not None:
        refuse_same_file(options.original, options.output)
        _compare(packed, options.original)
    page = make_page(packed, os.path.basename(reader.name))
    if options.output == STANDARD:
        show(page)
        return 0
    with Replacement(options.output) as file:
        file.write(page.encode())
    return 0


def _compare(packed: CompressedModel, original: str) -> None:
    """Let each tensor say what it lost, against the checkpoint that it came from."""
    from ..arrays import Source, sources
    from ..difference import difference
    from ..errors import DczError
    from ..prune import chunks
    from .compress import read

    where = display_name(original)
    try:
        found = sources(read(original, None).tensors)
        for name in packed.losses:
            tensor, source = packed[name], found.get(name)
            if isinstance(source, str):
                source = cast(Source, found[source])
            if source is None or source.shape != tensor.shape:
                what = "none" if source is None else f"one of shape {list(source.shape)}"
                raise CommandError(
                    f"{where}: expected a tensor {name!r} of shape {list(tensor.shape)}, "
                    f"found {what}"
                )
            before = chunks(source.weight().patterns)
            compared = difference(before, tensor.decode_blocks(), source.dtype, tensor.dtype)
            tensor.loss = compared.loss
    except DczError:
        raise
    except ValueError as error:
        raise CommandError(str(error), EXIT_CONTENT) from error
