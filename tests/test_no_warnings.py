"""Valid files never warn, whatever they hold: signalling NaNs, the largest, the smallest."""

import contextlib
import io
import warnings

import numpy as np
import pytest

import deepcomp
from deepcomp.cli import main
from deepcomp.page import make_page
from deepcomp.records import ITEMSIZE
from deepcomp.writer import Writer

torch = pytest.importorskip("torch")
from deepcomp.encode import Weight  # noqa: E402
from deepcomp.nn.convert import DTYPES  # noqa: E402
from deepcomp.pipeline import encode_weight  # noqa: E402

# Two signalling NaNs, the largest, the smallest, both infinities, a quiet NaN, and 1.
NUMBERS = {
    "float16": [0x7C01, 0xFD00, 0x7BFF, 0xFBFF, 1, 0x8001, 0x7C00, 0xFC00, 0x7E00, 0x3C00],
    "bfloat16": [0x7F81, 0xFFA0, 0x7F7F, 0xFF7F, 1, 0x8001, 0x7F80, 0xFF80, 0x7FC0, 0x3F80],
    "float32": [n << 16 for n in (0x7F81, 0xFFA0, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7FC0, 0x3F80)]
    + [0x7F800001, 1, 0x80000001, 0x7F7FFFFF],
    "float64": [n << 48 for n in (0x7FF4, 0xFFF1, 0x7FEF, 0xFFEF, 0x7FF0, 0xFFF0, 0x7FF8, 0x3FF0)]
    + [(0x7FF << 52) | 1, 1, (1 << 63) | 1, (0x7FF << 52) - 1],
    "float8_e4m3fn": [0x7F, 0xFF, 0x7E, 0xFE, 1, 0x81, 0x38],
    "float8_e5m2": [0x7D, 0xFD, 0x7B, 0xFB, 1, 0x81, 0x7C, 0xFC, 0x7E, 0x3C],
}


def patterns(dtype, shape, density, seed=0):
    rng, integer = np.random.default_rng(seed), f"<u{ITEMSIZE[dtype]}"
    drawn = rng.choice(np.array(NUMBERS[dtype], np.uint64), shape)
    return np.where(rng.random(shape) < density, drawn, 0).astype(integer)


def many(dtype, shape):
    """Patterns of more values than a codebook has, half of them zero."""
    rng, nbytes = np.random.default_rng(1), ITEMSIZE[dtype]
    drawn = np.frombuffer(rng.bytes(nbytes * int(np.prod(shape))), f"<u{nbytes}").reshape(shape)
    return np.where(rng.random(shape) < 0.5, drawn, patterns(dtype, shape, 0.5))


