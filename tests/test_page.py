"""The report page: its bytes add up, it asks for nothing, and names are never markup."""

import base64
import hashlib
import json
import re
import sys
import zlib
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import deepcomp
from deepcomp.figures import ZeroMap
from deepcomp.page import _to_script, _zeros, make_page
from deepcomp.page_parts import short_bytes
from deepcomp.tables import printable

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\" onclick='alert(1)'",
    "&lt;b&gt; ]]> <!-- ",
    "\u202egnp.exe\u2028\x00\x1b[2J",
    "",
    "x" * 3000,
    "$data ${style}",
]


class Page(HTMLParser):
    """The elements of a page, each (tag, attributes, text)."""

    VOID = ("meta", "link", "input", "br", "wbr")

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])
        if tag not in self.VOID:
            self._open.append(self.elements[-1])

    def handle_startendtag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for element in self._open:
            element[2] += data

    def all(self, tag, css=None):
        return [e for e in self.elements if e[0] == tag and css in (None, e[1].get("class"))]


@pytest.fixture(scope="module")
def packed():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(64, 128)).astype(np.float32)
    model = {
        "fc.weight": weight,
        "tied": weight,
        "exact": rng.normal(size=(40, 30)),
        "steps": np.array(7),
        "empty": np.zeros((0, 3)),
        "odd": np.array([1e308, -1.7e308, np.nan, np.inf, -0.0] * 900),
    }
    return deepcomp.compress(model, bits={"fc": 5}, sparsity={"fc": 0.9})


def data_of(page):
    return json.loads(next(e for e in page.all("script") if "id" in e[1])[2])


def test_the_bytes_of_the_table_the_legend_and_the_data_add_up_to_the_file(packed, tmp_path):
    deepcomp.save(packed, tmp_path / "m.dcz")
    size = (tmp_path / "m.dcz").stat().st_size
    page = Page(make_page(deepcomp.load(tmp_path / "m.dcz"), "m.dcz"))
    *lines, total = [int(e[1]["data-bytes"]) for e in page.all("tr") if "data-bytes" in e[1]]
    in_data = sum(sum(item.get("parts", [])) for item in data_of(page))
    assert in_data + sum(lines) == total == size
    legend = [int(e[2].replace(",", "")) for e in page.all("span", "bytes")]
    assert sum(legend) == size and f"{size:,} bytes" in page.all("section", "tiles")[0][2]


def test_a_file_whose_index_another_zlib_deflated_is_reported_to_the_byte(packed, tmp_path):
    path = tmp_path / "m.dcz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepcomp.writer._deflate", lambda raw, data_end: zlib.compress(raw, 0))
        deepcomp.save(packed, path)
    page = Page(make_page(deepcomp.load(path)))
    assert int(page.all("tr")[-1][1]["data-bytes"]) == path.stat().st_size


def test_only_the_script_and_the_style_of_the_page_may_run(packed):
    text = make_page(packed, "m.dcz")
    page = Page(text)
    policy = next(e[1]["content"] for e in page.all("meta") if "http-equiv" in e[1])
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    [style], [_, script] = page.all("style"), page.all("script")
    for what in (style, script):
        digest = base64.b64encode(hashlib.sha256(what[2].encode()).digest()).decode()
        assert f"{what[0]}-src 'sha256-{digest}'" in policy
    for tag, attributes, _ in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag
        assert attributes.get("href", "data:").startswith("data:") and "src" not in attributes
    assert not re.search(r"@import|url\(|fetch\(|innerHTML|eval\(", style[2] + script[2])


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text(name):
    array = np.ones((2, 2))
    model = {name: array, f"{name}2": array}
    packed = deepcomp.compress(model)
    packed.metadata[name] = name
    page = Page(make_page(packed, name))
    reference = Page(make_page(deepcomp.compress({"a": array, "b": array}), "c"))
    assert [e[2] for e in page.all("span", "name")] == [printable(n) for n in model]
    tags = {e[0] for e in page.elements}
    assert tags <= {e[0] for e in reference.elements} | {"dl", "dt", "dd", "wbr"}
    assert printable(name) in page.all("h1")[0][2]
    assert len(page.all("script")) == 2 and len(data_of(page)) == 2


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_name_comes_back_from_the_page(name):
    page = Page(make_page(deepcomp.compress({name: np.ones(3)})))
    assert [e[2] for e in page.all("span", "name")] == [printable(name)]


def test_the_data_have_no_sign_that_ends_a_script_and_no_infinity(packed):
    text = make_page(packed)
    data = re.search(r'id="data">(.*?)</script>', text, re.S)[1]
    assert not set("<>&") & set(data)
    assert not re.search("NaN|Infinity", data) and len(json.loads(data)) == len(packed)
    written = _to_script(HOSTILE)
    assert not set("<>&") & set(written) and json.loads(written) == HOSTILE


def test_the_largest_numbers_of_a_codebook_are_not_rounded_to_infinity():
    largest = sys.float_info.max
    packed = deepcomp.compress({"w": np.repeat([largest, 1.0, -largest], 500)}, bits=None)
    assert packed["w"].record.codebook
    assert data_of(Page(make_page(packed)))[0]["histogram"]["values"] == [-largest, 1.0, largest]


def test_a_cell_of_the_map_with_one_entry_in_a_million_is_not_written_as_empty():
    cells = _zeros(ZeroMap(np.array([[0, 1e-6, 1.0]]), (1000, 3000), 1000))["cells"]
    assert list(base64.b64decode(cells)) == [0, 1, 255]


def test_a_page_of_300_layers_is_at_most_5_megabytes():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(128, 300)).astype(np.float32)
    layer = deepcomp.compress({"w": weight}, bits=None, sparsity=0.5)["w"]  # exact: the most data
    packed = deepcomp.CompressedModel(
        {f"a.layer.with.a.name.{i}.weight": renamed(layer, i) for i in range(300)}
    )
    page = make_page(packed, "300.dcz")
    assert page.count('class="row"') == 300
    assert 1_000_000 < len(page.encode()) < 5_000_000


def renamed(tensor, i):
    record = replace(tensor.record, name=f"a.layer.with.a.name.{i}.weight")
    return deepcomp.CompressedTensor(record, tensor.section)


def test_a_model_without_tensors_has_a_page():
    assert "0 tensors" in make_page(deepcomp.compress({}))


def test_a_damaged_file_gives_an_error_that_names_the_tensor(packed, tmp_path):
    path = tmp_path / "m.dcz"
    deepcomp.save(packed, path)
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(deepcomp.DczError, match=r"m\.dcz: tensor 'fc\.weight'"):
        make_page(deepcomp.load(path), "m.dcz")


def test_the_same_model_gives_the_same_page(packed):
    assert make_page(packed, "m") == make_page(packed, "m")


@pytest.mark.parametrize(
    ("n", "expected"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (999_999, "1.00 MB"), (10**13, "10.0 TB")],
)
def test_sizes_have_three_digits_that_count(n, expected):
    assert short_bytes(n) == expected
