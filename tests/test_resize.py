"""Files of other shapes go into freshly built models, whole or not at all."""

import copy
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import deepcomp

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

from deepcomp.nn.lowrank import factorize_like  # noqa: E402

CONVOLUTIONS = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
TRANSPOSED = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]
ATTRIBUTES = ("in_channels", "out_channels", "groups", "kernel_size", "in_features")
ATTRIBUTES += (
    "out_features",
    "num_features",
    "normalized_shape",
    "num_embeddings",
    "embedding_dim",
)


def make(width, seed=0, groups=None):
    """A network with layers of all kinds but transposed ones."""
    torch.manual_seed(seed)
    groups = groups or width
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, groups=groups, bias=False), nn.BatchNorm2d(width, affine=False),
        nn.Flatten(), nn.Linear(16 * width, width + 1), nn.LayerNorm(width + 1),
        nn.Linear(width + 1, 5),
    )  # fmt: skip


def restore_resized(source, target, **options):
    result = deepcomp.compress(source, bits=None).restore(target, resize=True, **options)
    assert result == ([], [])
    return target


def same_attributes(a, b):
    names = [name for name in ATTRIBUTES if hasattr(a, name)]
    return [getattr(a, name) for name in names] == [getattr(b, name) for name in names]


def equal_states(a, b):
    return all(torch.equal(x, b[name]) for name, x in a.items()) and len(a) == len(b)


@given(st.integers(1, 9), st.integers(2, 9))
def test_a_model_takes_the_shapes_of_the_file_and_computes_the_same(width, other):
    source, target = make(width).eval(), make(other, seed=1).eval()
    restore_resized(source, target)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(source(x), target(x))
    assert all(same_attributes(a, b) for a, b in zip(source, target))


@given(
    st.sampled_from(CONVOLUTIONS + TRANSPOSED),
    st.lists(st.integers(1, 4), min_size=4, max_size=4),
    st.integers(1, 3),
)
def test_grouped_convolutions_lose_groups_or_channels_of_each(kind, numbers, n_in):
    groups, other, n_out, kernel = numbers
    other += 1  # one group does not say that there may be several
    source = kind(n_in * groups, n_out * groups, kernel, groups=groups)
    target = restore_resized(source, kind(n_in * other, n_out * other, kernel, groups=other))
    assert same_attributes(source, target)
    x = torch.randn(2, n_in * groups, *[6] * len(source.kernel_size))
    assert torch.equal(source(x), target(x))


def test_channels_within_groups_change_where_groups_cannot():
    source, target = nn.Conv2d(4, 6, 3, groups=2), nn.Conv2d(8, 8, 3, groups=2)
    assert same_attributes(restore_resized(source, target), source)


def test_what_fits_stays_the_same_parameter():
    source, target = make(4), make(6)
    last, first = target[8].bias, target[0].weight
    optimizer = torch.optim.SGD(target.parameters(), lr=1.0)
    restore_resized(source, target)
    assert target[8].bias is last and target[0].weight is not first
    assert target[0].weight.requires_grad and optimizer.param_groups[0]["params"][0] is first


def test_dtype_and_frozen_parameters_are_those_of_the_model():
    target = make(6).double().requires_grad_(False)
    restore_resized(make(4), target)
    assert {p.dtype for p in target.parameters()} == {torch.float64}
    assert not any(p.requires_grad for p in target.parameters())


class Tied(nn.Module):
    def __init__(self, n_tokens, width):
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, width, padding_idx=3)
        self.head = nn.Linear(width, n_tokens, bias=False)
        self.head.weight = self.embedding.weight


@pytest.mark.parametrize("select", [["*"], ["embedding"]])
def test_tied_weights_stay_tied_in_their_new_shape(select):
    source, target = Tied(9, 4), Tied(12, 6)
    deepcomp.compress(source, bits=None).select(*select).restore(target, False, resize=True)
    assert target.head.weight is target.embedding.weight
    assert torch.equal(target.head.weight, source.head.weight)
    assert (target.head.in_features, target.embedding.num_embeddings) == (4, 9)


@pytest.mark.parametrize("layers", ["sparse", "auto"])
def test_sparse_layers_are_made_from_the_shapes_of_the_file(layers):
    source, target = make(8, groups=4).eval(), make(16, 1, groups=8).eval()
    packed = deepcomp.compress(source, bits=3, sparsity=0.6)
    packed.restore(source)
    result = packed.restore(target, layers=layers, resize=True)
    assert len(result.layers) == 4
    assert layers == "auto" or all(choice.is_sparse for choice in result.layers)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(target(x), source(x), rtol=1e-4, atol=1e-5)


