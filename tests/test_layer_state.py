"""What a sparse layer computes from is its own: other processes, changed buffers, state_dicts."""

import copy
import gc
import io
import multiprocessing.reduction
import pickle
import re

import pytest
import torch
import torch.multiprocessing
from test_layers import check, conv, linear
from torch import nn

import deepcomp
from deepcomp.nn import SparseLinear

# sections of more than 512 bytes: Python's own pools, which take less, are nothing to a sanitizer
KINDS = {
    "linear": (lambda: linear(100, 60), [(1, 100), (7, 100), (70, 100)]),
    "conv": (
        lambda: conv(16, 24, 3, padding=1),
        [(1, 16, 9, 8), (2, 16, 9, 8), (1, 16, 20, 5)],
    ),
}


@pytest.fixture(autouse=True)
def _nothing_made_before():
    gc.collect()  # layers of the same weight share what is made from it, as long as one lives


@pytest.fixture(params=KINDS)
def layers(request):
    """Return a dense and a sparse layer, and inputs, of which only the first has been used."""
    make, shapes = KINDS[request.param]
    dense, sparse = make()
    inputs = [torch.randn(shape) for shape in shapes]
    with torch.inference_mode():
        sparse(inputs[0])
    return dense, sparse, inputs


def check_all(sparse, dense, inputs):
    """Compare answers for all kinds of batches, and gradients, which need the transposed weight."""
    for x in inputs:
        with torch.inference_mode():
            check(sparse(x), dense(x))
        check(sparse(x), dense(x))
    gradients = []
    for layer in (sparse, dense):
        x = inputs[1].clone().requires_grad_()
        layer(x).square().sum().backward()
        gradients.append(x.grad)
    check(*gradients, 1e-4)
    assert torch.equal(sparse.to_dense(), dense.weight)


def litter(nbytes):
    """Write into memory of a size that has just become free."""
    return [bytearray(b"\xff" * nbytes) for _ in range(200)]


# --- other processes ---


def test_a_layer_in_shared_memory_gives_what_it_gave(layers):
    dense, sparse, inputs = layers
    nn.Sequential(sparse).share_memory()
    _ = litter(sparse.section.nbytes)
    assert sparse.section.is_shared()
    check_all(sparse, dense, inputs)


def test_a_layer_that_was_sent_and_the_one_received_give_the_same(layers):
    dense, sparse, inputs = layers
    sent = multiprocessing.reduction.ForkingPickler.dumps(sparse)  # as a queue does it
    _ = litter(sparse.section.nbytes)
    check_all(sparse, dense, inputs)
    received = multiprocessing.reduction.ForkingPickler.loads(sent)
    check_all(received, dense, inputs)
    del received
    check_all(sparse, dense, inputs)


def answer(model, inputs, incoming, outgoing):
    """Run in the other process: answer with the model that came with it, and with the next one."""
    with torch.inference_mode():
        outgoing.put([model(x).numpy() for x in inputs])
        other = incoming.get(timeout=100)
        outgoing.put([other(x).numpy() for x in inputs])
        incoming.get(timeout=100)  # what was sent lives as long as this process


def test_a_spawned_process_gives_the_same():
    layers = nn.Linear(40, 50), nn.ReLU(), nn.Linear(50, 30)
    dense = nn.Sequential(*layers)
    packed = deepcomp.compress(dense, bits=4, sparsity=0.8)
    packed.restore(dense)
    sparse = copy.deepcopy(dense)
    packed.restore(sparse, layers="sparse")
    inputs = [torch.randn(n, 40) for n in (1, 7, 70)]
    with torch.inference_mode():
        expected = [sparse(x) for x in inputs[:1]]
    context = torch.multiprocessing.get_context("spawn")
    ours, theirs = context.Queue(), context.Queue()
    process = context.Process(target=answer, args=(sparse, inputs, ours, theirs))
    process.start()
    try:
        first = theirs.get(timeout=100)
        ours.put(sparse)
        second = theirs.get(timeout=100)
        _ = litter(sparse[0].section.nbytes)
        with torch.inference_mode():
            later = [sparse(x) for x in inputs]
            for found in (first, second, later):
                for x, y in zip(inputs, found, strict=True):
                    check(torch.as_tensor(y), dense(x))
            assert torch.equal(later[0], expected[0])
    finally:
        ours.put(None)
        process.join(100)
    assert process.exitcode == 0


# --- changed buffers ---


def replace_data(layer):
    layer.section.data = torch.zeros_like(layer.section)


def replace_storage(layer):
    layer.section.set_(torch.zeros(layer.section.nbytes, dtype=torch.uint8))


def replace_buffer(layer):
    layer.section = torch.zeros(3, dtype=torch.uint8)


