"""Sparse layers: beside dense ones, and as citizens of PyTorch."""

import copy
import importlib
import io
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import densities, generators
from torch import nn

import deepcomp
from deepcomp.nn import SparseConv2d, SparseLinear
from deepcomp.nn.choice import expected_gain


def pruned(module, density=0.2, n_values=15):
    """Give a module's weights few values and many zeros; return it and what holds its weights."""
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.ndim >= 2:
                weights = rng.standard_normal(n_values)[rng.integers(0, n_values, p.shape)]
                weights[rng.random(p.shape) >= density] = 0
                p.copy_(torch.from_numpy(weights))
            elif "bias" in name:
                p.copy_(torch.from_numpy(rng.standard_normal(p.shape)))
    return module, deepcomp.compress(module, bits=None)


def linear(n_in=40, n_out=30, bias=True, **options):
    module, packed = pruned(nn.Linear(n_in, n_out, bias), **options)
    return module, SparseLinear(packed["weight"], module.bias)


def conv(*arguments, **options):
    module, packed = pruned(nn.Conv2d(*arguments, **options))
    keys = ("stride", "padding", "dilation", "groups")
    options = {key: getattr(module, key) for key in keys}
    return module, SparseConv2d(packed["weight"], module.bias, **options)


def check(found, expected, tolerance=1e-5):
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    largest = expected.abs().max() if expected.numel() else 0
    assert (found - expected).abs().le(tolerance * largest).all()


# --- the same as dense layers ---


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "shape", [(40,), (1, 40), (3, 40), (70, 40), (2, 5, 40), (0, 40), (2, 0, 40)]
)
def test_linear_gives_what_the_dense_layer_gives(shape, bias):
    dense, sparse = linear(bias=bias)
    x = torch.randn(shape)
    check(sparse(x), dense(x))
    with torch.inference_mode():
        check(sparse(x), dense(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(40,), (1, 40), (7, 40), (2, 5, 40)])
def test_a_bias_of_any_dtype_is_added_to_an_input_of_float32(dtype, shape):
    dense, sparse = linear()
    sparse.bias = nn.Parameter(dense.bias.detach().to(dtype))
    dense.bias = nn.Parameter(sparse.bias.detach().float())
    x = torch.randn(shape)
    with torch.no_grad():
        check(sparse(x), dense(x))


CONVOLUTIONS = [
    ((3, 8, 3), {"padding": 1}, (9, 11)),
    ((8, 8, 1), {}, (28, 28)),
    ((8, 8, 1), {}, (7, 7)),
    ((4, 6, 5), {"stride": 2, "padding": 2, "groups": 2}, (20, 17)),
    ((4, 8, 3), {"stride": (1, 2), "padding": (2, 1), "dilation": 2, "groups": 4}, (15, 40)),
    ((3, 5, 4), {"padding": "same", "dilation": 1}, (10, 10)),
    ((3, 5, 3), {"padding": "valid"}, (3, 3)),
    ((3, 6, 11), {"stride": 4}, (67, 67)),
    ((6, 6, (2, 4)), {"padding": 3, "bias": False}, (30, 30)),
    ((5, 7, 1), {"stride": 3, "padding": 1}, (8, 9)),
    ((2, 2, 2), {"stride": 3}, (9, 10)),
]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(("arguments", "options", "size"), CONVOLUTIONS)
def test_conv_gives_what_the_dense_layer_gives(arguments, options, size):
    dense, sparse = conv(*arguments, **options)
    for shape in ((1,), (3,), (), (0,)):
        x = torch.randn(*shape, arguments[0], *size)
        check(sparse(x), dense(x))
        with torch.inference_mode():
            check(sparse(x), dense(x))
    x = torch.randn(2, arguments[0], *size).to(memory_format=torch.channels_last)
    check(sparse(x), dense(x))
    sparse(torch.randn(1, arguments[0], size[0] + 2, size[1] + 5))  # another size
    check(sparse(x), dense(x))


