"""Pairs of low rank are the truncated SVD, behave as ordinary layers, and come back from a file."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

import deepcomp

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

from deepcomp.nn.lowrank import LowRank, factorize_like  # noqa: E402


def make_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(4, 12, 3, stride=2, padding=1, padding_mode="circular", dilation=2),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(108, 40),
        nn.ReLU(),
        nn.Linear(40, 10, bias=False),
    ).eval()


def images(n=5, dtype=torch.float32):
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(3)).to(dtype)


def relative_error(found, expected):
    return float((found - expected).detach().norm() / expected.detach().norm())


def parameters_of(model):
    return {name: id(p) for name, p in model.named_parameters()}


@given(st.integers(0, 999), st.integers(1, 8), st.booleans())
def test_the_error_of_a_rank_is_that_of_the_singular_values_left_out(seed, rank, is_conv):
    torch.manual_seed(seed)
    layer = nn.Conv2d(3, 8, 2) if is_conv else nn.Linear(12, 8)
    model = nn.Sequential(layer)
    (done,) = deepcomp.factorize(model, rank={"0": rank})
    s = torch.linalg.svdvals(layer.weight.detach().double().flatten(1)).square()
    error = (model[0].weight - layer.weight).double().square().sum()
    torch.testing.assert_close(error, s[rank:].sum(), rtol=1e-4, atol=1e-9)
    assert done.energy == pytest.approx(float(s[:rank].sum() / s.sum()))
    assert (done.rank, done.n_before) == (rank, layer.weight.numel())
    assert done.n_after == sum(f.weight.numel() for f in model[0].factors)


def test_full_rank_changes_no_output_whatever_the_window_of_a_convolution():
    model = make_model()
    expected = model(images())
    deepcomp.factorize(model, rank={"0": 12, "4": 40, "6": 10})
    assert relative_error(model(images()), expected) < 1e-5
    assert [type(model[i]) for i in (0, 4, 6)] == [LowRank] * 3
    assert not model[0].training and not model[0].factors[0].training


def test_the_scale_is_split_evenly_and_names_are_those_of_two_layers():
    model = make_model()
    bias = model[4].bias
    deepcomp.factorize(model, rank={"4": 7})
    first, second = model[4].factors
    torch.testing.assert_close(first.weight.norm(dim=1), second.weight.norm(dim=0))
    largest = second.weight.abs().argmax(0)
    assert (second.weight[largest, range(7)] > 0).all()  # and signs are the same everywhere
    names = [name for name in model.state_dict() if name.startswith("4")]
    assert names == ["4.factors.0.weight", "4.factors.1.weight", "4.factors.1.bias"]
    assert second.bias is bias and first.bias is None


@given(st.floats(0.01, 1.0))
def test_energy_gets_the_lowest_rank_that_keeps_it(energy):
    model = make_model()
    s = torch.linalg.svdvals(model[4].weight.detach().double()).square()
    (done,) = deepcomp.factorize(model, energy={"4": energy})
    assert done.energy >= energy - 1e-9
    assert done.rank == 1 or float(s[: done.rank - 1].sum() / s.sum()) < energy
    assert model[4].factors[0].weight.shape == (done.rank, 108)


def test_all_energy_is_the_full_rank_and_zeros_have_rank_one():
    model = make_model()
    model[6].weight.data.zero_()
    model.append(nn.Linear(10, 20))
    model[7].weight.data = torch.arange(20.0)[:, None] * torch.arange(10.0)
    done = deepcomp.factorize(model, energy={"4": 1, "6": 1, "7": 1})
    assert [layer.rank for layer in done] == [40, 1, 1]
    assert not model[6].weight.any() and done[1].energy == 1


def test_one_number_leaves_layers_that_would_not_be_smaller_and_says_so():
    model = make_model()
    done = deepcomp.factorize(model, rank=9)
    assert [layer.rank for layer in done] == [None, 9, None]
    assert [layer.n_after for layer in done] == [432, 9 * 148, 400]
    assert str(done[0]) == "0: left as it is, rank 9 would take 432 weights instead of 432"
    assert str(done[1]).startswith("4: rank 9, ") and "1,332 weights instead of 4,320" in str(
        done[1]
    )
    assert [type(model[i]) for i in (0, 4, 6)] == [nn.Conv2d, LowRank, nn.Linear]
    done = deepcomp.factorize(make_model(), energy=1.0)
    assert [layer.rank for layer in done] == [None] * 3  # of full rank: nothing is smaller


def test_patterns_decide_in_order_and_none_leaves_a_layer_out():
    model = make_model()
    done = deepcomp.factorize(model, rank={"4.weight": None, "*": 10})
    assert [(layer.layer, layer.rank) for layer in done] == [("0", 10), ("6", 10)]
    assert done[0].n_after > done[0].n_before  # what is named is done


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_a_pair_keeps_dtype_and_what_is_trained(dtype):
    dtype = getattr(torch, dtype)
    model = make_model().to(dtype)
    model[4].weight.requires_grad_(False)
    weight = model[4].weight.clone()
    deepcomp.factorize(model, rank={"4": 40})
    assert all(p.dtype == dtype for p in model.parameters())
    assert [p.requires_grad for p in model[4].parameters()] == [False, False, True]
    precision = torch.finfo(dtype).eps
    assert relative_error(model[4].weight.double(), weight.double()) < 20 * precision


def test_pairs_are_pruned_shared_stored_and_computed_sparsely_as_ordinary_layers(tmp_path):
    model = make_model()
    deepcomp.factorize(model, rank={"0": 6, "4": 12})
    deepcomp.Pruner(model, sparsity=0.5).remove()
    deepcomp.share_weights(model, bits=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model(images()).square().mean().backward()
    optimizer.step()
    expected = model(images())
    deepcomp.save(model, tmp_path / "m.dcz")
    packed = deepcomp.load(tmp_path / "m.dcz")
    assert packed["4.factors.0.weight"].density == pytest.approx(0.5)
    fresh = make_model(seed=1)
    packed.restore(factorize_like(fresh, packed))
    assert torch.equal(fresh(images()), expected)
    sparse = make_model(seed=2)
    restored = packed.restore(factorize_like(sparse, packed), layers="sparse")
    chosen = {choice.layer for choice in restored.layers if choice.is_sparse}
    assert {"4.factors.0", "4.factors.1", "0.factors.1"} <= chosen
    assert relative_error(sparse(images()), expected) < 1e-5
    torch.testing.assert_close(sparse[4].weight, fresh[4].weight)


def test_a_model_is_made_like_a_file_whatever_was_done_to_it_before():
    model = make_model()
    deepcomp.factorize(model, rank={"0": 6, "4": 12})
    packed = deepcomp.compress(model, bits=None)
    fresh = make_model(seed=1).double()
    assert factorize_like(factorize_like(fresh, packed), model.state_dict()) is fresh
    packed.restore(fresh)
    assert torch.equal(fresh[4].factors[1].weight.float(), model[4].factors[1].weight)
    plain = make_model(seed=1)
    with pytest.raises(RuntimeError, match=r"low rank: deepcomp.nn.lowrank.factorize_like"):
        packed.restore(plain)
    before = parameters_of(plain)
    factorize_like(plain, deepcomp.compress(make_model()))
    assert parameters_of(plain) == before
    other = nn.Sequential(nn.Conv2d(5, 12, 3), *make_model()[1:])
    with pytest.raises(RuntimeError, match=r"0.factors.0.weight: expected shape \[6, 5, 3, 3\]"):
        packed.restore(factorize_like(other, packed))


def test_weights_that_are_no_pair_are_refused_and_nothing_changed():
    model = make_model()
    before = parameters_of(model)
    state = {"4.factors.0.weight": torch.zeros(5, 108), "4.factors.1.weight": torch.zeros(40, 6)}
    with pytest.raises(ValueError, match=r"\[5, 108\] and \[40, 6\]: expected a pair for '4'"):
        factorize_like(model, state)
    conv = {"4.factors.0.weight": torch.zeros(5, 4, 3, 3), "4.factors.1.weight": torch.zeros(9, 5)}
    with pytest.raises(ValueError, match="whose weight is"):
        factorize_like(model, conv)
    assert parameters_of(model) == before
    grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    state = {
        "0.factors.0.weight": torch.zeros(2, 4, 3, 3),
        "0.factors.1.weight": torch.zeros(4, 2, 1, 1),
    }
    with pytest.raises(ValueError, match=r"'0' is a pair in the file.*2 groups"):
        factorize_like(grouped, state)


def test_hooks_stay_and_a_module_in_two_places_becomes_one_pair():
    layer = nn.Linear(9, 9)
    model = nn.ModuleDict({"a": layer, "b": nn.Sequential(layer)})
    seen = []
    layer.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    (done,) = deepcomp.factorize(model, rank=3)
    assert done.layer == "a" and model["a"] is model["b"][0]
    model["b"](torch.ones(2, 9))
    assert seen == [(2, 9)]
    assert deepcomp.compress(model).aliases["b.0.factors.0.weight"] == "a.factors.0.weight"


def test_an_encoder_layer_of_torch_computes_with_pairs_in_eval_mode_too():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 1).eval()
    x = torch.randn(2, 5, 16)
    expected = model(x)
    deepcomp.factorize(model, rank={"*.linear?": 16})
    with torch.inference_mode():
        torch.testing.assert_close(model(x), expected)


def test_an_optimizer_made_before_is_told_so_at_its_first_step():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    deepcomp.factorize(model, rank=4)
    model(images()).sum().backward()
    with pytest.raises(RuntimeError, match=r"made before factorize.*Make it after"):
        optimizer.step()


def test_a_huge_weight_is_factorized_in_float32(monkeypatch):
    monkeypatch.setattr("deepcomp.nn.lowrank._HUGE", 100)
    model = make_model()
    expected = model(images())
    deepcomp.factorize(model, rank={"4": 40})
    assert relative_error(model(images()), expected) < 1e-5


def tied(model):
    model.add_module("tied", nn.Linear(108, 40))
    model.tied.weight = model[4].weight


BAD = {
    "neither": (dict(), None, "expected one of the two"),
    "both": (dict(rank=2, energy=0.5), None, "expected one of the two"),
    "rank 0": (dict(rank=0), None, "rank of 'every layer' is 0: expected an integer of 1"),
    "a fraction": (dict(rank={"4": 0.5}), None, "rank of '4' is 0.5: expected an integer"),
    "a bool": (dict(rank=True), None, "expected an integer"),
    "energy 0": (dict(energy=0.0), None, r"is 0.0: expected a number in \(0, 1\]"),
    "energy 2": (dict(energy={"4": 2}), None, r"energy of '4' is 2: expected a number in"),
    "pattern": (dict(rank={"1": 4}), None, "'1' matches no linear or conv layer"),
    "above": (dict(rank={"4": 40, "6": 11}), None, "rank of '6' is 11: its rank is at most 10"),
    "above all": (dict(rank=99), None, "finds no layer.*at most 12.*at most 40.*at most 10"),
    "all left out": (dict(rank={"*": None}), None, "finds no layer"),
    "groups": (
        dict(rank={"*": 2}),
        lambda m: m.append(nn.Conv2d(4, 4, 3, groups=4)),
        "'7' is 2: it has 4 groups, expected one",
    ),
    "another kind": (
        dict(energy={"7": 0.5}),
        lambda m: m.append(nn.Conv1d(4, 4, 3)),
        "a Conv1d, expected an nn.Linear or nn.Conv2d",
    ),
    "tied": (dict(rank={"4": 2}), tied, "'4' is 2: its weight is tied to that of 'tied'"),
    "shared": (
        dict(rank={"4": 2}),
        lambda m: deepcomp.share_weights(m, bits={"4": 3}),
        "made by a parametrization",
    ),
    "masked": (
        dict(rank={"4": 2}),
        lambda m: prune.l1_unstructured(m[4], "weight", 0.5),
        "is being pruned",
    ),
    "not finite": (
        dict(rank=4),
        lambda m: m[6].weight.data.fill_(float("inf")),
        "'6.weight' has",
    ),
    "meta": (dict(rank=4), lambda m: m.to("meta"), "'0.weight' is on the meta device"),
    "complex": (
        dict(rank={"7": 1}),
        lambda m: m.append(nn.Conv2d(4, 4, 3, dtype=torch.complex64)),
        "its weight is torch.complex64",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_factorized_is_refused_and_nothing_changed(case):
    arguments, prepare, message = BAD[case]
    model = make_model()
    if prepare:
        prepare(model)
    before = parameters_of(model)
    with pytest.raises(ValueError, match=message):
        deepcomp.factorize(model, **arguments)
    assert parameters_of(model) == before


def test_one_number_leaves_what_cannot_be_factorized_and_says_why():
    model = make_model()
    tied(model)
    model.append(nn.Conv2d(4, 4, 3, groups=4))
    expected = copy.deepcopy(model)[:7](images())
    reasons = [layer.reason for layer in deepcomp.factorize(model, rank=4)]
    assert reasons[1] == "its weight is tied to that of 'tied'"
    assert reasons[3:] == ["its weight is tied to that of '4'", "it has 4 groups, expected one"]
    assert model[4].weight is model.tied.weight
    assert model[:7](images()).shape == expected.shape


def test_a_layer_that_is_the_whole_model_is_refused():
    for model in (nn.Linear(9, 9), nn.ReLU()):
        with pytest.raises(ValueError, match=r"the whole model|found none"):
            deepcomp.factorize(model, rank=2)
    with pytest.raises(TypeError, match=r"expected an nn.Module, not a dict"):
        deepcomp.factorize({}, rank=2)


def test_hooks_with_keywords_are_taken_over():
    model, seen = torch.nn.Sequential(torch.nn.Linear(8, 6)), []
    model[0].register_forward_pre_hook(lambda m, a, k: seen.append("before"), with_kwargs=True)
    model[0].register_forward_hook(lambda m, a, k, y: seen.append("after"), with_kwargs=True)
    deepcomp.factorize(model, rank={"0": 2})
    model(torch.randn(1, 8))
    assert seen == ["before", "after"]
