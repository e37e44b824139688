"""What a weight is: one rule for modules, one for mappings; all who prune and share have these."""

import warnings

import numpy as np
import pytest

import deepcomp
from deepcomp.arrays import Source, sources

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, prune  # noqa: E402

from deepcomp.nn.trial import Trial  # noqa: E402


def weights_of(model):
    """Return the names of what is pruned and shared unless a pattern says otherwise."""
    return {n for n, s in sources(model).items() if isinstance(s, Source) and s.is_weight}


def pruned_with(model):
    prune.l1_unstructured(model, "weight", 3)
    return model


class Mixed(nn.Module):
    """Layers, and all that is none: tokens, positions, scales, and buffers of any kind."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(9, 30)
        self.last = nn.Linear(30, 1)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 9))
        self.pos_embed = nn.Parameter(torch.randn(1, 17, 9))
        self.scale = nn.Parameter(torch.randn(9, 9))
        self.norm = nn.LayerNorm((3, 3))
        self.register_buffer("mel", torch.rand(20, 40))
        self.register_buffer("causal", torch.full((8, 8), -torch.inf).triu(1))


MIXED = {"first.weight", "last.weight"}


class Conv1D(nn.Module):
    """As that of transformers, which it stands in for."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 4))
        self.bias = nn.Parameter(torch.randn(4))


Conv1D.__module__ = "transformers.pytorch_utils"


class Deeper(nn.Linear):
    """A subclass with a parameter of its own, as LoRA has them."""

    def __init__(self):
        super().__init__(5, 4)
        self.lora = nn.Parameter(torch.randn(5, 2))


def tied_to_bare():
    model = nn.Module()
    model.table = nn.Parameter(torch.randn(6, 4))
    model.head = nn.Linear(4, 6, bias=False)
    model.head.weight = model.table
    return model


LAYERS = {
    "linear": (lambda: nn.Linear(5, 4), {"weight"}),
    "of one output": (lambda: nn.Linear(5, 1), {"weight"}),
    "of one input": (lambda: nn.Linear(1, 5), {"weight"}),
    "bilinear": (lambda: nn.Bilinear(3, 4, 5), {"weight"}),
    "convolution, one dimension": (lambda: nn.Conv1d(1, 4, 3), {"weight"}),
    "convolution, three dimensions": (lambda: nn.Conv3d(2, 1, 1), {"weight"}),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 2), {"weight"}),
    "embedding": (lambda: nn.Embedding(5, 1), {"weight"}),
    "bag": (lambda: nn.EmbeddingBag(5, 3), {"weight"}),
    "LSTM": (
        lambda: nn.LSTM(3, 4, proj_size=2, bidirectional=True),
        {f"weight_{w}_l0{r}" for w in ("ih", "hh", "hr") for r in ("", "_reverse")},
    ),
    "GRU cell": (lambda: nn.GRUCell(3, 4), {"weight_ih", "weight_hh"}),
    "attention": (
        lambda: nn.MultiheadAttention(8, 2, add_bias_kv=True),
        {"in_proj_weight", "out_proj.weight"},
    ),
    "attention of three": (
        lambda: nn.MultiheadAttention(8, 2, kdim=4, vdim=4),
        {"q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"},
    ),
    "subclass": (Deeper, {"weight"}),
    "Conv1D": (Conv1D, {"weight"}),
    "pruned": (lambda: pruned_with(nn.Linear(5, 4)), {"weight"}),
    "shared": (lambda: deepcomp.share_weights(nn.Linear(5, 4)), {"weight"}),
    "weight_norm": (
        lambda: parametrizations.weight_norm(nn.Linear(5, 4)),
        {"parametrizations.weight.original1"},
    ),
    "spectral_norm": (
        lambda: parametrizations.spectral_norm(nn.Linear(5, 4)),
        {"parametrizations.weight.original"},
    ),
    "old spectral_norm": (lambda: nn.utils.spectral_norm(nn.Linear(5, 4)), {"weight_orig"}),
    "wrapped": (lambda: nn.DataParallel(Mixed()), {f"module.{n}" for n in MIXED}),
    "compiled": (lambda: torch.compile(Mixed()), {f"_orig_mod.{n}" for n in MIXED}),
    "scripted": (lambda: torch.jit.script(nn.Sequential(nn.Linear(5, 4))), {"0.weight"}),
    "tied to a bare parameter": (tied_to_bare, {"table"}),
    "norms": (lambda: nn.Sequential(nn.LayerNorm((4, 4)), nn.PReLU(4), nn.BatchNorm1d(4)), set()),
    "all that is none": (Mixed, MIXED),
}


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_weights_are_those_of_layers_that_have_some(case):
    make, expected = LAYERS[case]
    assert weights_of(make()) == expected


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_magnitudes_of_an_old_weight_norm_are_no_weights():
    layer = nn.LSTM(3, 4)
    nn.utils.weight_norm(layer, "weight_hh_l0")
    assert weights_of(layer) == {"weight_ih_l0", "weight_hh_l0_v"}


