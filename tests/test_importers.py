"""Models of other formats are read bit for bit; what is damaged gives one clear line."""

import io
import json
import os
import pickle
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
import scipy.sparse
import torch
from checkpoints import (
    NUMPY_DTYPES,
    awkward,
    bitmask_parts,
    bits_of,
    finite,
    raw_safetensors,
)
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file, save_model
from torch.nn.utils import prune

import deepcomp
from deepcomp.importers import pytorch, read_checkpoint
from deepcomp.nn.convert import DTYPES
from deepcomp.records import ITEMSIZE


def read(path, **options):
    """Return what a .dcz file of the checkpoint holds."""
    checkpoint = read_checkpoint(path, **options)
    target = path.parent / "through.dcz"
    deepcomp.save(checkpoint.tensors, target, checkpoint.metadata)
    return deepcomp.load(target)


def check_same(packed, tensors):
    assert set(packed) == set(tensors)
    for name, tensor in tensors.items():
        assert packed[name].shape == tuple(tensor.shape)
        assert packed[name].decode_patterns().tobytes() == bits_of(tensor), name


def refused(path, message):
    """Check that reading, or fetching, gives one line that names the file."""
    with pytest.raises(ValueError, match=message) as caught:
        for tensor in read_checkpoint(path).tensors.values():
            tensor.weight()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(6, 4)
        self.head = torch.nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight


# --- values

DTYPE_TENSORS = {f"{dtype}.weight": awkward(dtype) for dtype in ITEMSIZE}
DTYPE_TENSORS |= {"scalar": torch.tensor(-0.0), "empty": torch.zeros(0, 3), "one": torch.ones(1)}


def test_safetensors_of_all_dtypes_are_kept_bit_for_bit_with_their_metadata(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file(DTYPE_TENSORS, path, {"format": "pt", "note": "ä"})
    packed = read(path)
    check_same(packed, DTYPE_TENSORS)
    assert {packed[f"{dtype}.weight"].dtype for dtype in ITEMSIZE} == set(ITEMSIZE)
    assert packed.metadata == {"format": "pt", "note": "ä"}


def test_torch_checkpoints_of_all_dtypes_are_kept_bit_for_bit(tmp_path):
    torch.save(DTYPE_TENSORS, tmp_path / "m.pt")
    check_same(read(tmp_path / "m.pt"), DTYPE_TENSORS)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_arrays_are_kept_bit_for_bit(tmp_path, save):
    tensors = {f"{dtype}.weight": awkward(dtype).numpy() for dtype in NUMPY_DTYPES}
    tensors |= {"columns first": np.asfortranarray(tensors["float32.weight"]), "s": np.float64(2)}
    tensors |= {"empty": np.zeros((0, 3))}
    save(tmp_path / "m.npz", **tensors)
    check_same(read(tmp_path / "m.npz"), tensors)


def test_npz_arrays_of_the_other_byte_order_keep_their_values(tmp_path):
    values = awkward("float32").numpy()
    np.savez(tmp_path / "m.npz", w=values.astype(">f4"))
    check_same(read(tmp_path / "m.npz"), {"w": values.astype(">f4").astype("<f4")})


def write_npz(tensors, path):
    np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})


def write_bitmask(tensors, path):
    parts = {}
    for name, tensor in tensors.items():
        parts |= bitmask_parts(name.removesuffix(".weight"), tensor)
    save_file(parts, path)


def write_sparse_pt(tensors, path):
    torch.save({name: tensor.to_sparse() for name, tensor in tensors.items()}, path)