def near(dtype, shape):
    """Patterns that differ in few bytes: more signalling NaNs than a codebook has, and no zero."""
    integer = np.dtype(f"<u{ITEMSIZE[dtype]}")
    last = min(600, (1 << 8 * integer.itemsize) - 1 - NUMBERS[dtype][0])
    return np.random.default_rng(2).integers(0, last + 1, shape, integer) + integer.type(
        NUMBERS[dtype][0]
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A file with tensors of each float dtype in each layout: with a codebook, planes, raw."""
    path = tmp_path_factory.mktemp("warnings") / "m.dcz"
    with Writer(path, {}) as writer:
        for dtype in NUMBERS:
            for shape in ((40, 60), (12, 4, 3, 3)):
                named = {f"{density}": patterns(dtype, shape, density) for density in (0.1, 1)}
                named |= {"many": many(dtype, shape), "near": near(dtype, shape)}
                for what, found in named.items():
                    weight = Weight(f"{dtype}.{len(shape)}.{what}", dtype, shape, found.ravel())
                    writer.add(*encode_weight(weight, None, None)[:2])
            found = patterns(dtype, (7,), 1)
            raw = Weight(f"{dtype}.raw", dtype, (7,), found)
            writer.add(*encode_weight(raw, None, None)[:2])
    layouts = {(t.record.layout, t.record.codebook is None) for t in deepcomp.load(path).values()}
    assert len(layouts) == 5  # raw, and dense and sparse with and without a codebook
    return path


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # torch's own, of any file
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        yield


USES = {
    "to_dense": lambda t: t.to_dense(),
    "to_csr": lambda t: t.to_csr(),
    "to_torch": lambda t: t.to_torch(),
    "to_torch csr": lambda t: t.to_torch(layout=torch.sparse_csr),
    "rows": lambda t: t.rows(0, 3),
    "verify": lambda t: t.verify(),
    "html": lambda t: (repr(t), t._repr_html_()),
}


@pytest.mark.parametrize("use", USES)
def test_decoding_does_not_warn(path, use):
    for tensor in deepcomp.load(path).values():
        USES[use](tensor)


@pytest.mark.parametrize("m", [None, 1, 3, 40])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_products_do_not_warn_and_are_those_of_the_dense_matrix(path, dtype, m):
    packed = deepcomp.load(path).select(f"{dtype}.2.*")
    assert len(packed) == 4
    x = np.ones(60 if m is None else (60, m), np.float32)
    for tensor in packed.values():
        found = deepcomp.matmul(tensor, x)
        with np.errstate(all="ignore"):
            dense = np.asarray(tensor.to_dense(), np.float32).astype(np.float64)
            expected = (dense @ x).astype(np.float32)
            np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("n_dimensions", [2, 4])
def test_layers_do_not_warn(path, dtype, n_dimensions):
    if n_dimensions == 2:
        make, x = (lambda: torch.nn.Linear(60, 40, bias=False)), torch.ones(2, 60)
    else:
        make, x = (lambda: torch.nn.Conv2d(4, 12, 3, bias=False)), torch.ones(2, 4, 8, 8)
    for tensor in deepcomp.load(path).select(f"{dtype}.{n_dimensions}.*").values():
        model = torch.nn.Sequential(make().to(DTYPES[dtype]))
        packed = deepcomp.CompressedModel({"0.weight": tensor.under("0.weight")})
        packed.restore(model, layers="sparse")
        with torch.inference_mode():
            model(x.to(DTYPES[dtype]))
            model(x[:1].to(DTYPES[dtype]))


def test_pages_and_pictures_do_not_warn(path):
    plot = pytest.importorskip("deepcomp.plot")
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    packed = deepcomp.load(path)
    assert "<html" in make_page(packed, "name") and packed._repr_html_()
    for draw in (plot.histogram, plot.code_lengths, plot.zeros):
        for name in packed:
            with contextlib.suppress(ValueError):  # of a raw tensor some are not drawn
                draw(packed[name])
            matplotlib.pyplot.close("all")


def test_commands_do_not_warn(path, tmp_path):
    other = tmp_path / "other.dcz"
    state = {name: tensor.to_torch() for name, tensor in deepcomp.load(path).items()}
    for name, tensor in state.items():  # a third of the entries are others
        integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        tensor.view(integers[tensor.element_size()]).reshape(-1)[::3] = 0
        if name == "float32.2.1":
            state[name] = state["float64.2.1"]
    deepcomp.save(state, other, verify=True)
    dense = str(tmp_path / "o.safetensors")
    for status, *command in (
        (0, "inspect", "--json", path),
        (0, "inspect", "--verify", path),
        (0, "verify", path),
        (0, "report", path, "-o", tmp_path / "r.html"),
        (0, "decompress", path, dense),
        (0, "decompress", path, tmp_path / "o.pt"),
        (0, "compress", dense, tmp_path / "n.dcz", "--bits", "none"),
        (0, "diff", path, tmp_path / "n.dcz"),
        (1, "diff", path, other),
    ):
        told = io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            assert main([str(part) for part in command]) == status, told.getvalue()