def test_weights_are_known_under_names_that_a_state_dict_makes_up():
    model = Mixed()

    def rename(module, state, prefix, _):
        for name in list(state):
            state[f"renamed.{name}"] = state.pop(name)

    model._register_state_dict_hook(rename)
    assert weights_of(model) == {f"renamed.{name}" for name in MIXED}


def test_of_a_mapping_weights_have_two_dimensions_larger_than_one():
    shapes = {(5, 4), (5, 1, 3, 1), (2, 2)}
    others = {(), (7,), (1, 5), (5, 1), (1, 1, 768), (1, 9, 1), (0, 5)}
    model = {str(shape): np.zeros(shape, np.float32) for shape in shapes | others}
    model["integers"] = np.zeros((5, 4), np.int32)
    assert weights_of(model) == {str(shape) for shape in shapes}
    assert weights_of(Mixed().state_dict()) >= {"first.weight", "pos_embed", "mel"}


def changed_by(model, action):
    before = {n: t.clone() for n, t in model.state_dict().items()}
    action(model)
    after = model.state_dict()
    return {n for n, t in before.items() if n not in after or not torch.equal(after[n], t)}


ALL = {
    "compress, bits": lambda m, **k: deepcomp.compress(m, bits=1, **k).restore(m),
    "compress, sparsity": lambda m, **k: deepcomp.compress(m, None, 0.5, **k).restore(m),
    "compress, global": lambda m, **k: deepcomp.compress(
        m, None, std=1, scope="global", **k
    ).restore(m),
    "Pruner": lambda m, **k: deepcomp.Pruner(m, 0.5, **k).remove(),
    "share_weights": lambda m, **k: deepcomp.share_weights(m, bits=1, **k),
}


@pytest.mark.parametrize("who", ALL)
def test_all_who_prune_and_share_agree_on_what_weights_are(who):
    assert changed_by(Mixed(), ALL[who]) == MIXED


def test_search_and_sensitivity_change_the_same():
    model = Mixed()
    found = deepcomp.sensitivity(model, lambda m: 1.0, sparsities=[0.5], bits=None)
    assert {row.name for row in found.rows} == MIXED
    best = deepcomp.search(model, lambda m: 1.0, max_evaluations=4)
    assert {row.name for row in best.rows} == MIXED == set(best.settings["bits"])


@pytest.mark.parametrize("who", ALL)
def test_what_is_excluded_stays_as_it_is(who):
    assert changed_by(Mixed(), lambda m: ALL[who](m, exclude="last")) == {"first.weight"}
    assert changed_by(Mixed(), lambda m: ALL[who](m, exclude=["first.*"])) == {"last.weight"}
    for pattern in ("middle", "FIRST"):
        with pytest.raises(ValueError, match=f"exclude: the pattern '{pattern}' matches no tensor"):
            ALL[who](Mixed(), exclude=["last", pattern])
    with pytest.raises(ValueError, match="exclude: 5 is no string"):
        ALL[who](Mixed(), exclude=[5])


def test_what_is_excluded_is_not_tried():
    model = Mixed()
    names = deepcomp.sensitivity(model, lambda m: 1.0, bits=[4], sparsities=None, exclude="last")
    assert {row.name for row in names.rows} == {"first.weight"}
    found = deepcomp.search(model, lambda m: 1.0, max_evaluations=4, exclude=["first"])
    assert {row.name for row in found.rows} == {"last.weight"}
    assert Trial(model, len, ["*", "scale"], "first").names == ["scale", "last.weight"]
    with pytest.raises(ValueError, match="exclude leaves none"):
        Trial(model, len, None, "*")


