"""``dcz plan``: what ``dcz compress`` would take, from a small sample."""

from __future__ import annotations

import argparse
from typing import Any

from ..tables import counted, printable
from ..threads import n_cpus
from .compress import checkpoint_nbytes, read
from .large import large_settings
from .streams import display_name
from .terminal import EXIT_CONTENT, CommandError, show, show_json


def run(options: argparse.Namespace) -> int:
    """Compress a sample, and print what the whole is expected to take."""
    from ..estimate import estimate

    settings = large_settings(read(options.input), options)
    names = ("bits", "sparsity", "threshold", "std", "scope", "exclude")
    try:
        expected = estimate(options.input, tuple(settings[name] for name in names))
    except ValueError as error:
        raise CommandError(str(error), EXIT_CONTENT) from error
    n_cores = n_cpus()
    jobs = options.jobs or 1
    jobs = n_cores if jobs == -1 else min(jobs, n_cores)  # more take turns, and gain nothing
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
        show(_to_text(values, options.jobs))
    return 0


def _to_text(values: dict[str, Any], asked: int | None) -> str:
    ratio = values["dense_nbytes"] / max(values["nbytes"], 1)
    processes = "1 process" if values["jobs"] == 1 else f"{values['jobs']} processes"
    if values["jobs"] < (asked or 1):
        processes += ", as many as there are cores,"
    time, core_time = (_duration(values[key]) for key in ("seconds", "core_seconds"))
    lines = [
        f"{printable(values['input'])}: {counted(values['n_tensors'], 'tensor')}, "
        f"{counted(values['n_weights'], 'weight')}, {values['dense_nbytes']:,} bytes when dense",
        f"  size    about {values['nbytes']:,} bytes, {ratio:.1f}x smaller",
        f"  time    {time} with {processes} ({core_time} of one core)",
        f"  memory  at most about {values['memory_nbytes'] / 1e6:,.0f} MB for each process",
    ]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    """Write a time as people say it.

    Examples
    --------
    >>> _duration(0.2), _duration(4.2), _duration(600), _duration(36000)
    ('under a second', 'about 4.2 s', 'about 10 min', 'about 10.0 h')
    """
    if seconds < 1:
        return "under a second"
    if seconds < 120:
        return f"about {seconds:.1f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 7200 else f"about {seconds / 3600:.1f} h"
