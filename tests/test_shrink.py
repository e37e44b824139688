"""Layers get smaller, the model does the same, and what cannot go says why."""

import copy
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import deepcomp
from deepcomp import _kernels

torch = pytest.importorskip("torch")
pytest.importorskip("torch_pruning")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

from deepcomp.nn import channels, criteria  # noqa: E402
from deepcomp.nn.constants import find_constants  # noqa: E402
from deepcomp.nn.coupling import zero_filters  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from resnet import ResNet  # noqa: E402

sys.path.pop(0)

_BUILD = _kernels.build_info()
pytestmark = pytest.mark.skipif(
    _BUILD["debug"] or _BUILD["kernels"] != "native",
    reason="no kernel of ours takes part: one build is enough",
)


class Residual(nn.Module):
    """A block with a shortcut: a projection, or the identity."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(n_in, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, n_out, 3, padding=1), nn.BatchNorm2d(n_out)
        self.project = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.project(x))


class Fire(nn.Module):
    """Two convolutions side by side, and what came in, concatenated."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 5, 1)
        self.left, self.right = nn.Conv2d(5, 4, 1), nn.Conv2d(5, 6, 3, padding=1)
        self.last = nn.Conv2d(15, 2, 1)

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.last(torch.cat([self.left(x), x, self.right(x)], 1).relu())


class Gated(nn.Module):
    """Channels that are multiplied by gates that depend on all of them."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x):
        x = self.conv(x).relu()
        gates = self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.last(gates * x)


class Dense(nn.Module):
    """Batch norms over concatenations that grow, as in a DenseNet."""

    def __init__(self):
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.grow1, self.norm2 = nn.Conv2d(8, 4, 3, padding=1), nn.BatchNorm2d(12)
        self.grow2, self.last = nn.Conv2d(12, 4, 3, padding=1), nn.Linear(16, 5)

    def forward(self, x):
        x = self.first(x)
        x = torch.cat([x, self.grow1(self.norm1(x).relu())], 1)
        x = torch.cat([x, self.grow2(self.norm2(x).relu())], 1)
        return self.last(x.relu().mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.lstm = nn.Linear(4, 6), nn.LSTM(6, 5, batch_first=True)
        self.last = nn.Linear(5, 2)

    def forward(self, x):
        return self.last(self.lstm(self.first(x))[0])


class Frozen(nn.Sequential):
    def forward(self, x):
        with torch.no_grad():
            x = self[0](x)
        return self[2](self[1](x).relu())


class Halves(nn.Module):
    """Channels that are cut in two, which the forward pass has as a number."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = (
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(4, 4, 1),
            nn.Conv2d(8, 2, 1),
        )

    def forward(self, x):
        a, b = self.first(x).chunk(2, 1)
        return self.last(torch.cat([a, self.second(b)], 1).relu())