def test_exclude_goes_before_a_pattern_that_names_the_tensor():
    model = Mixed()
    packed = deepcomp.compress(model, bits={"first": 1, "scale": 1}, exclude="first.weight")
    assert packed["first.weight"].to_torch().unique().numel() == 270
    assert packed["first.bias"].to_torch().unique().numel() == 30  # not in the weight's place
    assert packed["scale"].to_torch().unique().numel() == 2


def test_a_pattern_may_name_a_parameter_but_no_buffer():
    model = Mixed()
    packed = deepcomp.compress(model, bits={"pos_embed": 2, "*": 5})
    assert packed["pos_embed"].to_torch().unique().numel() == 4
    deepcomp.Pruner(model, sparsity={"cls_token": 0.5})
    assert int((model.cls_token == 0).sum()) == 4
    for pattern in ("mel", "[mc]*l"):
        with pytest.raises(ValueError, match="matches only buffers, which stay exact"):
            deepcomp.compress(model, bits={pattern: 5})
    everything = deepcomp.compress(model, bits=1, threshold=1e9)
    assert torch.equal(everything["mel"].to_torch(), model.mel)
    assert torch.equal(everything["causal"].to_torch(), model.causal)


def test_a_weight_that_is_not_finite_names_the_way_out():
    model = Mixed()
    model.first.weight.data[0, 0] = torch.nan
    for action in ALL.values():
        with pytest.raises(ValueError, match=r"\(exclude='first\.weight'") as info:
            if action is ALL["Pruner"]:
                deepcomp.sensitivity(model, lambda m: 1.0)
            else:
                action(model)
        assert "'first.weight' has NaN or infinite entries" in str(info.value)
    assert deepcomp.compress(model, exclude="first.weight")["first.weight"].to_torch().isnan().any()


def test_a_name_with_signs_of_patterns_is_excluded_as_the_message_says():
    model = {"a[0].weight": np.full((2, 2), np.nan, np.float32)}
    with pytest.raises(ValueError, match="NaN or infinite") as info:
        deepcomp.compress(model)
    pattern = str(info.value).partition("exclude='")[2].partition("'")[0]
    assert np.isnan(deepcomp.compress(model, exclude=pattern)["a[0].weight"].to_dense()).all()


def test_a_model_that_is_mostly_of_unknown_layers_gets_a_warning():
    model = Mixed()
    model.experts = nn.Parameter(torch.randn(4, 50, 60))
    message = "12,252 entries in 5 parameters of no known layer, the largest being 'experts', stay"
    with pytest.warns(UserWarning, match=message) as warned:
        packed = deepcomp.compress(model)
    assert warned[0].filename == __file__
    assert torch.equal(packed["experts"].to_torch(), model.experts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deepcomp.compress(model, exclude="experts")
        deepcomp.compress(model, bits={"experts": 5, "*": 5})
        deepcomp.compress(model, bits=None)
        deepcomp.compress(model.state_dict(), exclude="causal")


def test_a_layer_without_a_shape_yet_is_refused_by_its_name():
    for action in (deepcomp.compress, lambda m: deepcomp.Pruner(m, 0.5), deepcomp.share_weights):
        with pytest.raises(ValueError, match=r"'1\.weight' is not initialized yet: run the model"):
            action(nn.Sequential(nn.Linear(3, 3), nn.LazyLinear(3)))


def test_a_checkpoint_larger_than_memory_has_the_weights_of_a_mapping(tmp_path):
    state = {n: t.numpy() for n, t in Mixed().state_dict().items()}
    np.savez(tmp_path / "model.npz", **state)
    settings = dict(bits=2, sparsity=0.5, exclude=["pos_embed", "causal"])
    large = deepcomp.compress_checkpoint(tmp_path / "model.npz", tmp_path / "packed", **settings)
    small = deepcomp.compress(state, **settings)
    assert {n: t.section().tobytes() for n, t in large.items()} == {
        n: t.section().tobytes() for n, t in small.items()
    }
    exact = {n for n, a in state.items() if np.array_equal(a, large[n].to_dense())}
    assert exact == state.keys() - {"first.weight", "scale", "mel", "norm.weight"}
    message = "begun with exclude = .*causal.*, now it is null"
    with pytest.raises(ValueError, match=message):
        deepcomp.compress_checkpoint(
            tmp_path / "model.npz", tmp_path / "packed", bits=2, sparsity=0.5
        )