WRITERS = {
    "m.safetensors": save_file,
    "m.pt": torch.save,
    "m.npz": write_npz,
    "bitmask.safetensors": write_bitmask,
    "sparse.pt": write_sparse_pt,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("bits", [4, None])
def test_what_is_pruned_and_shared_already_keeps_its_values(tmp_path, name, bits):
    tensors = {"a.weight": finite(), "b.weight": finite(shape=(30, 8), n_values=16, seed=1)}
    WRITERS[name](tensors, tmp_path / name)
    checkpoint = read_checkpoint(tmp_path / name)
    check_same(deepcomp.compress(checkpoint.tensors, bits=bits), tensors)


@pytest.mark.parametrize("name", WRITERS)
def test_a_checkpoint_is_pruned_and_shared_as_its_tensors_are(tmp_path, name):
    tensors = {"a.weight": finite(n_values=99), "b.weight": finite(shape=(30, 8), seed=1)}
    before = {name: bits_of(tensor) for name, tensor in tensors.items()}
    WRITERS[name](tensors, tmp_path / name)
    checkpoint = read_checkpoint(tmp_path / name)
    settings = {"bits": 2, "sparsity": 0.8, "scope": "global"}
    packed = deepcomp.compress(checkpoint.tensors, **settings)
    check_same(packed, deepcomp.compress(tensors, **settings).state_dict())
    assert {name: bits_of(tensor) for name, tensor in tensors.items()} == before


# --- names, order, tied weights


def test_the_order_is_that_of_the_file(tmp_path):
    names = ["z", "a", "m"]
    torch.save({name: torch.ones(2) for name in names}, tmp_path / "m.pt")
    assert list(read_checkpoint(tmp_path / "m.pt").tensors) == names
    np.savez(tmp_path / "m.npz", **{name: np.ones(2) for name in names})
    assert list(read_checkpoint(tmp_path / "m.npz").tensors) == names
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    (tmp_path / "m.safetensors").write_bytes(raw_safetensors(dict.fromkeys(names, entry)))
    assert list(read_checkpoint(tmp_path / "m.safetensors").tensors) == names


def test_tied_weights_stay_tied(tmp_path):
    model = Tied()
    torch.save(model.state_dict(), tmp_path / "m.pt")
    packed = read(tmp_path / "m.pt")
    assert packed.aliases == {"head.weight": "embed.weight"}
    save_model(model, tmp_path / "m.safetensors")
    packed = read(tmp_path / "m.safetensors")
    assert packed.aliases == {"head.weight": "embed.weight"} and packed.metadata == {}
    check_same(packed, model.state_dict())


def test_pruned_and_shared_modules_are_folded_from_each_format(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(9, 8), torch.nn.Linear(8, 7))
    prune.l1_unstructured(model[0], "weight", 0.5)
    deepcomp.share_weights(model[1], bits=2)
    expected = deepcomp.compress(model)
    assert list(expected) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    torch.save(state, tmp_path / "m.pt")
    save_file(state, tmp_path / "m.safetensors")
    for name in ("m.pt", "m.safetensors"):
        packed = deepcomp.compress(read_checkpoint(tmp_path / name).tensors)
        assert sorted(packed) == list(expected)
        for tensor in expected:
            assert (packed[tensor].to_dense() == expected[tensor].to_dense()).all()


# --- safetensors


def test_a_tensor_is_read_when_it_is_fetched(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.ones(50_000)}, path)
    tensors = read_checkpoint(path).tensors
    os.truncate(path, 1000)
    with pytest.raises(ValueError, match=r"m\.safetensors: tensor 'w': cut off"):
        tensors["w"].fetch()


