"""Tensors that are hard to keep, and small writers of other people's formats."""

import json
import math

import numpy as np
import torch

from deepcomp.nn.convert import DTYPES
from deepcomp.records import ITEMSIZE

NUMPY_DTYPES = [name for name in ITEMSIZE if not name.startswith(("bfloat", "float8"))]


def tensor_of(patterns, dtype, shape=None):
    """Return patterns as a torch tensor of a dtype, bit for bit."""
    entries = torch.frombuffer(bytearray(patterns.tobytes()), dtype=DTYPES[dtype])
    return entries if shape is None else entries.reshape(shape)


def awkward(dtype, shape=(13, 17), n_values=9, seed=0):
    """Return a pruned and shared tensor of any bits: NaN payloads, -0.0."""
    rng = np.random.default_rng(seed)
    itemsize = ITEMSIZE[dtype]
    top = 2 if dtype == "bool" else 1 << (8 * itemsize)
    values = rng.integers(0, top, n_values, f"u{itemsize}")
    if dtype != "bool":
        values[:3] = top >> 1, top - 1, top - 2  # -0.0 and NaNs, or any other number
    patterns = values[rng.integers(0, n_values, shape)]
    return tensor_of(
        np.where(rng.random(shape) < 0.6, 0, patterns).astype(f"u{itemsize}"), dtype, shape
    )


def finite(dtype="float32", shape=(13, 17), n_values=9, seed=0):
    """Return a pruned and shared tensor without any of these."""
    rng = np.random.default_rng(seed)
    values = torch.from_numpy(rng.normal(size=n_values)).to(DTYPES[dtype])
    kept = torch.from_numpy(rng.random(shape) < 0.4)
    return torch.where(kept, values[torch.from_numpy(rng.integers(0, n_values, shape))], 0)


def bits_of(tensor):
    """Return the bytes of a tensor or an array."""
    if isinstance(tensor, torch.Tensor):
        return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return np.ascontiguousarray(tensor).tobytes()


def raw_safetensors(header, data=b""):
    """Write any header, right or wrong, as a safetensors file."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def bitmask_parts(prefix, weight):
    """Write a weight as compressed-tensors does in its format sparse-bitmask, entry by entry."""
    rows = weight.reshape(math.prod(weight.shape[:-1]), weight.shape[-1]).tolist()
    n_bytes = (weight.shape[-1] + 7) // 8
    bitmask, offsets, count = [], [], 0
    for row in rows:
        offsets.append(count)
        packed = [0] * n_bytes
        for i, value in enumerate(row):
            if value != 0:
                packed[i // 8] |= 1 << (i % 8)
                count += 1
        bitmask.append(packed)
    return {
        f"{prefix}.shape": torch.tensor(weight.shape),
        f"{prefix}.compressed": weight[weight != 0],
        f"{prefix}.bitmask": torch.tensor(bitmask, dtype=torch.uint8).reshape(len(rows), n_bytes),
        f"{prefix}.row_offsets": torch.tensor(offsets, dtype=torch.int64),
    }


def han_bytes(layers):
    """Write layers of (codebook, bias, labels, gaps) as Han's released files have them."""
    counts = b"".join(len(labels).to_bytes(4, "little") for _, _, labels, _ in layers)
    parts = [counts]
    for codebook, bias, labels, gaps in layers:
        parts += [np.asarray(codebook, "<f4").tobytes(), np.asarray(bias, "<f4").tobytes()]
        for numbers, width in ((labels, 8 if len(codebook) == 256 else 4), (gaps, 4)):
            if width == 8:
                parts.append(bytes(numbers))
            else:
                padded = [*numbers, 0]
                pairs = zip(padded[:-1:2], padded[1::2], strict=False)
                parts.append(bytes(low | high << 4 for low, high in pairs))
    return b"".join(parts)
