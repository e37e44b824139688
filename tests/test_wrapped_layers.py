"""Whatever wraps or holds a layer: a model restored with sparse layers gives the right outputs."""

import copy
import functools

import pytest

import deepcomp

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, parametrize  # noqa: E402
from torch.nn.utils import prune as torch_prune  # noqa: E402

from deepcomp.nn import SparseConv2d, SparseLinear  # noqa: E402
from deepcomp.nn import model as nn_model  # noqa: E402

X = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
SPARSE = (SparseLinear, SparseConv2d)

compiled = functools.partial(torch.compile, backend="eager")


class Net(nn.Module):
    """Two layers, the second of which a test may get called in another way."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 12)
        self.second = nn.Linear(12, 12)
        with torch.no_grad():  # few entries, and no row without one
            self.first.weight.mul_(torch.eye(12) + torch.eye(12).roll(1, 0))
            self.second.weight.mul_(torch.eye(12))

    def forward(self, x):
        return self.last(self.first(x).relu())

    def last(self, x):
        return self.second(x)


def wrap_first(wrap):
    def change(model):
        model.first = wrap(model.first)
        return model

    return change


def call_by(make):
    """Let the model call what is made of its second layer."""

    def change(model):
        model.last = make(model)
        return model

    return change


def run_before(change):
    def run(model):
        model = change(model)
        model(X)
        return model

    return run


def in_place(module):
    module.compile(backend="eager")
    return module


def compile_second(model):
    in_place(model.second)
    return model


def replace_forward(model):
    layer = model.second
    old = layer.forward
    layer.forward = lambda x: 2 * old(x)
    return model


def hook_with_itself(model):
    layer = model.second
    layer.register_forward_hook(lambda module, inputs, output: output + layer.weight.sum())
    return model


def hold_in_another_module(model):
    hidden = nn.Sequential(model.second, nn.ReLU())
    return call_by(lambda model: lambda x: hidden(x))(model)


class Keeper:
    __slots__ = ("layer",)

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x):
        return self.layer(x)


def in_a_list(model):
    model.steps = [(model.second, torch.relu)]
    model.last = lambda x: functools.reduce(lambda y, f: f(y), model.steps[0], x)
    return model


# How the model is changed, and the names of the layers that may be sparse then.
WAYS = {
    "nothing": (lambda model: model, {"first", "second"}),
    "compiled layer": (wrap_first(compiled), {"second"}),
    "compiled layer, run": (run_before(wrap_first(compiled)), {"second"}),
    "compiled part": (
        wrap_first(lambda m: compiled(nn.Sequential(m, nn.Tanh()))),
        {"first._orig_mod.0", "second"},
    ),
    "compiled part, run": (
        run_before(wrap_first(lambda m: compiled(nn.Sequential(m, nn.Tanh())))),
        {"first._orig_mod.0", "second"},
    ),
    "compiled model": (compiled, {"_orig_mod.first", "_orig_mod.second"}),
    "compiled model, run": (run_before(compiled), {"_orig_mod.first", "_orig_mod.second"}),
    "compiled in place": (in_place, {"first", "second"}),
    "compiled in place, run": (run_before(in_place), {"first", "second"}),
    "layer compiled in place": (compile_second, {"first"}),
    "layer compiled in place, run": (run_before(compile_second), {"first"}),
    "compiled function": (call_by(lambda m: compiled(m.second)), {"first"}),
    "compiled forward": (call_by(lambda m: compiled(m.second.forward)), {"first"}),
    "data parallel": (
        lambda m: nn.DataParallel(nn.Sequential(nn.DataParallel(m))),
        {"module.0.module.first", "module.0.module.second"},
    ),
    "data parallel layer": (wrap_first(nn.DataParallel), {"first.module", "second"}),
    "list": (in_a_list, {"first"}),
    "partial": (call_by(lambda m: functools.partial(m.second)), {"first"}),
    "bound method": (call_by(lambda m: m.second.forward), {"first"}),
    "call": (call_by(lambda m: m.second.__call__), {"first"}),
    "closure": (call_by(lambda m: (lambda layer: lambda x: layer(x))(m.second)), {"first"}),
    "default": (call_by(lambda m: lambda x, layer=m.second: layer(x)), {"first"}),
    "slot": (call_by(lambda m: Keeper(m.second)), {"first"}),
    "dict": (call_by(lambda m: (lambda by: lambda x: by["a"][0](x))({"a": [m.second]})), {"first"}),
    "another module": (hold_in_another_module, {"first"}),
    "scripted": (wrap_first(torch.jit.script), {"second"}),
    "traced": (wrap_first(lambda m: torch.jit.trace(m, X)), {"second"}),
    "weight norm": (wrap_first(parametrizations.weight_norm), {"second"}),
    "old weight norm": (wrap_first(nn.utils.weight_norm), {"second"}),
    "parametrized bias": (
        wrap_first(
            lambda m: parametrize.register_parametrization(m, "bias", nn.Identity(), unsafe=True)
        ),
        {"second"},
    ),
    "pruned": (wrap_first(lambda m: torch_prune.l1_unstructured(m, "weight", 0.5)), {"second"}),
    "pruned bias": (wrap_first(lambda m: torch_prune.l1_unstructured(m, "bias", 0.5)), {"second"}),
    "other forward": (replace_forward, {"first"}),
    "hook that holds it": (hook_with_itself, {"first"}),
}


def changed(change, seed):
    torch.manual_seed(seed)
    return change(Net()).eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS)
def test_outputs_are_those_of_a_dense_restore(way):
    change, expected_names = WAYS[way]
    torch._dynamo.reset()
    packed = deepcomp.compress(changed(change, 0), bits=3)
    dense, sparse = changed(change, 1), changed(change, 2)
    packed.restore(dense)
    result = packed.restore(sparse, layers="sparse")
    names = {choice.layer for choice in result.layers if choice.is_sparse}
    assert names == expected_names
    for name, module in sparse.named_modules():
        assert isinstance(module, SPARSE) == (name in names), name
    for _ in range(2):
        torch.testing.assert_close(sparse(X), dense(X))


def pruned_net(seed=0):
    torch.manual_seed(seed)
    model = Net().eval()
    return model, deepcomp.compress(model, bits=3)


@pytest.mark.parametrize("layers", ["sparse", "auto"])
def test_a_model_that_is_one_compiled_layer_is_dense_and_filled(layers):
    model = compiled(nn.Linear(12, 12))
    packed = deepcomp.compress(model, bits=2, sparsity=0.9)
    torch.nn.init.zeros_(model._orig_mod.weight)
    [choice] = packed.restore(model, layers=layers).layers
    assert choice == ("_orig_mod", False, "torch.compile calls it by itself")
    assert torch.equal(model._orig_mod.weight, packed["_orig_mod.weight"].to_torch())
    expected = nn.functional.linear(X, packed["_orig_mod.weight"].to_torch(), model.bias)
    torch.testing.assert_close(model(X), expected)


def test_reasons_name_who_holds_a_layer():
    model, packed = pruned_net()
    model.steps = [model.first]
    model.second.alias = Keeper(model.second)
    reasons = {c.layer: c.reason for c in packed.restore(model, layers="sparse").layers}
    assert reasons["first"] == "'steps' of the model holds it as well"
    assert reasons["second"] == "'alias' of 'second' holds it as well"


def test_the_old_layer_has_the_weights_too_where_somebody_keeps_it():
    model, packed = pruned_net()
    wanted, _ = pruned_net(1)
    packed.restore(wanted)
    model, _ = pruned_net(2)
    layer, weight = model.first, model.second.weight
    assert all(c.is_sparse for c in packed.restore(model, layers="sparse").layers)
    assert isinstance(model.first, SparseLinear)
    assert torch.equal(layer(X), wanted.first(X))
    assert torch.equal(weight, wanted.second.weight)


def test_a_weight_that_nobody_keeps_is_never_dense(monkeypatch):
    model, packed = pruned_net()
    decoded = []
    decode_into = nn_model._decode_into
    monkeypatch.setattr(
        nn_model, "_decode_into", lambda *args: decoded.append(args[1]) or decode_into(*args)
    )
    packed.restore(model, layers="sparse")
    assert decoded == ["first.bias", "second.bias"]


def test_hooks_of_all_kinds_go_on_as_before():
    def run(layers):
        model, packed = pruned_net()
        calls = []
        note = lambda name: lambda *args, **kwargs: calls.append((name, len(args)))  # noqa: E731
        first = model.first
        first.register_full_backward_hook(note("backward"))
        first.register_full_backward_pre_hook(note("before backward"))
        first.register_forward_pre_hook(note("before"), with_kwargs=True)
        first.register_forward_hook(note("after"), with_kwargs=True, always_call=True)
        handle = model.second.register_forward_hook(lambda *args: calls.append("taken off"))
        packed.restore(model, layers=layers)
        handle.remove()
        model(X.clone().requires_grad_()).sum().backward()
        return calls

    calls = run("sparse")
    assert [name for name, _ in calls] == ["before", "after", "before backward", "backward"]
    assert calls == run("dense")


def add_state_hook(layer):
    layer._register_state_dict_hook(lambda *args: None)


def add_load_hook(layer):
    layer.register_load_state_dict_post_hook(lambda *args: None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.register_buffer("scale", torch.ones(3)), "more than a weight and a bias: sca"),
        (lambda m: m.register_parameter("gain", nn.Parameter(torch.ones(1))), "a bias: gain"),
        (lambda m: m.add_module("adapter", nn.LayerNorm(2)), "a bias: adapter"),
        (add_state_hook, "it has hooks for its state_dict"),
        (add_load_hook, "it has hooks for its state_dict"),
        (lambda m: torch_prune.identity(m, "bias"), "its bias is made by a parametrization or is"),
    ],
)
def test_a_layer_that_has_more_than_a_sparse_one_keeps_it(change, reason):
    model, _ = pruned_net()
    change(model.first)
    packed = deepcomp.compress(model, bits=3)
    names = list(model.state_dict())
    choices = {c.layer: c for c in packed.restore(model, layers="sparse").layers}
    assert reason in choices["first"].reason
    assert not choices["first"].is_sparse and choices["second"].is_sparse
    assert [n for n in model.state_dict() if n.startswith("first.")] == [
        n for n in names if n.startswith("first.")
    ]


def test_what_only_looks_like_holding_a_layer_is_none():
    model, packed = pruned_net()
    layer = model.first
    model.name_of = {id(layer): "first"}  # its id alone
    model.config = [1.0, "text", torch.ones(2), {"net": nn.Linear(2, 2)}]
    model.parts = [model]
    assert all(c.is_sparse for c in packed.restore(model, layers="sparse").layers)
    assert copy.deepcopy(model)(X).shape == (5, 12)
