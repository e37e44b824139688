"""The arguments of ``dcz`` and ``dcz-inspect``."""

import argparse
from typing import Any, NoReturn

from .. import __version__
from ..listing import SORT_KEYS
from ..tables import printable
from .completion import PrintCompletion
from .settings_options import add_large, add_settings

_DCZ = "a .dcz file, or a folder with model.dcz or with shards (- is standard input)"
_STATUS = "\nExit status: "
_TROUBLE = "2 if it cannot be done (wrong usage, a file that cannot be opened or written)."


class _Parser(argparse.ArgumentParser):
    """A parser whose errors take one line, and name the verb."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown arguments here: a verb would hand them back to ``dcz``."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        # what is not expected may be the name of a file, as a pattern of the shell found it
        self.exit(2, f"{self.prog}: {printable(message)} ({self.prog} --help says more)\n")


def dcz_parser() -> argparse.ArgumentParser:
    """Return the parser of ``dcz``."""
    parser = _Parser(
        prog="dcz",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Store pruned and weight-shared networks really small; look into the files.",
        epilog="""examples:
  dcz compress model.safetensors model.dcz --sparsity 0.9
  dcz inspect model.dcz
  dcz decompress model.dcz model.safetensors

'dcz VERB --help' says more about a verb. In the place of a file, - is standard input or output.
"""
        + _STATUS
        + "0; 1 if something is wrong with what is in a file (diff: if files differ);\n"
        "2 if it cannot be done (wrong usage; a file that cannot be opened, as it is no .dcz\n"
        "file, cut off or too new; one that cannot be written); 130 after Ctrl-C, which leaves\n"
        "nothing half written. NO_COLOR is respected.",
    )
    _add_version(parser)
    parser.add_argument(
        "--print-completion",
        metavar="SHELL",
        choices=("bash", "zsh", "tcsh", "fish"),
        action=PrintCompletion,
        help="print a completion script for bash, zsh, tcsh or fish "
        "(needs the extra: pip install 'deepcomp[completion]')",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _add_inspect(verbs)
    _add_compress(verbs)
    _add_plan(verbs)
    _add_decompress(verbs)
    _add_verify(verbs)
    _add_diff(verbs)
    _add_report(verbs)
    return parser


def inspect_parser() -> argparse.ArgumentParser:
    """Return the parser of ``dcz-inspect``."""
    parser = _Parser(
        prog="dcz-inspect",
        description="Print what the bytes of a .dcz file are, for each tensor and in all.",
        epilog="Exit status: 0; 1 if the file is damaged; 2 if it cannot be opened: it is no .dcz "
        "file, cut off or too new.",
    )
    _add_inspect_arguments(parser)
    _add_version(parser)
    parser.set_defaults(verb="inspect")
    return parser


def _add_verb(verbs: Any, name: str, what: str, more: str, examples: str, status: str) -> Any:
    return verbs.add_parser(
        name,
        help=what,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{what[0].upper()}{what[1:]}.{more}",
        epilog=f"examples:\n{examples}{_STATUS}{status}",
    )


def _add_compress(verbs: Any) -> None:
    parser = _add_verb(
        verbs,
        "compress",
        "prune, share and encode a checkpoint",
        """

IN is a .safetensors file, or a folder of them with its index; a PyTorch checkpoint (no code
in it is run); a compressed-tensors checkpoint (sparse-bitmask); an .npz file; or a .dcz file, or a
folder with one, to be compressed again. Settings are for all weights: float tensors with at least
two dimensions larger than 1. All other tensors are stored exactly, and those that --exact names.

A folder of shards becomes a folder of shards if OUT does not end with .dcz: in parts, so that it
need not fit in memory. What is beside the weights, as config and tokenizer, is copied into it.
After an interruption the same command goes on. IN (safetensors) and OUT may be URLs then, as of s3
or https (the extra remote).""",
        """  dcz compress model.safetensors model.dcz --bits 5 --sparsity 0.9
  dcz compress pruned.pt exact.dcz --bits none              pruned elsewhere: stored bit for bit
  dcz compress model.pt model.dcz --set 'conv*:bits=8,sparsity=0.3' --set 'fc*:sparsity=0.95'
  dcz compress vit.safetensors vit.dcz --exact cls_token --exact '*pos_embed*'
  dcz compress folder packed --sparsity 0.5 --jobs 8        larger than memory, into a folder
  dcz compress s3://bucket/folder s3://bucket/packed        reads ranges, writes shards
  dcz compress model.npz - --std 1.5 | ssh host 'cat > model.dcz'
