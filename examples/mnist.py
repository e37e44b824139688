"""Deep Compression of the paper's two MNIST networks: its tables 1, 2 and 3, and past them.

    python examples/mnist.py --data DIR --net lenet-300-100 [--seeds 0 1 2] [--output DIR]

DIR holds mnist.npz (README.md here says where it comes from, and what is in it). Each seed trains a
network, prunes it gradually, shares its weights and trains the codebooks, one core a seed; then a
fresh process loads the .dcz file and looks at the test set. All choices were made on 5,000 images
held out of the training set. Needs the extras torch and bench (joblib).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from joblib import Parallel, cpu_count, delayed
from models import lenet_5, lenet_300_100
from retrain import Data, Recipe, deep_compression, n_wrong, train

import deepcomp
from deepcomp.container import Reader
from deepcomp.report import make_report

N_HELD_OUT = 5000
NETS = {"lenet-300-100": lenet_300_100, "lenet-5": lenet_5}
RECIPES = {
    "lenet-300-100": Recipe(
        dense_epochs=30, prune_epochs=90, tune_epochs=12, sparsity=0.978, weight_decay=0.1,
        bits={"*.weight": 4, "*.bias": 4},
    ),
    "lenet-5": Recipe(
        dense_epochs=6, prune_epochs=36, tune_epochs=5, sparsity=0.984, weight_decay=0.1,
        bits={"*.weight": 3, "*.bias": 4}, soft=0.7, mixed=True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Paper:
    """What the paper reports: table 1, and a row for each layer of table 2 or 3.

    Attributes
    ----------
    summary : tuple
        Bytes before and after, errors in percent before and after.
    layers : dict of str to tuple
        By the name of our layer: its name there, percent kept, weight bits before and after
        Huffman coding, index bits before and after, percent of the bytes after both.
    """

    summary: tuple[int, int, float, float]
    layers: dict[str, tuple[Any, ...]]


PAPER = {
    "lenet-300-100": Paper(
        (1_070_000, 27_000, 1.64, 1.58),
        {
            "1.weight": ("ip1", 8, 6, 4.4, 5, 3.7, 2.32),
            "3.weight": ("ip2", 9, 6, 4.4, 5, 4.3, 3.04),
            "5.weight": ("ip3", 26, 6, 4.3, 5, 3.2, 12.70),
        },
    ),
    "lenet-5": Paper(
        (1_720_000, 44_000, 0.80, 0.74),
        {
            "0.weight": ("conv1", 66, 8, 7.2, 5, 1.5, 67.45),
            "2.weight": ("conv2", 12, 8, 7.2, 5, 3.9, 5.28),
            "5.weight": ("ip1", 8, 5, 4.5, 5, 4.5, 2.45),
            "7.weight": ("ip2", 19, 5, 5.2, 5, 3.7, 6.13),
        },
    ),
}


HINT = "examples/README.md says where it comes from, and what is in it"


def fail(message: str) -> NoReturn:
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    sys.exit(2)


def find_images(folder: str | None) -> Path:
    """Return the path of mnist.npz, or say what is missing and exit."""
    if not folder:
        fail(f"no data folder: give --data DIR or set DEEPCOMP_DATA ({HINT})")
    path = Path(folder, "mnist.npz")
    if not path.is_file():
        fail(f"missing in {folder}: mnist.npz ({HINT})")
    return path


def read_images(path: Path, part: str) -> Data:
    """Return images, normalised, shape (n, 1, 28, 28), and their labels."""
    with np.load(path) as archive:
        pixels, labels = archive[f"x_{part}"], archive[f"y_{part}"]
    images = (torch.from_numpy(pixels).float()[:, None] / 255 - 0.1307) / 0.3081
    return images, torch.from_numpy(labels.astype(np.int64))


def run(net: str, seed: int, recipe: Recipe, images: Path, output: Path) -> dict[str, float]:
    """Train, compress and save a network; return its errors on the held-out images, in percent."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    x, y = read_images(images, "train")
    data, held_out = (x[:-N_HELD_OUT], y[:-N_HELD_OUT]), (x[-N_HELD_OUT:], y[-N_HELD_OUT:])
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = NETS[net]().to(memory_format=torch.channels_last)
    train(model, data, recipe, recipe.dense_epochs, recipe.dense_lr, generator)
    deepcomp.save(model, output / f"{net}-{seed}-dense.dcz")
    before = n_wrong(model, held_out)
    deep_compression(model, data, recipe, generator)
    deepcomp.save(deepcomp.compress(model), output / f"{net}-{seed}.dcz")
    return {
        "held out before": 100 * before / N_HELD_OUT,
        "held out": 100 * n_wrong(model, held_out) / N_HELD_OUT,
        "minutes": (time.perf_counter() - start) / 60,
    }


def test_error(net: str, path: Path, images: Path) -> float:
    """Load a file into a new network; return its error on the test set, in percent."""
    model = NETS[net]()
    deepcomp.load(path).restore(model)
    x, y = read_images(images, "test")
    return 100 * n_wrong(model, (x, y)) / len(y)


