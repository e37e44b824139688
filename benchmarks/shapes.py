"""The shapes and distributions that are measured."""

import numpy as np
import torch
from numpy.typing import NDArray

Symbols = NDArray[np.uint8]
Floats = NDArray[np.float32]

# Caffe's AlexNet, 60,965,224 parameters, and what Han, Mao, Dally (ICLR 2016), table 4, keep of it.
ALEXNET_LAYERS = {
    "conv1": (3, 96, 11, 1),  # inputs, outputs, kernel, groups
    "conv2": (96, 256, 5, 2),
    "conv3": (256, 384, 3, 1),
    "conv4": (384, 384, 3, 2),
    "conv5": (384, 256, 3, 2),
    "fc6": (9216, 4096),
    "fc7": (4096, 4096),
    "fc8": (4096, 1000),
}
ALEXNET_KEPT = {
    "conv1": 0.84,
    "conv2": 0.38,
    "conv3": 0.35,
    "conv4": 0.37,
    "conv5": 0.37,
    "fc6": 0.09,
    "fc7": 0.09,
    "fc8": 0.25,
}
ALEXNET_SETTINGS = {
    "bits": {"conv*": 8, "fc*": 5},
    "sparsity": {name: 1 - kept for name, kept in ALEXNET_KEPT.items()},
}


def alexnet(seed: int | None = 0) -> torch.nn.Module:
    """Make a module with AlexNet's parameters; normal weights, or all zeros if seed is None."""
    layers = {}
    with torch.device("meta"):  # no time for PyTorch's own initialisation
        for name, sizes in ALEXNET_LAYERS.items():
            if name.startswith("conv"):
                n_in, n_out, kernel, groups = sizes
                layers[name] = torch.nn.Conv2d(n_in, n_out, kernel, groups=groups)
            else:
                layers[name] = torch.nn.Linear(*sizes)
    model = torch.nn.ModuleDict(layers).to_empty(device="cpu")
    generator = torch.Generator()
    generator.manual_seed(seed or 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
            if seed is not None:
                parameter.normal_(0, 0.01, generator=generator)
    return model


def fc6_weight() -> dict[str, Floats]:
    """Make the weight of AlexNet's fc6: 37.7 M normal values, to be pruned."""
    values = np.random.default_rng(6).standard_normal((4096, 9216), np.float32)
    values *= np.float32(0.01)
    return {"fc6.weight": values}


def huffman_streams(n_symbols: int = 10_000_000) -> dict[str, Symbols]:
    """Make the three symbol streams that the entropy coders are measured on.

    a: 31 labels, 4.4 bits of entropy, as a 5-bit codebook of a pruned layer gives. b: 4-bit gaps at
    9.5 % density, 15 being the escape, 3.7 bits. c: 255 labels, 7.0 bits.
    """
    rng = np.random.default_rng(0)
    zeros = rng.geometric(0.095, n_symbols) - 1
    return {
        "a": _bell(rng, 31, 5.2, n_symbols),
        "b": gap_symbols(zeros, 4)[:n_symbols],
        "c": _bell(rng, 255, 31.0, n_symbols),
    }


def _bell(rng: np.random.Generator, n_labels: int, width: float, n_symbols: int) -> Symbols:
    x = (np.arange(n_labels) - n_labels // 2) / width
    weights = np.exp(-0.5 * x * x)
    return rng.choice(n_labels, n_symbols, p=weights / weights.sum()).astype(np.uint8)


def gap_symbols(zeros: NDArray[np.integer], gap_bits: int) -> Symbols:
    """Turn the number of zeros before each kept entry into gap symbols, with escapes.

    On its own, so that the benchmarks do not rely on the encoder that they measure: each escape,
    the largest symbol, skips as many zeros as its value and stands for no entry.
    """
    escape = (1 << gap_bits) - 1
    n_escapes = zeros // escape
    symbols = np.full(zeros.size + int(n_escapes.sum()), escape, np.uint8)
    symbols[np.cumsum(n_escapes + 1) - 1] = zeros % escape
    return symbols


def entropy_bits(symbols: NDArray[np.integer]) -> float:
    """Return the order-0 entropy of a stream: bits for all its symbols together."""
    counts = np.unique(symbols, return_counts=True)[1]
    return float(counts @ np.log2(symbols.size / counts)) if symbols.size else 0.0


def normal_values(n_values: int) -> Floats:
    """Make the weights of a layer that was not pruned: normal, standard deviation 0.05."""
    return (0.05 * np.random.default_rng(1).standard_normal(n_values)).astype(np.float32)


def pruned_values(n_values: int) -> Floats:
    """Make the values that magnitude pruning to 10 % leaves of a normal layer: two humps."""
    values = normal_values(10 * n_values)
    cut = np.partition(np.abs(values), -n_values)[-n_values]
    return values[np.abs(values) >= cut][:n_values]
