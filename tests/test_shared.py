"""Shared weights train as equation 3 says, and go into a file as they are."""

import copy
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import deepcomp
from deepcomp import codebooks, sharing

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn.utils import parametrize  # noqa: E402

from deepcomp.nn.shared import shared_weight  # noqa: E402


def make_model(seed=0, sparsity=0.6):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 20)
    )
    if sparsity:
        deepcomp.Pruner(model, sparsity=sparsity).remove()
    return model


def make_plain(**arguments):
    return make_model(seed=9, sparsity=0, **arguments)


def images(n=8, seed=3):
    return torch.randn(n, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


def train(model, n_steps, optimizer=None):
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    losses = []
    for i in range(n_steps):
        x = images(seed=i)
        optimizer.zero_grad()
        loss = (model(x) - x.flatten(1)[:, :20]).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def through_a_file(model, **settings):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.dcz")
        deepcomp.save(deepcomp.compress(model, **settings), path)
        packed = deepcomp.load(path)
        _ = packed.state_dict()
        return packed


def shared_of(layer):
    """Return the codebook, the labels and the levels of a layer's weight."""
    own = layer.parametrizations.weight
    return own.original0, own[0].labels, own[0].levels


@given(st.integers(0, 10_000), st.sampled_from([1, 2, 5, 8]), st.sampled_from([None, "uniform"]))
def test_the_gradient_of_an_entry_is_the_sum_over_its_weights(seed, bits, grid):
    torch.manual_seed(seed)
    layer = nn.Linear(13, 7)
    layer.weight.data[torch.rand(7, 13) < 0.4] = 0
    plain = copy.deepcopy(layer)
    deepcomp.share_weights(layer, bits=bits, grid=grid)
    plain.weight.data.copy_(layer.weight)
    x = torch.randn(5, 13)
    for model in (layer, plain):
        model(x).square().sum().backward()
    codebook, labels, levels = shared_of(layer)
    n_values = codebook.numel() if levels is None else levels.numel()
    sums = [plain.weight.grad[labels == i + 1].double().sum() for i in range(n_values)]
    expected = torch.stack(sums)
    if levels is not None:
        expected = (expected * levels).sum(0, keepdim=True)
    torch.testing.assert_close(codebook.grad.double(), expected, rtol=1e-5, atol=1e-5)
    before = codebook.detach().clone()
    torch.optim.SGD([codebook], lr=0.1).step()
    torch.testing.assert_close(codebook, before - 0.1 * codebook.grad)


def test_pruned_positions_stay_zero_and_the_codebooks_learn():
    model = make_model()
    zeros = [model[i].weight == 0 for i in (0, 4)]
    deepcomp.share_weights(model, bits=3)
    losses = train(model, 100)
    assert losses[-1] < 0.8 * losses[0]
    for i, was_zero in zip((0, 4), zeros, strict=True):
        assert torch.equal(model[i].weight == 0, was_zero)
        assert model[i].weight.unique().numel() <= 9


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize(
    ("grid", "bits"),
    [*((grid, bits) for grid in (None, "uniform") for bits in (1, 3, 8)), ("ternary", 2)],
)
def test_compress_takes_codebooks_and_labels_as_they_are(bits, grid, dtype):
    model = make_model(sparsity=0.6 if bits < 8 else 0)
    deepcomp.share_weights(model, bits=bits, grid=grid)
    train(model, 3)
    model.to(getattr(torch, dtype)).eval()
    packed = through_a_file(model, bits=2)  # not clustered again, whatever the bits
    restored = make_plain().to(getattr(torch, dtype)).eval()
    packed.restore(restored)
    x = images().to(getattr(torch, dtype))
    assert torch.equal(restored(x), model(x))
    for i in (0, 4):
        assert torch.equal(restored[i].weight, model[i].weight)
        codebook, labels, levels = shared_of(model[i])
        values = codebook if levels is None else codebook * levels
        used = values[labels[labels > 0].unique().long() - 1]
        entries = packed[f"{i}.weight"].to_torch().unique()
        assert torch.equal(entries[entries != 0], used[used != 0].unique())


def test_the_names_in_the_file_are_those_of_the_plain_model():
    packed = deepcomp.compress(deepcomp.share_weights(make_model()))
    assert packed.keys() == make_plain().state_dict().keys()


def test_a_state_dict_and_save_know_shared_weights_too(tmp_path):
    model = deepcomp.share_weights(make_model(), bits={"4": 4})
    expected = model[4].weight.detach()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    packed = deepcomp.compress(torch.load(tmp_path / "model.pt"), bits=None)
    assert torch.equal(packed["4.weight"].to_torch(), expected)
    deepcomp.save(model, tmp_path / "model.dcz")
    assert torch.equal(deepcomp.load(tmp_path / "model.dcz")["4.weight"].to_torch(), expected)


def test_a_shared_weight_can_be_pruned_further_by_compress():
    model = deepcomp.share_weights(make_model(sparsity=0), bits=4)
    packed = deepcomp.compress(model, sparsity={"4": 0.5})
    dense = packed["4.weight"].to_torch()
    assert dense.count_nonzero() == 2160
    assert set(dense.unique().tolist()) <= {0.0, *model[4].weight.unique().tolist()}


def test_state_dicts_of_shared_models_go_on_where_they_were():
    model = deepcomp.share_weights(make_model(), bits=3)
    train(model, 5)
    other = deepcomp.share_weights(make_model(), bits=3)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(images()), model.eval()(images()))


