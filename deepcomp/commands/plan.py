"""``dcz plan``: what ``dcz compress`` would take, from a small sample."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ..tables import printable
from .compress import checkpoint_nbytes
from .large import large_settings
from .streams import display_name
from .terminal import EXIT_CONTENT, CommandError, show, show_json


def run(options: argparse.Namespace) -> int:
    """Compress a sample, and print what the whole is expected to take."""
    from ..estimate import estimate

    settings = large_settings(options)
    names = ("bits", "sparsity", "threshold", "std", "scope")
    try:
        expected = estimate(options.input, tuple(settings[name] for name in names))
    except ValueError as error:
        raise CommandError(str(error), EXIT_CONTENT) from error
    jobs = options.jobs or 1
    jobs = (os.cpu_count() or 1) if jobs == -1 else jobs
    values = {
        "schema": 1,
        "input": display_name(options.input),
        "input_nbytes": checkpoint_nbytes(options.input),
        **vars(expected),
        "jobs": jobs,
        "seconds": expected.seconds(jobs),
    }
    if options.json:
        show_json(values)
    else:
        show(_to_text(values))
    return 0


def _to_text(values: dict[str, Any]) -> str:
    ratio = values["dense_nbytes"] / max(values["nbytes"], 1)
    processes = "1 process" if values["jobs"] == 1 else f"{values['jobs']} processes"
    times = [_duration(values[key]) for key in ("seconds", "core_seconds")]
    lines = [
        f"{printable(values['input'])}: {values['n_tensors']:,} tensors, "
        f"{values['n_weights']:,} weights, {values['dense_nbytes']:,} bytes when dense",
        f"  size    about {values['nbytes']:,} bytes, {ratio:.1f}x smaller",
        f"  time    about {times[0]} with {processes} ({times[1]} of one core)",
        f"  memory  at most about {values['memory_nbytes'] / 1e6:,.0f} MB for each process",
    ]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    """Write a time as people say it.

    Examples
    --------
    >>> _duration(4.2), _duration(600), _duration(36000)
    ('4.2 s', '10 min', '10.0 h')
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