def test_error_elsewhere(net: str, path: Path, images: Path) -> float:
    """Do the same in a fresh process."""
    command = [sys.executable, __file__, "--net", net, "--data", str(images.parent)]
    command += ["--test", str(path)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(result.stdout)


def print_summary(net: str, runs: list[dict[str, float]], n_parameters: int) -> None:
    """Print the row of table 1: the paper's, each seed's and their median."""
    dense, small, before, after = PAPER[net].summary
    print(f"\n{net}: {n_parameters:,} parameters; errors on the 10,000 test images")
    print(f"{'':<12}{'float32':>12}{'.dcz file':>12}{'ratio':>8}{'before':>10}{'after':>9}")
    print(
        f"{'paper':<12}{dense:>12,}{small:>12,}{dense / small:>7.0f}x{before:>9.2f}%{after:>8.2f}%"
    )
    median = {key: float(np.median([run[key] for run in runs])) for key in runs[0]}
    for title, row in [*((f"seed {run['seed']:.0f}", run) for run in runs), ("median", median)]:
        ratio = 4 * n_parameters / row["bytes"]
        print(
            f"{title:<12}{4 * n_parameters:>12,}{row['bytes']:>12,.0f}{ratio:>7.0f}x"
            f"{row['before']:>9.2f}%{row['after']:>8.2f}%   held out: {row['held out before']:.2f} "
            f"-> {row['held out']:.2f} %, {row['minutes']:.1f} min"
        )


def print_layers(net: str, path: Path) -> None:
    """Print table 2 or 3: each layer of a file beside the paper's."""
    layers = PAPER[net].layers
    print(f"\n{path.name}, layer by layer; in brackets the paper's")
    print(f"{'':<16}{'weights':>10}{'kept':>16}{'weight bits':>14}", end="")
    print(f"{'coded':>13}{'index bits':>14}{'coded':>13}{'bytes of float32':>22}")
    report = make_report(Reader(path))
    for row in report.rows:
        name, kept, bits, coded, index, index_coded, rate = layers.get(row.name, ("", *[None] * 6))
        title = f"{row.name} {f'({name})' if name else ''}"
        print(f"{title:<16}{row.n_weights:>10,}", end="")
        print(_beside(None if row.kept is None else 100 * row.kept, kept, 1, 16, " %"), end="")
        print(_beside(row.weight_bits, bits, 0, 14), end="")
        print(_beside(row.weight_bits_huffman, coded, 1, 13), end="")
        print(_beside(row.index_bits, index, 0, 14), end="")
        print(_beside(row.index_bits_huffman, index_coded, 1, 13), end="")
        print(_beside(100 * row.nbytes / (4 * row.n_weights), rate, 2, 22, " %"))
    print(f"head, index, checksums: {sum(report.overhead.values()):,} bytes")


def _beside(
    ours: float | None, paper: float | None, digits: int, width: int, unit: str = ""
) -> str:
    text = "" if ours is None else f"{ours:.{digits}f}{unit}"
    return f"{text + ('' if paper is None else f' ({paper:g})'):>{width}}"


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--data",
        metavar="DIR",
        default=os.environ.get("DEEPCOMP_DATA"),
        help="folder of mnist.npz (default: the variable DEEPCOMP_DATA)",
    )
    parser.add_argument("--net", choices=list(NETS), required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N")
    parser.add_argument("--output", type=Path, metavar="DIR", help="keep the files here")
    parser.add_argument(
        "--shorten", type=int, default=1, metavar="N", help="an N-th of the epochs: a quick look"
    )
    parser.add_argument("--test", type=Path, help=argparse.SUPPRESS)  # the fresh process
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    images = find_images(options.data)
    if options.test:
        print(test_error(options.net, options.test, images))
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(options, images, options.output or Path(folder))


def measure(options: argparse.Namespace, images: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    net, recipe = options.net, RECIPES[options.net]
    epochs = {k: v for k, v in asdict(recipe).items() if k.endswith("_epochs")}
    recipe = replace(recipe, **{k: max(1, n // options.shorten) for k, n in epochs.items()})
    jobs = (delayed(run)(net, seed, recipe, images, output) for seed in options.seeds)
    found = Parallel(n_jobs=min(len(options.seeds), cpu_count()))(jobs)
    runs = []
    for seed, held_out in zip(options.seeds, found, strict=True):
        path = output / f"{net}-{seed}.dcz"
        before = test_error_elsewhere(net, output / f"{net}-{seed}-dense.dcz", images)
        after = test_error_elsewhere(net, path, images)
        sizes = {"seed": seed, "bytes": path.stat().st_size, "before": before, "after": after}
        runs.append({**held_out, **sizes})
    (output / f"{net}.json").write_text(json.dumps(runs, indent=1) + "\n")
    print_summary(net, runs, sum(p.numel() for p in NETS[net]().parameters()))
    in_order = sorted(runs, key=lambda run: run["after"])
    print_layers(net, output / f"{net}-{in_order[(len(runs) - 1) // 2]['seed']}.dcz")


if __name__ == "__main__":
    main()