def test_entries_may_lie_anywhere(tmp_path):
    header = {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    header["w"] = {"dtype": "F64", "shape": [9], "data_offsets": [1, 73]}
    values = np.arange(9.0)
    (tmp_path / "m.safetensors").write_bytes(raw_safetensors(header, b"a" + values.tobytes()))
    entries = read_checkpoint(tmp_path / "m.safetensors").tensors["w"].fetch()
    assert entries.flags.aligned and entries.tobytes() == values.tobytes()


U8 = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{", "expected JSON, found"),
        (b"{" + b'"a":[' * 100_000, "expected JSON, found"),
        (b'{"a":{},"a":{}}', "'a' is there twice"),
        ({"__metadata__": {"a": 1}}, "__metadata__ must map strings to strings"),
        ({"w": 3}, "tensor 'w': dtype is None"),
        ({"w": U8 | {"dtype": "C64"}}, "tensor 'w': dtype is 'C64': expected one of BOOL"),
        ({"w": U8 | {"dtype": []}}, r"tensor 'w': dtype is \[\]"),
        ({"w": U8 | {"shape": [-2]}}, r"tensor 'w': shape is \[-2\]"),
        ({"w": U8 | {"shape": [True, 2]}}, "tensor 'w': shape is"),
        ({"w": U8 | {"shape": [1 << 70]}}, "tensor 'w' has shape .*: more entries than an array"),
        ({"w": U8 | {"shape": [1 << 62, 1 << 62, 0]}}, "more entries than an array can have"),
        ({"w": U8 | {"shape": [10**4000] * 500}}, "has 500 dimensions"),
        ({"w": U8 | {"dtype": "x" * 9999}}, r"dtype is 'x{1,20}\.\.\.x*': expected one of BOOL"),
        ({"w": U8 | {"shape": [1] * 40 + [2]}}, "has 41 dimensions"),
        ({"w": U8 | {"data_offsets": [0, 2, 3]}}, "tensor 'w': data_offsets are"),
        ({"w": U8 | {"data_offsets": [2, 0]}}, "tensor 'w': data_offsets are"),
        ({"w": U8 | {"data_offsets": [-1, 1]}}, "tensor 'w': data_offsets is"),
        ({"w": U8 | {"data_offsets": [1, 3]}}, "tensor 'w': data_offsets are .* within 0 .. 2"),
        ({"w": U8 | {"data_offsets": [0, 1]}}, "tensor 'w': expected 2 bytes, found 1"),
        ({"v": U8, "w": U8}, "tensor 'w' starts at 0: expected 2"),
        ({}, "the tensors take 0 bytes, found 2"),
        ({"w": U8 | {"dtype": "BOOL"}}, "tensor 'w': an entry of a bool tensor is 7"),
    ],
)
def test_a_wrong_safetensors_header_is_refused(tmp_path, header, message):
    path = tmp_path / "m.safetensors"
    path.write_bytes(raw_safetensors(header, b"\x07\x01"))
    refused(path, message)


def test_a_name_that_comes_twice_among_many_is_found_at_once(tmp_path):
    names = [*range(300_000), 299_999]
    header = b"{" + b",".join(b'"%d":0' % name for name in names) + b"}"
    (tmp_path / "m.safetensors").write_bytes(raw_safetensors(header))
    refused(tmp_path / "m.safetensors", "'299999' is there twice")


@pytest.mark.parametrize("header", [{"w\ud800": U8}, {"w": U8, "__metadata__": {"k\ud800": "v"}}])
def test_half_of_a_surrogate_pair_is_a_value_error_and_writes_nothing(tmp_path, header):
    (tmp_path / "m.safetensors").write_bytes(raw_safetensors(header, b"\x07\x01"))
    with pytest.raises(ValueError, match=r"ud800.*no text that UTF-8 can hold"):
        read(tmp_path / "m.safetensors")
    assert os.listdir(tmp_path) == ["m.safetensors"]


@pytest.mark.parametrize("mask", [[1.0, 0.5], [np.nan, 1.0], [2.0, 0.0], [-1.0, 1.0]])
def test_a_mask_that_is_not_zeros_and_ones_is_refused(tmp_path, mask):
    np.savez(tmp_path / "m.npz", w_orig=np.ones(2), w_mask=np.array(mask, np.float32))
    refused(tmp_path / "m.npz", "'w_mask' is a mask: expected only 0 and 1")


@pytest.mark.parametrize("dtype", ITEMSIZE)
def test_a_mask_may_have_any_dtype(tmp_path, dtype):
    mask = torch.tensor([0, 1, 0, 1]).to(DTYPES[dtype])
    save_file({"w_orig": torch.arange(1.0, 5), "w_mask": mask}, tmp_path / "m.safetensors")
    assert read(tmp_path / "m.safetensors")["w"].to_dense().tolist() == [0, 2, 0, 4]


