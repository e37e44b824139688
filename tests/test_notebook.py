"""Tables for notebooks: what is in the index, escaped, and nothing decoded."""

import re
from html import unescape

import numpy as np

import deepcomp
from deepcomp.notebook import MAX_ROWS


def rows_of(html):
    lines = re.findall(r"<tr>(.*?)</tr>", html)
    return [[unescape(c) for c in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", x)] for x in lines]


def test_a_model_shows_a_row_for_each_tensor_and_their_sum():
    weight = np.random.default_rng(0).normal(size=(30, 40)).astype(np.float32)
    packed = deepcomp.compress({"fc.weight": weight, "tied": weight}, bits=3, sparsity=0.9)
    head, first, tied, total = rows_of(packed._repr_html_())
    nbytes = packed["tied"].nbytes
    ratio = f"{30 * 40 * 4 / nbytes:.2f}×"
    columns = ["tensor", "shape", "dtype", "layout", "kept %", "bits", "bytes", "ratio"]
    assert head == [*columns, "relative error"]
    distance = np.linalg.norm(packed["fc.weight"].to_dense() - weight)
    error = f"{distance / np.linalg.norm(weight):.3g}"
    expected = ["fc.weight", "30×40", "float32", "sparse", "10.0", "3", str(nbytes), ratio, error]
    assert first == expected and tied[:2] == ["tied", "= fc.weight"]
    assert total[-3:] == [str(nbytes), ratio, error]
    assert rows_of(packed["fc.weight"]._repr_html_()) == [head, expected]


def test_what_was_loaded_has_no_column_for_what_nobody_knows(tmp_path):
    deepcomp.save({"w": np.eye(9)}, tmp_path / "m.dcz")
    packed = deepcomp.load(tmp_path / "m.dcz")
    for html in (packed._repr_html_(), packed["w"]._repr_html_()):
        assert rows_of(html)[0][-1] == "ratio" and "relative" not in html


def test_a_long_model_is_cut():
    packed = deepcomp.compress({f"t{i}": np.ones(2) for i in range(MAX_ROWS + 5)})
    lines = rows_of(packed._repr_html_())
    assert len(lines) == MAX_ROWS + 3 and lines[-2][0] == "... and 5 more"


def test_names_are_text():
    name = "<script>alert(1)</script>\u202e&amp;"
    html = deepcomp.compress({name: np.ones(2), "e": np.ones((0, 2))})._repr_html_()
    assert "<script" not in html and "\u202e" not in html
    assert rows_of(html)[1][0] == "<script>alert(1)</script>\\u202e&amp;"


def test_nothing_is_read_but_the_index():
    record = deepcomp.compress({"w": np.eye(50)})["w"].record

    def fetch():
        raise AssertionError("the section was read")

    tensor = deepcomp.CompressedTensor(record, fetch)
    assert "50×50" in tensor._repr_html_()
    assert "50×50" in deepcomp.CompressedModel({"w": tensor})._repr_html_()
