"""Draw accuracy against sparsity, bits and file size: LeNet-300-100, with and without retraining.

    python benchmarks/curves.py --data DIR [--output benchmarks/figures]

DIR holds mnist.npz. Each figure is written as PNG, and its points as CSV. Accuracies are of 5,000
images held out of the training set; sizes are bytes of the complete file. The curves are those of
figures 6 and 7 of Han, Mao, Dally, "Deep Compression", ICLR 2016. Needs the extras torch and bench.
"""

import argparse
import copy
import csv
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from matplotlib import pyplot
from torch import nn
from tqdm import tqdm

import deepcomp

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import mnist
from retrain import Data, Recipe, n_wrong, train

SPARSITIES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.94, 0.96, 0.98, 0.985, 0.99)
BITS = tuple(range(1, 9))
PRUNED = 0.9  # the sparsity at which bits are varied
RECIPE = Recipe(10, 6, 2, sparsity=PRUNED, bits={}, prune_lr=1e-3, soft=0.0, shift=0)
Point = dict[str, float | str]


def size_and_accuracy(model: nn.Module, held_out: Data) -> Point:
    """Return the bytes of the file and the accuracy of a model, in percent."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.dcz")
        deepcomp.save(deepcomp.compress(model, bits=None), path)
        n_bytes = path.stat().st_size
    accuracy = 100 * (1 - n_wrong(model, held_out) / len(held_out[0]))
    return {"bytes": n_bytes, "accuracy": round(accuracy, 2)}


def by_sparsity(dense: nn.Module, data: Data, held_out: Data) -> Iterator[Point]:
    """Prune all layers together, at once without retraining and gradually with it."""
    for sparsity in tqdm(SPARSITIES, desc="sparsity"):
        model = copy.deepcopy(dense)
        deepcomp.Pruner(model, sparsity=sparsity, scope="global", min_kept=0).remove()
        point = {"sparsity": sparsity, "curve": "pruned"}
        yield point | size_and_accuracy(model, held_out)
        model = copy.deepcopy(dense)
        generator = torch.Generator().manual_seed(0)
        train(model, data, RECIPE, RECIPE.prune_epochs, RECIPE.prune_lr, generator, None, sparsity)
        yield point | {"curve": "pruned, retrained"} | size_and_accuracy(model, held_out)


def by_bits(dense: nn.Module, data: Data, held_out: Data) -> Iterator[Point]:
    """Share the weights of the dense and of the pruned network, then train the codebooks."""
    pruned = copy.deepcopy(dense)
    generator = torch.Generator().manual_seed(0)
    train(pruned, data, RECIPE, RECIPE.prune_epochs, RECIPE.prune_lr, generator, None, PRUNED)
    starts = {"shared": dense, f"{PRUNED:.0%} pruned, shared": pruned}
    for bits in tqdm(BITS, desc="bits"):
        for title, start in starts.items():
            model = deepcomp.share_weights(copy.deepcopy(start), bits=bits)
            yield {"bits": bits, "curve": title} | size_and_accuracy(model, held_out)
            generator = torch.Generator().manual_seed(0)
            train(model, data, RECIPE, RECIPE.tune_epochs, RECIPE.tune_lr, generator)
            point = {"bits": bits, "curve": f"{title}, codebooks trained"}
            yield point | size_and_accuracy(model, held_out)


def draw(points: list[Point], x: str, label: str, path: Path) -> None:
    """Write a figure of accuracy against `x`, one line a curve, and its points."""
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(points[0]))
        writer.writeheader()
        writer.writerows(points)
    figure, axis = pyplot.subplots(figsize=(7, 5.2), layout="constrained")
    for i, curve in enumerate(dict.fromkeys(point["curve"] for point in points)):
        own = sorted((p[x], p["accuracy"]) for p in points if p["curve"] == curve)
        retrained = "trained" in str(curve)
        axis.plot(
            *zip(*own, strict=True),
            label=curve,
            color=f"C{i // 2}",
            linestyle="-" if retrained else "--",
            marker="o" if retrained else "x",
            markersize=4,
        )
    axis.set(xlabel=label, ylabel="accuracy, %", ylim=(90, 100))
    if x == "bytes":
        axis.set_xscale("log")
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower center", ncols=2, fontsize="small")
    axis.set_title("LeNet-300-100, MNIST (5,000 held-out images)", fontsize="medium")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--data",
        metavar="DIR",
        default=os.environ.get("DEEPCOMP_DATA"),
        help="folder of mnist.npz (default: the variable DEEPCOMP_DATA)",
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = mnist.read_images(mnist.find_images(options.data), "train")
    n = mnist.N_HELD_OUT
    data, held_out = (x[:-n], y[:-n]), (x[-n:], y[-n:])
    dense = mnist.lenet_300_100()
    generator = torch.Generator().manual_seed(0)

    train(dense, data, RECIPE, RECIPE.dense_epochs, RECIPE.dense_lr, generator)

    options.output.mkdir(parents=True, exist_ok=True)
    sparsity = list(by_sparsity(dense, data, held_out))
    draw(sparsity, "sparsity", "sparsity", options.output / "sparsity.png")
    bits = list(by_bits(dense, data, held_out))
    draw(bits, "bits", "bits of a shared weight", options.output / "bits.png")
    both = [{k: p[k] for k in ("curve", "bytes", "accuracy")} for p in sparsity + bits]
    draw(both, "bytes", "bytes of the .dcz file", options.output / "size.png")


if __name__ == "__main__":
    main()
