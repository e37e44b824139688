"""`restored.layers` lists every weight that stays dense, and says why."""

import pytest

import deepcomp

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations  # noqa: E402
from torch.nn.utils import prune as torch_prune  # noqa: E402


class OwnLinear(nn.Linear):
    pass


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 6))
        self.scale = nn.Parameter(torch.ones(8))


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.gain = nn.Parameter(torch.ones(8))
        self.register_buffer("mask", torch.ones(8, 8))
        self.embedding = nn.Embedding(20, 8)
        self.bag = nn.EmbeddingBag(20, 8)
        self.lstm = nn.LSTM(8, 6, num_layers=2)
        self.gru = nn.GRU(8, 6)
        self.cell = nn.RNNCell(8, 6)
        self.attention = nn.MultiheadAttention(8, 2)
        self.cross = nn.MultiheadAttention(8, 2, kdim=6, vdim=4)
        self.conv1d = nn.Conv1d(8, 6, 3)
        self.conv3d = nn.Conv3d(8, 6, 3)
        self.up = nn.ConvTranspose2d(8, 6, 3)
        self.reflect = nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect")
        self.subclass = OwnLinear(8, 6)
        self.own = Own()
        self.bilinear = nn.Bilinear(8, 6, 4)
        self.norm = nn.LayerNorm(8)
        self.normed = parametrizations.weight_norm(nn.Linear(8, 6))
        self.normed_rnn = parametrizations.weight_norm(nn.LSTM(8, 6), "weight_hh_l0")
        self.pruned = torch_prune.l1_unstructured(nn.Linear(8, 6), "weight", 0.5)
        self.pruned_rnn = torch_prune.l1_unstructured(nn.GRU(8, 6), "weight_hh_l0", 0.5)
        self.pair = nn.ModuleList([nn.ParameterList([torch.ones(3, 3), torch.ones(3)])])
        self.good = nn.Linear(8, 6)
        self.fine = nn.Conv2d(8, 6, 3)


MADE = "its weight is made by a parametrization or is being pruned"
NONE = "there is no sparse "
EXPECTED = {
    "token": "it is a bare parameter, of Everything",
    "embedding": f"{NONE}Embedding",
    "bag": f"{NONE}EmbeddingBag",
    **{f"lstm.weight_{w}_l{i}": f"{NONE}LSTM" for i in range(2) for w in ("ih", "hh")},
    **{f"gru.weight_{w}_l0": f"{NONE}GRU" for w in ("ih", "hh")},
    **{f"cell.weight_{w}": f"{NONE}RNNCell" for w in ("ih", "hh")},
    "attention.in_proj_weight": f"{NONE}MultiheadAttention",
    "attention.out_proj": f"{NONE}NonDynamicallyQuantizableLinear",
    **{f"cross.{p}_proj_weight": f"{NONE}MultiheadAttention" for p in "qkv"},
    "cross.out_proj": f"{NONE}NonDynamicallyQuantizableLinear",
    "conv1d": f"{NONE}Conv1d",
    "conv3d": f"{NONE}Conv3d",
    "up": f"{NONE}ConvTranspose2d",
    "reflect": "there is no padding with reflect",
    "subclass": f"{NONE}OwnLinear",
    "own": f"{NONE}Own",
    "bilinear": f"{NONE}Bilinear",
    "normed": MADE,
    "normed_rnn.weight_ih_l0": f"{NONE}LSTM",
    "normed_rnn.weight_hh_l0": MADE,
    "pruned": MADE,
    "pruned_rnn.weight_hh_l0": MADE,
    "pruned_rnn.weight_ih_l0": f"{NONE}GRU",
    "pair.0.0": "it is a bare parameter, of ParameterList",
}


@pytest.mark.parametrize("layers", ["sparse", "auto"])
def test_every_weight_that_stays_dense_is_listed_with_a_reason(layers, capsys):
    torch.manual_seed(0)
    packed = deepcomp.compress(Everything(), bits=3)
    restored = packed.restore(model := Everything(), layers=layers, verbose=True)
    dense = {c.layer: c.reason for c in restored.layers if not c.is_sparse}
    if layers == "auto":
        for name in ("good", "fine"):
            assert "expected" in dense.pop(name, "expected")
    assert dense == EXPECTED
    names = [choice.layer for choice in restored.layers]
    assert len(names) == len(set(names)) == len(EXPECTED) + 2
    assert capsys.readouterr().out.splitlines() == [str(choice) for choice in restored.layers]
    for name, parameter in model.named_parameters():  # nothing of two dimensions is left out
        name = name.replace("parametrizations.", "").partition(".original")[0]
        name = name.removesuffix("_orig").removesuffix(".weight")
        assert parameter.dim() < 2 or name in names, name


def test_the_model_itself_may_be_the_layer():
    for model in (nn.Linear(5, 4), nn.Embedding(5, 4), nn.LSTM(5, 4)):
        choices = deepcomp.compress(model, bits=2).restore(model, layers="sparse").layers
        if isinstance(model, nn.LSTM):
            assert [choice.layer for choice in choices] == ["weight_ih_l0", "weight_hh_l0"]
        else:
            assert str(*choices).startswith("the model: dense, ")


@pytest.mark.filterwarnings("ignore")
def test_scripted_and_lazy_modules_are_listed():
    model = nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(5, 4))), nn.Linear(4, 3))
    packed = deepcomp.compress(model, bits=2)
    layers = packed.restore(model, layers="sparse").layers
    assert [(c.layer, c.is_sparse) for c in layers] == [("0.0", False), ("1", True)]
    assert layers[0].reason == "TorchScript has compiled it"
    lazy = nn.Sequential(nn.Linear(5, 4), nn.LazyLinear(3), nn.LazyBatchNorm1d())
    packed = deepcomp.compress(lazy[0], bits=2).state_dict()
    packed = deepcomp.compress({f"0.{name}": value for name, value in packed.items()})
    reasons = {c.layer: c.reason for c in packed.restore(lazy, False, layers="sparse").layers}
    assert reasons["1"] == f"{NONE}LazyLinear"


def test_the_projections_of_transformers_are_listed():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=40, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    model = transformers.GPT2LMHeadModel(config)
    packed = deepcomp.compress(model, bits=3)
    choices = {c.layer: c for c in packed.restore(model, layers="sparse").layers}
    assert {name: c.reason for name, c in choices.items() if not c.is_sparse} == {
        "transformer.wte": f"{NONE}Embedding",
        "transformer.wpe": f"{NONE}Embedding",
        "transformer.h.0.attn.c_attn": f"{NONE}Conv1D",
        "transformer.h.0.attn.c_proj": f"{NONE}Conv1D",
        "transformer.h.0.mlp.c_fc": f"{NONE}Conv1D",
        "transformer.h.0.mlp.c_proj": f"{NONE}Conv1D",
    }
    assert choices["lm_head"].is_sparse


def test_nothing_is_listed_where_all_layers_are_to_be_dense(capsys):
    model = nn.Sequential(nn.Linear(5, 4), nn.LSTM(4, 3))
    assert deepcomp.compress(model).restore(model, verbose=True).layers == []
    assert capsys.readouterr().out.strip() == ""
