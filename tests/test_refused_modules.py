"""Modules whose weights have no memory, or are no parameters, are refused, with a way out."""

import copy

import pytest

import deepcomp

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

from deepcomp.nn import channels, lowrank, thinet  # noqa: E402

X = torch.ones(8, 40)


def make(width=30):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, width), nn.BatchNorm1d(width), nn.Linear(width, 10)).eval()


def packed_of(model):
    return deepcomp.compress(model, bits=3, sparsity=0.8)


def to_meta(model, name):
    """Put one parameter or buffer of a model on the meta device."""
    owner, _, attribute = name.rpartition(".")
    module = model.get_submodule(owner)
    table = module._parameters if attribute in module._parameters else module._buffers
    tensor = table[attribute].to("meta")
    is_parameter = attribute in module._parameters
    table[attribute] = nn.Parameter(tensor) if is_parameter else tensor
    return model


@pytest.mark.parametrize("layers", ["dense", "sparse", "auto"])
@pytest.mark.parametrize("strict", [True, False])
def test_restore_into_a_model_without_memory_says_how_to_give_it_some(layers, strict):
    packed, model = packed_of(make()), make().to("meta")
    with pytest.raises(RuntimeError, match=r"0\.weight, .* and 4 more are on the meta device: "):
        packed.restore(model, strict=strict, layers=layers)
    model.to_empty(device="cpu")
    assert packed.restore(model, strict=strict, layers=layers) == ([], [])
    expected = make()
    packed.restore(expected)
    torch.testing.assert_close(model(X), expected(X))


@pytest.mark.parametrize("name", make().state_dict())
def test_one_tensor_on_the_meta_device_is_named_and_nothing_is_changed(name):
    model = to_meta(make(), name)
    before = {key: t.clone() for key, t in model.state_dict().items()}
    deepcomp.share_weights(other := make(), bits=1)
    packed = deepcomp.compress(other)
    with pytest.raises(RuntimeError, match=rf": {name} is on the meta device: expected .*to_empty"):
        packed.restore(model)
    after = model.state_dict()
    assert all(torch.equal(after[key], t) for key, t in before.items() if key != name)


def test_layers_on_the_meta_device_keep_their_shapes():
    model = make(50).to("meta")
    with pytest.raises(RuntimeError, match="on the meta device"):
        packed_of(make()).restore(model, resize=True)
    assert model[0].out_features == 50 and model[0].weight.shape == (50, 40)


def test_a_mask_of_torch_on_the_meta_device_is_named():
    model = make()
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    with pytest.raises(RuntimeError, match=r": 0\.weight_mask is on the meta device"):
        packed_of(make()).restore(to_meta(model, "0.weight_mask"))


def test_what_is_not_restored_may_be_on_the_meta_device():
    packed = packed_of(make()).select("0")
    model = to_meta(make(), "2.weight")
    assert "2.weight" in packed.restore(model, strict=False).missing_keys
    assert torch.equal(model[0].weight, packed["0.weight"].to_torch())


TAKES = {
    "save": lambda model, path: deepcomp.save(model, path),
    "compress": lambda model, _: deepcomp.compress(model),
    "Pruner": lambda model, _: deepcomp.Pruner(model, sparsity=0.5),
    "Pruner by a name": lambda model, _: deepcomp.Pruner(model, sparsity={"0": 0.5}),
    "share_weights": lambda model, _: deepcomp.share_weights(model),
    "factorize": lambda model, _: deepcomp.factorize(model, rank=2),
    "sensitivity": lambda model, _: deepcomp.sensitivity(model, lambda m: 1.0),
    "search": lambda model, _: deepcomp.search(model, lambda m: 1.0, max_drop=0.1),
    "shrink": lambda model, _: deepcomp.shrink(model, X),
    "silence": lambda model, _: channels.silence(model, X),
    "thinet": lambda model, _: thinet.prune(model, 0.5, [X]),
}


@pytest.mark.parametrize("what", TAKES)
def test_a_model_without_memory_is_named_as_one(what, tmp_path):
    with pytest.raises(ValueError, match=r"'0(\.weight)?' .*is on the meta device: it has no ent"):
        TAKES[what](make().to("meta"), tmp_path / "m.dcz")
    assert not list(tmp_path.iterdir())


def sparse_model():
    model = make()
    packed_of(model).restore(model, layers="sparse")
    return model


WAY_OUT = "computes from the compressed form: save the CompressedModel that it came from"


@pytest.mark.parametrize("what", TAKES)
def test_a_model_that_computes_from_the_compressed_form_is_named_as_one(what, tmp_path):
    model = sparse_model()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=rf"^layer '0' \(SparseLinear\) {WAY_OUT}"):
        TAKES[what](model, tmp_path / "m.dcz")
    assert not list(tmp_path.iterdir())
    assert model.state_dict().keys() == before.keys()
    assert torch.equal(model[0].bias, before["0.bias"])


def test_so_is_the_state_dict_of_one():
    with pytest.raises(ValueError, match=rf"^layer '0' {WAY_OUT}"):
        deepcomp.compress(sparse_model().state_dict())


def test_no_pairs_are_put_beside_layers_that_compute_from_the_compressed_form():
    with pytest.raises(ValueError, match=WAY_OUT):
        lowrank.factorize_like(sparse_model(), packed_of(make()))


def test_other_extra_states_are_still_named_by_their_type():
    class Extra(nn.Linear):
        def get_extra_state(self):
            return "text"

    with pytest.raises(ValueError, match="tensor '_extra_state' is a str: expected an array"):
        deepcomp.compress(Extra(4, 4))