def test_a_copy_trains_by_itself():
    model = deepcomp.share_weights(make_model(), bits=3)
    other = copy.deepcopy(model)
    before = model[4].weight.detach().clone()
    train(other, 3)
    assert torch.equal(model[4].weight, before)
    assert not torch.equal(other[4].weight, before)


def test_a_restored_model_is_shared_exactly_as_it_is():
    model = make_plain()
    deepcomp.compress(make_model(), bits=4).restore(model)
    before = [model[i].weight.detach().clone() for i in (0, 4)]
    deepcomp.share_weights(model, bits=4)
    assert all(torch.equal(model[i].weight, w) for i, w in zip((0, 4), before, strict=True))


def test_neighbouring_float64_values_keep_their_labels():
    layer = nn.Linear(2, 1).double()
    values = [0.1, np.nextafter(0.1, 1)]
    layer.weight.data = torch.tensor([values], dtype=torch.float64)
    deepcomp.share_weights(layer, bits=1)
    assert layer.weight.tolist() == [values]


def test_tied_weights_share_one_codebook_and_are_stored_once():
    model = nn.ModuleDict({"a": nn.Linear(9, 9), "b": nn.Linear(9, 9)})
    model["b"].weight = model["a"].weight
    deepcomp.share_weights(model, bits=2)
    (codebook, *_), (other, *_) = map(shared_of, model.values())
    assert codebook is other
    assert len([p for p in model.parameters() if p.shape == (4,)]) == 1
    model["b"](model["a"](torch.randn(3, 9))).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert torch.equal(model["a"].weight, model["b"].weight)
    packed = deepcomp.compress(model)
    assert packed.aliases == {"b.weight": "a.weight"}


def test_the_weight_is_made_ordinary_again_by_torch():
    model = deepcomp.share_weights(make_model(), bits=3)
    expected = model[4].weight.detach().clone()
    parametrize.remove_parametrizations(model[4], "weight")
    assert isinstance(model[4].weight, nn.Parameter)
    assert torch.equal(model[4].weight, expected)
    train(model, 2)


def test_an_attention_layer_can_be_shared():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    plain = copy.deepcopy(model)
    deepcomp.share_weights(model, bits=3)
    deepcomp.compress(model).restore(plain)
    x = torch.randn(2, 5, 16)
    assert torch.allclose(plain.train(False)(x), model.train(False)(x), atol=1e-6)


