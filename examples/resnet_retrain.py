"""Prune, share and retrain a trained ResNet for CIFAR-10: what resnet_cifar.py loses, regained.

    python examples/resnet_retrain.py --data DIR [--net 32] [--seeds 0 1 2] [--output DIR]

DIR holds cifar10-jpeg.npz and resnet20-cifar10.safetensors or resnet32-cifar10.safetensors. Each
seed prunes the network gradually, shares its weights and trains the codebooks, one core a seed.
Choices were made on 5,000 images held out of our training (the trained network may have seen them);
the test set is looked at once, by networks that were loaded from their files. Needs the extras
torch and bench.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, cpu_count, delayed
from resnet import ResNet
from resnet_cifar import find_files, read_images, read_weights
from retrain import Data, Recipe, deep_compression, n_wrong

import deepcomp
from deepcomp.cli import inspect_main

N_TRAIN, N_HELD_OUT, N_TEST = 50_000, 5_000, 10_000
RECIPE = Recipe(
    dense_epochs=0, prune_epochs=3, tune_epochs=1, sparsity=0.845, bits={"*conv*": 4, "linear": 4},
    prune_lr=2e-3, tune_lr=5e-4, ramp=0.6, shift=4, flip=True, soft=0.5, weight_decay=0.02,
    mixed=True,
)  # fmt: skip


def accuracy(model: ResNet, data: Data) -> float:
    return 100 * (1 - n_wrong(model, data) / len(data[0]))


def run(options: argparse.Namespace, seed: int, output: Path) -> dict[str, Any]:
    """Compress a trained network with retraining; return sizes and accuracies in percent."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    images_path, network_path = find_files(options.data, options.net)
    x, y = read_images(images_path, N_TRAIN // options.part, "train")
    n_held_out = N_HELD_OUT // options.part
    data, held_out = (x[:-n_held_out], y[:-n_held_out]), (x[-n_held_out:], y[-n_held_out:])
    model = ResNet(options.net).to(memory_format=torch.channels_last)
    model.load_state_dict(read_weights(network_path, options.net), strict=False)
    before = accuracy(model, held_out)
    deep_compression(model, data, RECIPE, torch.Generator().manual_seed(seed))
    path = output / f"resnet{options.net}-{seed}.dcz"
    deepcomp.save(deepcomp.compress(model), path)
    minutes = (time.perf_counter() - start) / 60
    restored = ResNet(options.net).to(memory_format=torch.channels_last)
    deepcomp.load(path).restore(restored)
    return {
        "seed": seed,
        "bytes": path.stat().st_size,
        "held out before": before,
        "held out": accuracy(model, held_out),
        "after": accuracy(restored, read_images(images_path, N_TEST // options.part)),
        "minutes": minutes,
    }


def measure(options: argparse.Namespace, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    images_path, network_path = find_files(options.data, options.net)
    jobs = (delayed(run)(options, seed, output) for seed in options.seeds)
    runs = Parallel(n_jobs=min(len(options.seeds), cpu_count()))(jobs)
    model = ResNet(options.net).to(memory_format=torch.channels_last)
    model.load_state_dict(read_weights(network_path, options.net), strict=False)
    test = read_images(images_path, N_TEST // options.part)
    dense = 4 * sum(p.numel() for p in model.parameters())
    print(f"ResNet-{options.net}: accuracy on {len(test[0]):,} test images of CIFAR-10 (as JPEGs)")
    print(f"as trained, float32: {dense:,} bytes, {accuracy(model, test):.2f} %")
    median = {key: float(np.median([run[key] for run in runs])) for key in runs[0]}
    for title, row in [*((f"seed {run['seed']}", run) for run in runs), ("median", median)]:
        print(
            f"{title:<8}{row['bytes']:>10,.0f} bytes{dense / row['bytes']:>7.1f}x"
            f"{row['after']:>9.2f} %   held out: {row['held out before']:.2f} -> "
            f"{row['held out']:.2f} %, {row['minutes']:.1f} min"
        )
    inspect_main(
        [str(output / f"resnet{options.net}-{options.seeds[0]}.dcz"), "--layers", "*conv*"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--data",
        metavar="DIR",
        default=os.environ.get("DEEPCOMP_DATA"),
        help="folder of images and networks (default: the variable DEEPCOMP_DATA)",
    )
    parser.add_argument("--net", type=int, choices=(20, 32), default=20, help="layers (default 20)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N")
    parser.add_argument("--output", type=Path, metavar="DIR", help="keep the files here")
    parser.add_argument(
        "--part", type=int, default=1, metavar="N", help="an N-th of the images: a quick look"
    )
    options = parser.parse_args()
    find_files(options.data, options.net)
    with tempfile.TemporaryDirectory() as folder:
        measure(options, options.output or Path(folder))


if __name__ == "__main__":
    main()