PARTS = {"original0": np.float32([1, 2]), "0.labels": np.uint8([[0, 1], [2, 0]])}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"original0": np.float32([[1, 2]])}, "has a codebook of float32 .1, 2."),
        ({"original0": np.array([1, 2])}, "has a codebook of int64 .2."),
        ({"0.levels": np.float32([1, 2])}, "has levels of torch.float32 .2. and a codebook"),
        ({"original0": np.float32([1]), "0.levels": np.float64([1, 2])}, "has levels of"),
        ({"original0": np.float32([1]), "0.levels": np.float32([[1, 2]])}, "has levels of"),
        ({"0.labels": np.uint8([3])}, "has a label 3 of 2 values"),
        ({"0.labels": np.array([1])}, "has labels of torch.int64"),
    ],
)
def test_parts_of_a_shared_weight_that_do_not_fit_are_refused(tmp_path, changes, message):
    parts = {f"fc.parametrizations.weight.{n}": a for n, a in (PARTS | changes).items()}
    np.savez(tmp_path / "m.npz", **parts)
    refused(tmp_path / "m.npz", f"m.npz: tensor 'fc.weight' {message}")


@pytest.mark.parametrize("data", [b"", b"\x00" * 7, b"\xff" * 20, b"\x09" + b"\x00" * 7 + b"{}"])
def test_a_file_without_a_safetensors_header_is_refused(tmp_path, data):
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    refused(path, "not a safetensors file: expected the size of its header")


def mutated(data):
    """Draw a file with some bytes changed, or cut off."""
    change = st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255))
    return st.tuples(st.lists(change, max_size=4), st.integers(0, len(data)))


def written(write):
    """Return the bytes that a function writes into a file."""
    file = io.BytesIO()
    write(file)
    return file.getvalue()


