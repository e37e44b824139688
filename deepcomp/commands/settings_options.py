"""The options of verbs that compress: settings, and how a large checkpoint is taken."""

import argparse

from . import settings


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add what says how much is pruned and shared."""
    parser.add_argument(
        "--bits",
        type=settings.bits,
        default=5,
        metavar="N",
        help="share 2**N values in each weight, N from 1 to 8; none: keep every bit (default: 5)",
    )
    rules = parser.add_mutually_exclusive_group()
    rules.add_argument(
        "--sparsity",
        type=settings.sparsity,
        metavar="S",
        help="prune so that this fraction of the entries is zero",
    )
    rules.add_argument(
        "--threshold",
        type=settings.magnitude,
        metavar="T",
        help="prune entries with a smaller absolute value",
    )
    rules.add_argument(
        "--std",
        type=settings.magnitude,
        metavar="S",
        help="the same, in multiples of the standard deviation",
    )
    parser.add_argument(
        "--scope",
        choices=("layer", "global"),
        default="layer",
        help="count --sparsity and --std in each tensor, or over all of them (default: layer)",
    )
    parser.add_argument(
        "--set",
        type=settings.layer,
        action="append",
        default=[],
        metavar="PATTERN:SETTING=VALUE[,...]",
        help="settings of the tensors or modules whose names match a pattern: bits and one of "
        "sparsity, threshold and std; the first pattern that matches decides (can be repeated)",
    )
    parser.add_argument(
        "--exact",
        action="append",
        default=[],
        metavar="PATTERN",
        help="store the tensors or modules whose names match exactly, whatever the other options "
        "say (can be repeated)",
    )


def add_large(parser: argparse.ArgumentParser) -> None:
    """Add what says how a folder of shards is compressed."""
    parser.add_argument(
        "--jobs",
        type=settings.jobs,
        metavar="N",
        help="for a folder of shards: so many processes, -1 for all cores (default: 1)",
    )
    parser.add_argument(
        "--shard-size",
        type=settings.nbytes,
        metavar="BYTES",
        help="for a folder of shards: what a shard of OUT holds at most, when dense (default: 5GB)",
    )