def randomize(model, seed=0):
    """Give all parameters and statistics values that are not zero."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5) if "var" in name else tensor.normal_(0, 0.5)
    return model


def zero(model, filters):
    """Set filters to zero, the weights alone."""
    with torch.no_grad():
        for layer, indices in filters.items():
            model.get_submodule(layer).weight[list(indices)] = 0
    return model


def check(model, x, filters, expected):
    """Zero filters, silence and shrink; compare outputs and channels. Return what was shrunk."""
    zero(randomize(model), filters)
    channels.silence(model, x)
    model.eval()
    before = model(x)
    shrunk = deepcomp.shrink(model, x)
    assert {row.layer: row.n_after for row in shrunk.rows} == expected
    for row in shrunk.rows:
        assert len(model.get_submodule(row.layer).weight) == row.n_after
    torch.testing.assert_close(
        model(x), before, rtol=0, atol=1e-5 * float(before.detach().abs().max())
    )
    model.train()(x).sum().backward()  # and it can be trained on
    return shrunk


def images(n=2, n_channels=3, size=8):
    return torch.randn(n, n_channels, size, size, generator=torch.Generator().manual_seed(1))


def test_a_chain_with_batch_norm_flatten_and_linear_layers():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3),
        nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 12), nn.ReLU(), nn.Linear(12, 5),
    )  # fmt: skip
    check(
        model, images(), {"0": [0, 7], "3": [2], "7": [1, 2, 3]}, {"0": 6, "3": 5, "7": 9, "9": 5}
    )
    assert model[7].in_features == 45 and model[1].num_features == 6
    assert model[3].in_channels == 6


def test_a_shortcut_with_a_projection_goes_where_both_sides_are_zero():
    model = nn.Sequential(Residual(3, 8), nn.Conv2d(8, 2, 3))
    filters = {"0.conv1": [0, 1], "0.conv2": [2, 3, 4], "0.project": [3, 4, 5]}
    expected = {"0.conv1": 4, "0.conv2": 6, "0.project": 6, "1": 2}
    shrunk = check(model, images(), filters, expected)
    stays = {row.layer: row.stays for row in shrunk.rows}
    assert stays["0.conv2"] == "1: coupled to filters of 0.project that are not zero"
    assert stays["0.project"] == "1: coupled to filters of 0.conv2 that are not zero"
    assert "\n0.conv2         8      6  1: coupled to" in str(shrunk)


def test_an_identity_shortcut_goes_with_all_that_is_added_along_it():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Residual(8, 8), Residual(8, 8), nn.Conv2d(8, 2, 1))
    filters = {"0": [1, 2, 3], "1.conv2": [1, 2], "2.conv2": [2, 3], "2.conv1": [5]}
    expected = {"0": 7, "1.conv1": 6, "1.conv2": 7, "2.conv1": 5, "2.conv2": 7, "3": 2}
    check(model, images(), filters, expected)


def test_a_concatenation_loses_the_places_of_each_part():
    model = Fire()
    expected = {"first": 4, "left": 3, "right": 4, "last": 2}
    check(model, images(), {"first": [2], "left": [0], "right": [4, 5]}, expected)
    assert model.last.in_channels == 11


def test_a_depthwise_convolution_loses_its_groups():
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU6(), nn.Conv2d(6, 12, 3, padding=1, groups=6),
        nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 2, 1),
    )  # fmt: skip
    check(model, images(), {"0": [0, 3]}, {"0": 4, "3": 8, "6": 2})
    assert model[3].groups == 4 and model[3].in_channels == 4


def test_a_grouped_convolution_loses_whole_groups_only():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3, groups=2), nn.Conv2d(4, 2, 1))
    filters = {"0": [0, 4, 5, 6, 7], "1": [0, 2, 3]}
    shrunk = check(model, images(), filters, {"0": 4, "1": 2, "2": 2})
    assert model[1].groups == 1 and "1: coupled to filters of 0 " in shrunk.rows[0].stays


@pytest.mark.parametrize("transposed", [nn.ConvTranspose1d, nn.ConvTranspose2d])
def test_transposed_convolutions_have_their_filters_along_the_second_dimension(transposed):
    conv = nn.Conv1d if transposed is nn.ConvTranspose1d else nn.Conv2d
    model = randomize(
        nn.Sequential(transposed(3, 6, 2), nn.ReLU(), transposed(6, 4, 2), conv(4, 2, 1))
    )
    with torch.no_grad():
        model[0].weight[:, 1] = model[0].bias[1] = model[2].weight[:, 2:] = 0
    x = images() if conv is nn.Conv2d else images()[:, :, 0]
    assert channels.silence(model, x) == {"0": 1, "2": 2}
    before = model(x)
    assert [row.n_after for row in deepcomp.shrink(model, x).rows] == [5, 2, 2]
    torch.testing.assert_close(model(x), before)


def test_option_a_shortcuts_lose_the_channels_within_blocks_alone():
    model, x = ResNet(8), images(1, size=32)
    inner = {f"layer{i}.0.conv1": range(4 * i) for i in (1, 2, 3)}
    stream = dict.fromkeys(
        ["conv1", "layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2"], range(3)
    )
    expected = {"layer1.0.conv1": 12, "layer2.0.conv1": 24, "layer3.0.conv1": 52, "linear": 10}
    expected |= {"conv1": 16, "layer1.0.conv2": 16, "layer2.0.conv2": 32, "layer3.0.conv2": 64}
    shrunk = check(model, x, {**inner, **stream}, expected)
    assert shrunk.rows[0].stays == "3: channels are padded"


def test_gated_channels_go_with_their_gates():
    expected = {"conv": 6, "last": 2, "squeeze": 4, "excite": 6}
    check(Gated(), images(), {"conv": [0, 5]}, expected)


def test_batch_norms_over_concatenations_lose_the_places_of_each_part():
    model = Dense()
    expected = {"first": 7, "grow1": 2, "grow2": 3, "last": 5}
    check(model, images(), {"first": [1], "grow1": [0, 2], "grow2": [3]}, expected)
    assert (model.norm1.num_features, model.norm2.num_features) == (7, 9)


def test_one_dimensional_channels_lose_their_places_after_a_flatten():
    model = nn.Sequential(nn.Conv1d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4))
    check(model, images()[:, :, 0], {"0": [1, 2]}, {"0": 4, "3": 4})
    assert model[3].in_features == 24


STAYS = {
    "before an LSTM": (Recurrent(), (2, 5, 4), "first", "cannot be followed"),
    "under no_grad": (
        Frozen(nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)), (2, 4), "0",
        "the trace does not reach it",
    ),
    "cut in two": (Halves(), (2, 3, 8, 8), "first", "the model does not do the same without it"),
}  # fmt: skip


@pytest.mark.parametrize("case", STAYS)
def test_what_cannot_be_traced_stays(case):
    model, shape, layer, why = STAYS[case]
    zero(randomize(model), {layer: [1]})
    x = torch.randn(shape)
    channels.silence(model, x)
    before = model(x)
    row = next(row for row in deepcomp.shrink(model, x).rows if row.layer == layer)
    assert row.n_before == row.n_after and row.stays.startswith("1: ") and why in row.stays
    torch.testing.assert_close(model(x), before)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([Fire, Dense, Gated, lambda: Residual(3, 8)]))
def test_whatever_is_zero_the_outputs_stay_and_what_stays_zero_has_a_reason(seed, make):
    model = randomize(nn.Sequential(make(), nn.Flatten()), seed).eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight[torch.rand(len(module.weight), generator=draw) < 0.5] = 0
    channels.silence(model, images())
    before = model(images())
    shrunk = deepcomp.shrink(model, images())
    torch.testing.assert_close(model(images()), before)
    left = zero_filters(model)
    for row in shrunk.rows:
        n_explained = sum(int(note.split(":")[0]) for note in row.stays.split("; ") if note)
        assert n_explained == int(left[row.layer].sum())


def test_embeddings_lose_columns():
    model = randomize(nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 4)))
    with torch.no_grad():
        model[0].weight[:, 3:5] = 0
    tokens = torch.arange(6)
    before = model(tokens)
    assert deepcomp.shrink(model, tokens).rows[0] == ("0", 8, 6, "")
    torch.testing.assert_close(model(tokens), before)


def test_what_nothing_reads_goes_although_it_is_not_zero():
    model = randomize(nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)))
    with torch.no_grad():
        model[2].weight[:, 4] = 0
    x = torch.randn(2, 5)
    before = model(x)
    assert deepcomp.shrink(model, x).rows[0] == ("0", 6, 5, "")
    torch.testing.assert_close(model(x), before)


def test_constants_move_into_the_next_bias_where_nothing_is_padded():
    model = randomize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 2, 3)))
    zero(model, {"0": [1]})
    before = model(images())
    assert deepcomp.shrink(model, images()).rows[0].n_after == 3
    torch.testing.assert_close(model(images()), before)


def test_constants_beside_padding_are_none():
    model = randomize(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 3, padding=1)))
    with torch.no_grad():
        model[0].weight[0] = model[1].weight[0, 1] = 0
    outputs = find_constants(model, images()).outputs
    assert outputs["0"].isnan().tolist() == [False, True]
    assert outputs["1"].isnan().tolist() == [True, True]
    model[1].padding = (0, 0)
    constant = find_constants(model, images()).outputs["1"]
    assert constant.isnan().tolist() == [False, True]
    torch.testing.assert_close(constant[0], model(images())[0, 0, 2, 2])


def test_filters_that_the_batch_norm_multiplies_by_zero_go():
    conv, norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
    model = randomize(nn.Sequential(conv, norm, nn.ReLU(), nn.Conv2d(6, 2, 3))).eval()
    with torch.no_grad():
        norm.weight[2:4] = norm.bias[2] = 0
        norm.bias[3] = -1
    before = model(images())
    assert deepcomp.shrink(model, images()).rows[0] == ("0", 6, 4, "")
    torch.testing.assert_close(model(images()), before)


@pytest.mark.parametrize("change", [{"padding": 1}, {"bias": False}])
def test_constants_stay_where_a_bias_cannot_hold_them(change):
    model = randomize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 2, 3, **change)))
    zero(model, {"0": [1]})
    row = deepcomp.shrink(model, images()).rows[0]
    assert row.n_after == 4
    assert row.stays == "1: 2 reads a constant, of its bias or batch norm: see silence"


def test_a_filter_that_is_dead_for_the_example_alone_stays():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].bias[1] = -100
    x = torch.randn(8, 4)
    assert not model[:2](x)[:, 1].any()
    assert deepcomp.shrink(model, x).rows[0].n_after == 3


def test_outputs_are_neither_silenced_nor_removed():
    model = zero(randomize(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 5))), {"2": [0]})
    bias = model[2].bias.clone()
    x = torch.randn(1, 4)
    assert channels.silence(model, x) == {}
    assert torch.equal(model[2].bias, bias)
    assert deepcomp.shrink(model, x).rows[1].stays == "1: an output of the model"


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        features = self.a(x).relu()
        return {"features": features, "scores": self.b(features)}


class Numbers(TwoOutputs):
    def forward(self, x):
        return self.b(self.a(x).relu().view(-1, 6))


def test_features_that_are_put_out_stay():
    model = zero(randomize(TwoOutputs()), {"a": [0, 1]})
    before = copy.deepcopy(model.state_dict())
    assert channels.silence(model, torch.randn(1, 4)) == {}
    assert deepcomp.shrink(model, torch.randn(1, 4)).rows[0].stays == "2: an output of the model"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_what_the_forward_pass_has_as_a_number_stays():
    model = zero(randomize(Numbers()), {"a": [0, 1]})
    channels.silence(model, torch.randn(1, 4))
    row = deepcomp.shrink(model, torch.randn(1, 4)).rows[0]
    assert row.n_after == 6
    assert row.stays.startswith("2: the model does not do the same without it: RuntimeError: shape")


def test_one_channel_stays_in_a_layer_of_zeros():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    shrunk = check(model, images(), {"0": range(4)}, {"0": 1, "2": 2})
    assert shrunk.rows[0].stays == "1: one channel has to stay"


@pytest.mark.parametrize(
    "norm",
    [nn.LayerNorm(6), nn.Sequential(nn.Unflatten(1, (6, 1)), nn.GroupNorm(2, 6), nn.Flatten())],
)
def test_layers_that_look_at_several_channels_keep_them(norm):
    model = nn.Sequential(nn.Linear(4, 6), norm, nn.Linear(6, 2))
    shrunk = check(model, torch.randn(3, 4), {"0": [1]}, {"0": 6, "2": 2})
    assert "can be removed" in shrunk.rows[0].stays


def test_filters_that_the_pruner_took_go_after_silence():
    torch.manual_seed(0)
    model = nn.Sequential(Residual(3, 8), nn.Conv2d(8, 2, 3))
    pruner = deepcomp.Pruner(model, {"0.conv1": 0.5}, criterion=criteria.geometric_median)
    pruner.remove()
    nn.init.constant_(randomize(model[0].bn1).bias, 9.0)  # a constant that relu lets through
    assert deepcomp.shrink(copy.deepcopy(model), images()).rows[0].n_after == 6
    assert channels.silence(model, images()) == {"0.conv1": 3}
    assert deepcomp.shrink(model, images()).rows[0].n_after == 3


def test_a_table_without_a_change_says_why():
    model = randomize(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2, bias=False)))
    x = torch.randn(1, 4)
    assert str(deepcomp.shrink(model, x)).endswith("\n\nnothing to remove: no filter is zero")
    zero(model, {"0": [1]})
    with torch.no_grad():  # what training between silence and shrink does
        model[0].bias[:] = 0.5
    told = str(deepcomp.shrink(model, x))
    assert "1: 2 reads a constant, of its bias or batch norm: see silence" in told
    assert "nothing to remove" not in told
    channels.silence(model, x)
    assert "nothing to remove" not in str(deepcomp.shrink(model, x))
    assert model[0].out_features == 5


def test_models_of_other_dtypes_and_inputs_of_other_forms():
    model = zero(randomize(nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 2))), {"0": [0]})
    model.bfloat16().requires_grad_(False)
    x = torch.randn(1, 4, dtype=torch.bfloat16)
    for inputs in ({"input": x}, [x], x):
        smaller = copy.deepcopy(model)
        assert deepcomp.shrink(smaller, inputs).rows[0].n_after == 5
        assert smaller[0].weight.dtype == torch.bfloat16 and not smaller[0].weight.requires_grad


def tied():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    return zero(model, {"0": [1]})


def test_a_tied_weight_stays():
    row = deepcomp.shrink(tied(), torch.randn(1, 4)).rows[0]
    assert row.stays == "1: 0 and 2 share a parameter"


def under_prune():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    prune.ln_structured(model[0], "weight", 0.5, 1, 0)
    return model


def shared():
    model = nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9))
    deepcomp.share_weights(model, bits=2)
    return model


def sparse():
    model = nn.Sequential(nn.Linear(40, 4), nn.ReLU())
    deepcomp.compress(model, bits=2).restore(model, layers="sparse")
    return model


class Noisy(nn.Sequential):
    def forward(self, x):
        return super().forward(x) + torch.rand(1)


BAD = {
    "pruned by torch": (under_prune, torch.ones(1, 4), r"layer '0'.*prune\.remove"),
    "shared weights": (shared, torch.ones(1, 9), r"layer '0'.*remove_parametrizations"),
    "sparse layers": (sparse, torch.ones(1, 40), "layer '0'.*layers=.dense."),
    "lazy layers": (lambda: nn.LazyLinear(4), torch.ones(1, 4), "not initialized"),
    "inputs that do not fit": (lambda: nn.Linear(4, 4), torch.ones(1, 5), "cannot be traced|mat1"),
    "noise": (lambda: Noisy(nn.Linear(4, 4)), torch.ones(1, 4), "differ from call to call"),
    "nan": (lambda: nn.Linear(4, 4), torch.full((1, 4), torch.nan), "not finite"),
    "no parameters": (nn.ReLU, torch.ones(1, 4), "no output depends on a parameter"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_followed_is_refused(case):
    make, x, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        deepcomp.shrink(make(), x)


def test_integers_that_are_all_the_same_prove_nothing():
    class Scaled(nn.Linear):
        def forward(self, x):
            return super().forward(x.to(self.weight.dtype))

    model = randomize(nn.Sequential(Scaled(4, 6), nn.Linear(6, 3)))
    assert deepcomp.shrink(model, torch.zeros(1, 4, dtype=torch.uint8)).rows[0].n_after == 6


def test_a_failure_at_the_end_changes_nothing(monkeypatch):
    model = zero(randomize(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))), {"0": [0]})
    channels.silence(model, torch.randn(1, 4))
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setattr(
        "deepcomp.nn.cutting._kept", lambda module, gone: {"weight": torch.ones(1, 1)}
    )
    assert deepcomp.shrink(model, torch.randn(1, 4)).rows[0].n_after == 6
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("step", [2, 4])
@pytest.mark.parametrize(
    ("bits", "threshold"),
    [(None, None), (5, 1.0), (5, None)],
    ids=["exact", "two thirds of the others pruned", "nothing else pruned"],
)
def test_zero_filters_cost_a_bit_each(bits, threshold, step):
    weight = torch.randn(64, 32, 3, 3, generator=torch.Generator().manual_seed(0))
    is_zero = torch.arange(64) % step == 0
    weight[is_zero] = 0

    def nbytes(weight):
        packed = deepcomp.compress({"w": weight}, bits=bits, threshold=threshold)
        return packed["w"].record.section_nbytes

    assert nbytes(weight) == nbytes(weight[~is_zero]) + 64 / 8


def test_without_torch_pruning_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(ImportError, match=r"pip install 'deepcomp\[channels\]'"):
        deepcomp.shrink(nn.Linear(2, 2), torch.ones(1, 2))


def test_models_that_work_in_place_leave_the_example_alone():
    model = zero(
        randomize(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 6), nn.Linear(6, 2))),
        {"1": [2]},
    )
    model.double()
    x = torch.randn(2, 4, dtype=torch.float64)
    before = x.clone()
    channels.silence(model, x)
    assert deepcomp.shrink(model, x).rows[0].n_after == 5
    assert torch.equal(x, before)


class Numbered(nn.Module):
    """Integers that are numbers: an image of bytes, a step, features."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(9, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = (x.to(self.a.weight.dtype) / 255).sin()
        return self.c(self.b(self.a(x).relu()).relu())


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.a, self.b = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, tokens, mask):
        return self.b(self.a(self.embed(tokens.long())).relu() * mask[..., None])