SMALL = raw_safetensors(
    {"w": U8, "v": {"dtype": "F16", "shape": [1], "data_offsets": [2, 4]}}, b"abcd"
)
CSR = scipy.sparse.csr_array(np.eye(5, dtype=np.float32))
DAMAGED = {
    "m.safetensors": SMALL,
    "m.npz": written(lambda file: np.savez_compressed(file, w=np.eye(3), v=np.ones(2, np.int8))),
    "csr.npz": written(lambda file: scipy.sparse.save_npz(file, CSR)),
    "m.pt": written(lambda file: torch.save({"w": torch.eye(3).to_sparse()}, file)),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_gives_a_value_error_or_tensors(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("damaged")

    @given(mutated(DAMAGED[name]))
    def check(drawn):
        changes, n = drawn
        data = bytearray(DAMAGED[name])
        for position, value in changes:
            data[position] = value
        path = folder / name
        path.unlink(missing_ok=True)  # another one may be mapped
        path.write_bytes(data[: n or None])
        try:
            for tensor in read_checkpoint(path).tensors.values():
                assert tensor.weight().patterns.size == np.prod(tensor.shape)
        except ValueError as error:
            assert "\n" not in str(error)

    check()


# --- shards


@pytest.fixture
def shards(tmp_path):
    """Write a model in two files, and its index; return a function that changes the index."""
    tensors = {"a": awkward("bfloat16"), "b": awkward("float32"), "c": awkward("int8")}
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    save_file({"c": tensors["c"], "a": tensors["a"]}, tmp_path / first, {"format": "pt"})
    save_file({"b": tensors["b"]}, tmp_path / second, {"format": "pt"})
    weight_map = {"a": first, "b": second, "c": first}

    def write(changed=weight_map):
        index = {"metadata": {"total_size": 3}, "weight_map": changed}
        text = changed if isinstance(changed, bytes) else json.dumps(index).encode()
        (tmp_path / "model.safetensors.index.json").write_bytes(text)

    write()
    write.tensors, write.weight_map, write.second = tensors, weight_map, second
    return write


def test_a_folder_of_shards_is_one_model_in_the_order_of_its_index(tmp_path, shards):
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        checkpoint = read_checkpoint(path)
        assert list(checkpoint.tensors) == ["a", "b", "c"]
        assert checkpoint.metadata == {"format": "pt"}
        check_same(deepcomp.compress(checkpoint.tensors, bits=None), shards.tensors)


def test_shards_that_do_not_fit_the_index_are_refused(tmp_path, shards):
    right = shards.weight_map
    shards(right | {"d": right["a"]})
    refused(tmp_path, "index.json: tensor 'd' is missing in 'model-00001-of-00002.safetensors'")
    shards({"a": right["a"], "b": right["b"]})
    refused(tmp_path, "00001-of-00002.safetensors: tensor 'c' is there, but the index does not")
    shards(right | {"e": "../x.safetensors"})
    refused(tmp_path, "'../x.safetensors' is not the name of a file in the same folder")
    shards(right | {"e": "x.safetensors"})
    refused(tmp_path, "its file 'x.safetensors' is missing")
    shards(b'{"weight_map": {"a": 3}}')
    refused(tmp_path, "expected a weight_map")
    shards(b"[]")
    refused(tmp_path, "expected a JSON object, found a list")
    shards()
    save_file({"a": torch.ones(1), "b": torch.ones(1)}, tmp_path / shards.second)
    refused(tmp_path, "tensor 'a' is there, but the index has it in 'model-00001")


def test_a_folder_with_one_file_is_that_file_and_with_more_it_is_refused(tmp_path):
    refused(tmp_path, "expected one .* found nothing")
    save_file({"w": torch.ones(1)}, tmp_path / "a.safetensors")
    assert list(read_checkpoint(tmp_path).tensors) == ["w"]
    save_file({"w": torch.ones(1)}, tmp_path / "b.safetensors")
    refused(tmp_path, r"found a.safetensors, b.safetensors: give the path")


# --- PyTorch


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module", "net"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_state_dict_is_found_under_the_usual_keys(tmp_path, key, is_zip):
    state = {"module.fc.weight": awkward("bfloat16")}
    nested = {"epoch": 3, "optimizer": {"state": {}}, key: state}
    path = tmp_path / "m.ckpt"
    torch.save(nested, path, _use_new_zipfile_serialization=is_zip)
    check_same(read(path), state)
    torch.save({"model": nested}, path, _use_new_zipfile_serialization=is_zip)
    check_same(read(path), state)


def test_pickled_objects_are_refused_and_nothing_is_run(tmp_path):
    class Run:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was run"),)

    message = "expected tensors and plain data alone.*found: a pickled .*"
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    refused(tmp_path / "module.pt", f"{message}torch.nn.modules.linear.Linear .save model")
    for is_zip in (True, False):
        torch.save({"w": Run()}, tmp_path / "m.pt", _use_new_zipfile_serialization=is_zip)
        refused(tmp_path / "m.pt", f"{message}mkdir")
    (tmp_path / "raw.pkl").write_bytes(pickle.dumps({"w": Run()}, protocol=2))
    refused(tmp_path / "raw.pkl", f"{message}mkdir")
    np.savez(tmp_path / "m.npz", w=np.array([Run()]))
    refused(tmp_path / "m.npz", "'w' has dtype object")
    assert not (tmp_path / "was run").exists()


def test_what_only_looks_like_a_torch_checkpoint_is_said_to_be_what_it_is(tmp_path):
    path = tmp_path / "m.pt"
    path.write_text("version https://git-lfs")
    refused(path, "expected .* a PyTorch checkpoint .*, found a file that starts with b'version ")
    path.write_bytes(b"")
    refused(path, "found an empty file")
    path = "https://me:secret@host/m.pt"
    with pytest.raises(ValueError, match=r"^https://host/m\.pt: .*: download it first"):
        read_checkpoint(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_refused_in_one_line_without_a_warning(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "m.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(tmp_path / "m.pt", "found: a TorchScript archive")


def test_a_key_says_where_the_state_dict_is(tmp_path):
    path = tmp_path / "m.pt"
    ones, twos = {"w": torch.ones(2)}, {"w": 2 * torch.ones(2)}
    torch.save({"params": ones, "ema": {"model_state": twos}, "epoch": 3}, path)
    check_same(read(path), ones)
    check_same(read(path, key="ema"), twos)
    with pytest.raises(ValueError, match="expected the key 'em', found 'params', 'ema', 'epoch'"):
        read_checkpoint(path, key="em")
    with pytest.raises(ValueError, match="expected a state_dict, found a int"):
        read_checkpoint(path, key="epoch")
    torch.save({"weights": ones, "epoch": 3}, path)
    refused(path, "found a dict with 'weights', 'epoch' .key=..., or --key")
    np.savez(tmp_path / "m.npz", w=np.ones(2))
    with pytest.raises(ValueError, match="a key is for PyTorch checkpoints"):
        read_checkpoint(tmp_path / "m.npz", key="w")


def test_a_folder_of_pytorch_files_is_read_without_and_with_an_index(tmp_path):
    state = {"a": torch.ones(2), "b": torch.zeros(3)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    check_same(read(tmp_path), state)
    (tmp_path / "pytorch_model.bin").unlink()
    for name in state:
        torch.save({name: state[name]}, tmp_path / f"{name}.bin")
    index = {"weight_map": {name: f"{name}.bin" for name in state}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    check_same(read(tmp_path), state)
    (tmp_path / "b.bin").unlink()
    refused(tmp_path, "its file 'b.bin' is missing")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(2), "expected a state_dict, found a Tensor"),
        (
            {"epoch": 3, "lr": 0.1},
            "expected a state_dict, or one under .* a dict with 'epoch', 'lr'",
        ),
        ({"w": torch.ones(1), "n": 3}, "tensor 'n' is a int: expected an array"),
        ({"w": torch.ones(1, dtype=torch.complex64)}, "tensor 'w' has dtype torch.complex64"),
        ({"w": torch.ones(1).expand(1 << 20, 1 << 37)}, "tensor 'w': .* can't allocate memory"),
        ({"w": torch.ones(1).expand(1 << 62)}, "tensor 'w' has shape .* more entries than"),
        ({"w": torch.ones(0, 1 << 62)}, "tensor 'w' has shape .* more entries than an array"),
    ],
)
def test_a_torch_file_without_a_state_dict_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "m.pt")
    refused(tmp_path / "m.pt", message)


def test_a_torch_that_could_run_code_is_refused(tmp_path, monkeypatch):
    torch.save({"w": torch.ones(1)}, tmp_path / "m.pt")
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.9.1+cpu"))
    with pytest.raises(ImportError, match=r"m.pt: .* torch 2.10 or newer \(found 2.9.1\+cpu\)"):
        read_checkpoint(tmp_path / "m.pt")


def test_keys_too_deep_for_repr_are_refused():
    key = ()
    for _ in range(5000):
        key = (key,)
    with pytest.raises(ValueError, match=r"found a dict with \(\(\("):
        pytorch._state_dict("m.pt", {key: 3}, None)
    with pytest.raises(ValueError, match=r"tensor names must be strings, not \(\(\("):
        deepcomp.compress({key: torch.ones(1)})


def test_a_view_with_other_signs_is_not_taken_for_a_tied_weight(tmp_path):
    weight = torch.tensor([1.0, -2.0])
    torch.save({"w": weight, "minus": torch._neg_view(weight)}, tmp_path / "m.pt")
    packed = read(tmp_path / "m.pt")
    assert not packed.aliases and packed["minus"].to_dense().tolist() == [-1, 2]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused(tmp_path):
    tensor = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    torch.save({"w": tensor}, tmp_path / "m.pt")
    refused(tmp_path / "m.pt", "tensor 'w' is nested")


# --- npz


@pytest.mark.parametrize("format", ["csr", "csc", "coo"])
def test_a_sparse_matrix_of_scipy_has_the_name_of_its_file(tmp_path, format):
    dense = finite().numpy()
    matrix = scipy.sparse.csr_array(dense).asformat(format)
    scipy.sparse.save_npz(tmp_path / "fc.weight.npz", matrix)
    check_same(read(tmp_path / "fc.weight.npz"), {"fc.weight": dense})


def sparse_parts(**changes):
    parts = {"format": "csr", "shape": [2, 3], "data": np.ones(2), "indices": [0, 2]}
    return parts | {"indptr": [0, 1, 2]} | changes


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (sparse_parts(format="dia"), "format is 'dia': expected one of csr, csc, coo"),
        (sparse_parts(shape=[2]), r"csr of 1 dimensions with data of \(2,\): expected a matrix"),
        (sparse_parts(shape=[-2, 3]), "expected a matrix"),
        (sparse_parts(shape=np.zeros(1 << 20, int)), "csr of 1048576 dimensions"),
        (sparse_parts(shape=[1 << 62, 0], data=np.ones(0)), "more entries than an array can have"),
        (sparse_parts(indices=[0, 3]), "indices 0 to 3: expected 0 to 2"),
        (sparse_parts(indices=[-1, 0]), "indices -1 to 0: expected 0 to 2"),
        (sparse_parts(indices=[0.0, 1.0]), "'indices.npy' is float64"),
        (sparse_parts(indptr=[0, 2]), r"indptr has shape \(2,\): expected \(3,\)"),
        (sparse_parts(indptr=[0, 3, 2]), "indptr must rise from 0 to 2"),
        (sparse_parts(indptr=[-1, 1, 2]), "indptr must rise from 0 to 2"),
        (sparse_parts(indptr=[0, 2, 2], indices=[1, 1]), "two entries have the same indices"),
        (sparse_parts(shape=[2, 1 << 58]), "bytes when dense: more than the memory holds"),
        (sparse_parts(data=np.array([1, "x"], object)), "'fc' has dtype object"),
    ],
)
def test_a_wrong_sparse_matrix_is_refused(tmp_path, parts, message):
    np.savez(tmp_path / "fc.npz", **parts)
    refused(tmp_path / "fc.npz", message)


