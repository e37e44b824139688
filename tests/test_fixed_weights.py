"""What would change the weight of a sparse layer, or cannot hold it, is told the way out."""

import copy
import io
import pickle

import pytest

import deepcomp

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn.utils import fusion, parametrizations, parametrize  # noqa: E402
from torch.nn.utils import prune as torch_prune  # noqa: E402

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
WAY = (
    "computes from the compressed form: restore the CompressedModel that it came from into a "
    "network built anew, with layers='dense', and "
)


def make():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10)
    )
    return model.eval()


def sparse_model():
    model = make()
    deepcomp.compress(model, bits=2, sparsity=0.8).restore(model, layers="sparse")
    return model


def set_to(value):
    def change(model):
        model[3].weight = value

    return change


def delete(model):
    del model[3].weight


CHANGES = {
    "weight_norm": lambda m: parametrizations.weight_norm(m[3]),
    "spectral_norm": lambda m: parametrizations.spectral_norm(m[3]),
    "orthogonal": lambda m: parametrizations.orthogonal(m[3]),
    "parametrization": lambda m: parametrize.register_parametrization(
        m[0], "weight", nn.Identity()
    ),
    "old weight_norm": lambda m: nn.utils.weight_norm(m[3]),
    "l1_unstructured": lambda m: torch_prune.l1_unstructured(m[3], "weight", 0.5),
    "ln_structured": lambda m: torch_prune.ln_structured(m[0], "weight", 0.5, n=2, dim=0),
    "identity": lambda m: torch_prune.identity(m[3], "weight"),
    "global_unstructured": lambda m: torch_prune.global_unstructured(
        [(m[3], "weight")], torch_prune.L1Unstructured, amount=0.5
    ),
    "fuse_conv_bn_eval": lambda m: fusion.fuse_conv_bn_eval(m[0], m[1]),
    "fuse_linear_bn_eval": lambda m: fusion.fuse_linear_bn_eval(m[3], m[4]),
    "parameter": set_to(nn.Parameter(torch.ones(10, 64))),
    "tensor": set_to(torch.ones(10, 64)),
    "None": set_to(None),
    "module": set_to(nn.Identity()),
    "del": delete,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", CHANGES)
def test_a_change_of_the_weight_is_refused_and_changes_nothing(way):
    model = sparse_model()
    expected, names = model(X), list(model.state_dict())
    for _ in range(2):
        with pytest.raises(RuntimeError, match=rf"Sparse\w+ {WAY}change its weight there$"):
            CHANGES[way](model)
    assert list(model.state_dict()) == names
    assert torch.equal(model(X), expected)
    assert [name for name, _ in model.named_parameters()] == [
        name for name, _ in make().named_parameters() if name not in ("0.weight", "3.weight")
    ]


def test_the_bias_of_a_sparse_layer_is_a_parameter_like_others():
    model, expected = sparse_model(), sparse_model()
    for layer in (0, 3):
        torch_prune.l1_unstructured(model[layer], "bias", 0.5)
        kept = model[layer].bias_mask.bool()
        expected[layer].bias = nn.Parameter(expected[layer].bias.where(kept, 0))
    assert torch.equal(model(X), expected(X))
    with torch.inference_mode():
        assert torch.equal(model(X), expected(X))
    for layer in (0, 3):
        torch_prune.remove(model[layer], "bias")
        parametrize.register_parametrization(model[layer], "bias", nn.Tanh())
        expected[layer].bias = nn.Parameter(expected[layer].bias.tanh())
    torch.testing.assert_close(model(X), expected(X))


def test_safetensors_is_told_that_it_cannot_hold_the_model(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    for use in (safetensors.save_model, safetensors.load_model):
        safetensors.save_model(make(), tmp_path / "dense.safetensors")
        name = "sparse" if use is safetensors.save_model else "dense"
        with pytest.raises(RuntimeError, match=f"safetensors cannot hold a SparseC.*{WAY}use that"):
            use(sparse_model(), tmp_path / f"{name}.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["dense.safetensors"]


def test_symbolic_traces_are_told_the_way():
    with pytest.raises(TypeError, match=f"expected a tensor, not a Proxy: .*{WAY}trace that"):
        torch.fx.symbolic_trace(sparse_model())
    with pytest.raises(TypeError, match=r"expected a tensor, not a list$"):
        sparse_model()[3]([1.0])


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_told_the_way():
    with pytest.raises(RuntimeError, match=f"TorchScript cannot .* SparseConv2d, .*{WAY}script"):
        torch.jit.script(sparse_model())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [False, True])
def test_an_export_to_onnx_is_told_the_way(dynamo):
    if dynamo:
        pytest.importorskip("onnxscript")
    model = sparse_model()
    with pytest.raises(Exception, match=f"ONNX has no operator for .*{WAY}export that"):
        torch.onnx.export(model, (X,), io.BytesIO(), dynamo=dynamo)
    assert "0.section" in model.state_dict()  # nothing is left of it


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_operators_are_refused_while_an_export_to_onnx_goes_on(kind, monkeypatch):
    model = sparse_model().to("meta")
    layer, x = (model[3], X.flatten()[:64]) if kind == "linear" else (model[0], X)
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    with pytest.raises(RuntimeError, match=f"ONNX has no operator for .*{WAY}export that"):
        layer(x.to("meta"))


@pytest.mark.filterwarnings("ignore")
def test_what_takes_the_layer_as_it_is_works():
    model = sparse_model()
    expected = model(X)
    check = torch.testing.assert_close
    torch._dynamo.reset()
    check(torch.compile(model, backend="eager", fullgraph=True)(X), expected)
    check(torch.export.export(model, (X,)).module()(X), expected)
    check(torch.jit.trace(model, X)(X), expected)
    check(torch.func.functional_call(model, dict(model.named_parameters()), (X,)), expected)
    check(nn.DataParallel(model)(X), expected)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        check(copied(X), expected)
        with pytest.raises(RuntimeError, match=WAY):
            copied[3].weight = None
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = sparse_model()
    other.load_state_dict(torch.load(file, weights_only=True))
    check(other(X), expected)