@pytest.mark.parametrize("init", ["linear", "density"])
def test_lloyds_iterations_end_in_a_local_optimum_no_better_than_the_global_one(init):
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    fit = {"linear": codebooks.linear_codebook, "density": codebooks.density_codebook}[init]

    def inertia(codebook):
        labels = sharing.nearest_labels(values, codebook)
        return np.square(values - codebook[labels]).sum(), labels

    codebook = fit(values, 16)
    found, labels = inertia(codebook)
    best, _ = inertia(sharing.fit_codebook(values, 16))
    assert best * 0.9998 <= found < 1.5 * best
    means = [values[labels == i].mean(dtype=np.float64) for i in range(codebook.size)]
    assert np.allclose(codebook, means, atol=1e-2)
    layer = nn.Linear(50, 100)
    layer.weight.data = torch.from_numpy(values.reshape(100, 50))
    deepcomp.share_weights(layer, bits=4, init=init)
    assert torch.equal(layer.weight.unique(), torch.from_numpy(codebook.astype(np.float32)))


def test_linear_keeps_entries_for_the_few_large_weights():
    values = np.concatenate((np.random.default_rng(0).normal(size=5000), [9.0, -9.0]))
    linear, density = (
        f(values, 8) for f in (codebooks.linear_codebook, codebooks.density_codebook)
    )
    assert linear[-1] > density[-1] and linear[0] < density[0]


@given(st.integers(1, 5), st.integers(0, 1000))
def test_a_uniform_grid_has_the_best_of_its_scales(bits, seed):
    values = np.random.default_rng(seed).normal(size=200)
    scale = codebooks.grid_scale(values, 1 << bits)

    def error(scale):
        levels = np.clip(np.rint(np.abs(values) / scale), 1, 1 << (bits - 1))
        return np.square(np.abs(values) - scale * levels).sum()

    others = np.abs(values).max() / (1 << (bits - 1)) * np.linspace(0.05, 1.5, 300)
    assert error(scale) <= 1.02 * min(map(error, others)) + 1e-12


def test_one_bit_on_a_grid_is_plus_or_minus_the_mean_magnitude():
    layer = nn.Linear(30, 20)
    mean = layer.weight.detach().abs().mean()
    deepcomp.share_weights(layer, bits=1, grid="uniform")
    values = layer.weight.detach().unique()
    torch.testing.assert_close(values, torch.stack((-mean, mean)))
    assert shared_of(layer)[0].shape == (1,)


@given(st.integers(0, 999), st.sampled_from([0.0, 0.5]), st.integers(1, 40))
def test_ternary_weights_have_the_least_squared_error_of_all(seed, sparsity, n):
    values = np.random.default_rng(seed).normal(size=n).astype(np.float32).round(1)
    layer = nn.Linear(n, 1)
    layer.weight.data = torch.from_numpy(values)[None]
    deepcomp.share_weights(layer, bits=2, grid="ternary")

    def error(threshold):
        is_kept = np.abs(values) >= threshold
        scale = np.abs(values[is_kept]).mean() if is_kept.any() else 0
        return np.square(values - scale * np.sign(values) * is_kept).sum()

    found = layer.weight.detach().numpy()[0]
    best = min(map(error, [*np.unique(np.abs(values[values != 0])), np.inf]))
    assert np.square(values - found).sum() == pytest.approx(best, rel=1e-4, abs=1e-5)
    assert np.unique(np.abs(found[found != 0])).size <= 1
    assert (found * values >= 0).all()
    li = 0.7 * np.abs(values).mean()
    assert best <= error(li) + 1e-5


def test_ternary_weights_keep_their_zeros_and_train_nothing_but_the_scale():
    model = make_model()
    zeros = model[4].weight == 0
    deepcomp.share_weights(model, bits={"0": 2, "4": 2}, grid="ternary")
    _, labels, levels = shared_of(model[4])
    before = labels.clone()
    assert levels.tolist() == [-1, 1] and not model[4].weight[zeros].any()
    scales = [shared_of(model[i])[0] for i in (0, 4)]
    assert [scale.shape for scale in scales] == [(1,), (1,)]
    old = scales[1].item()
    losses = train(model, 60)
    assert losses[-1] < losses[0] and scales[1].item() != old
    assert torch.equal(shared_of(model[4])[1], before)
    assert model[4].weight.unique().tolist() == [-scales[1].item(), 0, scales[1].item()]