@st.composite
def convolutions(draw):
    groups = draw(st.integers(1, 3))
    kernel, stride = (draw(st.integers(1, 4)), draw(st.integers(1, 4))), draw(st.integers(1, 3))
    dilation, padding = draw(st.integers(1, 2)), (draw(st.integers(0, 3)), draw(st.integers(0, 3)))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    size = [dilation * (k - 1) + 1 + draw(st.sampled_from((0, 1, 7, 30))) for k in kernel]
    channels = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    x = draw(generators()).standard_normal((draw(st.integers(1, 2)), channels[0], *size))
    return (*channels, kernel), options, torch.from_numpy(x.astype(np.float32)), draw(densities)


@given(problem=convolutions())
def test_any_convolution(problem):
    arguments, options, x, density = problem
    dense, packed = pruned(nn.Conv2d(*arguments, **options), density)
    sparse = SparseConv2d(packed["weight"], dense.bias, **options)
    with torch.inference_mode():
        check(sparse(x), dense(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_are_summed_in_float32(dtype):
    dense, sparse = linear(400, 30)
    x = torch.randn(9, 400).to(dtype)
    with torch.inference_mode():
        found = sparse(x)
        assert found.dtype == dtype
        check(found.float(), dense(x.float()), tolerance=0.005)
        expected = dense(x.float()).to(dtype)
        assert (found == expected).float().mean() > 0.98
    dense, sparse = conv(3, 4, 3)
    x = torch.randn(2, 3, 8, 8).to(dtype)
    check(sparse(x).float(), dense(x.float()), tolerance=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_autocast_gives_the_dtype_that_the_dense_layer_gives(dtype, mode):
    cases = [(linear(), (3, 40)), (linear(), (70, 40)), (conv(3, 4, 3, padding=1), (2, 3, 8, 8))]
    for (dense, sparse), shape in cases:
        for before in (torch.float32, torch.bfloat16, torch.float16):
            x = torch.randn(shape).to(before)
            with mode(), torch.autocast("cpu", dtype):
                found, expected = sparse(x), dense(x)
            assert found.dtype == expected.dtype == dtype
            check(found, expected, tolerance=0.02)
            with mode(), torch.autocast("cpu", dtype), torch.autocast("cpu", enabled=False):
                assert sparse(x).dtype == before


def test_gradients_under_autocast():
    for (dense, sparse), shape in ((linear(), (3, 40)), (conv(3, 4, 3), (2, 3, 8, 8))):
        gradients = []
        for layer in (sparse, dense):
            x = torch.linspace(-1, 1, math.prod(shape)).reshape(shape).requires_grad_()
            layer.bias.grad = None
            with torch.autocast("cpu", torch.bfloat16):
                y = layer(x)
            y.float().sum().backward()
            gradients.append((x.grad, layer.bias.grad.clone()))
        for found, expected in zip(*gradients, strict=True):
            check(found, expected, tolerance=0.02)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("padding", [0, 1])
def test_what_is_not_finite_reaches_only_pixels_with_a_weight_there(bad, padding):
    dense, sparse = conv(3, 9, 3, padding=padding)
    x = torch.randn(2, 3, 12, 20)
    x[0, 1, 5, 7] = bad
    clean = x.nan_to_num(0, 0, 0)
    reached = nn.functional.conv2d(
        (clean != x).float(), (dense.weight != 0).float(), None, 1, padding
    )
    found = sparse(x)
    assert (found.isfinite() == (reached == 0)).all()
    check(found[reached == 0], dense(clean)[reached == 0])


# --- gradients, compile, export ---


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_gradients_of_input_and_bias(kind):
    if kind == "linear":
        (dense, sparse), x = linear(), torch.randn(5, 40)
    else:
        dense, sparse = conv(4, 6, 3, stride=2, padding=1, groups=2)
        x = torch.randn(2, 4, 9, 8)
    grads = []
    for layer in (dense, sparse):
        inputs = x.clone().requires_grad_()
        layer.bias.grad = None
        layer(inputs).pow(2).sum().backward()
        grads.append((inputs.grad, layer.bias.grad.clone()))
    for found, expected in zip(*reversed(grads), strict=True):
        check(found, expected, 1e-4)
    with torch.no_grad():
        assert not sparse(x.requires_grad_()).requires_grad


def test_training_what_is_before_a_sparse_layer():
    _, sparse = linear()
    model = nn.Sequential(nn.Linear(7, 40), nn.ReLU(), sparse)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    x, losses = torch.randn(50, 7), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_operators_keep_their_promises():
    _, sparse = linear()
    x = torch.randn(3, 40, requires_grad=True)
    arguments = (x, sparse.section, sparse._description, False)
    torch.library.opcheck(torch.ops.deepcomp.product, arguments)
    _, sparse = conv(3, 4, 3)
    x = torch.randn(1, 3, 6, 6, requires_grad=True)
    window = ([1, 1], [1, 0, 0, 0], [1, 1], 1)
    arguments = (x, sparse.section, sparse._description, *window)
    torch.library.opcheck(torch.ops.deepcomp.convolution, arguments)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.fc = nn.Linear(8 * 16, 10)

    def forward(self, x):
        x = nn.functional.relu(self.conv(x))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))


def small():
    dense, packed = pruned(Small())
    sparse = Small()
    packed.restore(sparse, layers="sparse")
    assert isinstance(sparse.conv, SparseConv2d)
    assert isinstance(sparse.fc, SparseLinear)
    return dense, sparse


def test_compile_without_graph_breaks():
    dense, sparse = small()
    x = torch.randn(2, 3, 9, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(sparse, fullgraph=True)
        check(compiled(x), dense(x))
        with torch.inference_mode():
            check(compiled(x), dense(x))
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        for f, i in zip((compiled, dense), inputs, strict=True):
            f(i).sum().backward()
        check(inputs[0].grad, inputs[1].grad, 1e-4)


def test_compile_under_autocast():
    dense, sparse = small()
    x = torch.randn(2, 3, 9, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(sparse, fullgraph=True, backend="aot_eager")
        for mode in (torch.inference_mode, torch.enable_grad):
            with mode(), torch.autocast("cpu", torch.bfloat16):
                found, expected = compiled(x), dense(x)
            assert found.dtype == expected.dtype == torch.bfloat16
            check(found, expected, tolerance=0.03)
        assert compiled(x).dtype == torch.float32
        inputs = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = compiled(inputs)
        y.sum().backward()
        assert inputs.grad.dtype == torch.float32


def test_the_module_of_the_operators_can_be_imported_anew(monkeypatch):
    import deepcomp.nn.ops as first

    _, sparse = linear()
    x = torch.randn(3, 40, requires_grad=True)
    expected = sparse(x)
    monkeypatch.delitem(sys.modules, "deepcomp.nn.ops")
    second = importlib.import_module("deepcomp.nn.ops")
    monkeypatch.setattr(sys.modules["deepcomp.nn"], "ops", first)
    assert second is not first
    for product in (first.product, second.product, importlib.reload(second).product):
        y = product(x, sparse.section, sparse._description, False)
        assert torch.equal(y + sparse.bias, expected)
        y.sum().backward()
    assert torch.equal(sparse(x), expected)


def test_export():
    dense, sparse = small()
    x = torch.randn(2, 3, 9, 9)
    program = torch.export.export(sparse.eval(), (x,))
    check(program.module()(x), dense(x))
    assert any("deepcomp.product" in str(node.target) for node in program.graph.nodes)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    check(torch.export.load(file).module()(x), dense(x))


# --- a module like others ---


def test_state_dict_deepcopy_and_pickle():
    dense, sparse = linear()
    x = torch.randn(3, 40)
    expected = sparse(x)
    assert list(sparse.state_dict()) == ["bias", "section", "_extra_state"]
    assert torch.equal(copy.deepcopy(sparse)(x), expected)
    file = io.BytesIO()
    torch.save(sparse, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), expected)
    file = io.BytesIO()
    torch.save(sparse.state_dict(), file)
    file.seek(0)
    _, other = linear(density=0.5, n_values=40)
    twin = copy.deepcopy(other)
    before = twin(x)
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(x), expected)
    assert torch.equal(twin(x), before)
    check(other.to_dense(), dense.weight.detach())


def test_a_state_of_another_shape_or_kind_is_refused():
    _, sparse = linear()
    _, other = linear(41, 30)
    with pytest.raises(RuntimeError, match=r"the weight has shape \[30, 41\]: expected \[30, 40\]"):
        sparse.load_state_dict(other.state_dict())
    _, sparse = linear()
    state = sparse.state_dict()
    state["section"] = state["section"].clone()
    state["section"][3] ^= 1
    with pytest.raises(deepcomp.DczError, match="do not belong together"):
        sparse.load_state_dict(state)
    with pytest.raises(TypeError, match="extra state is a int"):
        sparse.set_extra_state(5)


def test_hooks_train_eval_and_casts():
    _, sparse = linear()
    calls = []
    sparse.register_forward_pre_hook(lambda *_: calls.append("before"))
    sparse.register_forward_hook(lambda *_: calls.append("after"))
    x = torch.randn(2, 40)
    expected = sparse.eval()(x)
    assert calls == ["before", "after"]
    half = copy.deepcopy(sparse).half()
    assert half.section.dtype == torch.uint8
    assert half(x.half()).dtype == torch.float16
    with torch.inference_mode():
        check(half(x), expected, 0.01)
    check(sparse.to("cpu", torch.float32)(x), expected)
    meta = copy.deepcopy(sparse).to("meta")
    assert meta(x.to("meta")).shape == (2, 30)


def test_memory_is_counted():
    _, sparse = linear(1000, 300, density=0.09)
    held = 2 * sparse.section.nbytes + sparse.bias.nbytes  # the buffer, and the layer's own copy
    assert sparse.memory_nbytes == held
    with torch.inference_mode():
        sparse(torch.randn(1, 1000))
    assert held < sparse.memory_nbytes < 0.5 * 300_000


def test_two_threads_give_the_same():
    _, sparse = linear(600, 500, density=0.3)
    _, images = conv(16, 20, 3, padding=1)
    before = torch.get_num_threads()
    x, y = torch.randn(80, 600), torch.randn(1, 16, 60, 60)
    results = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            with torch.inference_mode():
                results.append((sparse(x), images(y), images(y.expand(5, -1, -1, -1))))
    finally:
        torch.set_num_threads(before)
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 41), r"shape \[2, 41\], expected \[..., 40\]"),
        (torch.zeros(()), r"shape \[\], expected"),
        (torch.zeros(2, 40, dtype=torch.float64), r"got torch\.float64, .* call \.float\(\)"),
        (torch.zeros(2, 40, dtype=torch.int64), r"got torch\.int64"),
        (torch.eye(40).to_sparse(), "computes on the CPU: got a torch.sparse_coo tensor"),
    ],
)
def test_a_wrong_input_is_a_clear_error(x, message):
    _, sparse = linear()
    for mode in (torch.inference_mode, torch.enable_grad):
        with mode(), pytest.raises(RuntimeError, match=message):
            sparse(x)


