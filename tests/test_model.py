"""compress, save, load, restore: what users do, on real dtypes and odd shapes."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import deepcomp
from deepcomp.records import ITEMSIZE

TORCH_DTYPES = [name for name in ITEMSIZE if hasattr(torch, name)]


def make_cnn(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 8 * 8, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.body = nn.Linear(16, 16)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.body(self.embedding(x)))


def same_bits(a, b):
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    same = torch.equal(a.contiguous().view(integer), b.contiguous().view(integer))
    return a.dtype == b.dtype and a.shape == b.shape and same


def test_restored_model_gives_the_outputs_of_the_compressed_model_bit_for_bit(tmp_path):
    model = make_cnn().eval()
    packed = deepcomp.compress(model, bits=5, sparsity=0.8)
    in_memory = make_cnn(1).eval()
    packed.restore(in_memory)
    deepcomp.save(packed, tmp_path / "m.dcz")
    from_file = make_cnn(2).eval()
    deepcomp.load(tmp_path / "m.dcz").restore(from_file)
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(in_memory(x), from_file(x))
    assert not torch.equal(model(x), from_file(x))


def test_compress_does_not_change_the_model():
    model = make_cnn()
    before = copy.deepcopy(model.state_dict())
    deepcomp.compress(model, bits=3, sparsity=0.5)
    assert all(same_bits(before[k], v) for k, v in model.state_dict().items())


def test_compress_shares_weights_and_stores_the_rest_exactly():
    model = make_cnn()
    dense = deepcomp.compress(model, bits=3, sparsity=0.5).state_dict()
    for name, tensor in model.state_dict().items():
        if tensor.dim() >= 2:
            assert dense[name].unique().numel() <= 9
            assert (dense[name] == 0).sum() == round(0.5 * tensor.numel())
        else:
            assert same_bits(dense[name], tensor)


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (7, 5), (2, 3, 4, 5), (4096,)])
def test_saving_a_plain_state_dict_keeps_every_bit(tmp_path, dtype, shape):
    n = int(np.prod(shape)) * ITEMSIZE[dtype]
    raw = np.random.default_rng(0).integers(0, 256, n, dtype=np.uint8)
    if dtype == "bool":
        raw &= 1
    tensor = torch.empty(shape, dtype=getattr(torch, dtype))
    if n:
        tensor = torch.from_numpy(raw).view(tensor.dtype).reshape(shape)
    deepcomp.save({"t": tensor}, tmp_path / "m.dcz")
    assert same_bits(deepcomp.load(tmp_path / "m.dcz")["t"].to_torch(), tensor)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_weights_of_every_float_dtype_are_pruned_and_shared(tmp_path, dtype):
    weight = torch.randn(64, 48, generator=torch.manual_seed(0)).to(getattr(torch, dtype))
    deepcomp.save(deepcomp.compress({"w": weight}, bits=4, sparsity=0.75), tmp_path / "m.dcz")
    restored = deepcomp.load(tmp_path / "m.dcz")["w"].to_torch()
    assert restored.dtype == weight.dtype
    assert (restored == 0).sum() == 64 * 48 * 3 // 4
    assert restored.float().unique().numel() == 17
    kept = restored != 0
    assert (restored - weight)[kept].float().abs().max() < 1.0


@pytest.mark.parametrize("bits", [1, 3, 5, 8])
def test_compressing_again_gives_the_same_file_byte_for_byte(tmp_path, bits):
    first = deepcomp.compress(make_cnn(), bits=bits, sparsity=0.6)
    deepcomp.save(first, tmp_path / "1.dcz")
    again = deepcomp.compress(deepcomp.load(tmp_path / "1.dcz").state_dict(), bits=bits)
    deepcomp.save(again, tmp_path / "2.dcz")
    deepcomp.save(deepcomp.load(tmp_path / "1.dcz").state_dict(), tmp_path / "3.dcz")
    deepcomp.save(deepcomp.load(tmp_path / "1.dcz"), tmp_path / "4.dcz")
    files = [(tmp_path / f"{i}.dcz").read_bytes() for i in (1, 2, 3, 4)]
    assert files[1:] == files[:1] * 3


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path):
    model = Tied()
    deepcomp.save(deepcomp.compress(model, bits=4), tmp_path / "m.dcz")
    packed = deepcomp.load(tmp_path / "m.dcz")
    assert packed.aliases == {"head.weight": "embedding.weight"}
    assert list(packed) == list(model.state_dict())
    state = packed.state_dict()
    assert state["head.weight"] is state["embedding.weight"]
    fresh = Tied()
    packed.restore(fresh)
    assert fresh.head.weight is fresh.embedding.weight
    assert same_bits(fresh.head.weight.detach(), state["head.weight"])


def test_equal_but_separate_tensors_are_not_tied():
    a = np.ones((8, 8), np.float32)
    assert deepcomp.compress({"a": a, "b": a.copy()}).aliases == {}
    assert deepcomp.compress({"a": a, "b": a}).aliases == {"b": "a"}
    assert deepcomp.compress({"a": a, "b": a.T}).aliases == {}


def test_pruned_torch_models_are_folded(tmp_path):
    model = make_cnn()
    torch_prune.l1_unstructured(model[4], "weight", 0.9)
    torch_prune.random_unstructured(model[4], "bias", 0.5)
    expected = model[4].weight.detach()
    deepcomp.save(model, tmp_path / "m.dcz")
    packed = deepcomp.load(tmp_path / "m.dcz")
    assert "4.weight" in packed and "4.weight_orig" not in packed and "4.weight_mask" not in packed
    assert torch.equal(packed["4.weight"].to_torch(), expected)
    assert packed["4.weight"].density == pytest.approx(0.1, abs=1e-3)
    assert packed["4.weight"].nbytes < expected.numel() * 4 / 6
    plain = make_cnn(1)
    packed.restore(plain)
    assert torch.equal(plain[4].weight, expected)
    pruned = make_cnn(2)
    torch_prune.identity(pruned[4], "weight")
    torch_prune.identity(pruned[4], "bias")
    packed.restore(pruned)
    assert torch.equal(pruned[4].weight_mask != 0, expected != 0)
    assert torch.equal(pruned[4].weight_orig * pruned[4].weight_mask, expected)
    assert torch.equal(pruned[4].weight, expected)  # before a forward pass
    pruned[4].weight.sum().backward()
    assert torch.equal(pruned[4].weight_orig.grad, pruned[4].weight_mask)


def test_a_model_pruned_elsewhere_gets_small_and_loses_nothing(tmp_path):
    model = make_cnn()
    for module in (model[0], model[4], model[6]):
        torch_prune.l1_unstructured(module, "weight", 0.9)
        torch_prune.remove(module, "weight")  # leaves -0.0 where negative weights were
    assert (torch.signbit(model[4].weight) & (model[4].weight == 0)).any()
    deepcomp.save(model, tmp_path / "m.dcz")
    packed = deepcomp.load(tmp_path / "m.dcz")
    assert all(same_bits(packed[k].to_torch(), v) for k, v in model.state_dict().items())
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    assert (tmp_path / "m.dcz").stat().st_size < buffer.tell() / 5


def test_numpy_mapping_and_torch_state_dict_give_the_same_file(tmp_path):
    state = make_cnn().state_dict()
    arrays = {name: tensor.numpy().copy() for name, tensor in state.items()}
    deepcomp.save(deepcomp.compress(state, sparsity=0.5), tmp_path / "t.dcz")
    deepcomp.save(deepcomp.compress(arrays, sparsity=0.5), tmp_path / "n.dcz")
    assert (tmp_path / "t.dcz").read_bytes() == (tmp_path / "n.dcz").read_bytes()


def test_non_contiguous_and_byte_swapped_arrays_are_stored_by_value():
    base = np.arange(60, dtype=np.float32).reshape(6, 10)
    tensors = {"t": base.T, "strided": base[::2, 1::3], "swapped": base.astype(">f4")}
    packed = deepcomp.compress(tensors, bits=None)
    for name, array in tensors.items():
        np.testing.assert_array_equal(packed[name].to_dense(), array)
    view = torch.arange(60.0).reshape(6, 10).t()[1::2]
    assert torch.equal(deepcomp.compress({"v": view}, bits=None)["v"].to_torch(), view)


def test_to_dense_fills_out_and_refuses_one_that_does_not_fit():
    array = np.random.default_rng(0).normal(size=(30, 20)).astype(np.float32)
    tensor = deepcomp.compress({"w": array}, bits=4, sparsity=0.5)["w"]
    out = np.full((30, 20), np.nan, np.float32)
    assert tensor.to_dense(out=out) is out
    np.testing.assert_array_equal(out, tensor.to_dense())
    read_only = out.copy()
    read_only.flags.writeable = False
    for wrong in (out[:10], out.astype(np.float64), np.asfortranarray(out), read_only):
        with pytest.raises(ValueError, match=r"tensor 'w': out .*"):
            tensor.to_dense(out=wrong)
    with pytest.raises(ValueError, match="n_threads is 0"):
        tensor.to_dense(n_threads=0)


def test_bfloat16_comes_to_numpy_as_float32_of_the_same_values():
    weight = torch.randn(40, 30).to(torch.bfloat16)
    tensor = deepcomp.compress({"w": weight}, bits=None)["w"]
    np.testing.assert_array_equal(tensor.to_dense(), weight.float().numpy())
    out = np.empty((40, 30), np.float32)
    np.testing.assert_array_equal(tensor.to_dense(out=out), weight.float().numpy())


def test_to_csr_is_the_matrix_without_its_zeros():
    weight = np.random.default_rng(1).normal(size=(17, 3, 5)).astype(np.float32)
    weight[3] = 0
    tensor = deepcomp.compress({"w": weight}, bits=None, sparsity=0.8)["w"]
    csr = tensor.to_csr()
    assert csr.shape == (17, 15)
    dense = np.zeros(csr.shape, np.float32)
    for row in range(17):
        part = slice(csr.indptr[row], csr.indptr[row + 1])
        dense[row, csr.indices[part]] = csr.data[part]
    np.testing.assert_array_equal(dense, tensor.to_dense().reshape(17, 15))
    assert csr.data.all()


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_to_torch_gives_sparse_csr(dtype):
    weight = torch.randn(20, 30).to(getattr(torch, dtype))
    tensor = deepcomp.compress({"w": weight}, sparsity=0.9)["w"]
    sparse = tensor.to_torch(layout=torch.sparse_csr)
    assert sparse.layout is torch.sparse_csr and sparse.dtype == weight.dtype
    assert torch.equal(sparse.to_dense(), tensor.to_torch())
    with pytest.raises(ValueError, match=r"torch\.sparse_coo"):
        tensor.to_torch(layout=torch.sparse_coo)


@pytest.mark.parametrize("shape", [(), (0, 4), (4, 0), (5,), (1, 1)])
def test_to_csr_of_odd_shapes(shape):
    csr = deepcomp.compress({"w": np.ones(shape, np.float32)})["w"].to_csr()
    rows = shape[0] if shape else 1
    assert csr.indptr.size == rows + 1
    assert csr.data.size == csr.indices.size == int(np.prod(shape))


def test_restore_changes_nothing_when_names_or_shapes_differ():
    packed = deepcomp.compress(make_cnn())
    wrong = nn.Sequential(nn.Conv2d(3, 16, 5), nn.BatchNorm2d(16))
    before = copy.deepcopy(wrong.state_dict())
    with pytest.raises(RuntimeError, match=r"not in the model: 4\.weight.*0\.weight: expected"):
        packed.restore(wrong)
    with pytest.raises(RuntimeError, match=r"shape \[16, 3, 5, 5\], found \[16, 3, 3, 3\]"):
        packed.restore(wrong, strict=False)
    assert all(same_bits(before[k], v) for k, v in wrong.state_dict().items())


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("kind", ["shared", "sparse"])
def test_layers_that_make_their_weights_are_named_by_a_restore_into_them(kind, strict):
    model = nn.Sequential(nn.ReLU(), nn.Linear(40, 30))
    packed = deepcomp.compress(model, bits=4, sparsity=0.5)
    what = {"shared": "is under share_weights", "sparse": "computes from the compressed form"}
    if kind == "shared":
        deepcomp.share_weights(model, bits=2)
    else:
        packed.restore(model, layers="sparse")
    if kind == "shared" and not strict:
        assert packed.restore(model, strict=False).unexpected_keys == ["1.weight"]
        return
    with pytest.raises(RuntimeError, match=f"layer '1' {what[kind]}.*a network built anew$"):
        packed.restore(model, strict=strict)


def test_restore_not_strict_reports_the_names_that_differ():
    packed = deepcomp.compress({"0.weight": torch.ones(2, 3), "extra": torch.ones(1)})
    result = packed.restore(nn.Sequential(nn.Linear(3, 2)), strict=False)
    assert result.missing_keys == ["0.bias"]
    assert result.unexpected_keys == ["extra"]


def test_restore_casts_to_the_dtype_of_the_module_and_keeps_requires_grad():
    model = make_cnn()
    packed = deepcomp.compress(model, bits=6)
    half = make_cnn(1).to(torch.bfloat16)
    half[0].weight.requires_grad_(False)
    packed.restore(half)
    expected = packed["0.weight"].to_torch().to(torch.bfloat16)
    assert torch.equal(half[0].weight, expected)
    assert not half[0].weight.requires_grad and half[4].weight.requires_grad


def test_restore_into_channels_last_memory():
    model = make_cnn()
    packed = deepcomp.compress(model, bits=6)
    other = make_cnn(1).to(memory_format=torch.channels_last)
    packed.restore(other)
    assert torch.equal(other[0].weight, packed["0.weight"].to_torch())


def test_threads_give_the_same_entries():
    weight = np.random.default_rng(0).normal(size=(1500, 1500)).astype(np.float32)
    for sparsity in (0.9, None):
        tensor = deepcomp.compress({"w": weight}, sparsity=sparsity)["w"]
        np.testing.assert_array_equal(tensor.to_dense(n_threads=3), tensor.to_dense())


def test_metadata_names_and_order_survive(tmp_path):
    names = ["z", "ä/β", "", "a\nb", "\x00", "emoji 🦆", "a"]
    tensors = {name: np.full((2, 2), i, np.int16) for i, name in enumerate(names)}
    metadata = {"author": "Zoë", "": "x" * 100_000}
    deepcomp.save(tensors, tmp_path / "m.dcz", metadata=metadata)
    packed = deepcomp.load(tmp_path / "m.dcz")
    assert list(packed) == names and packed.metadata == metadata
    deepcomp.save(packed, tmp_path / "again.dcz")
    assert deepcomp.load(tmp_path / "again.dcz").metadata == metadata


def test_an_empty_model_is_a_file(tmp_path):
    deepcomp.save({}, tmp_path / "m.dcz")
    assert dict(deepcomp.load(tmp_path / "m.dcz")) == {}


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ({"c": torch.ones(2, dtype=torch.complex64)}, ValueError, "'c' has dtype torch.complex64"),
        ({"c": np.ones(2, complex)}, ValueError, "'c' has dtype complex128"),
        ({"o": np.array([object()])}, ValueError, "'o' has dtype object"),
        ({"s": "text"}, ValueError, "'s' is a str: expected an array"),
        ({"x": torch.ones(2, 2).to_sparse(1)}, ValueError, "'x' has layout torch.sparse_coo and 1"),
        ({"m": torch.ones(2, device="meta")}, ValueError, "'m' is on the meta device"),
        ({3: np.ones(2)}, ValueError, "names must be strings, not 3"),
        ([np.ones(2)], TypeError, "expected an nn.Module, a state_dict or a mapping"),
        (
            {"w_orig": np.ones(2), "w_mask": np.ones(2), "w": np.ones(2)},
            ValueError,
            "'w' is there twice",
        ),
        (
            {"w_orig": np.ones(2), "w_mask": np.ones(3)},
            ValueError,
            r"'w_mask' has shape \(3,\): expected \(2,\)",
        ),
    ],
)
def test_models_that_cannot_be_stored_are_refused_before_anything_is_written(
    tmp_path, model, error, message
):
    with pytest.raises(error, match=message):
        deepcomp.save(model, tmp_path / "m.dcz")
    with pytest.raises(error, match=message):
        deepcomp.compress(model)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantized_tensors_are_refused():
    tensor = torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)
    with pytest.raises(ValueError, match=r"'q' has dtype torch\.qint8"):
        deepcomp.compress({"q": tensor})


@pytest.mark.parametrize("metadata", [{"a": 1}, {1: "a"}])
def test_metadata_must_be_strings(tmp_path, metadata):
    with pytest.raises(ValueError, match="metadata must map strings to strings"):
        deepcomp.save({}, tmp_path / "m.dcz", metadata=metadata)
    assert list(tmp_path.iterdir()) == []


def test_max_dense_bytes_bounds_what_a_load_may_allocate(tmp_path):
    deepcomp.save({"zeros": np.zeros((1000, 1000), np.float32)}, tmp_path / "m.dcz")
    assert (tmp_path / "m.dcz").stat().st_size < 200
    with pytest.raises(deepcomp.DczError, match="take 4000000 bytes when dense: expected at most"):
        deepcomp.load(tmp_path / "m.dcz", max_dense_bytes=3_999_999)
    assert deepcomp.load(tmp_path / "m.dcz", max_dense_bytes=4_000_000)["zeros"].density == 0


def test_reprs_say_what_is_inside():
    packed = deepcomp.compress({"w": np.ones((30, 30), np.float32)})
    assert repr(packed).startswith("<CompressedModel of 1 tensors, ")
    assert "'w' float32 [30, 30], dense, 100.0 % kept" in repr(packed["w"])


def tied_model():
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(40, 30)).astype(np.float32)
    tensors = {"embed.weight": embedding, "encoder.0.weight": embedding[:20].copy()}
    tensors |= {"encoder.0.bias": rng.normal(size=30), "head.weight": embedding}
    return tensors | {"encoder.tied": embedding}


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["encoder.*"], ["encoder.0.weight", "encoder.0.bias", "encoder.tied"]),
        (["encoder.0"], ["encoder.0.weight", "encoder.0.bias"]),
        (["head.*", "*.bias"], ["encoder.0.bias", "head.weight"]),
        (["head.*", "encoder.tied"], ["head.weight", "encoder.tied"]),
        (["*"], list(tied_model())),
    ],
)
@pytest.mark.parametrize("is_loaded", [False, True])
def test_select_keeps_what_matches_a_name_or_its_module(tmp_path, patterns, names, is_loaded):
    tensors = tied_model()
    packed = deepcomp.compress(tensors, bits=None)
    deepcomp.save(packed, tmp_path / "all.dcz", metadata={"of": "the test"})
    if is_loaded:
        packed = deepcomp.load(tmp_path / "all.dcz")
    selected = packed.select(*patterns)
    deepcomp.save(selected, tmp_path / "m.dcz", verify=True)
    for model in (selected, deepcomp.load(tmp_path / "m.dcz")):
        assert list(model) == names and len(model) == len(names)
        assert model.metadata == ({"of": "the test"} if is_loaded else {})
        for name, tensor in model.items():
            assert name in model and name in packed
            np.testing.assert_array_equal(tensor.to_dense(), tensors[name])
        assert not set(packed) - set(names) & set(model)
        assert (tmp_path / "m.dcz").stat().st_size <= (tmp_path / "all.dcz").stat().st_size


def test_select_ties_what_is_left_of_tied_names_to_the_first_of_them():
    selected = deepcomp.compress(tied_model()).select("head.*", "encoder.tied")
    assert selected.aliases == {"encoder.tied": "head.weight"}
    assert selected["encoder.tied"] is selected["head.weight"]
    assert selected["head.weight"].name == "head.weight"
    state = selected.state_dict()
    assert state["encoder.tied"] is state["head.weight"]


def test_a_pattern_that_selects_nothing_is_an_error_that_names_it():
    packed = deepcomp.compress(tied_model())
    with pytest.raises(TypeError, match=r"a pattern is \['encoder\.\*'\]: expected texts"):
        packed.select(["encoder.*"])
    for patterns in (["decoder.*"], ["encoder.*", "decoder.*"]):
        with pytest.raises(ValueError, match=r"the pattern 'decoder\.\*' matches no tensor"):
            packed.select(*patterns)
    with pytest.raises(ValueError, match="expected a pattern"):
        packed.select()


def test_nothing_is_decoded_or_read_by_select(tmp_path):
    deepcomp.save(deepcomp.compress(tied_model()), tmp_path / "m.dcz")
    data = bytearray((tmp_path / "m.dcz").read_bytes())
    data[20] ^= 1
    (tmp_path / "m.dcz").write_bytes(data)
    selected = deepcomp.load(tmp_path / "m.dcz").select("encoder.0.bias")
    with pytest.raises(deepcomp.DczError, match=r"tensor 'encoder\.0\.bias': the page of"):
        selected["encoder.0.bias"].to_dense()


def test_a_checkpoint_in_the_place_of_a_state_dict_gives_the_way_to_it(tmp_path):
    checkpoint = {"epoch": 3, "state_dict": {"w": torch.ones(3)}}
    for action in (deepcomp.compress, lambda model: deepcomp.save(model, tmp_path / "m.dcz")):
        with pytest.raises(
            ValueError, match=r"'epoch' is a int.*checkpoint.'state_dict'..*tensors"
        ):
            action(checkpoint)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_not_there_gets_the_nearest_one():
    packed = deepcomp.compress({"0.weight": np.ones((2, 2)), "0.bias": np.ones(2)})
    with pytest.raises(KeyError, match=r"no tensor '0\.weigth': the nearest name is '0\.weight'"):
        _ = packed["0.weigth"]
    with pytest.raises(KeyError, match=r"no tensor 'decoder'\""):
        _ = packed["decoder"]
    assert packed.get("0.weigth") is None and packed.get("0.bias") is packed["0.bias"]
    assert "0.weigth" not in packed and 3 not in packed


def test_a_wrapper_whose_prefix_is_all_that_differs_is_named():
    plain = nn.Sequential(nn.Linear(3, 2))
    compiled = nn.ModuleDict({"_orig_mod": plain})  # what torch.compile gives has the same names
    for wrapped, prefix in ((nn.DataParallel(plain), "module"), (compiled, "_orig_mod")):
        with pytest.raises(RuntimeError, match=f"restore into model.{prefix}$"):
            deepcomp.compress(plain).restore(wrapped)
        with pytest.raises(RuntimeError, match=f"names in the file begin with '{prefix}.'"):
            deepcomp.compress(wrapped).restore(plain)
    with pytest.raises(
        RuntimeError, match=r"begin with 'module\.', as those of DataParallel: resto"
    ):
        deepcomp.compress(nn.DataParallel(plain)).restore(compiled)
    twice = nn.ModuleDict({"module": compiled})
    with pytest.raises(RuntimeError, match=r"by DataParallel and torch\.compile: .*\._orig_mod$"):
        deepcomp.compress(plain).restore(twice)
    with pytest.raises(TypeError, match=r"expected an nn\.Module to restore into, not a dict"):
        deepcomp.compress(plain).restore(dict(plain.state_dict()))


def test_what_cannot_be_restored_names_the_file(tmp_path):
    deepcomp.save(nn.Sequential(nn.Linear(3, 2)), tmp_path / "m.dcz")
    with pytest.raises(
        RuntimeError, match=r"m\.dcz: cannot restore Sequential: 0\.weight: expected"
    ):
        deepcomp.load(tmp_path / "m.dcz").restore(nn.Sequential(nn.Linear(4, 2)))
    with pytest.raises(RuntimeError, match=r"^cannot restore Sequential: "):
        deepcomp.compress(nn.Sequential(nn.Linear(3, 2))).restore(nn.Sequential(nn.Linear(4, 2)))


def test_strict_is_named_where_leaving_it_helps_and_nothing_in_common_is_an_error():
    packed = deepcomp.compress(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)))
    with pytest.raises(RuntimeError, match=r"not in the model: 1\.\w+, .*; strict=False restores"):
        packed.restore(nn.Sequential(nn.Linear(3, 2)))
    other = nn.ModuleDict({"fc": nn.Linear(3, 2)})
    with pytest.raises(RuntimeError) as caught:
        packed.restore(other)
    assert "strict" not in str(caught.value)
    with pytest.raises(RuntimeError, match=r"no name of the file \(0\.weight, .* \(fc\.weight"):
        packed.restore(other, strict=False)
    assert not deepcomp.compress({}).restore(nn.Linear(3, 2), strict=False).unexpected_keys


def tied_network():
    model = nn.ModuleDict({"e": nn.Embedding(20, 8), "h": nn.Linear(8, 20, bias=False)})
    model["h"].weight = model["e"].weight
    return model


def test_what_is_tied_in_the_model_may_have_one_name_in_the_file():
    values = torch.arange(160.0).reshape(20, 8)
    model = tied_network()
    restored = deepcomp.compress({"e.weight": values}, bits=None).restore(model)
    assert restored == ([], []) and (model["h"].weight == values).all()


def test_what_is_tied_in_the_model_may_not_differ_in_the_file():
    values = torch.arange(160.0).reshape(20, 8)
    model = tied_network()
    before = model["e"].weight.clone()
    for other in (values + 1, values.double()):
        packed = deepcomp.compress({"e.weight": values, "h.weight": other}, bits=None)
        with pytest.raises(
            RuntimeError, match=r"e\.weight and h\.weight are tied in the model, and"
        ):
            packed.restore(model)
        assert (model["e"].weight == before).all()
    packed = deepcomp.compress({"e.weight": values, "h.weight": values.clone()}, bits=None)
    packed.restore(model)
    assert (model["h"].weight == values).all()