@pytest.mark.parametrize(("grid", "bits"), [("uniform", 1), ("ternary", 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_binary_and_ternary_models_are_shared_again_exactly_as_they_are(grid, bits, dtype):
    model = make_model(sparsity=0).to(dtype)
    deepcomp.share_weights(model, bits=bits, grid=grid)
    again = make_plain().to(dtype)
    deepcomp.compress(model).restore(again)
    deepcomp.share_weights(again, bits=bits, grid=grid)
    assert all(torch.equal(again[i].weight, model[i].weight) for i in (0, 4))


@pytest.mark.parametrize(("grid", "bits", "largest"), [("uniform", 1, 1.01), ("ternary", 2, 1.6)])
@pytest.mark.parametrize("shape", [(300, 784), (64, 128, 3, 3)])
def test_a_binary_weight_takes_a_bit_in_the_file_and_a_ternary_one_some_more(
    grid, bits, largest, shape
):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    layer = nn.Linear(784, 300) if len(shape) == 2 else nn.Conv2d(128, 64, 3)
    layer.weight.data = weight
    packed = through_a_file(deepcomp.share_weights(layer, bits=bits, grid=grid))
    assert 8 * packed["weight"].record.section_nbytes / weight.numel() <= largest
    assert packed["weight"].to_torch().unique().numel() == 1 + bits


def test_an_optimizer_made_before_is_told_so_at_its_first_step():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    deepcomp.share_weights(model)
    with pytest.raises(RuntimeError, match=r"made before share_weights.*Make it after"):
        train(model, 1, optimizer)
    train(model, 1)  # one made after it is fine


def test_a_weight_cannot_be_assigned_while_it_is_shared():
    model = deepcomp.share_weights(make_model())
    with pytest.raises(RuntimeError, match="remove_parametrizations"):
        model[4].weight = torch.zeros(20, 216)


def test_sums_over_millions_of_weights_lose_nothing():
    codebook = torch.ones(1, requires_grad=True)
    labels = torch.ones(3_000_000, dtype=torch.uint8)
    (shared_weight(codebook, labels, None) * 0.1).sum().backward()
    assert codebook.grad.item() == pytest.approx(3e6 * np.float32(0.1), rel=1e-7)


def test_an_average_of_the_weights_has_their_labels():
    model = deepcomp.share_weights(make_model(), bits=4)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True
    )
    for _ in range(10):
        average.update_parameters(model)
    torch.testing.assert_close(average.module[4].weight, model[4].weight)


def test_layers_that_share_one_codebook_are_not_taken_for_one():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    deepcomp.share_weights(model, bits=2)
    parts = [layer.parametrizations.weight for layer in model]
    parts[1].original0 = parts[0].original0
    packed = deepcomp.compress(model)
    assert not packed.aliases
    assert all(torch.equal(packed[f"{i}.weight"].to_torch(), model[i].weight) for i in (0, 1))


def test_a_checkpoint_with_fewer_values_is_loaded_into_a_model_shared_anew():
    model = make_model(sparsity=0)
    deepcomp.Pruner(model, sparsity={"4": 0.998}).remove()  # 9 weights are left
    deepcomp.share_weights(model, bits=5)
    other = deepcomp.share_weights(make_plain(), bits=5)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other[4].weight, model[4].weight)
    train(other, 2)
    bad = dict(model.state_dict())
    bad["4.parametrizations.weight.0.labels"] = torch.zeros(3, 3, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match=r"labels: expected torch.uint8 \[20, 216\]"):
        other.load_state_dict(bad)
    bad["4.parametrizations.weight.0.labels"] = torch.zeros(20, 216, dtype=torch.int8)
    with pytest.raises(RuntimeError, match=r"found torch.int8 \[20, 216\]"):
        other.load_state_dict(bad)


def test_gradients_by_functions_are_those_of_backward():
    model = deepcomp.share_weights(nn.Linear(6, 4), bits=2)
    x = torch.randn(3, 6)
    parameters = dict(model.named_parameters())

    def loss(parameters):
        return torch.func.functional_call(model, parameters, x).square().sum()

    found = torch.func.grad(loss)(parameters)
    loss(parameters).backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(found[name], parameter.grad)


def test_a_parametrization_on_top_of_a_shared_weight_is_refused_by_compress():
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    model = deepcomp.share_weights(nn.Linear(6, 4), bits=2)
    parametrize.register_parametrization(model, "weight", Double())
    with pytest.raises(ValueError, match="another parametrization on top"):
        deepcomp.compress(model)


def test_a_state_of_arrays_is_known_and_one_with_wrong_labels_refused():
    model = deepcomp.share_weights(nn.Linear(6, 4), bits=2)
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    packed = deepcomp.compress(state)
    assert torch.equal(packed["weight"].to_torch(), model.weight)
    state["parametrizations.weight.0.labels"] = state["parametrizations.weight.0.labels"] + 9
    with pytest.raises(ValueError, match="'weight' has a label"):
        deepcomp.compress(state)


def test_a_weight_that_was_tied_elsewhere_is_named_in_the_advice():
    encoder, decoder = nn.Linear(4, 4), nn.Linear(4, 4)
    decoder.weight = encoder.weight
    deepcomp.share_weights(encoder)
    with pytest.raises(RuntimeError, match="the whole model, if weights are tied"):
        torch.optim.SGD(decoder.parameters(), lr=0.1).step()


BAD = {
    "bits": (dict(bits=9), "from 1 to 8"),
    "pattern": (dict(bits={"fc*": 3}), r"'fc\*' matches no float tensor"),
    "init": (dict(init="random"), "kmeans, linear, density"),
    "grid": (dict(grid="log"), "None, 'uniform' or 'ternary'"),
    "bits of ternary weights": (
        dict(grid="ternary"),
        "bits of '0.weight' is 5: expected 2 with grid='ternary'",
    ),
    "bits of a ternary layer": (
        dict(bits={"4": 1}, grid="ternary"),
        "bits of '4' is 1: expected 2",
    ),
    "not finite": (dict(), "'4.weight' has NaN"),
    "shared already": (dict(), "not shared already"),
    "shared already, by a pattern": (dict(bits={"4": 3}), "'4.weight' is shared already"),
    "weight norm": (dict(), "'0.parametrizations.weight.original1' cannot be shared"),
    "a recurrent layer": (dict(), "'rnn.weight_ih_l0' cannot be shared: a LSTM"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_shared_is_refused_and_nothing_changed(case):
    arguments, message = BAD[case]
    model = make_model()
    if case == "not finite":
        model[4].weight.data[0, 0] = float("nan")
    elif case.startswith("shared already"):
        deepcomp.share_weights(model)
    elif case == "weight norm":
        nn.utils.parametrizations.weight_norm(model[0])
    elif case == "a recurrent layer":
        model = nn.ModuleDict({"fc": nn.Linear(3, 3), "rnn": nn.LSTM(3, 3)})
    before = {name: id(p) for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match=message):
        deepcomp.share_weights(model, **arguments)
    assert {name: id(p) for name, p in model.named_parameters()} == before


def test_patterns_with_none_leave_a_layer_out():
    model = nn.ModuleDict({"fc": nn.Linear(3, 3), "rnn": nn.LSTM(3, 3)})
    deepcomp.share_weights(model, bits={"rnn": None, "*": 2})
    assert parametrize.is_parametrized(model["fc"]) and not parametrize.is_parametrized(
        model["rnn"]
    )


def test_a_weight_of_zeros_alone_and_a_bias_can_be_shared():
    model = nn.Linear(4, 3)
    model.weight.data.zero_()
    deepcomp.share_weights(model, bits={"weight": 2, "bias": 1})
    assert not model.weight.any() and model.bias.unique().numel() == 2
    packed = deepcomp.compress(model)
    assert torch.equal(packed["bias"].to_torch(), model.bias)
    model(torch.ones(2, 4)).sum().backward()