def test_wrong_images_are_clear_errors():
    _, sparse = conv(3, 4, 3)
    for shape in ((1, 4, 9, 9), (9, 9), (1, 1, 3, 9, 9)):
        with pytest.raises(RuntimeError, match="expected \\[n, 3, height, width\\]"):
            sparse(torch.zeros(shape))
    with pytest.raises(RuntimeError, match="smaller than the kernel"):
        sparse(torch.zeros(1, 3, 2, 9))
    packed = deepcomp.compress({"w": np.zeros((4, 3, 1, 1), np.float32)})
    with pytest.raises(ValueError, match="expected two dimensions"):
        SparseLinear(packed["w"])
    with pytest.raises(ValueError, match="groups"):
        SparseConv2d(packed["w"], groups=3)
    with pytest.raises(ValueError, match="padding is 'all'"):
        SparseConv2d(packed["w"], padding="all")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_another_device_is_a_clear_error():
    _, sparse = linear()
    with pytest.raises(RuntimeError, match=r"computes on the CPU: got a .* tensor on cuda"):
        sparse(torch.zeros(2, 40, device="cuda"))


# --- restore ---


def test_restore_a_convolutional_network(tmp_path):
    dense, packed = pruned(Small())
    deepcomp.save(packed, tmp_path / "m.dcz")
    sparse = Small().eval()
    sparse.fc.register_forward_hook(lambda module, inputs, output: output + 1)
    restored = deepcomp.load(tmp_path / "m.dcz").restore(sparse, layers="sparse")
    assert restored == ([], [])
    assert [choice.layer for choice in restored.layers] == ["conv", "fc"]
    assert not sparse.fc.training
    x = torch.randn(4, 3, 20, 20)
    check(sparse(x), dense(x) + 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_restore_a_network_of_short_floats(dtype):
    dense, packed = pruned(
        nn.Sequential(nn.Linear(400, 30), nn.ReLU(), nn.Linear(30, 20)).to(dtype)
    )
    sparse = copy.deepcopy(dense)
    assert all(choice.is_sparse for choice in packed.restore(sparse, layers="sparse").layers)
    x = torch.randn(9, 400).to(dtype)
    check(sparse(x), dense(x), tolerance=0.02)
    [first, second] = packed.restore(copy.deepcopy(dense), layers="auto").layers
    assert not first.is_sparse and "measured with float32" in second.reason


def test_the_weight_of_a_sparse_layer_can_be_asked_for():
    for dense, sparse in (linear(), conv(3, 4, 3)):
        assert torch.equal(sparse.weight, dense.weight)
        with pytest.raises(RuntimeError, match="restore the CompressedModel"):
            sparse.weight = dense.weight


def test_restore_a_resnet(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    from resnet import ResNet

    dense, packed = pruned(ResNet(20).eval(), density=0.15)
    sparse = copy.deepcopy(dense)
    layers = packed.restore(sparse, layers="sparse").layers
    assert sum(choice.is_sparse for choice in layers) == len(layers) == 20
    for n in (1, 5):
        x = torch.randn(n, 3, 32, 32)
        with torch.inference_mode():
            check(sparse(x), dense(x))


def test_restore_lenet():
    layers = (
        *(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)),
    )
    dense, packed = pruned(nn.Sequential(*layers), density=0.1)
    sparse = copy.deepcopy(dense)
    packed.restore(sparse, layers="sparse")
    for n in (1, 8, 64):
        x = torch.randn(n, 1, 28, 28)
        with torch.inference_mode():
            check(sparse(x), dense(x))


@pytest.mark.parametrize("training", [False, True])
def test_restore_a_transformer(training):
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0, batch_first=True)
    dense, packed = pruned(nn.TransformerEncoder(layer, 2), density=0.3)
    sparse = copy.deepcopy(dense)
    layers = packed.restore(sparse, layers="sparse").layers
    assert sum(choice.is_sparse for choice in layers) == 4
    assert isinstance(sparse.layers[1].linear2, SparseLinear)
    x, mask = torch.randn(3, 6, 32), torch.zeros(3, 6, dtype=torch.bool)
    for mode in (torch.inference_mode, torch.enable_grad):
        with mode():
            for key_mask in (None, mask):
                found = sparse.train(training)(x, src_key_padding_mask=key_mask)
                check(found, dense.train(training)(x, src_key_padding_mask=key_mask))


