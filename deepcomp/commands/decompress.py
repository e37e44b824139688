"""``dcz decompress``: a ``.dcz`` file -> a dense checkpoint."""

import argparse
import os
import time

from .streams import (
    STANDARD,
    display_name,
    open_file,
    output_path,
    refuse_same_file,
    trouble_is_unusable,
)
from .terminal import CommandError, show, show_json

FORMATS = {".safetensors": "safetensors", ".pt": "pt", ".pth": "pt", ".npz": "npz"}


def run(options: argparse.Namespace) -> int:
    """Write a checkpoint, and print a line about it unless it is the output itself."""
    if options.json and options.output == STANDARD:
        raise CommandError("--json and the checkpoint both want standard output: name a file")
    start = time.perf_counter()
    form = options.format or _form_of(options.output)
    refuse_same_file(options.input, options.output)
    with trouble_is_unusable():
        reader = open_file(options.input)
    from ..exporters import write_checkpoint
    from ..storage import model_of

    packed = model_of(reader)
    with output_path(options.output) as target:
        write_checkpoint(packed, target, form)
        nbytes = os.path.getsize(target)
    seconds = time.perf_counter() - start
    if options.json:
        show_json(
            {
                "schema": 1,
                "input": display_name(options.input),
                "output": options.output,
                "format": form,
                "n_tensors": len(packed),
                "input_nbytes": reader.nbytes,
                "output_nbytes": nbytes,
                "seconds": seconds,
            }
        )
    elif options.output != STANDARD:
        show(f"{options.output}: {form}, {len(packed)} tensors, {nbytes:,} bytes, {seconds:.1f} s")
    return 0


def _form_of(path: str) -> str:
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in FORMATS:
        expected = ", ".join(FORMATS)
        raise CommandError(f"{path}: expected a name that ends in one of {expected}, or --format")
    return FORMATS[suffix]
