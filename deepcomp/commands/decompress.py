"""``dcz decompress``: a ``.dcz`` file -> a dense checkpoint."""

import argparse
import os
import time

from ..errors import DczError
from ..tables import counted, printable
from .streams import STANDARD, display_name, open_file, output_path, refuse_own_file
from .terminal import CommandError, show, show_json


def run(options: argparse.Namespace) -> int:
    """Write a checkpoint, and print a line about it unless it is the output itself."""
    if options.json and options.output == STANDARD:
        raise CommandError("--json and the checkpoint both want standard output: name a file")
    start = time.perf_counter()
    if options.output == STANDARD and options.format is None:
        raise CommandError("standard output has no name that ends in a format: --format is needed")
    reader = open_file(options.input)
    refuse_own_file(reader, options.output)
    from ..exporters import write_checkpoint
    from ..storage import model_of

    packed = model_of(reader)
    with output_path(options.output) as target:
        try:
            write_checkpoint(packed, target, options.format)
        except DczError:
            raise
        except ValueError as error:  # the format cannot hold the model
            raise CommandError(str(error)) from error
        nbytes = os.path.getsize(target)
    seconds = time.perf_counter() - start
    if options.json:
        show_json(
            {
                "schema": 1,
                "input": display_name(options.input),
                "output": options.output,
                "n_tensors": len(packed),
                "input_nbytes": reader.nbytes,
                "output_nbytes": nbytes,
                "seconds": seconds,
            }
        )
    elif options.output != STANDARD:
        name = printable(options.output)
        show(f"{name}: {counted(len(packed), 'tensor')}, {nbytes:,} bytes, {seconds:.1f} s")
    return 0