CHANGES = [
    lambda layer: layer.section.zero_(),
    lambda layer: layer.section.copy_(layer.section.flip(0)),
    lambda layer: layer.to_empty(device="cpu").section.fill_(255),
    replace_data,
    replace_storage,
    replace_buffer,
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_happens_to_the_buffer_does_not_reach_the_weight(layers, change):
    dense, sparse, inputs = layers
    bias = sparse.bias.detach().clone()
    nbytes = sparse.section.nbytes
    change(sparse)
    _ = litter(nbytes)
    with torch.no_grad():
        sparse.bias.copy_(bias)
        for x in inputs:
            check(sparse(x), dense(x))
    assert torch.equal(sparse.to_dense(), dense.weight)


def test_a_layer_that_moves_there_and_back_gives_what_it_gave(layers):
    dense, sparse, inputs = layers
    dense.bias.data = dense.bias.data.half().float()
    check_all(sparse.half().to("cpu").float(), dense, inputs)


@pytest.mark.parametrize("assign", [False, True])
def test_a_state_that_is_changed_after_loading_does_not_reach_the_weight(assign):
    dense, other = linear(density=0.5, n_values=40)
    _, sparse = linear()
    state = other.state_dict()
    state = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in state.items()}
    del other
    sparse.load_state_dict(state, assign=assign)
    assert (sparse.section is state["section"]) == assign
    state["section"].zero_()
    inputs = [torch.randn(n, 40) for n in (1, 7, 70)]
    check_all(sparse, dense, inputs)


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_copied_or_saved_is_the_weight_not_what_was_written_into_the_buffer(change):
    dense, sparse = linear()
    bias = sparse.bias.detach().clone()
    inputs = [torch.randn(n, 40) for n in (1, 7, 70)]
    copies = []
    for copied in (
        copy.deepcopy,
        lambda layer: pickle.loads(pickle.dumps(layer)),
        lambda layer: multiprocessing.reduction.ForkingPickler.loads(
            multiprocessing.reduction.ForkingPickler.dumps(layer)
        ),
        lambda layer: loaded(layer.state_dict()),
    ):
        change(sparse)
        sparse.bias.data.copy_(bias)
        copies.append(copied(sparse))
    del sparse
    gc.collect()
    for layer in copies:
        check_all(layer, dense, inputs)


def loaded(state):
    _, other = linear(density=0.5, n_values=40)
    other.load_state_dict(state)
    return other


# --- state_dicts of strangers ---


class Subclass(torch.Tensor):
    pass


def description_of(text, replacement):
    def changed(state):
        assert text in state["_extra_state"]
        state["_extra_state"] = state["_extra_state"].replace(text, replacement)

    return changed


def section_as(make):
    def changed(state):
        state["section"] = make(state["section"].clone())

    return changed


def extra(value):
    def changed(state):
        state["_extra_state"] = value

    return changed


KIND = "expected a contiguous tensor of torch.uint8 with one dimension"
TOGETHER = "do not belong together"
HOSTILE = {
    "int8": (section_as(lambda s: s.view(torch.int8)), TypeError, f"of torch.int8.*{KIND}"),
    "bool": (section_as(lambda s: s.bool()), TypeError, KIND),
    "int16": (section_as(lambda s: s.short()), TypeError, KIND),
    "float": (section_as(lambda s: s.float()), TypeError, KIND),
    "quantized": (
        section_as(lambda s: torch.quantize_per_tensor(s.float(), 1.0, 0, torch.quint8)),
        TypeError,
        KIND,
    ),
    "a matrix": (section_as(lambda s: s[None]), TypeError, rf"shape \[1, \d+\]: {KIND}"),
    "no dimension": (section_as(lambda s: s[0]), TypeError, rf"shape \[\]: {KIND}"),
    "strides": (section_as(lambda s: s.repeat_interleave(2)[::2]), TypeError, r"strides \(2,\)"),
    "expanded": (section_as(lambda s: s[:1].expand(len(s))), TypeError, r"strides \(0,\)"),
    "meta": (section_as(lambda s: s.to("meta")), TypeError, f"on meta.*{KIND}"),
    "sparse": (section_as(lambda s: s.to_sparse()), TypeError, f"sparse_coo.*{KIND}"),
    "nested": (
        section_as(lambda s: torch.nested.nested_tensor([s, s])),
        TypeError,
        f"nested.*{KIND}",
    ),
    "subclass": (section_as(lambda s: s.as_subclass(Subclass)), TypeError, f"a Subclass: {KIND}"),
    "parameter": (section_as(lambda s: nn.Parameter(s, False)), TypeError, f"Parameter: {KIND}"),
    "ndarray": (section_as(lambda s: s.numpy()), TypeError, f"a ndarray: {KIND}"),
    "bytes": (section_as(lambda s: bytes(s.tolist())), TypeError, f"a bytes: {KIND}"),
    "list": (section_as(lambda s: s.tolist()), TypeError, f"a list: {KIND}"),
    "None": (section_as(lambda s: None), TypeError, f"a NoneType: {KIND}"),
    "no section": (lambda state: state.pop("section"), RuntimeError, "'section' is missing"),
    "empty": (section_as(lambda s: s[:0]), deepcomp.DczError, TOGETHER),
    "shorter": (section_as(lambda s: s[:-1]), deepcomp.DczError, TOGETHER),
    "longer": (section_as(lambda s: torch.cat((s, s))), deepcomp.DczError, TOGETHER),
    "a bit": (section_as(lambda s: s.bitwise_xor_(1)), deepcomp.DczError, TOGETHER),
    "no description": (lambda s: s.pop("_extra_state"), RuntimeError, "'_extra_state' is missing"),
    "int": (extra(5), TypeError, "the extra state is a int: expected a string"),
    "a tensor": (extra(torch.zeros(3)), TypeError, "the extra state is a Tensor"),
    "text in bytes": (extra(b"{}"), TypeError, "the extra state is a bytes"),
    "no text": (extra(""), deepcomp.DczError, "index: expected"),
    "surrogates": (extra("0 \ud800"), deepcomp.DczError, "index: expected"),
    "no tensor": (extra('0 {"metadata":{},"tensors":[]}'), deepcomp.DczError, "has no tensor"),
    "nested JSON": (extra('0 {"metadata":' + "[" * 100_000), deepcomp.DczError, "nested too deep"),
    "digits": (extra('0 {"metadata":' + "9" * 100_000), deepcomp.DczError, "not JSON"),
    "digest": (extra(None), TypeError, "the extra state is a NoneType"),
    "dtype": (description_of("float32", "float16"), deepcomp.DczError, "codebook"),
    "float8": (description_of("float32", "float8_e5m2"), ValueError, "cannot compute with float8"),
    "shape": (
        description_of("[30,40]", "[30,4611686018427387904]"),
        (RuntimeError, deepcomp.DczError),
        r"\[30, 4611686018427387904\]|index",
    ),
    "transposed": (description_of("[30,40]", "[40,30]"), RuntimeError, r"shape \[40, 30\]"),
    "name": (description_of('"weight"', '"w\ud800"'), deepcomp.DczError, "no tensor"),
    "metadata": (description_of("{}", '{"a":"b"}'), deepcomp.DczError, TOGETHER),
    "bias": (
        lambda state: state.update(bias=torch.zeros(29)),
        RuntimeError,
        "size mismatch for bias",
    ),
}


