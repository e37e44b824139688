"""sensitivity: each score is that of the compressed layer, and the model stays as it was."""

import copy
import csv
import sys

import numpy as np
import pytest
import torch
from digits import accuracy, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune as torch_prune

import deepcomp
from deepcomp.nn.scan import Row, Sensitivity


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return trained(
        nn.Sequential(nn.Linear(64, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 10))
    )


def bits_of(model):
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: t.detach().cpu().numpy().tobytes() for name, t in tensors.items()}


def make_small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()


def constant(model):
    return 1.0


# --- what is measured ---


def test_each_score_is_that_of_the_model_with_one_tensor_compressed(model):
    found = deepcomp.sensitivity(model, accuracy, sparsities=[0.9, 0.3], bits=[3, 1])
    assert found.baseline == accuracy(model)
    scanned = [("sparsity", 0.3), ("sparsity", 0.9), ("bits", 1), ("bits", 3)]
    names = ["0.weight", "3.weight"]
    assert [row[:3] for row in found.rows] == [(n, *setting) for n in names for setting in scanned]
    for row in found.rows:
        changed = copy.deepcopy(model)
        other = {"bits": None} if row.what == "sparsity" else {}
        setting = {row.what: {row.name: row.setting}}
        deepcomp.compress(model, **(other | setting)).restore(changed)
        assert row.score == accuracy(changed)
        assert row.baseline == found.baseline
    assert len({row.score for row in found.rows}) > 3


@settings(max_examples=20)
@given(
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.integers(0, 99),
    st.integers(1, 8),
    st.booleans(),
)
def test_evaluate_sees_the_bits_that_compress_gives(dtype, percent, bits, transposed):
    model = nn.Linear(9, 7).to(dtype)
    with torch.no_grad():
        model.weight[0, :3] = -0.0
        if transposed:
            model.weight = nn.Parameter(torch.randn(9, 7).to(dtype).t())
    seen = []

    def evaluate(model):
        seen.append(copy.deepcopy(model.state_dict()))
        return 0.0

    before = copy.deepcopy(model.state_dict())
    deepcomp.sensitivity(model, evaluate, sparsities=[percent / 100], bits=[bits])
    pruned = deepcomp.compress(model, bits=None, sparsity=percent / 100).state_dict()
    shared = deepcomp.compress(model, bits=bits).state_dict()
    for state, expected in zip([*seen, model.state_dict()], [before, pruned, shared, before]):
        for name in before:
            integers = [t.contiguous().view(torch.uint8) for t in (state[name], expected[name])]
            assert torch.equal(*integers)


def test_every_evaluation_starts_from_the_same_state():
    model = make_small().train()
    seen = []

    def evaluate(model):
        seen.append(bits_of(model))
        model(torch.randn(20, 6).double())  # moves the statistics of batch norm
        with torch.no_grad():
            for tensor in model.parameters():
                tensor.add_(1)
        return 0

    deepcomp.sensitivity(model, evaluate, sparsities=[0.0], bits=None)
    assert seen == [bits_of(model)] * 3


def test_names_select_by_pattern_and_exactly():
    model = nn.ModuleDict({"3*3": nn.Linear(4, 4), "3x3": nn.Linear(4, 4), "w[0]": nn.Linear(4, 4)})
    changed = []

    def evaluate(model):
        changed.append([name for name, m in model.items() if (m.weight == 0).any()])
        return 0.0

    def names(chosen):
        changed.clear()
        found = deepcomp.sensitivity(model, evaluate, [0.5], None, chosen)
        # the setting of one tensor must not reach another whose name it matches as a pattern
        assert changed == [[], *([row.name.removesuffix(".weight")] for row in found.rows)]
        return [row.name for row in found.rows]

    assert names(None) == ["3*3.weight", "3x3.weight", "w[0].weight"]
    assert names("3x3") == ["3x3.weight"]
    assert names(["w*", "3[*]3"]) == ["3*3.weight", "w[0].weight"]