""",
        "0; 1 if a tensor cannot be pruned, shared or stored;\n" + _TROUBLE,
    )
    parser.add_argument("input", metavar="IN", help="a checkpoint (- is standard input)")
    parser.add_argument(
        "output", metavar="OUT.dcz", help="the .dcz file; an old one is replaced, as a whole"
    )
    add_settings(parser)
    add_large(parser)
    parser.add_argument(
        "--key",
        metavar="NAME",
        help="where in a PyTorch checkpoint the state_dict is (default: under the usual names)",
    )
    _add_json(parser)


def _add_plan(verbs: Any) -> None:
    parser = _add_verb(
        verbs,
        "plan",
        "say what dcz compress would take, without doing it: size, memory, time",
        "\n\nA small sample of the weights is compressed, and the rest is expected to be like it.",
        """  dcz plan folder --sparsity 0.5 --jobs 8
  dcz plan model.safetensors --bits 4 --json
""",
        "0; 1 if a tensor cannot be pruned, shared or stored;\n" + _TROUBLE,
    )
    parser.add_argument("input", metavar="IN", help="a checkpoint, as of dcz compress")
    add_settings(parser)
    add_large(parser)
    _add_json(parser)


def _add_decompress(verbs: Any) -> None:
    parser = _add_verb(
        verbs,
        "decompress",
        "write the dense tensors of a .dcz file as a checkpoint",
        "",
        """  dcz decompress model.dcz model.safetensors
  dcz decompress model.dcz model.pt
  dcz decompress model.dcz - --format npz > model.npz
""",
        "0; 1 if the file is damaged;\n" + _TROUBLE,
    )
    parser.add_argument("input", metavar="IN.dcz", help=_DCZ)
    parser.add_argument(
        "output", metavar="OUT", help="the checkpoint; an old one is replaced, as a whole"
    )
    parser.add_argument(
        "--format",
        choices=("safetensors", "pt", "npz"),
        help="what to write (default: as the name of OUT ends)",
    )
    _add_json(parser)


def _add_verify(verbs: Any) -> None:
    parser = _add_verb(
        verbs,
        "verify",
        "check every page and decode every tensor of .dcz files",
        "\nPrints a line for each file, and goes on after a bad one.",
        """  dcz verify *.dcz
  dcz verify --json model.dcz
""",
        "0 if all files are whole; 1 if any is damaged; 2 if any cannot be opened.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help=_DCZ)
    _add_json(parser)


def _add_diff(verbs: Any) -> None:
    parser = _add_verb(
        verbs,
        "diff",
        "say in which tensors two .dcz files differ",
        """
Compared are shape, dtype, which entries are zero, codebook and values of each tensor, ties
between tensors, and metadata; not how the bytes are laid out.""",
        """  dcz diff before.dcz after.dcz
  dcz diff --json before.dcz after.dcz
""",
        "0 if nothing differs; 1 if something does, or a file is damaged;\n" + _TROUBLE,
    )
    parser.add_argument("first", metavar="A.dcz", help=_DCZ)
    parser.add_argument("second", metavar="B.dcz", help="another")
    _add_json(parser)


def _add_report(verbs: Any) -> None:
    parser = _add_verb(
        verbs,
        "report",
        "draw a .dcz file: one HTML page that needs no network",
        "",
        """  dcz report model.dcz -o report.html
  dcz report model.dcz --original model.safetensors -o report.html
  dcz report model.dcz -o - | gzip > report.html.gz
""",
        "0; 1 if the file is damaged;\n" + _TROUBLE,
    )
    parser.add_argument("input", metavar="IN.dcz", help=_DCZ)
    parser.add_argument(
        "-o",
        "--output",
        metavar="PAGE.html",
        required=True,
        help="the page; an old one is replaced (- is standard output)",
    )
    parser.add_argument(
        "--original",
        metavar="CHECKPOINT",
        help="what was compressed: the page says how much each tensor lost, which no file knows",
    )


def _add_inspect(verbs: Any) -> None:
    parser = _add_verb(
        verbs,
        "inspect",
        "print what the bytes of a .dcz file are, for each tensor and in all",
        "",
        """  dcz inspect model.dcz
  dcz inspect model.dcz --layers 'conv*' --sort bytes
  dcz inspect model.dcz --json | jq .compression_ratio
""",
        "0; 1 if the file is damaged;\n" + _TROUBLE,
    )
    _add_inspect_arguments(parser)


def _add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help=_DCZ)
    _add_json(parser)
    parser.add_argument(
        "--sort",
        choices=SORT_KEYS,
        default="file",
        help="order of the tensors (default: as in the file)",
    )
    parser.add_argument(
        "--layers",
        metavar="PATTERN",
        default="*",
        help="list only tensors whose names match, as 'conv*.weight'",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="check every page and decode every tensor instead of printing the tables",
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON (stable schema)")


def _add_version(parser: argparse.ArgumentParser) -> None:
    text = f"deepcomp {__version__}"
    parser.add_argument("-V", "--version", action="version", version=text)