@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor", "ignore:.*nested tensors")
@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("what", HOSTILE)
def test_a_state_that_is_refused_leaves_the_layer_as_it_was(what, assign):
    change, error, message = HOSTILE[what]
    _, other = linear(density=0.5, n_values=40)
    dense, sparse = linear()
    inputs = [torch.randn(n, 40) for n in (1, 7, 70)]
    state = dict(other.state_dict())
    state["bias"] = torch.zeros(30)
    change(state)
    before = copy.deepcopy(sparse.state_dict())
    with pytest.raises(error, match=message) as raised:
        sparse.load_state_dict(state, assign=assign)
    assert what == "bias" or "'section'" in str(raised.value)
    after = sparse.state_dict()
    assert before.keys() == after.keys()
    assert torch.equal(before["section"], after["section"])
    assert torch.equal(before["bias"], after["bias"])
    assert before["_extra_state"] == after["_extra_state"]
    check_all(sparse, dense, inputs)
    check_all(copy.deepcopy(sparse), dense, inputs)


def test_the_layer_of_a_model_is_named():
    _, sparse = linear()
    model = nn.ModuleDict({"fc": sparse})
    state = model.state_dict()
    state["fc.section"] = state["fc.section"].char()
    with pytest.raises(TypeError, match=re.escape("state_dict, 'fc.section': the section is")):
        model.load_state_dict(state)


def test_a_state_without_the_weight_is_reported_as_torch_does_it():
    dense, sparse = linear()
    with pytest.raises(RuntimeError, match=r"Missing key.*section.*_extra_state"):
        sparse.load_state_dict({"bias": sparse.bias.detach()})
    result = sparse.load_state_dict({"bias": torch.ones(30)}, strict=False)
    assert result.missing_keys == ["section", "_extra_state"]
    nn.init.ones_(dense.bias)
    check_all(sparse, dense, [torch.randn(n, 40) for n in (1, 7, 70)])


def test_a_weight_that_no_product_takes_is_refused():
    packed = deepcomp.compress({"w": torch.ones(30, 40).to(torch.float8_e5m2)}, bits=None)
    with pytest.raises(ValueError, match="cannot compute with float8_e5m2"):
        SparseLinear(packed["w"])


def test_operators_take_no_other_section():
    _, sparse = linear()
    _, other = linear(density=0.5, n_values=40)
    description = other._description
    section = other.section.clone()
    del other
    gc.collect()  # else what it has made would be found
    with pytest.raises(TypeError, match=KIND):
        torch.ops.deepcomp.product(torch.ones(1, 40), section.char(), description, False)
    with pytest.raises(deepcomp.DczError, match=TOGETHER):
        torch.ops.deepcomp.product(torch.ones(1, 40), sparse.section, description, False)


def test_a_layer_saved_in_shared_memory_comes_back():
    dense, sparse = linear()
    sparse.share_memory()
    file = io.BytesIO()
    torch.save(sparse, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    check_all(loaded, dense, [torch.randn(n, 40) for n in (1, 7, 70)])
