"""deepcomp.plot draws what figures finds, and needs only the extra that its errors name."""

import sys

import numpy as np
import pytest

import deepcomp


@pytest.fixture(autouse=True)
def pyplot(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    module = pytest.importorskip("matplotlib.pyplot")
    yield module
    module.close("all")


@pytest.fixture
def packed():
    rng = np.random.default_rng(0)
    model = {f"layer.{i}.weight": rng.normal(size=(30, 40 + i)) for i in range(50)}
    model |= {"price in $ or $": rng.normal(size=(30, 30)), "bias": rng.normal(size=7)}
    return deepcomp.compress(model, bits=4, sparsity={"layer*": 0.8})


def draw(ax):
    ax.figure.canvas.draw()
    return ax


def test_the_bars_of_sizes_add_up_to_the_file(packed, tmp_path):
    ax = draw(deepcomp.plot.sizes(packed))
    deepcomp.save(packed, tmp_path / "m.dcz")
    size = (tmp_path / "m.dcz").stat().st_size
    assert sum(bar.get_width() for bar in ax.patches) == size
    assert f"{size:,}" in ax.get_title()
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert len(names) == 41 and "(13 more)" in names and "price in $ or $" in names


def test_forty_tensors_have_a_bar_each(packed):
    ax = deepcomp.plot.sizes(packed.select(*list(packed)[:40]))
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert len(names) == 41 and not any("more" in name for name in names)


def test_a_histogram_has_a_line_for_each_value_of_the_codebook(packed):
    tensor = packed["layer.0.weight"]
    ax = draw(deepcomp.plot.histogram(tensor))
    lines = ax.collections[0].get_segments()
    values, counts = np.unique(tensor.to_dense(), return_counts=True)
    kept = values != 0
    assert [line[0][0] for line in lines] == values[kept].tolist()
    assert [line[1][1] for line in lines] == counts[kept].tolist()
    assert "80.0 % zeros" in ax.get_title()


def test_a_histogram_without_codebook_has_bins(packed):
    ax = draw(deepcomp.plot.histogram(packed["bias"]))
    assert len(ax.patches) == 64 and sum(bar.get_height() for bar in ax.patches) == 7


def test_the_picture_of_zeros_is_the_mask(packed):
    tensor = packed["layer.1.weight"]
    image = draw(deepcomp.plot.zeros(tensor)).get_images()[0].get_array()
    assert np.array_equal(image, 100 * (tensor.to_dense() != 0))


def test_code_lengths_has_two_stairs_for_each_stream(packed):
    ax = draw(deepcomp.plot.code_lengths(packed["layer.1.weight"]))
    assert len(ax.patches) == 4  # of gaps and labels: lengths, ideal
    assert "raw" in draw(deepcomp.plot.code_lengths(packed["bias"])).get_title()


def test_all_draw_into_the_axes_they_are_given(packed, pyplot):
    tensor = packed["layer.2.weight"]
    functions = [deepcomp.plot.histogram, deepcomp.plot.zeros, deepcomp.plot.code_lengths]
    for function, what in [(deepcomp.plot.sizes, packed), *((f, tensor) for f in functions)]:
        _, ax = pyplot.subplots()
        n = len(pyplot.get_fignums())
        assert function(what, ax=ax) is ax and len(pyplot.get_fignums()) == n


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((9, 9)),
        np.zeros((0, 4)),
        np.array(3),
        np.array([1.7e308, -1.7e308, np.nan, np.inf] * 1000),
        np.random.default_rng(0).random(5000) < 0.2,
    ],
    ids=["zeros", "empty", "scalar", "not finite", "bool"],
)
def test_odd_tensors_can_be_drawn(array):
    tensor = deepcomp.compress({"t": array})["t"]
    for function in (deepcomp.plot.histogram, deepcomp.plot.zeros, deepcomp.plot.code_lengths):
        draw(function(tensor))


def test_without_matplotlib_the_error_names_the_extra(packed, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'deepcomp\[plot\]'"):
        deepcomp.plot.sizes(packed)


def test_what_cannot_be_drawn_is_said_to_be_something_else(packed):
    for draw_one in (deepcomp.plot.histogram, deepcomp.plot.zeros, deepcomp.plot.code_lengths):
        with pytest.raises(
            TypeError, match=r"CompressedTensor, not a CompressedModel: .*packed.name"
        ):
            draw_one(packed)
    with pytest.raises(TypeError, match="expected a CompressedModel, not a CompressedTensor"):
        deepcomp.plot.sizes(packed["bias"])


def test_tensors_of_the_last_hundredth_of_the_bytes_share_a_bar():
    rng = np.random.default_rng(0)
    model = {"large": rng.normal(size=(200, 200))} | {f"b{i}": rng.normal(size=4) for i in range(5)}
    ax = deepcomp.plot.sizes(deepcomp.compress(model, bits=None))
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["large", "(5 more)", "(head, index, checksums)"]


def test_a_long_name_keeps_both_ends():
    name = f"model.{'encoder.' * 9}layer.7.weight"
    packed = deepcomp.compress({name: np.ones((9, 9))})
    label = deepcomp.plot.sizes(packed).get_yticklabels()[0].get_text()
    assert len(label) <= 40 and label.startswith("model.") and label.endswith(".layer.7.weight")
