"""A checkpoint with the shapes of a Llama-like model, as large as wanted."""

import json
from pathlib import Path

import numpy as np


def shapes(scale: float) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a model of two billion parameters, one of 500 million; or a part."""
    width, inner = 2560, 6912
    result = {"model.embed_tokens.weight": (int(195_312 * scale), width)}
    for i in range(max(1, round(19 * scale))):
        layer = f"model.layers.{i}"
        for name, shape in {
            "self_attn.q_proj": (width, width),
            "self_attn.k_proj": (640, width),
            "self_attn.v_proj": (640, width),
            "self_attn.o_proj": (width, width),
            "mlp.gate_proj": (inner, width),
            "mlp.up_proj": (inner, width),
            "mlp.down_proj": (width, inner),
        }.items():
            result[f"{layer}.{name}.weight"] = shape
        result[f"{layer}.input_layernorm.weight"] = (width,)
        result[f"{layer}.post_attention_layernorm.weight"] = (width,)
    result["model.norm.weight"] = (width,)
    result["lm_head.weight"] = (int(64_000 * scale), width)
    return result


def make_checkpoint(folder: Path, scale: float, n_shards: int = 5) -> None:
    """Write normal bfloat16 weights, each tensor with its own deviation, as safetensors shards."""
    if (folder / "model.safetensors.index.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    model, rng = shapes(scale), np.random.default_rng(2016)
    total = sum(2 * int(np.prod(shape)) for shape in model.values())
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in model.items():
        if shards[-1] and filled >= total * len(shards) / n_shards:
            shards.append([])
        shards[-1].append(name)
        filled += 2 * int(np.prod(shape))
    weight_map = {}
    for i, names in enumerate(shards, 1):
        path = folder / f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(names, path.name)
        _write_shard(path, {name: model[name] for name in names}, rng)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _write_shard(path: Path, model: dict[str, tuple[int, ...]], rng: np.random.Generator) -> None:
    header, offset = {}, 0
    for name, shape in model.items():
        end = offset + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with open(path, "wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for shape in model.values():
            deviation, left = rng.uniform(0.01, 0.05), int(np.prod(shape))
            while left:
                n = min(left, 1 << 22)
                values = deviation * rng.standard_normal(n, dtype=np.float32)
                file.write(((values.view(np.uint32) + 0x8000) >> 16).astype(np.uint16).tobytes())
                left -= n
