"""ThiNet on one layer: what pruning, reconstruction, fine-tuning and training anew each give.

    python examples/thinet_table.py --data DIR [--quick]

DIR is that of compare.py. A small convolutional network is trained; one layer of 64 channels is
cut to fewer, by Luo, Wu, Lin, "ThiNet", ICCV 2017. All accuracies are of the same test images.
Needs the extras torch, channels and bench.
"""

import argparse
import copy
import os

import torch
from compare_methods import N_LAYERS, fine_tune, on_labels
from compare_rows import accuracy, read_data
from joblib import Parallel, delayed
from resnet_cifar import find_files
from retrain import Data
from torch import nn

import deepcomp
from deepcomp.nn import thinet

WIDTHS = (48, 32, 24, 16, 8)
LAYER = "conv2"  # is cut; what it puts out is read by conv3 alone
N_CALIBRATION = 500
N_STEPS, N_TUNING_STEPS = 1000, 200  # of training from scratch, and of fine-tuning
LR, TUNING_LR = 4e-3, 2e-3
QUICK = 20  # so many times less of everything
# Of a seminar, with another network on the original images: pruned, reconstructed, fine-tuned,
# from scratch
PUBLISHED = {48: (82.0, 82.2, 85.2, 85.4), 8: (16.2, 23.4, 75.6, 81.3)}


def network(n_channels: int = 64) -> nn.Sequential:
    """Build four convolutions and a linear layer; the second convolution has n_channels."""
    model = nn.Sequential()
    widths = [3, 32, n_channels, 64, 128]
    for i in (1, 2, 3, 4):
        model.add_module(f"conv{i}", nn.Conv2d(widths[i - 1], widths[i], 3, padding=1, bias=False))
        model.add_module(f"bn{i}", nn.BatchNorm2d(widths[i]))
        model.add_module(f"relu{i}", nn.ReLU())
        if i != 2:
            model.add_module(f"pool{i}", nn.MaxPool2d(2))
    model.add_module("mean", nn.AdaptiveAvgPool2d(1))
    model.add_module("flatten", nn.Flatten())
    model.add_module("linear", nn.Linear(widths[-1], 10))
    return model.to(memory_format=torch.channels_last)


def train(width: int, data: Data, part: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    model = network(width)
    fine_tune(model, data, N_STEPS // part, LR, on_labels, seed=seed)
    return model.eval()


def cut(
    trained: nn.Sequential, width: int, reconstruct: bool, folder: str, part: int
) -> list[float]:
    """Return the accuracy after pruning, and after fine-tuning."""
    torch.set_num_threads(1)
    data, test, _ = read_data(folder, part, False)
    model = copy.deepcopy(trained)
    images = data[0][:N_CALIBRATION].split(100)
    thinet.prune(model, {LAYER: width}, images, reconstruct=reconstruct)
    deepcomp.shrink(model, data[0][:2])
    pruned = accuracy(model, test)
    fine_tune(model, data, N_TUNING_STEPS // part, TUNING_LR, on_labels)
    return [pruned, accuracy(model, test)]


def anew(width: int, folder: str, part: int) -> list[float]:
    """Return the accuracy of a network that is trained at a width."""
    torch.set_num_threads(1)
    data, test, _ = read_data(folder, part, False)
    return [accuracy(train(width, data, part, seed=1), test)]


def measure(folder: str, part: int, n_jobs: int) -> None:
    data, test, _ = read_data(folder, part, False)
    trained = train(64, data, part, seed=0)
    print(f"Four convolutions, CIFAR-10 as JPEGs, {len(test[0]):,} test images; training takes")
    print(f"{N_STEPS // part:,} steps, and fine-tuning {N_TUNING_STEPS // part:,}.")
    print(f"64 channels in {LAYER}: {accuracy(trained, test):.2f} %\n")
    tasks = [delayed(anew)(width, folder, part) for width in WIDTHS]
    for width in WIDTHS:
        tasks += [delayed(cut)(trained, width, r, folder, part) for r in (False, True)]
    found = Parallel(n_jobs=n_jobs)(tasks)
    print(" " * 10 + f"{'pruned':^20}{'fine-tuned':^20}{'from':>10}   published: pruned,")
    titles = ("plain", "reconstr.", "plain", "reconstr.", "scratch")
    print("channels  " + "".join(f"{title:>10}" for title in titles), end="")
    print("   reconstructed, fine-tuned, from scratch")
    for i, width in enumerate(WIDTHS):
        [scratch], plain, better = found[i], *found[len(WIDTHS) + 2 * i :][:2]
        values = (plain[0], better[0], plain[1], better[1], scratch)
        published = ", ".join(f"{value}" for value in PUBLISHED.get(width, ()))
        print(f"{width:<10}" + "".join(f"{v:>9.2f}%" for v in values) + f"   {published}".rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--data",
        metavar="DIR",
        default=os.environ.get("DEEPCOMP_DATA"),
        help="folder of images and networks (default: the variable DEEPCOMP_DATA)",
    )
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    options = parser.parse_args()
    find_files(options.data, N_LAYERS)
    torch.set_num_threads(1)
    measure(options.data, QUICK if options.quick else 1, options.jobs)


if __name__ == "__main__":
    main()