def test_layers_that_cannot_be_sparse_stay_dense_and_say_why(capsys):
    model = nn.ModuleDict({
        "up": nn.ConvTranspose2d(2, 2, 3),
        "one": nn.Conv1d(2, 2, 3),
        "reflect": nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
        "wide": nn.Linear(3, 3).double(),
        "bilinear": nn.Bilinear(2, 2, 2),
        "good": nn.Linear(6, 6),
    })  # fmt: skip
    packed = deepcomp.compress(model, bits=2)
    restored = packed.restore(model, layers="sparse", verbose=True)
    reasons = {c.layer: c.reason for c in restored.layers if not c.is_sparse}
    assert reasons.keys() == {"up", "one", "reflect", "wide", "bilinear"}
    assert reasons["up"] == "there is no sparse ConvTranspose2d"
    assert reasons["reflect"] == "there is no padding with reflect"
    assert "float64" in reasons["wide"]
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 6
    assert printed[-1].startswith("good: sparse, ")
    root = nn.Linear(4, 4)
    choice = deepcomp.compress(root).restore(root, layers="sparse").layers[0]
    assert (choice.is_sparse, type(root)) == (False, nn.Linear)


def test_auto_leaves_nearly_dense_layers_dense():
    model = nn.Sequential(nn.Linear(100, 90), nn.Linear(90, 80))
    packed = deepcomp.compress(model, sparsity={"0": 0.9, "1": 0.05})
    layers = packed.restore(model, layers="auto", batch=8).layers
    assert isinstance(model[1], nn.Linear)
    assert not layers[1].is_sparse
    assert "95.0 % kept, expected" in layers[1].reason
    gains = [expected_gain(packed["0.weight"], batch) for batch in (1, 8, 64)]
    assert all(gain > 0 for gain in gains)


