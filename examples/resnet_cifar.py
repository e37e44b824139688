"""Accuracy and size of a trained CIFAR-10 ResNet, pruned and shared at several strengths.

    python examples/resnet_cifar.py --data DIR [--net 32] [--inspect]

DIR holds cifar10-jpeg.npz (CIFAR-10 as JPEGs) and resnet20-cifar10.safetensors or
resnet32-cifar10.safetensors (README.md here says where they come from). Needs the extras torch and
bench (Pillow, safetensors).
"""

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from resnet import ResNet
from torch import Tensor

import deepcomp
from deepcomp.cli import inspect_main

SPARSITIES = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9)
BITS = (8, 7, 6, 5, 4, 3)
MODERATE = 0.5  # the sparsity that is combined with sharing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # as in training

HINT = "examples/README.md says where the files come from, and what is in them"

Setting = tuple[float, int | None]


def fail(message: str) -> NoReturn:
    print(f"resnet_cifar.py: {message}", file=sys.stderr)
    sys.exit(2)


def find_files(folder: str | None, n_layers: int) -> tuple[Path, Path]:
    """Return the paths of the images and of the network, or say what is missing and exit."""
    if not folder:
        fail(f"no data folder: give --data DIR or set DEEPCOMP_DATA ({HINT})")
    images = Path(folder, "cifar10-jpeg.npz")
    network = Path(folder, f"resnet{n_layers}-cifar10.safetensors")
    missing = [path.name for path in (images, network) if not path.is_file()]
    if missing:
        fail(f"missing in {folder}: {', '.join(missing)} ({HINT})")
    return images, network


