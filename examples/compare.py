"""One network, one budget of fine-tuning, all methods: accuracy, bytes and speed side by side.

    python examples/compare.py --data DIR [--quick] [--output DIR]

DIR holds cifar10-jpeg.npz and resnet20-cifar10.safetensors. Every result is saved to a .dcz file,
loaded back into a network that is built anew, and evaluated from there: on the test images once, at
the end; learning rates were chosen with --held-out, on images held out of the training set. What is
done is kept in the output folder, a JSON file and networks for each: a second call does what is
missing. Times are taken last, alone, on one thread. Needs the extras torch, channels and bench.
"""

import argparse
import copy
import csv
import json
import os
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import compare_figures
import numpy as np
import torch
from compare_methods import N_LAYERS, Job, jobs, make, restored
from joblib import Parallel, delayed
from resnet import ResNet
from resnet_cifar import find_files, read_images, read_weights
from retrain import Data, n_wrong
from torch import nn
from tqdm import tqdm

import deepcomp

N_TRAIN, N_HELD_OUT, N_TEST = 50_000, 2_500, 5_000
N_STEPS, N_LONG = 200, 1600
QUICK_PART, QUICK_STEPS, QUICK_LONG = 20, 15, 45
SHARED_BITS = 5
N_TIMED, N_ROUNDS = 32, 9  # images in a batch, and batches of which the median is taken

Row = dict[str, Any]