def test_a_shrunk_model_comes_back_from_its_file(tmp_path):
    pytest.importorskip("torch_pruning")
    model, x = make(8).eval(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        model[0].weight[:3] = model[0].bias[:3] = model[1].weight[:3] = model[1].bias[:3] = 0
    model[4].running_mean[:3] = 0
    deepcomp.shrink(model, x)
    assert model[3].groups == 5 and model[6].in_features == 80
    deepcomp.save(model, tmp_path / "small.dcz")
    fresh = make(8, seed=1).eval()
    deepcomp.load(tmp_path / "small.dcz").restore(fresh, resize=True)
    assert torch.equal(fresh(x), model(x))


class Parts(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.part = layer


def wrong_bias():
    state = Parts(nn.Linear(4, 3)).state_dict()
    return {**state, "part.bias": torch.ones(2)}


def under_prune():
    layer = nn.Linear(5, 5)
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


GRU = "part.weight_ih_l0: expected shape .*part \\(GRU\\): layers of this kind cannot be resized"
BAD = {
    "another rank": (
        nn.Conv1d(3, 4, 1), nn.Conv2d(3, 4, 1),
        r"part.weight: expected shape \[4, 3, 1, 1\], found \[4, 3, 1\]",
    ),
    "another kind": (nn.GRU(3, 4), nn.GRU(3, 5), GRU),
    "a bias that does not fit": (
        wrong_bias, nn.Linear(5, 5), r"part \(Linear\): expected bias of shape \[3\], found \[2\]"
    ),
    "groups": (
        nn.Conv2d(4, 3, 1, bias=False), nn.Conv2d(8, 8, 1, groups=2, bias=False),
        r"part \(Conv2d\): 3 channels, found in the file, cannot be cut into 2 groups",
    ),
    "padding_idx": (nn.Embedding(3, 4), nn.Embedding(9, 4, padding_idx=8), "padding_idx=8"),
    "names": (nn.Linear(3, 3, bias=False), nn.Linear(5, 5), "missing in the file: part.bias"),
    "same padding of kinds": (
        nn.Conv1d(2, 2, 3), nn.Conv1d(2, 2, 5, padding="same", padding_mode="circular"),
        r"expected kernels of \(5,\), found \(3,\)",
    ),
    "under prune": (nn.Linear(3, 3), under_prune, "part.weight: expected shape .* being pruned"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_and_nothing_changed(case):
    source, layer, message = BAD[case]
    source = source() if callable(source) and not isinstance(source, nn.Module) else Parts(source)
    target = Parts(layer() if layer is under_prune else copy.deepcopy(layer))
    before, attributes = copy.deepcopy(target.state_dict()), repr(target)
    with pytest.raises(RuntimeError, match=message):
        deepcomp.compress(source, bits=None).restore(target, resize=True)
    assert equal_states(before, target.state_dict()) and repr(target) == attributes


def test_a_damaged_file_changes_nothing(tmp_path):
    deepcomp.save(make(4), tmp_path / "m.dcz")
    data = bytearray((tmp_path / "m.dcz").read_bytes())
    data[200] ^= 1
    (tmp_path / "m.dcz").write_bytes(data)
    target = make(6)
    before, attributes = copy.deepcopy(target.state_dict()), repr(target)
    with pytest.raises(deepcomp.DczError):
        deepcomp.load(tmp_path / "m.dcz").restore(target, resize=True)
    assert equal_states(before, target.state_dict()) and repr(target) == attributes


def test_without_resize_other_shapes_are_refused_and_what_takes_them_is_said():
    message = r"0.weight: expected shape \[6, 3, 3, 3\], found .*; resize=True gives the layers"
    with pytest.raises(RuntimeError, match=message):
        deepcomp.compress(make(4), bits=None).restore(make(6))


@pytest.mark.parametrize("resize", [False, True])
def test_where_resizing_does_not_help_it_is_not_proposed(resize):
    packed = deepcomp.compress(nn.Sequential(nn.Conv1d(3, 4, 1)), bits=None)
    with pytest.raises(RuntimeError) as caught:
        packed.restore(nn.Sequential(nn.Conv2d(3, 4, 1)), resize=resize)
    assert "resize=True" not in str(caught.value)


def test_a_model_that_was_shrunk_and_factorized_comes_back_into_a_fresh_one():
    def network():
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 30), nn.Linear(30, 4)
        )

    model, x = network(), torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        model[0].weight[:3] = 0
        model[0].bias[:3] = 0
    deepcomp.shrink(model, x)
    deepcomp.factorize(model, rank={"3": 5})
    packed, fresh = deepcomp.compress(model, bits=None), network()
    packed.restore(factorize_like(fresh, packed), resize=True)
    assert torch.equal(fresh(x), model(x))


@pytest.mark.parametrize("name", ["shrink", "restore(resize=True)"])
def test_an_optimizer_of_the_parameters_that_were_replaced_says_so(name):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if name == "shrink":
        with torch.no_grad():
            model[0].weight[0], model[0].bias[0] = 0, 0
        deepcomp.shrink(model, torch.randn(3, 4))
    else:
        smaller = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
        deepcomp.compress(smaller, bits=None).restore(model, resize=True)
    model(torch.randn(3, 4)).sum().backward()
    with pytest.raises(RuntimeError, match=re.escape(f"made before {name}")):
        optimizer.step()


def test_a_file_that_does_not_decode_leaves_the_layers_as_they_are():
    smaller = nn.Sequential(nn.Linear(400, 300))
    nn.init.normal_(smaller[0].weight)  # codes of several lengths: of one length, any bits decode
    packed = deepcomp.compress(smaller, bits=5, sparsity=0.5)
    section = bytearray(packed["0.weight"].section())
    section[-40:] = bytes(40)  # the structure is right, the symbols are not
    packed["0.weight"]._fetch = lambda *_: memoryview(section)
    packed["0.weight"]._made = None
    model = nn.Sequential(nn.Linear(500, 300))
    before = model[0].weight.detach().clone()
    with pytest.raises(deepcomp.DczError):
        packed.restore(model, resize=True)
    assert torch.equal(model[0].weight, before)