class OwnActivation(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.a, self.activation, self.b = nn.Linear(3, 6), activation, nn.Linear(6, 4)

    def forward(self, x):
        return self.b(self.activation(self.a(x)))


class HardGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.gate, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return self.last(self.conv(x) * (self.gate(x.mean((2, 3), keepdim=True)) > 0))


class Experts(nn.Module):
    """Each token goes through one of two layers, which are called by name."""

    def __init__(self):
        super().__init__()
        self.a, self.route, self.last = nn.Linear(3, 8), nn.Linear(3, 2), nn.Linear(8, 4)
        self.experts = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])

    def forward(self, x):
        h, chosen = self.a(input=x).relu(), self.route(x).argmax(1)
        y = torch.zeros_like(h)
        for i, expert in enumerate(self.experts):
            y[chosen == i] = expert(input=h[chosen == i])
        return self.last(y.relu())


def keep_positive(x):
    y = x.clone()
    y[x <= 0] = 0
    return y


ACTIVATIONS = {
    "times": lambda x: x * (x > 0),
    "where": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0),
    "sign": lambda x: torch.sign(x).clamp(min=0) * x,
    "heaviside": lambda x: torch.heaviside(x, torch.zeros_like(x)) * x,
    "setitem": keep_positive,
    "in place": lambda x: x.mul_(x > 0),
    "float of a bool": lambda x: x * (x > 0).to(x.dtype),
    "sorted": lambda x: x.sort(1, descending=True)[0],
    "nan_to_num": lambda x: x.nan_to_num(),
}


