"""``dcz compress`` of a folder of shards: into another folder, in parts."""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

from ..errors import DczError
from ..tables import counted, printable
from .compress import checkpoint_nbytes, read, refuse_own_input, settings_for
from .streams import display_name
from .terminal import EXIT_CONTENT, CommandError, show, show_json

if TYPE_CHECKING:
    from ..model import CompressedModel


def run_large(options: argparse.Namespace) -> int:
    """Compress, and print how small it is."""
    from ..large import SHARD_NBYTES, compress_checkpoint

    refuse_own_input(options.input, options.output)
    if os.path.isfile(options.output):
        raise CommandError(f"{options.output}: is a file: expected a folder, or a name with .dcz")
    start = time.perf_counter()
    settings = large_settings(options)
    try:
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always", UserWarning)
            packed = compress_checkpoint(
                options.input,
                options.output,
                shard_nbytes=options.shard_size or SHARD_NBYTES,
                n_jobs=options.jobs,
                **settings,
            )
    except DczError:
        raise
    except (ValueError, RuntimeError) as error:
        raise CommandError(str(error), EXIT_CONTENT) from error
    seconds = time.perf_counter() - start
    values = _values(options, packed, seconds)
    if options.json:
        show_json(values)
    else:
        show(_to_text(values))
    for note in notes:
        print(f"dcz compress: {printable(str(note.message))}", file=sys.stderr)
    return 0


def large_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return arguments of `compress_checkpoint`; CommandError if they do not fit the model."""
    from ..arrays import sources

    try:
        found = sources(read(options.input).tensors)
    except ValueError as error:
        raise CommandError(str(error), EXIT_CONTENT) from error
    return {"scope": options.scope, **settings_for(found, options)}


def _values(options: argparse.Namespace, packed: CompressedModel, seconds: float) -> dict[str, Any]:
    records = [t.record for name, t in packed.items() if name not in packed.aliases]
    dense_nbytes = sum(r.dense_nbytes for r in records)
    nbytes = sum(r.section_nbytes for r in records) + sum((packed.overhead or {}).values())
    return {
        "schema": 1,
        "input": display_name(options.input),
        "output": display_name(options.output),
        "n_tensors": len(packed),
        "n_weights": sum(r.numel for r in records),
        "input_nbytes": checkpoint_nbytes(options.input),
        "dense_nbytes": dense_nbytes,
        "files_nbytes": nbytes,
        "compression_ratio": dense_nbytes / nbytes,
        "seconds": seconds,
    }


def _to_text(values: dict[str, Any]) -> str:
    return (
        f"{printable(values['output'])}: {values['files_nbytes']:,} bytes, "
        f"{values['seconds']:.1f} s\n"
        f"  {counted(values['n_tensors'], 'tensor')}, {counted(values['n_weights'], 'weight')}\n"
        f"  {values['compression_ratio']:.2f}x smaller than its tensors when dense: "
        f"{values['dense_nbytes']:,} bytes"
    )
