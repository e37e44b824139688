"""``dcz compress`` of a folder of shards: into another folder, in parts."""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

from ..errors import DczError, LossWarning
from ..losses import note_on, text_of
from ..tables import counted, printable
from .compress import checkpoint_nbytes, read, refuse_own_input, settings_for
from .streams import display_name
from .summary import left_out_note
from .terminal import EXIT_CONTENT, CommandError, show, show_json

if TYPE_CHECKING:
    from ..importers import Checkpoint
    from ..model import CompressedModel


def run_large(options: argparse.Namespace) -> int:
    """Compress, and print how small it is."""
    from ..large import SHARD_NBYTES, compress_checkpoint

    refuse_own_input(options.input, options.output)
    if os.path.isfile(options.output):
        raise CommandError(f"{options.output}: is a file: expected a folder, or a name with .dcz")
    start = time.perf_counter()
    checkpoint = read(options.input)
    settings = large_settings(checkpoint, options)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            warnings.simplefilter("ignore", LossWarning)  # `_notes` says it
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
    values = _values(options, packed, seconds) | {"left_out": checkpoint.left_out}
    if options.json:
        show_json(values)
    else:
        show(_to_text(values))
    notes = [*_notes(values, packed), *(printable(str(w.message)) for w in caught)]
    for note in notes:
        print(f"dcz compress: {note}", file=sys.stderr)
    return 0


def _notes(values: dict[str, Any], packed: CompressedModel) -> list[str]:
    """Say what may be a mistake, and what is not known: a line for each."""
    notes = []
    if values["left_out"]:
        notes.append(left_out_note(values["input"], values["left_out"]))
    unknown = [name for name, loss in packed.losses.items() if loss is None]
    if unknown:
        notes.append(
            f"the relative error of {counted(len(unknown), 'tensor')} is not known: an earlier "
            "call finished their files"
        )
    note = note_on(packed.losses, "--exact")
    return notes if note is None else [*notes, note]


def large_settings(checkpoint: Checkpoint, options: argparse.Namespace) -> dict[str, Any]:
    """Return arguments of `compress_checkpoint`; CommandError if they do not fit the model."""
    from ..arrays import sources

    try:
        found = sources(checkpoint.tensors)
    except ValueError as error:
        raise CommandError(str(error), EXIT_CONTENT) from error
    return {"scope": options.scope, **settings_for(found, options)}


def _values(options: argparse.Namespace, packed: CompressedModel, seconds: float) -> dict[str, Any]:
    tensors = [t for name, t in packed.items() if name not in packed.aliases]
    records = [t.record for t in tensors]
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
        "relative_error": packed.relative_error,
        "seconds": seconds,
        "tensors": [
            {
                "name": t.name,
                "dtype": t.dtype,
                "shape": list(t.shape),
                "dense_nbytes": t.record.dense_nbytes,
                "nbytes": t.nbytes,
                "relative_error": t.relative_error,
            }
            for t in tensors
        ],
    }


def _to_text(values: dict[str, Any]) -> str:
    error = values["relative_error"]
    lost = "" if error is None else f"\n  relative error: {text_of(error)}"
    return (
        f"{printable(values['output'])}: {values['files_nbytes']:,} bytes, "
        f"{values['seconds']:.1f} s\n"
        f"  {counted(values['n_tensors'], 'tensor')}, {counted(values['n_weights'], 'weight')}\n"
        f"  {values['compression_ratio']:.2f}x smaller than its tensors when dense: "
        f"{values['dense_nbytes']:,} bytes{lost}"
    )