def normal_images(n):
    return torch.randn(n, 3, 5, 5)


# By name: makes the model, and n examples.
SWALLOWING = {
    "bytes": (Numbered, lambda n: torch.randint(0, 256, (n, 9), dtype=torch.uint8)),
    "one step": (Numbered, lambda n: torch.randint(0, 1000, (n, 1)).expand(n, 9).clone()),
    "tokens": (Masked, lambda n: (torch.randint(0, 20, (n, 5)), torch.ones(n, 5).long())),
    "tokens as floats": (Masked, lambda n: (torch.rand(n, 5) * 19, torch.ones(n, 5).bool())),
    "hard gates": (HardGate, normal_images),
    "experts": (Experts, lambda n: torch.randn(n, 3)),
    **{
        name: (lambda f=f: OwnActivation(f), lambda n: torch.randn(n, 3))
        for name, f in ACTIVATIONS.items()
    },
}


@pytest.mark.parametrize("case", SWALLOWING)
@settings(max_examples=4)
@given(seed=st.integers(0, 10**6))
def test_no_constant_is_taken_from_the_example(case, seed):
    make, draw = SWALLOWING[case]
    model = randomize(make(), seed).eval()
    call = (lambda x: model(*x)) if isinstance(model, Masked) else model
    example, others = draw(1), draw(20)
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    with torch.no_grad():
        for module in layers:
            module.bias.zero_()
            module.weight[torch.rand(len(module.weight)) < 0.3] = 0
    channels.silence(model, example)
    before = call(others)
    deepcomp.shrink(model, example)
    torch.testing.assert_close(call(others), before)


