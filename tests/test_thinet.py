"""ThiNet: what is removed is what the next layer misses least, and least squares make up for it."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

import deepcomp
from deepcomp import _kernels

torch = pytest.importorskip("torch")
pytest.importorskip("torch_pruning")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from deepcomp.nn import thinet  # noqa: E402
from deepcomp.nn.samples import contributions  # noqa: E402

_BUILD = _kernels.build_info()
pytestmark = pytest.mark.skipif(
    _BUILD["debug"] or _BUILD["kernels"] != "native",
    reason="no kernel of ours takes part: one build is enough",
)


def images(n=4, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 3, size, size, generator=generator) for _ in range(2)]


def make(seed=0):
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(12)
    nn.init.normal_(norm.bias)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), norm, nn.ReLU(), nn.Conv2d(12, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(288, 5),
    )  # fmt: skip


def equal_states(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


@given(st.integers(1, 8), st.integers(0, 99))
def test_channels_are_removed_in_the_order_of_the_papers_algorithm(n_channels, seed):
    parts = torch.randn(
        30, n_channels, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    expected = []
    while len(expected) < n_channels:  # algorithm 1 as it is written there
        others = [i for i in range(n_channels) if i not in expected]
        expected.append(
            min(others, key=lambda i: float(parts[:, [*expected, i]].sum(1).square().sum()))
        )
    gram = parts.T @ parts
    for n in range(n_channels + 1):
        assert thinet.removed_channels(gram, n) == expected[:n]


LAYERS = {
    "linear": (nn.Linear(6, 4), (5, 6)),
    "linear of sequences": (nn.Linear(6, 4), (2, 3, 6)),
    "conv1d": (nn.Conv1d(6, 4, 3, padding=1), (2, 6, 9)),
    "conv2d": (
        nn.Conv2d(6, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
        (2, 6, 7, 9),
    ),
    "same padding": (nn.Conv2d(6, 4, 5, padding="same"), (2, 6, 5, 5)),
    "circular padding": (nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular"), (2, 6, 5, 5)),
    "conv3d": (nn.Conv3d(6, 4, 2), (1, 6, 3, 3, 3)),
    "a single image": (nn.Conv2d(6, 4, 3), (6, 5, 5)),
}


@pytest.mark.parametrize("case", LAYERS)
def test_the_parts_of_all_channels_add_up_to_outputs_of_the_layer(case):
    layer, shape = LAYERS[case]
    model, x = nn.Sequential(layer), torch.randn(shape)
    with torch.no_grad():
        parts = contributions(model, "0", [[i] for i in range(6)], [x], 300, torch.Generator())
        outputs = layer(x).double()
        channel = -1 if isinstance(layer, nn.Linear) else -1 - len(layer.kernel_size)
        outputs = (outputs.movedim(channel, -1) - layer.bias.double()).flatten()
    distances = (parts.sum(1)[:, None] - outputs).abs().min(1)
    assert distances.values.max() < 1e-5
    assert len(set(distances.indices.tolist())) > 0.4 * min(300, len(outputs))  # from all over


def test_a_channel_after_flatten_has_several_places():
    model, x = nn.Sequential(nn.Linear(6, 4)), torch.randn(9, 6)
    with torch.no_grad():
        one = contributions(model, "0", [[0], [1], [2]], [x], 50, torch.Generator().manual_seed(3))
        all_ = contributions(model, "0", [[0, 1, 2]], [x], 50, torch.Generator().manual_seed(3))
    torch.testing.assert_close(one.sum(1), all_[:, 0])


def test_filters_go_with_bias_batch_norm_and_what_reads_them_and_can_be_shrunk():
    model, batches = make().train(), images()
    result = thinet.prune(model, {"0": 7, "3": 0.5}, batches, n_samples=500)
    assert [row[:4] for row in result] == [("0", "3", 12, 7), ("3", "6", 8, 4)]
    assert model.training and model[3].training
    alive = model[0].weight.flatten(1).any(1)
    assert int(alive.sum()) == 7
    for tensor in (model[0].bias, model[1].weight, model[1].bias, model[3].weight.sum((0, 2, 3))):
        assert torch.equal(tensor != 0, alive)
    before = model.eval()(batches[0])
    deepcomp.shrink(model, batches[0][:1])
    assert (model[0].out_channels, model[3].out_channels, model[6].in_features) == (7, 4, 144)
    torch.testing.assert_close(model(batches[0]), before, rtol=1e-4, atol=1e-5)


def test_a_filter_that_has_a_twin_is_made_up_for():
    model, batches = make().eval(), images()
    with torch.no_grad():
        model[1].bias.abs_()  # no channel that relu makes zero
        for tensor in (model[0].weight, model[0].bias, model[1].weight, model[1].bias):
            tensor[6:] = tensor[:6]
        model[3].weight[:, 6:] = 2 * model[3].weight[:, :6]
    before, plain = model(batches[0]), copy.deepcopy(model)
    [row] = thinet.prune(model, {"0": 11}, batches, n_samples=500)
    torch.testing.assert_close(model(batches[0]), before, rtol=1e-4, atol=1e-4)
    assert row.corrected_error < 1e-9 < row.error
    [row] = thinet.prune(plain, {"0": 11}, batches, n_samples=500, reconstruct=False)
    assert row.corrected_error == row.error > 1e-9
    assert (plain(batches[0]) - before).abs().max() > 1e-3


def test_weights_for_channels_that_the_samples_never_show_stay_as_they_are():
    model = make()
    with torch.no_grad():
        model[1].bias[2] = -1000
    before = model[3].weight[:, 2].clone()
    thinet.prune(model, {"0": 12}, images(), n_samples=500)
    torch.testing.assert_close(model[3].weight[:, 2], before)


def test_what_the_next_layer_loses_is_what_was_reported_and_less_than_by_chance():
    model, batches = make().eval(), images(16)
    model.requires_grad_(False)
    with torch.no_grad():
        model[3].bias.zero_()
        before = model[:4](torch.cat(batches))
    losses = {}
    for reconstruct in (False, True):
        pruned = copy.deepcopy(model)
        [row] = thinet.prune(pruned, {"0": 6}, batches, reconstruct, n_samples=8000)
        after = pruned[:4](torch.cat(batches))
        losses[reconstruct] = float((after - before).square().sum() / before.square().sum())
        assert losses[reconstruct] == pytest.approx(row.corrected_error, rel=0.1)
    assert losses[True] < losses[False]
    for seed in range(5):
        pruned = copy.deepcopy(model)
        gone = torch.randperm(12, generator=torch.Generator().manual_seed(seed))[:6]
        with torch.no_grad():
            pruned[3].weight[:, gone] = 0
        after = pruned[:4](torch.cat(batches))
        assert losses[False] < float((after - before).square().sum() / before.square().sum())


def test_each_layer_is_pruned_in_what_the_former_left():
    together, apart = make(), make()
    keep = {"0": 0.5, "3": 3}
    thinet.prune(together, keep, images(), n_samples=300, seed=4)
    for layer, n in keep.items():
        thinet.prune(apart, {layer: n}, images(), n_samples=300, seed=4)
    assert equal_states(together.state_dict(), apart.state_dict())


def test_the_seed_decides_and_one_fraction_is_for_all_that_can_be_pruned():
    models = [make() for _ in range(3)]
    results = [
        thinet.prune(model, 0.5, images(), n_samples=100, seed=seed)
        for model, seed in zip(models, (1, 1, 2))
    ]
    assert equal_states(models[0].state_dict(), models[1].state_dict())
    assert results[0] != results[2]
    assert [(row.layer, row.n_after) for row in results[0]] == [("0", 6), ("3", 4)]


class Mixed(nn.Module):
    """A shortcut, a concatenation, a depthwise convolution and several readers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1)
        self.inner, self.outer = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 6, 1)
        self.left, self.right = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 5, 1)
        self.depth, self.point = nn.Conv2d(5, 5, 3, groups=5, padding=1), nn.Conv2d(9, 4, 1)

    def forward(self, x):
        x = self.first(x)
        x = (x + self.outer(self.inner(x).relu())).relu()
        return self.point(torch.cat([self.left(x).relu(), self.depth(self.right(x).relu())], 1))