def test_tied_and_shared_layers():
    model = nn.ModuleDict(
        {"embedding": nn.Embedding(30, 20), "head": nn.Linear(20, 30, bias=False)}
    )
    model["head"].weight = model["embedding"].weight
    _, packed = pruned(model)
    expected = model["embedding"].weight.detach().clone()
    packed.restore(model, layers="sparse")
    assert torch.equal(model["embedding"].weight, expected)
    check(model["head"](torch.eye(20)), expected.T)
    shared = nn.Linear(8, 8)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    _, packed = pruned(model)
    packed.restore(model, layers="sparse")
    assert model[0] is model[2]
    assert isinstance(model[0], SparseLinear)


def test_a_wrong_choice_is_a_clear_error():
    model = nn.Sequential(nn.Linear(4, 4))
    packed = deepcomp.compress(model)
    with pytest.raises(ValueError, match="layers is 'fast': expected 'dense', 'sparse' or 'auto'"):
        packed.restore(model, layers="fast")
    with pytest.raises(ValueError, match="batch is 0"):
        packed.restore(model, layers="auto", batch=0)


def test_nothing_is_replaced_when_names_differ():
    packed = deepcomp.compress(nn.Sequential(nn.Linear(4, 4)))
    model = nn.Sequential(nn.Linear(4, 5))
    with pytest.raises(RuntimeError, match="expected shape"):
        packed.restore(model, layers="sparse")
    assert type(model[0]) is nn.Linear