def test_an_array_that_claims_more_than_there_is_is_refused(tmp_path):
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }"
    data = np.lib.format.magic(1, 0) + len(header).to_bytes(2, "little") + header.encode()
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        archive.writestr("w.npy", data)
    refused(tmp_path / "m.npz", "member 'w.npy': expected 8796093022208 bytes, found 0")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("(-1, -1)", "member 'w.npy': shape is .*: expected no minus"),
        ("(-2, 0)", "member 'w.npy': shape is .*: expected no minus"),
        (f"({1 << 62}, 0)", "more entries than an array can have"),
        ("-" * 5000 + "1", "m.npz: ."),
    ],
)
def test_a_wrong_shape_of_an_array_is_refused(tmp_path, shape, message):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    data = np.lib.format.magic(1, 0) + len(header).to_bytes(2, "little") + header.encode()
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        archive.writestr("w.npy", data + bytes(4 * (shape == "(-1, -1)")))
    refused(tmp_path / "m.npz", message)


# --- which format it is


def test_the_content_counts_and_not_the_name(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "a.bin")
    torch.save({"w": torch.ones(1)}, tmp_path / "b.safetensors")
    np.savez(tmp_path / "c.npz", w=np.ones(1))
    os.rename(tmp_path / "c.npz", tmp_path / "c.pt")
    for name in ("a.bin", "b.safetensors", "c.pt"):
        assert list(read_checkpoint(tmp_path / name).tensors) == ["w"]