def test_layers_within_blocks_beside_others_and_before_depthwise_ones():
    torch.manual_seed(0)
    model = Mixed()
    keep = {"inner": 5, "left": 2, "right": 3}
    result = thinet.prune(model, keep, images(), n_samples=300)
    pairs = {row.layer: (row.next_layer, row.n_after) for row in result}
    assert pairs == {"inner": ("outer", 5), "left": ("point", 2), "right": ("point", 3)}
    before = model(images()[0])
    deepcomp.shrink(model, images()[0])
    assert (model.point.in_channels, model.depth.groups, model.outer.in_channels) == (5, 3, 5)
    torch.testing.assert_close(model(images()[0]), before, rtol=1e-4, atol=1e-5)


ADVICE = "expected channels that one layer alone reads"
BAD = {
    "a sum": ({"outer": 3}, {}, rf"layer 'outer' \(Conv2d\): its channels are added to.*{ADVICE}"),
    "a shortcut": ({"first": 3}, {}, "layer 'first'.*added to those of 'outer'"),
    "an output": ({"point": 3}, {}, rf"layer 'point'.*an output of the model: {ADVICE}"),
    "a depthwise layer": ({"depth": 3}, {}, r"layer 'depth' \(Conv2d\).*of one group"),
    "more than there are": ({"inner": 9}, {}, "expected at most 8 filters to keep, found 9"),
    "none": ({"inner": 0}, {}, "keep of 'inner' is 0: expected an integer"),
    "a wrong fraction": (1.5, {}, "is 1.5: expected"),
    "no match": ({"nothing": 3}, {}, "'nothing' matches no float tensor"),
    "no batches": ({"inner": 3}, {"batches": []}, "batches is empty"),
    "n_samples": ({"inner": 3}, {"n_samples": 0}, "n_samples is 0"),
    "few samples": ({"inner": 3}, {"n_samples": 7}, "n_samples is 7: expected 8 or more"),
    "few outputs": (
        {"inner": 3}, {"batches": [torch.ones(1, 3, 1, 1)]},
        "too few samples: the batches give 6 outputs of 'outer', expected 8 or more",
    ),
    "a shape": (
        {"inner": 3}, {"batches": [*images(), torch.ones(1, 4, 8, 8)]},
        r"cannot be called with batches\[2\]: .*4 channels",
    ),
    "nan": (
        {"inner": 3}, {"batches": [*images(), torch.full((1, 3, 8, 8), torch.nan)]},
        r"the input of 'outer' has NaN or infinite entries for batches\[2\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused_and_nothing_changed(case):
    keep, options, message = BAD[case]
    model = Mixed()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        thinet.prune(model, keep, **({"batches": images()} | options))
    assert equal_states(before, model.state_dict())


def test_channels_that_two_layers_read_are_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            x = F.relu(self.a(x))
            return self.b(x) + self.c(x)

    with pytest.raises(ValueError, match=f"layer 'a' .*read by b, c: {ADVICE}"):
        thinet.prune(Two(), {"a": 2}, [torch.randn(9, 3)])
