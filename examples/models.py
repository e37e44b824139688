"""A zoo of small, readable models, and the size table of each after a default compression.

    python examples/models.py [NAME]

The weights are drawn at random, not trained (see `build`), and compressed with 90 % of each weight
pruned and 5 bits. Without a name: what there is. Needs the extra torch.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from imagenet import alexnet, densenet, resnet, squeezenet, vgg
from resnet import ResNet
from torch import nn

import deepcomp
from deepcomp.cli import inspect_main

SETTINGS = {"bits": 5, "sparsity": 0.9}


def lenet_300_100(n_inputs: int = 784) -> nn.Sequential:
    """LeCun, Bottou, Bengio, Haffner, 1998; 266,610 parameters."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(n_inputs, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(),
        nn.Linear(100, 10),
    )  # fmt: skip


def lenet_5() -> nn.Sequential:
    """LeNet-5 as in Caffe's examples; 431,080 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


def small_cnn() -> nn.Sequential:
    """LeNet-5 with ten channels; 29,456 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 10, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(10, 10, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(160, 156), nn.ReLU(), nn.Linear(156, 10),
    )  # fmt: skip


class Entry(NamedTuple):
    """A model of the zoo.

    Attributes
    ----------
    make : callable
        Makes it, without arguments.
    shape : tuple of int
        Of an input: channels, height, width.
    n_parameters : int
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    n_parameters: int


MNIST, CIFAR, IMAGENET = (1, 28, 28), (3, 32, 32), (3, 224, 224)
MODELS = {
    "lenet-300-100": Entry(lenet_300_100, MNIST, 266_610),
    "lenet-5": Entry(lenet_5, MNIST, 431_080),
    "small-cnn": Entry(small_cnn, MNIST, 29_456),
    "resnet-20": Entry(lambda: ResNet(20), CIFAR, 269_722),
    "resnet-32": Entry(lambda: ResNet(32), CIFAR, 464_154),
    "resnet-44": Entry(lambda: ResNet(44), CIFAR, 658_586),
    "resnet-56": Entry(lambda: ResNet(56), CIFAR, 853_018),
    "resnet-110": Entry(lambda: ResNet(110), CIFAR, 1_727_962),
    "squeezenet-1.1": Entry(squeezenet, IMAGENET, 1_235_496),
    "densenet-121": Entry(densenet, IMAGENET, 7_978_856),
    "resnet-18": Entry(lambda: resnet(18), IMAGENET, 11_689_512),
    "resnet-34": Entry(lambda: resnet(34), IMAGENET, 21_797_672),
    "alexnet": Entry(alexnet, IMAGENET, 61_100_840),
    "vgg-11": Entry(lambda: vgg(11), IMAGENET, 132_863_336),
    "vgg-16": Entry(lambda: vgg(16), IMAGENET, 138_357_544),
    "vgg-19": Entry(lambda: vgg(19), IMAGENET, 143_667_240),
}


def build(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Make a model with normal weights, without the time that PyTorch's own initialisation takes.

    The weights have variance 2 / n_inputs (He, Zhang, Ren, Sun, "Delving Deep into Rectifiers",
    2015); biases are small, and batch norm does nothing yet.
    """
    with torch.device("meta"):
        model = make()
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, nn.Linear | nn.Conv2d):
                n_inputs = module.weight[0].numel()
                module.weight.normal_(0, (2 / n_inputs) ** 0.5, generator=generator)
                if module.bias is not None:
                    module.bias.normal_(0, 0.01, generator=generator)
    return model.eval()


def print_table(name: str) -> None:
    """Compress a model, save it, and print what each byte of the file is for."""
    packed = deepcomp.compress(build(MODELS[name].make), **SETTINGS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{name}.dcz")
        deepcomp.save(packed, path)
        print(f"$ dcz-inspect {path.name}\n", flush=True)
        inspect_main([str(path)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", choices=list(MODELS), nargs="?", metavar="NAME")
    name = parser.parse_args().name
    if name:
        print_table(name)
    else:
        print(f"{'name':<16}{'input':>12}{'parameters':>14}")
        for name, entry in MODELS.items():
            shape = "x".join(map(str, entry.shape))
            print(f"{name:<16}{shape:>12}{entry.n_parameters:>14,}")


if __name__ == "__main__":
    main()
