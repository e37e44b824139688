"""Two small networks for MNIST at given numbers of parameters, with next to no retraining.

    python examples/lenet_table.py --data DIR [--seed N] [--output DIR]

DIR holds mnist.npz. Two pruned networks are known from elsewhere, "without retraining to speak of":
266,610 parameters, LeNet-300-100, of which 15,023 are kept, and 29,456 parameters, of which 1,603
are kept. Ours keep as many (biases count, and all of them are kept), in three ways: pruned once
after training; the same after training with a penalty on the sum of absolute weights (L1); and with
one epoch more, in which the last one is pruned bit by bit instead. Each network is saved with 5
bits, and a new one that is loaded from the file looks at the test set. All choices were made on
5,000 images held out of the training set. Needs the extras torch and bench.
"""

import argparse
import copy
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from mnist import N_HELD_OUT, find_images, read_images
from models import lenet_300_100, small_cnn
from retrain import Data, Recipe, n_wrong, train
from torch import Tensor, nn

import deepcomp

BITS = {"*.weight": 5, "*.bias": 5}
RECIPE = Recipe(0, 0, 0, 0.0, {})  # learning rates and the rest are the default


class Network(NamedTuple):
    """What is made as small as what.

    Attributes
    ----------
    make : callable
    n_kept : int
        Parameters to be kept, biases included.
    accuracy : float
        Of the network from elsewhere, in percent.
    epochs : int
        Of training.
    penalty : float
        Its factor in the loss.
    """

    make: Callable[[], nn.Sequential]
    n_kept: int
    accuracy: float
    epochs: int
    penalty: float


NETWORKS = {
    "lenet-300-100": Network(lenet_300_100, 15_023, 92.46, 10, 1e-4),
    "small-cnn": Network(small_cnn, 1_603, 95.15, 5, 8e-4),
}


def sparsity_for(model: nn.Module, n_kept: int) -> float:
    """Return the sparsity of the weights that leaves so many parameters, all biases among them."""
    sizes = [(p.numel(), p.dim() > 1) for p in model.parameters()]
    n_weights = sum(n for n, is_weight in sizes if is_weight)
    n_biases = sum(n for n, is_weight in sizes if not is_weight)
    return 1 - (n_kept - n_biases) / n_weights


def trained(network: Network, penalty: float, data: Data, seed: int) -> nn.Sequential:
    """Train a network; with a penalty, on the sum of its absolute weights."""
    torch.manual_seed(seed)
    model = network.make().to(memory_format=torch.channels_last)
    weights = [p for p in model.parameters() if p.dim() > 1]

    def l1() -> Tensor:
        return penalty * sum((w.abs().sum() for w in weights), torch.zeros(()))

    generator = torch.Generator().manual_seed(seed)
    train(
        model, data, RECIPE, network.epochs, RECIPE.dense_lr, generator,
        penalty=l1 if penalty else None,
    )  # fmt: skip
    return model


def pruned(model: nn.Module, n_kept: int) -> nn.Module:
    """Set the smallest weights of all to zero, at once, whatever is left of a layer."""
    model = copy.deepcopy(model)
    sparsity = sparsity_for(model, n_kept)
    deepcomp.Pruner(model, sparsity=sparsity, scope="global", min_kept=0).remove()
    return model


def variants(network: Network, data: Data, seed: int) -> dict[str, nn.Module]:
    """Make the networks of the table."""
    n_kept = network.n_kept
    plain = trained(network, 0.0, data, seed)
    sparse = trained(network, network.penalty, data, seed)
    retrained = copy.deepcopy(sparse)
    generator, sparsity = torch.Generator().manual_seed(seed), sparsity_for(sparse, n_kept)
    train(retrained, data, RECIPE, 1, RECIPE.prune_lr, generator, sparsity=sparsity)
    return {
        "trained": plain,
        "pruned at once": pruned(plain, n_kept),
        "L1, pruned at once": pruned(sparse, n_kept),
        "L1, pruned in one epoch more": retrained,
    }


def print_row(title: str, network: Network, model: nn.Module, data: Data, path: Path) -> None:
    """Save a network, load it into a new one, and print what that one is."""
    bits = None if title == "trained" else BITS
    deepcomp.save(deepcomp.compress(model, bits=bits), path)
    loaded = network.make()
    deepcomp.load(path).restore(loaded)
    n_parameters = sum(p.numel() for p in loaded.parameters())
    n_kept = sum(int(p.count_nonzero()) for p in loaded.parameters())
    accuracy = 100 - 100 * n_wrong(loaded, data) / len(data[0])
    n_bytes = path.stat().st_size
    print(f"  {title:<30}{n_parameters:>11,}{n_kept:>9,}{accuracy:>10.2f}%{n_bytes:>11,}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--data",
        metavar="DIR",
        default=os.environ.get("DEEPCOMP_DATA"),
        help="folder of mnist.npz (default: the variable DEEPCOMP_DATA)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--output", type=Path, metavar="DIR", help="keep the files here")
    parser.add_argument(
        "--shorten", type=int, default=1, metavar="N", help="an N-th of the epochs: a quick look"
    )
    options = parser.parse_args()
    images = find_images(options.data)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        measure(options, images, options.output or Path(folder))


def measure(options: argparse.Namespace, images: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    (x, y), test = read_images(images, "train"), read_images(images, "test")
    data = x[:-N_HELD_OUT], y[:-N_HELD_OUT]
    print(f"{'':<32}{'parameters':>11}{'kept':>9}{'accuracy':>11}{'bytes':>11}")
    for name, network in NETWORKS.items():
        network = network._replace(epochs=max(1, network.epochs // options.shorten))
        n_parameters = sum(p.numel() for p in network.make().parameters())
        print(name)
        theirs = f"{n_parameters:>11,}{network.n_kept:>9,}{network.accuracy:>10.2f}%"
        print(f"  {'elsewhere':<30}{theirs}", flush=True)
        for title, model in variants(network, data, options.seed).items():
            path = output / f"{name}, {title}.dcz".replace(", ", "-").replace(" ", "-")
            print_row(title, network, model, test, path)


if __name__ == "__main__":
    main()
