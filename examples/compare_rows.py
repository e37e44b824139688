"""The rows of compare.py's table: networks made, saved, loaded back, evaluated and timed."""

import copy
import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compare_methods import N_LAYERS, Job, make, restored
from resnet import ResNet
from resnet_cifar import find_files, read_images, read_weights
from retrain import Data, n_wrong
from torch import nn

import deepcomp

N_TRAIN, N_HELD_OUT, N_TEST = 50_000, 2_500, 5_000
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