@pytest.mark.parametrize("name", ["times", "where", "masked_fill", "sign", "float of a bool"])
def test_zero_filters_go_also_where_the_activation_compares(name):
    model = OwnActivation(ACTIVATIONS[name])
    check(model, torch.randn(1, 3), {"a": [1, 2]}, {"a": 4, "b": 4})


class Beside(nn.Module):
    """A depthwise convolution with a batch norm, beside a layer."""

    def __init__(self, activation):
        super().__init__()
        self.activation = activation
        self.a, self.c = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1)
        self.m, self.n = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.d = nn.Conv2d(6, 6, 1, groups=6, bias=False)
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        h = self.m(self.c(x))
        return self.last(self.a(x) + self.n(self.d(self.activation(h))))


@pytest.mark.parametrize("activation", [torch.relu, ACTIVATIONS["times"]])
def test_silence_leaves_batch_norms_that_other_filters_reach(activation):
    model = zero(randomize(Beside(activation)), {"a": [0, 1, 2]}).eval()
    with torch.no_grad():
        model.a.bias.zero_()
        model.n.weight[0] = model.m.weight[1] = 0  # constants, but not of filters that were pruned
        model.m.bias[1] = 3
    x = torch.randn(1, 3, 6, 6)
    before = model(x)
    assert channels.silence(model, x) == {"a": 3}
    assert torch.equal(model(x), before)


