"""Hostile state_dicts for sparse layers, alone and in a model: what is loaded or refused is whole.

An input is a header, three bytes for each byte of the section that is changed, and three for what
is changed in the extra state. The only target that needs torch.
"""

import copy
import hashlib
import re
import struct
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from targets import DTYPES, _copy, _seed

import deepcomp
from deepcomp.index import decode_index
from deepcomp.nn import SparseConv2d, SparseLinear
from deepcomp.tensor import CompressedTensor

HEADER = struct.Struct("<BBBBBB")  # layer, form of section, of extra state, of bias, flags, edits
EDIT = struct.Struct("<HB")
NUMBERS = (0, 1, 2, 3, 7, 8, 255, 256, 4096, 1 << 20, 1 << 31, 1 << 63, -1, "true", "null", '"a"')
REFUSALS = (ValueError, RuntimeError, TypeError)  # a DczError is a ValueError
COPY_EVERY = 8  # executions
MAX_NUMBER = 1e6  # larger ones lose too much when they are added


def _weights() -> Iterator[torch.Tensor]:
    """Yield weights that are stored in all ways: sparse, dense, raw; planes; without some rows."""
    rng = np.random.default_rng(0)
    for shape in ((20, 30), (6, 4, 3, 3)):
        for density, n_values in ((0.2, 15), (0.2, 50), (1, 5), (0.3, 0), (1, 0)):
            values = rng.standard_normal(n_values or 600)[rng.integers(0, n_values or 600, shape)]
            values *= rng.random(shape) < density
            for dtype in (torch.float32, torch.float16, torch.bfloat16):
                yield torch.from_numpy(values).to(dtype)
        rows = rng.integers(1, 5, shape).astype(np.float32)
        rows[::2] = 0
        yield torch.from_numpy(rows)


torch.set_num_threads(1)
WEIGHTS = [deepcomp.compress({"w": weight}, bits=None)["w"] for weight in _weights()]
BIASES = [torch.linspace(-1, 1, weight.shape[0]) for weight in WEIGHTS]
INPUTS = torch.linspace(-1, 1, 90).view(3, 30), torch.linspace(-1, 1, 120).view(1, 4, 5, 6)