def read_images(path: Path, n_images: int, part: str = "test") -> tuple[Tensor, Tensor]:
    """Return the first images of a part, normalised, shape (n, 3, 32, 32), and their labels."""
    try:
        from PIL import Image
    except ImportError:
        fail("Pillow is needed to decode the images: pip install pillow")
    with np.load(path) as archive:
        raw, offsets = archive[f"{part}_jpeg"], archive[f"{part}_offsets"]
        labels = torch.from_numpy(archive[f"{part}_labels"][:n_images].astype(np.int64))
    parts = [raw[offsets[i] : offsets[i + 1]].tobytes() for i in range(len(labels))]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(part)).convert("RGB")) for part in parts])
    images = (pixels.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    return torch.from_numpy(images).permute(0, 3, 1, 2), labels


def read_weights(path: Path, n_layers: int) -> dict[str, Tensor]:
    """Return the state_dict, after checking its names and shapes against the model."""
    try:
        from safetensors.torch import load_file
    except ImportError:
        fail("safetensors is needed to read the network: pip install safetensors")
    weights = load_file(path)
    # Without batch norm's counters: only training uses them, and old checkpoints lack them.
    model = ResNet(n_layers).state_dict()
    expected = {n: t.shape for n, t in model.items() if not n.endswith("num_batches_tracked")}
    found = {name: tensor.shape for name, tensor in weights.items()}
    different = {name for name, _ in expected.items() ^ found.items()}
    if different:
        fail(f"{path.name} is no ResNet-{n_layers}: it differs in {', '.join(sorted(different))}")
    return weights


def accuracy(model: ResNet, images: Tensor, labels: Tensor) -> float:
    model.eval().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        scores = torch.cat([model(batch) for batch in images.split(100)])
    return (scores.argmax(1) == labels).double().mean().item()


def through_a_file(weights: dict[str, Tensor], setting: Setting, path: Path, n: int) -> ResNet:
    """Compress, save, load and restore into a new model: what a user of the file gets."""
    sparsity, bits = setting
    packed = deepcomp.compress(weights, bits=bits, sparsity=sparsity, scope="global")
    deepcomp.save(packed, path)
    model = ResNet(n)
    deepcomp.load(path).restore(model, strict=False)  # read_weights has compared the names
    return model


def settings() -> Iterator[tuple[str, Setting]]:
    """Yield all settings; a group begins with its title."""
    for sparsity in SPARSITIES:
        yield ("pruned only" if sparsity == SPARSITIES[0] else ""), (sparsity, None)
    for sparsity in (0.0, MODERATE):
        title = f"{sparsity:.0%} pruned, then shared" if sparsity else "shared only"
        for bits in BITS:
            yield (title if bits == BITS[0] else ""), (sparsity, bits)


def name_of(setting: Setting) -> str:
    sparsity, bits = setting
    parts = [f"{sparsity:.0%} pruned"] if sparsity else []
    parts += [f"{bits} bits"] if bits else []
    return ", ".join(parts) or "nothing changed"


def measure(options: argparse.Namespace, folder: Path) -> None:
    images_path, network_path = find_files(options.data, options.net)
    weights = read_weights(network_path, options.net)
    images, labels = read_images(images_path, options.images)
    n_bytes = network_path.stat().st_size
    path = folder / "model.dcz"

    error = 100 * (0.8 * 0.2 / len(labels)) ** 0.5
    print(f"ResNet-{options.net} on the first {len(labels):,} test images of CIFAR-10 (as JPEGs):")
    print("trained weights, pruned globally by magnitude and shared, WITHOUT any retraining.")
    print(f"The standard error of an accuracy of 80 % is {error:.1f} points.")
    print(f"The ratio is against the file of the network, {network_path.name}.\n")
    print(f"{'setting':<28}{'accuracy':>10}{'bytes':>12}{'ratio':>9}")
    model = ResNet(options.net)
    model.load_state_dict(weights)
    print_row("as trained: safetensors", accuracy(model, images, labels), n_bytes, n_bytes)
    for title, setting in settings():
        if title:
            print(f"{title}: .dcz")
        model = through_a_file(weights, setting, path, options.net)
        value = accuracy(model, images, labels)
        print_row(f"  {name_of(setting)}", value, path.stat().st_size, n_bytes)
    if options.inspect:
        through_a_file(weights, options.inspect, path, options.net)
        print(f"\n{name_of(options.inspect)}:\n$ dcz-inspect {path.name} --layers '*conv*'\n")
        inspect_main([str(path), "--layers", "*conv*"])


def print_row(title: str, value: float, n_bytes: int, n_reference: int) -> None:
    ratio = f"{n_reference / n_bytes:.2f}x"
    print(f"{title:<28}{100 * value:>9.2f}%{n_bytes:>12,}{ratio:>9}", flush=True)


def parse_setting(text: str) -> Setting:
    """Read ``SPARSITY,BITS`` or ``SPARSITY``."""
    first, _, second = text.partition(",")
    try:
        sparsity, bits = float(first), int(second) if second else None
    except ValueError:
        sparsity, bits = -1.0, None
    if not 0 <= sparsity < 1 or bits not in (None, *range(1, 9)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected 0 <= sparsity < 1, and 1 to 8 bits")
    return sparsity, bits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--data",
        metavar="DIR",
        default=os.environ.get("DEEPCOMP_DATA"),
        help="folder of images and networks (default: the variable DEEPCOMP_DATA)",
    )
    parser.add_argument("--net", type=int, choices=(20, 32), default=20, help="layers (default 20)")
    parser.add_argument("--images", type=int, default=2000, help="test images (default 2000)")
    parser.add_argument(
        "--inspect",
        type=parse_setting,
        nargs="?",
        const=f"{MODERATE},5",
        metavar="SPARSITY,BITS",
        help="print the table of dcz-inspect for one setting too (default: %(const)s)",
    )
    options = parser.parse_args()
    if not 1 <= options.images <= 10_000:
        parser.error(f"--images is {options.images}: expected 1 to 10000")
    torch.set_num_threads(1)  # threads that wait for one another are slow on a busy machine
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Path(folder))


if __name__ == "__main__":
    main()