def test_tied_weights_are_changed_together():
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    found = deepcomp.sensitivity(model, lambda m: (m["b"].weight == 0).sum(), [0.5], None)
    assert [(row.name, row.score) for row in found.rows] == [("a.weight", 8.0)]


def test_scores_of_numpy_and_torch_are_numbers():
    for score in (np.float32(0.5), np.array(0.5), torch.tensor(0.5)):
        found = deepcomp.sensitivity(make_small(), lambda _, s=score: s, [0.5], None)
        assert [type(row.score) for row in found.rows] == [float, float]


# --- what is put back ---


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_the_model_is_put_back_when_evaluate_raises(error, after):
    model = make_small()
    before, calls = bits_of(model), []

    def evaluate(model):
        model.eval()
        if len(calls) == after:
            raise error
        calls.append(1)
        return 0.0

    with pytest.raises(error):
        deepcomp.sensitivity(model, evaluate, sparsities=[0.9], bits=None)
    assert bits_of(model) == before
    assert model.training and model[1].training


def test_modes_gradients_and_parameters_stay():
    model = make_small().train()
    model[1].eval()
    model[2].weight.requires_grad_(False)
    model(torch.randn(20, 6).double()).sum().backward()
    parameters, grads = list(model.parameters()), [p.grad for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    deepcomp.sensitivity(model, lambda m: float(m.eval().training), [0.5], [2])
    assert [m.training for m in model.modules()] == modes == [True, True, False, True]
    assert all(a is b for a, b in zip(model.parameters(), parameters))
    assert all(p.grad is g for p, g in zip(model.parameters(), grads))
    assert [p.requires_grad for p in model.parameters()] == [True, True, True, True, False, True]


def test_a_model_under_torch_prune_is_scanned_and_put_back():
    model = make_small()
    torch_prune.l1_unstructured(model[0], "weight", 0.5)
    before, weight, x = bits_of(model), model[0].weight.clone(), torch.eye(6).double()
    zeros = []

    def evaluate(model):
        model.eval()(x)  # the hook computes the weight
        zeros.append(int((model[0].weight == 0).sum()))
        return 0.0

    deepcomp.sensitivity(model, evaluate, [0.3, 0.8], None, names="0.weight")
    assert zeros == [15, 15, 24]
    assert bits_of(model) == before
    assert torch.equal(model[0].weight, weight)


# --- tables and figures ---


def test_the_file_of_values_has_a_line_for_each_row(tmp_path):
    model = nn.ModuleDict({'a,"b"': nn.Linear(4, 4)})
    found = deepcomp.sensitivity(model, lambda m: 1 / 3, [0.5], [2])
    found.to_csv(tmp_path / "s.csv")
    with open(tmp_path / "s.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["name"] for line in lines] == ['a,"b".weight'] * 2
    assert [line["setting"] for line in lines] == ["0.5", "2"]
    assert all(float(line["score"]) == float(line["baseline"]) == 1 / 3 for line in lines)


def test_printing_shows_every_score():
    rows = [Row("fc", "sparsity", 0.5, 0.75, 0.875), Row("fc", "bits", 2, 0.25, 0.875)]
    text = str(Sensitivity(0.875, tuple(rows)))
    assert text.splitlines()[0] == "baseline 0.8750"
    cells = [line.split() for line in text.splitlines()[2:] if line and line[0] != "-"]
    assert cells == [["sparsity", "0.5"], ["fc", "0.7500"], ["bits", "2"], ["fc", "0.2500"]]


@pytest.mark.parametrize("n_layers", [1, 30])
def test_plot_draws_a_line_for_each_layer(tmp_path, n_layers, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    rows = [
        Row(f"layer{i}.weight", what, setting, 1 / (i + setting + 1), 1.0)
        for i in range(n_layers)
        for what, settings in (("sparsity", (0.1, 0.5)), ("bits", (2, 5)))
        for setting in settings
    ]
    before = pyplot.get_fignums()
    figure = Sensitivity(1.0, tuple(rows)).plot(tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert pyplot.get_fignums() == before
    for ax, x in zip(figure.axes, [[0.1, 0.5], [2, 5]], strict=True):
        assert ax.get_xlabel()
        lines = ax.get_lines()[1:]  # the first is the baseline
        assert [list(line.get_xdata()) for line in lines] == [x] * n_layers
        assert [line.get_ydata()[0] for line in lines] == [
            1 / (i + x[0] + 1) for i in range(n_layers)
        ]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["baseline", *(f"layer{i}" for i in range(n_layers))]


def test_plot_without_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = Sensitivity(1.0, (Row("fc", "bits", 2, 0.25, 1.0),))
    with pytest.raises(ImportError, match=r"pip install 'deepcomp\[plot\]'"):
        found.plot()


# --- what is refused, and with which words ---


@pytest.mark.parametrize("value", [1, 1.0, -0.1, np.nan, True, "0.5", None])
def test_sparsities_must_be_at_least_0_and_below_1(value):
    with pytest.raises(ValueError, match=r"sparsities: .*, expected numbers in \[0, 1\)"):
        deepcomp.sensitivity(make_small(), constant, sparsities=[0.5, value])


@pytest.mark.parametrize("value", [0, 9, 2.0, True, "5", None])
def test_bits_must_be_integers_from_1_to_8(value):
    with pytest.raises(ValueError, match=r"bits: .*, expected integers from 1 to 8"):
        deepcomp.sensitivity(make_small(), constant, bits=[5, value])


def test_nothing_to_scan_is_refused():
    with pytest.raises(ValueError, match="there is nothing to scan"):
        deepcomp.sensitivity(make_small(), constant, sparsities=[], bits=None)
    with pytest.raises(ValueError, match="the model has no weights"):
        deepcomp.sensitivity(nn.BatchNorm1d(3), constant)
    with pytest.raises(ValueError, match="names: the pattern 'fc' matches no float tensor"):
        deepcomp.sensitivity(make_small(), constant, names=["0", "fc"])
    with pytest.raises(ValueError, match="names is empty"):
        deepcomp.sensitivity(make_small(), constant, names=[])
    with pytest.raises(TypeError, match=r"expected an nn\.Module"):
        deepcomp.sensitivity(make_small().state_dict(), constant)


@pytest.mark.parametrize("score", [None, "0.5", True, 1j, torch.ones(2), torch.tensor(True)])
def test_a_score_that_is_no_number_is_refused(score):
    with pytest.raises(TypeError, match=r"evaluate returned .*: expected a number"):
        deepcomp.sensitivity(make_small(), lambda _: score)


def test_nan_is_refused_and_the_model_put_back():
    model = make_small()
    before = bits_of(model)
    with pytest.raises(ValueError, match="evaluate returned NaN"):
        deepcomp.sensitivity(model, lambda m: np.nan if (m[0].weight == 0).any() else 1.0)
    assert bits_of(model) == before
    with pytest.raises(ValueError, match="evaluate returned inf for the model as it is"):
        deepcomp.sensitivity(model, lambda m: np.inf)


def test_a_tensor_that_is_not_finite_is_refused_before_anything_is_evaluated():
    model = make_small()
    model[2].weight.data[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"'2\.weight' has NaN or infinite entries"):
        deepcomp.sensitivity(model, lambda _: pytest.fail("was evaluated"))


def test_a_tensor_that_the_model_computes_is_refused():
    model = make_small()
    double = {"double": torch.eye(3)}
    model.register_state_dict_post_hook(lambda module, state, *_: state.update(double))
    with pytest.raises(ValueError, match="tensor 'double' is made of other tensors"):
        deepcomp.sensitivity(model, lambda _: pytest.fail("was evaluated"), names="double")