# What may be there in place of a section.
FORMS = (
    lambda s: s,
    lambda s: s.clone(),
    lambda s: s.view(torch.int8),
    lambda s: s.to(torch.bool),
    lambda s: s.to(torch.int64),
    lambda s: s.to(torch.float32),
    lambda s: s.to(torch.bfloat16),
    lambda s: s.to(torch.complex64),
    lambda s: s[: s.numel() // 4 * 4].clone().view(torch.float32),
    lambda s: s[: s.numel() // 2 * 2].clone().view(torch.bfloat16),
    lambda s: s[None],
    lambda s: s[:, None],
    lambda s: s[::2],
    lambda s: torch.stack((s, s), 1)[:, 0],  # contiguous nowhere, and right
    lambda s: torch.cat((s, s))[: s.numel()],
    lambda s: s[:1].expand(s.numel()),
    lambda s: s[:-1],
    lambda s: s[:0],
    lambda s: s[0],
    lambda s: torch.cat((s, s)),
    lambda s: s.to("meta"),
    lambda s: s.to_sparse(),
    lambda s: torch.nn.Parameter(s.float()),
    lambda s: torch.nn.Parameter(s, requires_grad=False),
    lambda s: s.numpy(),
    lambda s: s.numpy().tobytes(),
    lambda s: s.tolist(),
    lambda s: None,
    lambda s: "section",
)  # fmt: skip
BIAS_FORMS = (
    lambda b: b,
    lambda b: b + 1,
    lambda b: b.half(),
    lambda b: b.double(),
    lambda b: torch.stack((b, b), 1)[:, 0],
    lambda b: b[:1].expand(b.numel()),
    lambda b: b[1:],
    lambda b: b[None],
    lambda b: b.numpy(),
    lambda b: None,
)  # fmt: skip
NO_TEXTS = (5, None, True, b"text", [], {}, torch.zeros(3, dtype=torch.uint8), "", " ", "x " * 999)
MISSING = object()
N_STATES = 7  # ways to change the extra state, see _text


def seeds() -> Iterator[bytes]:
    """Yield inputs with one or two things wrong, or nothing."""
    for layer in range(2 * len(WEIGHTS)):
        yield HEADER.pack(layer, 0, 0, 0, 0, 0)
        yield HEADER.pack(layer, 0, 2, 0, 0, 1) + EDIT.pack(3, 1)
        yield HEADER.pack(layer, 0, 3, 0, 0, 0) + EDIT.pack(layer, layer)
    for form in range(len(FORMS) + 1):
        for flags in range(4):
            yield HEADER.pack(7 * form + flags & 255, form, 2, 0, flags, 0)
    for state in range(N_STATES + 1):
        for value in range(len(NO_TEXTS)):
            yield HEADER.pack(state, 0, state, 0, 0, 0) + EDIT.pack(2 * value, value)
    for bias in range(len(BIAS_FORMS) + 1):
        yield HEADER.pack(bias, 0, 0, bias, bias % 4, 0)


def load(data: bytes) -> None:
    """Load a state_dict into a layer that has another weight, alone or in a model.

    Afterwards the weight is the one that was there or, after no error, the one that the state_dict
    describes; and what the layer computes is a product with it.
    """
    seed = _seed(data)
    if len(data) < HEADER.size:
        return
    number, form, state, bias_form, flags, n_edits = HEADER.unpack_from(data)
    edits = [EDIT.unpack_from(data, i) for i in range(HEADER.size, len(data) - 2, EDIT.size)]
    i, n_alike = number % len(WEIGHTS), len(WEIGHTS) // 2
    layer = _layer(i - i % n_alike + seed % n_alike)  # of the same shape
    model, prefix = _model(layer) if number >= len(WEIGHTS) else (layer, "")
    wanted = _state_dict(i)
    section = _copy(wanted["section"].numpy())
    for at, value in edits[:n_edits]:
        section[at % section.size] = value
    section = _formed(FORMS, form, torch.from_numpy(section))
    text = _text(state, wanted["_extra_state"], section, edits[n_edits:], layer)
    parts = {"section": section, "_extra_state": text}
    parts["bias"] = _formed(BIAS_FORMS, bias_form, wanted["bias"])
    states = model.state_dict() | {prefix + name: part for name, part in parts.items()}
    states = {name: part for name, part in states.items() if part is not MISSING}
    allowed = [_bits(layer)]
    try:
        model.load_state_dict(states, strict=not flags & 1, assign=bool(flags & 2))
    except REFUSALS:
        if _is_whole(section, text) and (bias_form or number >= len(WEIGHTS)):
            allowed.append(_said(section, text))  # torch loads all that it can, then complains
    else:
        if section is not MISSING or text is not MISSING:
            assert _is_whole(section, text), f"taken: a section {section!r} with {text!r}"
            allowed = [_said(section, text)]
    assert _bits(layer) in allowed, "another weight"
    _check_products(layer)
    if seed % COPY_EVERY == 0:
        assert _bits(copy.deepcopy(layer)) == _bits(layer), "a copy has another weight"


def _layer(i: int) -> SparseLinear | SparseConv2d:
    kind = SparseLinear if len(WEIGHTS[i].shape) == 2 else SparseConv2d
    return kind(WEIGHTS[i], BIASES[i].clone())


@cache
def _state_dict(i: int) -> dict[str, Any]:
    return _layer(i).state_dict()


@cache
def _other(i: int) -> SparseLinear | SparseConv2d:
    return _layer(i)


def _model(layer: SparseLinear | SparseConv2d) -> tuple[torch.nn.Module, str]:
    """Return a model of both kinds, one of them the layer, and the prefix of its names."""
    if isinstance(layer, SparseLinear):
        return torch.nn.Sequential(_other(len(WEIGHTS) - 1), layer), "1."
    return torch.nn.Sequential(layer, _other(0)), "0."


def _formed(forms: tuple[Any, ...], which: int, tensor: torch.Tensor) -> Any:
    return MISSING if which >= len(forms) else forms[which](tensor)


def _text(which: int, text: str, section: Any, edits: list[Any], layer: torch.nn.Module) -> Any:
    """Return the extra state: right or wrong, mostly with the right digest of the section."""
    at, value = edits[0] if edits else (0, 0)
    if which >= N_STATES:
        return MISSING
    if which == 1:
        return layer.get_extra_state()
    if which == 4 or not isinstance(section, torch.Tensor):
        changed = bytearray(text.encode())
        changed[at % len(changed)] = value & 0x7F
        return changed.decode()
    if which == 6:
        return NO_TEXTS[value % len(NO_TEXTS)]
    if which in (3, 5):
        numbers = list(re.finditer(r"(?<=[:\[,])\d+", text))
        found = numbers[at % len(numbers)]
        number = NUMBERS[value % len(NUMBERS)] if value < 128 else int(found[0]) + value - 192
        text = f"{text[: found.start()]}{number}{text[found.end() :]}"
    if which == 5:
        dtype = DTYPES[value % len(DTYPES)]
        text = re.sub(r'"dtype":"\w+"', f'"dtype":"{dtype}"', text)
    if which in (2, 3, 5) and section.device.type == "cpu" and not section.is_sparse:
        digest = hashlib.blake2b(_bytes(section), digest_size=16).hexdigest()
        text = f"{digest} {text.partition(' ')[2]}"
    return text


def _bytes(section: torch.Tensor) -> bytes:
    section = section.detach()
    if section.dtype == torch.bfloat16:
        section = section.view(torch.int16)
    return section.contiguous().numpy().tobytes()


def _is_whole(section: Any, text: Any) -> bool:
    """Whether these may be taken, if nothing else is wrong with them."""
    if not isinstance(section, torch.Tensor) or not isinstance(text, str):
        return False
    is_plain = section.is_cpu and section.layout == torch.strided
    return is_plain and section.dtype == torch.uint8 and section.ndim == 1


def _said(section: torch.Tensor, text: str) -> bytes | None:
    """Return the bits of the weight that a state_dict describes, None if it describes none."""
    try:
        record = decode_index(text.partition(" ")[2].encode()).entries["weight"]
        data = memoryview(_bytes(section))
        if len(data) != record.section_nbytes:
            return None
        return CompressedTensor(record, lambda *_: data).decode_patterns().tobytes()
    except (deepcomp.DczError, KeyError):
        return None


def _bits(layer: torch.nn.Module) -> bytes | None:
    """Return the bits of a layer's weight, None if it cannot be decoded."""
    try:
        return _bytes(layer.to_dense())
    except deepcomp.DczError:
        return None


def _check_products(layer: SparseLinear | SparseConv2d) -> None:
    """Compare with the dense layer; what cannot be decoded is refused."""
    is_linear = isinstance(layer, SparseLinear)
    x = INPUTS[0] if is_linear else INPUTS[1]
    try:
        with torch.no_grad():
            found = layer(x)
    except deepcomp.DczError:
        assert _bits(layer) is None, "what is decoded is not multiplied"
        return
    except REFUSALS:
        assert layer.bias.dtype != torch.float32, "an input is refused"
        return
    weight, bias = layer.to_dense().double(), layer.bias.detach().double()
    multiply = torch.nn.functional.linear if is_linear else torch.nn.functional.conv2d
    if weight.abs().max() < MAX_NUMBER:
        error = (found - multiply(x.double(), weight, bias)).abs()
        most = multiply(x.double().abs(), weight.abs(), bias.abs())
        assert (error <= 1e-5 * (most + 1)).all(), "a wrong product"