def test_products_refuse_inputs_and_biases_that_do_not_fit():
    packed = deepcomp.compress(torch.nn.Linear(30, 20), bits=2, sparsity=0.8)
    for layer in (SparseLinear(packed["weight"], torch.ones(n)) for n in (0, 1, 19, 21)):
        for x in (torch.ones(2, 30), torch.ones(30)):
            with pytest.raises(ValueError, match="the bias has shape"), torch.no_grad():
                layer(x)
    arguments = layer.section, layer._description
    for x in (torch.ones(29), torch.ones(2, 31), torch.ones(()), torch.ones(0)):
        with pytest.raises(ValueError, match="x has shape"):
            torch.ops.deepcomp.product(x, *arguments, False)
    with pytest.raises(ValueError, match="cannot be used with"):
        torch.ops.deepcomp.convolution(
            torch.ones(1, 30, 9, 9), *arguments, [1, 1], [0] * 4, [1, 1], 1
        )


@pytest.mark.parametrize(
    "wrong", [{"stride": 0}, {"padding": -1}, {"dilation": 0}, {"stride": (1, -2)}]
)
def test_convolutions_refuse_numbers_that_are_too_small(wrong):
    packed = deepcomp.compress(torch.nn.Conv2d(4, 6, 3), bits=2, sparsity=0.5)
    layer = SparseConv2d(packed["weight"], **wrong)
    with pytest.raises(ValueError, match="cannot be used with"), torch.no_grad():
        layer(torch.ones(1, 4, 9, 9))
    fitting = SparseConv2d(packed["weight"], torch.ones(5))
    with pytest.raises(ValueError, match="the bias has shape"), torch.no_grad():
        fitting(torch.ones(1, 4, 9, 9))
    stride, padding, dilation, groups = fitting._window
    for shape in ((1, 3, 9, 9), (1, 5, 9, 9), (4, 9, 9)):
        with pytest.raises(ValueError, match="x has shape"):
            torch.ops.deepcomp.convolution(
                torch.ones(shape), fitting.section, fitting._description, list(stride),
                list(padding), list(dilation), groups,
            )  # fmt: skip


@pytest.mark.parametrize("stride", [2, -1])
def test_a_bias_that_is_no_plain_vector_is_added_all_the_same(stride):
    packed = deepcomp.compress({"w": np.eye(6, dtype=np.float32)}, bits=2)
    numbers = torch.arange(12.0)
    bias = numbers[::2] if stride == 2 else numbers[:1].expand(6)
    layer = SparseLinear(packed["w"], torch.nn.Parameter(bias))
    with torch.inference_mode():
        assert torch.equal(layer(torch.ones(1, 6)), 1 + bias[None])