def test_other_files_are_refused_with_what_was_expected(tmp_path):
    path = tmp_path / "m.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))
    refused(
        path, r"expected a .safetensors file or a folder .* found a file that starts with b'\\x89"
    )
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "found no regular file")
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt"):
        read_checkpoint(tmp_path / "nothing.pt")


def test_only_torch_checkpoints_need_torch(tmp_path):
    save_file({"w": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "m.safetensors")
    np.savez(tmp_path / "m.npz", w=np.ones(2))
    torch.save({"w": torch.ones(2)}, tmp_path / "m.pt")
    code = """
import sys
sys.modules["torch"] = None
import deepcomp
from deepcomp.exporters import write_checkpoint
from deepcomp.importers import read_checkpoint
for name in ("m.safetensors", "m.npz"):
    packed = deepcomp.compress(read_checkpoint(name).tensors, bits=None)
    write_checkpoint(packed, "out-" + name)
for action in (lambda: read_checkpoint("m.pt"), lambda: write_checkpoint(packed, "out.pt")):
    try:
        action()
    except ImportError as error:
        assert "pip install 'deepcomp[torch]'" in str(error), error
    else:
        raise SystemExit("torch was not needed")
assert not {"safetensors", "scipy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert not (tmp_path / "out.pt").exists()
