"""Models are written for other programs bit for bit; after an error the old file is there."""

import json
import os

import numpy as np
import pytest
import safetensors
import torch
from checkpoints import NUMPY_DTYPES, awkward, bits_of
from safetensors.torch import load_file, load_model

import deepcomp
from deepcomp.exporters import write_checkpoint
from deepcomp.importers import read_checkpoint
from deepcomp.records import ITEMSIZE

TENSORS = {f"{dtype}.weight": awkward(dtype) for dtype in ITEMSIZE}
TENSORS |= {"ä scalar": torch.tensor(-0.0), "empty": torch.zeros(0, 3)}
METADATA = {"format": "pt", "note": "ö"}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "m.dcz"
    deepcomp.save(TENSORS, path, METADATA)
    return deepcomp.load(path)


def check_same(found, expected):
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert tuple(found[name].shape) == tuple(tensor.shape)
        assert bits_of(found[name]) == bits_of(tensor), name


def test_safetensors_has_all_dtypes_and_the_metadata(packed, tmp_path):
    path = tmp_path / "m.safetensors"
    write_checkpoint(packed, path)
    found = load_file(path)
    check_same(found, TENSORS)
    assert all(found[name].dtype == tensor.dtype for name, tensor in TENSORS.items())
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == METADATA
    assert list(read_checkpoint(path).tensors) == list(TENSORS)


def test_entries_in_safetensors_lie_at_multiples_of_their_size(packed, tmp_path):
    write_checkpoint(packed, tmp_path / "m.safetensors")
    data = (tmp_path / "m.safetensors").read_bytes()
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n])
    for name, tensor in TENSORS.items():
        assert (8 + n + header[name]["data_offsets"][0]) % tensor.element_size() == 0


@pytest.mark.parametrize("name", ["m.pt", "m.PTH"])
def test_pt_is_a_state_dict(packed, tmp_path, name):
    write_checkpoint(packed, tmp_path / name)
    found = torch.load(tmp_path / name, weights_only=True)
    check_same(found, TENSORS)
    assert list(found) == list(TENSORS)
    assert all(found[name].dtype == tensor.dtype for name, tensor in TENSORS.items())


def test_npz_has_the_dtypes_of_numpy(tmp_path):
    tensors = {f"{dtype}.weight": awkward(dtype).numpy() for dtype in NUMPY_DTYPES}
    write_checkpoint(deepcomp.compress(tensors, bits=None), tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz", allow_pickle=False) as found:
        assert list(found) == list(tensors)
        check_same(dict(found), tensors)
        assert all(found[name].dtype == array.dtype for name, array in tensors.items())


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_npz_refuses_what_numpy_has_not(tmp_path, dtype):
    (tmp_path / "m.npz").write_bytes(b"old")
    packed = deepcomp.compress({"w": awkward(dtype)}, bits=None)
    with pytest.raises(ValueError, match=f"tensor 'w' is {dtype}, which NumPy does not have"):
        write_checkpoint(packed, tmp_path / "m.npz")
    assert (tmp_path / "m.npz").read_bytes() == b"old"


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(6, 4)
        self.head = torch.nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight


def test_tied_weights_are_tied_where_the_format_can(tmp_path):
    model, other = Tied(), Tied()
    packed = deepcomp.compress(model, bits=None)
    for name in ("m.safetensors", "m.pt", "m.npz"):
        write_checkpoint(packed, tmp_path / name)
        again = deepcomp.compress(read_checkpoint(tmp_path / name).tensors, bits=None)
        assert again.aliases == ({} if name == "m.npz" else {"head.weight": "embed.weight"})
        assert (again["head.weight"].to_dense() == packed["embed.weight"].to_dense()).all()
    assert load_model(other, tmp_path / "m.safetensors") == (set(), [])
    assert (other.head.weight == model.head.weight).all()
    state = torch.load(tmp_path / "m.pt", weights_only=True)
    assert state["head.weight"].data_ptr() == state["embed.weight"].data_ptr()


def test_metadata_that_a_tied_name_would_replace_are_not_lost(tmp_path):
    w = np.ones(3)
    deepcomp.save({"a": w, "b": w}, tmp_path / "m.dcz", {"b": "a note"})
    packed = deepcomp.load(tmp_path / "m.dcz")
    with pytest.raises(ValueError, match="tensor 'b' is tied to 'a'"):
        write_checkpoint(packed, tmp_path / "m.safetensors")
    packed = deepcomp.compress({"__metadata__": w})
    with pytest.raises(ValueError, match="tensor '__metadata__'"):
        write_checkpoint(packed, tmp_path / "m.safetensors")
    deepcomp.save({"a": w}, tmp_path / "m.dcz", {"note": "a"})  # read back: a tensor 'note'
    with pytest.raises(ValueError, match="the metadata 'note': 'a' would say"):
        write_checkpoint(deepcomp.load(tmp_path / "m.dcz"), tmp_path / "m.safetensors")
    packed = deepcomp.compress({"é" * 33_000: w})
    with pytest.raises(ValueError, match="a name of 33000 characters is too long"):
        write_checkpoint(packed, tmp_path / "m.npz")
    packed = deepcomp.compress({"a\0b": w})
    with pytest.raises(ValueError, match="null byte"):
        write_checkpoint(packed, tmp_path / "m.npz")
    assert os.listdir(tmp_path) == ["m.dcz"]


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt", "m.npz"])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, name):
    rng = np.random.default_rng(0)
    tensors = {n: rng.integers(0, 256, 200_000, dtype=np.uint8) for n in "ab"}
    deepcomp.save(tensors, tmp_path / "m.dcz")
    data = bytearray((tmp_path / "m.dcz").read_bytes())
    data[300_000] ^= 1  # in the second tensor
    (tmp_path / "m.dcz").write_bytes(data)
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(deepcomp.DczError, match=r"m\.dcz"):
        write_checkpoint(deepcomp.load(tmp_path / "m.dcz"), tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == sorted(["m.dcz", name])


@pytest.mark.parametrize("name", ["m.safetensors", "m.npz"])
def test_the_same_model_gives_the_same_bytes(tmp_path, name):
    packed = deepcomp.compress({"a": np.eye(9), "b": np.ones(3, np.int8)})
    for folder in ("1", "2"):
        (tmp_path / folder).mkdir()
        write_checkpoint(packed, tmp_path / folder / name)
    assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_the_format_is_given_or_in_the_name(tmp_path):
    packed = deepcomp.compress({"w": np.eye(3)})
    write_checkpoint(packed, tmp_path / "m.bin", "safetensors")
    assert (load_file(tmp_path / "m.bin")["w"].numpy() == np.eye(3)).all()
    with pytest.raises(ValueError, match=r"m\.bin: expected a name that ends with \.safetensors"):
        write_checkpoint(packed, tmp_path / "m.bin")
    with pytest.raises(ValueError, match="format is 'h5': expected 'safetensors', 'pt' or 'npz'"):
        write_checkpoint(packed, tmp_path / "m.pt", "h5")
    assert os.listdir(tmp_path) == ["m.bin"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_checkpoint(packed, tmp_path / "nowhere" / "m.pt")