@cache  # a process does several jobs
def read_data(folder: str, part: int, is_held_out: bool) -> tuple[Data, Data, ResNet]:
    """Return images to train on and to evaluate on, and the trained network."""
    images_path, network_path = find_files(folder, N_LAYERS)
    x, y = read_images(images_path, N_TRAIN // part, "train")
    n = N_HELD_OUT // part
    trained = ResNet(N_LAYERS).to(memory_format=torch.channels_last)
    trained.load_state_dict(read_weights(network_path, N_LAYERS), strict=False)
    held_out = x[-n:], y[-n:]
    test = held_out if is_held_out else read_images(images_path, N_TEST // part)
    return (x[:-n], y[:-n]), test, trained.eval()


def accuracy(model: nn.Module, data: Data) -> float:
    images = data[0].contiguous(memory_format=torch.channels_last)
    return round(100 * (1 - n_wrong(model, (images, data[1])) / len(images)), 2)


def run(job: Job, folder: str, part: int, is_held_out: bool, output: Path) -> None:
    """Make a network, unless an earlier call did; write one row for each of its files."""
    done = output / f"{job.name}.json"
    if done.is_file():
        return
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data, test, trained = read_data(folder, part, is_held_out)
    start = time.perf_counter()
    model = make(job, copy.deepcopy(trained), data)
    seconds = round(time.perf_counter() - start, 1)
    every_bits = [None] if job.is_shared or not job.n_steps else [None, SHARED_BITS]
    rows = []
    for bits in every_bits:
        path = output / f"{job.name}{f'-{bits}-bits' if bits else ''}.dcz"
        deepcomp.save(deepcomp.compress(model, bits=bits), path)
        packed = deepcomp.load(path)
        loaded, _ = restored(packed, job.n_layers)
        rows.append(
            {
                "method": job.method,
                "strength": job.strength,
                "bits": SHARED_BITS if bits else "shared" if job.is_shared else "exact",
                "fine-tuned": int(job.n_steps > 0),
                "accuracy %": accuracy(loaded, test),
                "bytes": path.stat().st_size,
                "parameters": sum(p.numel() for p in loaded.parameters()),
                "non-zeros": sum(int((p != 0).sum()) for p in loaded.parameters()),
                "steps": job.n_steps,
                "seconds": seconds,
                "file": path.name,
            }
        )
    done.write_text(json.dumps(rows, indent=1))


def add_speed(rows: list[Row], layers_of: dict[str, int], networks: Path, trained: ResNet) -> None:
    """Time each network as it is restored, in turn with the dense original."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(N_TIMED, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    for row in rows:
        packed = deepcomp.load(networks / row["file"])
        n_layers = layers_of[row["file"]]
        dense, _ = restored(packed, n_layers)
        auto, choices = restored(packed, n_layers, layers="auto")
        n_sparse = sum(choice.is_sparse for choice in choices)
        original, ms, auto_ms = medians([trained, dense, auto if n_sparse else dense], x)
        row["dense ms"], row["auto ms"] = round(ms, 2), round(auto_ms if n_sparse else ms, 2)
        row["layers"] = f"auto: {n_sparse} of {len(choices)} sparse"
        row["speed-up"] = round(original / (auto_ms if n_sparse else ms), 2)


def medians(models: list[nn.Module], x: torch.Tensor) -> list[float]:
    """Return the milliseconds of the processor that each model takes; they take turns."""
    times = np.zeros((N_ROUNDS + 1, len(models)))
    with torch.inference_mode():
        for i in range(N_ROUNDS + 1):
            for j, model in enumerate(models):
                start = time.process_time()  # other programs do not count
                model(x)
                times[i, j] = time.process_time() - start
    return [float(t) for t in 1000 * np.median(times[1:], 0)]


def measure(options: argparse.Namespace, output: Path) -> list[Row]:
    """Do what is missing, time all, and write table and figures."""
    _, network_path = find_files(options.data, N_LAYERS)
    part = QUICK_PART if options.quick else 1
    n_steps, n_long = (QUICK_STEPS, QUICK_LONG) if options.quick else (N_STEPS, N_LONG)
    kind = f"networks{'-quick' if options.quick else ''}{'-held-out' if options.held_out else ''}"
    networks = output / kind  # what is there was made and evaluated in the same way
    networks.mkdir(parents=True, exist_ok=True)
    wanted = jobs(n_steps, n_long, options.quick)
    longest_first = sorted(wanted, key=lambda job: -job.n_steps)  # so none is left to one process
    tasks = [delayed(run)(j, options.data, part, options.held_out, networks) for j in longest_first]
    found = Parallel(n_jobs=options.jobs, return_as="generator_unordered")(tasks)
    list(tqdm(found, total=len(tasks)))
    rows, n_layers = [], {}
    for job in wanted:
        own = json.loads((networks / f"{job.name}.json").read_text())
        rows += own
        n_layers.update((row["file"], job.n_layers) for row in own)
    *_, trained = read_data(options.data, part, options.held_out)
    add_speed(rows, n_layers, networks, trained)
    for row in rows:
        row["ratio"] = round(network_path.stat().st_size / row["bytes"], 2)
    with (output / "compared.csv").open("w", newline="") as file:
        columns = [key for key in rows[0] if key != "file"]
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    compare_figures.draw(rows, output)
    return rows


def print_table(rows: list[Row]) -> None:
    print(f"{'method':<32}{'strength':<20}{'bits':>7}{'tuned':>7}{'accuracy':>10}", end="")
    print(f"{'bytes':>11}{'ratio':>8}{'dense ms':>10}{'auto ms':>9}{'speed-up':>10}")
    for row in rows:
        print(
            f"{row['method']:<32}{row['strength']:<20}{row['bits']:>7}{row['steps']:>7}"
            f"{row['accuracy %']:>9.2f}%{row['bytes']:>11,}{row['ratio']:>7.2f}x"
            f"{row['dense ms']:>10.1f}{row['auto ms']:>9.1f}{row['speed-up']:>9.2f}x"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--data",
        metavar="DIR",
        default=os.environ.get("DEEPCOMP_DATA"),
        help="folder of images and networks (default: the variable DEEPCOMP_DATA)",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="keep networks, table, figures")
    parser.add_argument("--quick", action="store_true", help="fewer images, steps and strengths")
    parser.add_argument(
        "--held-out", action="store_true", help="evaluate on held-out images, to choose settings"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    options = parser.parse_args()
    find_files(options.data, N_LAYERS)
    with tempfile.TemporaryDirectory() as folder:
        print_table(measure(options, options.output or Path(folder)))


if __name__ == "__main__":
    main()
