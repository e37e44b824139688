"""Checkpoints of compressed-tensors, format sparse-bitmask, become the weights they stand for."""

import json

import pytest
import torch
from checkpoints import awkward, bitmask_parts, bits_of, finite
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import deepcomp
from deepcomp.arrays import sources
from deepcomp.importers import read_checkpoint
from deepcomp.importers.bitmask import unfold


def check_same(path, tensors):
    packed = deepcomp.compress(read_checkpoint(path).tensors, bits=None)
    assert set(packed) == set(tensors)
    for name, tensor in tensors.items():
        assert packed[name].shape == tuple(tensor.shape)
        assert packed[name].decode_patterns().tobytes() == bits_of(tensor), name


def no_negative_zero(tensor):
    """The format keeps no entry that is equal to zero: -0.0 is lost before we see it."""
    return torch.where(tensor == 0, torch.zeros((), dtype=tensor.dtype), tensor)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_weights_come_back_bit_for_bit_beside_other_tensors(tmp_path, dtype):
    weight = no_negative_zero(awkward(dtype))
    bias = awkward(dtype, (17,))
    parts = bitmask_parts("model.fc", weight) | {"model.fc.bias": bias}
    save_file(parts, tmp_path / "m.safetensors")
    check_same(tmp_path / "m.safetensors", {"model.fc.bias": bias, "model.fc.weight": weight})


def test_names_of_the_first_versions_are_whole(tmp_path):
    weight, norm = finite(), torch.tensor([1.0, 0.0, 2.0])
    parts = bitmask_parts("fc.weight", weight) | bitmask_parts("norm.bias", norm)
    save_file(parts, tmp_path / "m.safetensors")
    check_same(tmp_path / "m.safetensors", {"fc.weight": weight, "norm.bias": norm})


def test_the_variant_for_2_of_4_has_no_row_offsets(tmp_path):
    weight = finite()
    parts = bitmask_parts("fc", weight)
    del parts["fc.row_offsets"]
    parts["fc.shape"] = parts["fc.shape"].reshape(-1, 1)
    save_file(parts, tmp_path / "m.safetensors")
    check_same(tmp_path / "m.safetensors", {"fc.weight": weight})


def test_a_shard_may_end_between_the_parts(tmp_path):
    weight = finite()
    parts = bitmask_parts("fc", weight)
    files = {name: f"{name == 'fc.bitmask'}.safetensors" for name in parts}
    for file in set(files.values()):
        save_file({n: parts[n] for n in parts if files[n] == file}, tmp_path / file)
    index = json.dumps({"metadata": {}, "weight_map": files})
    (tmp_path / "m.safetensors.index.json").write_text(index)
    check_same(tmp_path, {"fc.weight": weight})


@given(
    shape=st.lists(st.integers(0, 20), min_size=1, max_size=3),
    density=st.sampled_from((0.0, 0.3, 1.0)),
    seed=st.integers(0, 99),
)
def test_any_shape_comes_back(shape, density, seed):
    torch.manual_seed(seed)
    weight = torch.randn(shape) * (torch.rand(shape) < density)
    weight += 0.0  # no -0.0
    packed = deepcomp.compress(unfold(sources(bitmask_parts("fc", weight))), bits=None)
    assert packed["fc.weight"].shape == tuple(shape)
    assert (packed["fc.weight"].to_dense() == weight.numpy()).all()


RIGHT = bitmask_parts("fc", torch.tensor([[0.0, 1, 0], [2, 0, 3]]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"compressed": torch.ones(4)},
            "fc.bitmask has 3 bits set, but fc.compressed has 4 values",
        ),
        (
            {"compressed": torch.ones(2)},
            "fc.bitmask has 3 bits set, but fc.compressed has 2 values",
        ),
        ({"bitmask": torch.tensor([[2], [13]], dtype=torch.uint8)}, "has bits beyond column 3"),
        ({"bitmask": torch.tensor([[2, 5, 0]], dtype=torch.uint8)}, "expected 2 uint8 for shape"),
        ({"bitmask": torch.tensor([[2], [5]])}, r"fc.bitmask is int64 \[2, 1\]: expected 2 uint8"),
        ({"shape": torch.tensor([-2, 3])}, r"fc.shape is \[-2, 3\]"),
        ({"shape": torch.tensor([], dtype=torch.int64)}, r"fc.shape is \[\]"),
        ({"shape": torch.tensor([2.0, 3.0])}, "'fc.shape' is float32: expected int64"),
        ({"shape": torch.tensor([1 << 30, 1 << 30])}, r"fc.bitmask is uint8 \[2, 1\]: expected"),
        ({"shape": torch.full((9999,), -1)}, r"fc.shape is \[-1, -1, -1, -1, -1, -1, \.\.\.\]"),
        ({"shape": None}, "its part fc.shape is missing"),
        ({"row_offsets": torch.tensor([0, -1])}, r"expected \[0, 1\] \(2\), found \[0, -1\] \(2\)"),
        ({"row_offsets": torch.tensor([0, 2])}, r"expected \[0, 1\] \(2\), found \[0, 2\] \(2\)"),
        ({"row_offsets": torch.tensor([0])}, r"expected \[0, 1\] \(2\), found \[0\] \(1\)"),
        ({"weight": torch.ones(2, 3)}, "'fc.weight' is there twice"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path, changes, message):
    parts = RIGHT | {f"fc.{part}": value for part, value in changes.items()}
    save_file({n: t for n, t in parts.items() if t is not None}, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=message.replace("fc.", r"fc\.")) as caught:
        deepcomp.save(read_checkpoint(tmp_path / "m.safetensors").tensors, tmp_path / "m.dcz")
    assert "m.safetensors: tensor 'fc" in str(caught.value)
    assert not (tmp_path / "m.dcz").exists()


def test_parts_that_are_tied_do_not_tie_weights_of_other_shapes(tmp_path):
    parts = {n: t for n, t in RIGHT.items() if n != "fc.row_offsets"}
    metadata = {f"tied.{part}": f"fc.{part}" for part in ("compressed", "bitmask")}
    save_file(parts | {"tied.shape": torch.tensor([2, 4])}, tmp_path / "m.safetensors", metadata)
    packed = deepcomp.compress(read_checkpoint(tmp_path / "m.safetensors").tensors, bits=None)
    assert (packed["fc.weight"].shape, packed["tied.weight"].shape) == ((2, 3), (2, 4))


def test_rows_without_columns_take_no_memory(tmp_path):
    parts = bitmask_parts("fc", torch.zeros(3, 0)) | {"fc.shape": torch.tensor([1 << 50, 0])}
    parts["fc.bitmask"] = torch.zeros(0, dtype=torch.uint8)
    save_file(parts, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"row_offsets are not those of the bitmask"):
        deepcomp.compress(read_checkpoint(tmp_path / "m.safetensors").tensors, bits=None)
    del parts["fc.row_offsets"]
    save_file(parts, tmp_path / "m.safetensors")
    packed = deepcomp.compress(read_checkpoint(tmp_path / "m.safetensors").tensors, bits=None)
    assert packed["fc.weight"].shape == (1 << 50, 0)