def test_what_the_tracer_gets_wrong_is_dropped_by_other_inputs():
    class Hidden(nn.Linear):
        def forward(self, x):
            more = x.sum(-1, keepdim=True).relu()  # the tracer knows the layer alone
            return super().forward(x) + more

    model = zero(randomize(nn.Sequential(Hidden(4, 6), nn.Linear(6, 2))), {"0": [1, 2]})
    x, others = -torch.ones(1, 4), torch.randn(9, 4)
    before = model(others)
    assert find_constants(model, x, [x]).outputs["0"].isfinite().tolist()[:3] == [False, True, True]
    assert find_constants(model, x, [x, -x]).outputs["0"].isnan().all()
    assert deepcomp.shrink(model, x).rows[0].n_after == 6
    torch.testing.assert_close(model(others), before)


class ReadElsewhere(nn.Module):
    """Features that are read by a layer, and by a sum that is not traced."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        features = self.a(x).relu()
        return self.b(features) + features.detach().sum(1, keepdim=True)


def test_zero_filters_go_although_others_of_the_layer_cannot():
    model = zero(randomize(ReadElsewhere()), {"a": [1, 2]})
    with torch.no_grad():
        model.a.bias[1:3] = model.b.weight[:, 4] = 0
    x = torch.randn(8, 4)
    before = model(x)
    assert deepcomp.shrink(model, x).rows[0].n_after == 4
    torch.testing.assert_close(model(x), before)


class Deciding(TwoOutputs):
    def forward(self, x):
        features = self.a(x).relu()
        return self.b(features if x.sum() > 0 else -features)


class Checking(TwoOutputs):
    def forward(self, x):
        if torch.isnan(x).any().item():
            raise RuntimeError("found NaN")
        return self.b(self.a(x).relu())


@pytest.mark.parametrize("make", [Deciding, Checking])
@pytest.mark.parametrize("function", [channels.silence, deepcomp.shrink])
def test_forward_passes_that_decide_by_values_are_refused(make, function):
    model = zero(randomize(make()), {"a": [0]})
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=f"{make.__name__} cannot be followed.*Leave out checks"):
        function(model, torch.ones(1, 4))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


class Remembering(TwoOutputs):
    def __init__(self):
        super().__init__()
        self.register_buffer("last", torch.zeros(6))

    def forward(self, x):
        features = self.a(x).relu()
        y = self.b(features) + 0 * self.last.sum()
        self.last = features.mean(0).detach()
        return y


def test_what_a_model_remembers_is_never_nan():
    model = zero(randomize(Remembering()), {"a": [0, 3]}).eval()
    channels.silence(model, torch.randn(1, 4))
    find_constants(model, torch.randn(1, 4))
    assert model.last.isfinite().all()
    assert deepcomp.shrink(model, torch.randn(1, 4)).rows[0].n_after == 4
