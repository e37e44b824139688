"""``dcz inspect``, which is also ``dcz-inspect``: what the bytes of a file are."""

import argparse
from fnmatch import fnmatchcase

from ..container import Reader
from ..listing import to_text
from ..report import make_report, to_json
from ..shards import Shards
from ..tables import counted, printable
from .streams import open_file
from .terminal import CommandError, show, show_json


def run(options: argparse.Namespace) -> int:
    """Print the tables, or check the whole file."""
    reader = open_file(options.file)
    if options.verify:
        show(f"{printable(reader.name)}: {check(reader)}")
        return 0
    report = make_report(reader)
    names = [row.name for row in (*report.rows, *(pair.layer for pair in report.pairs()))]
    if options.layers != "*" and not any(fnmatchcase(name, options.layers) for name in names):
        raise CommandError(f"--layers: the pattern {options.layers!r} matches no tensor")
    if options.json:
        show_json(to_json(report))
    else:
        show(to_text(report, options.sort, options.layers))
    return 0


def check(reader: Reader | Shards) -> str:
    """Check every page and decode every tensor; raise DczError at the first damage."""
    from ..storage import model_of

    reader.check_all_pages()
    model = model_of(reader)
    for tensor in model.values():
        tensor.verify()
    return f"whole ({counted(len(model), 'tensor')}, {counted(reader.n_pages, 'page')})"
