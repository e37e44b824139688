"""The report page in headless Chromium: no errors, no overflow; sorting, filtering, opening."""

import os
import shutil
import tempfile

import numpy as np
import pytest

import deepcomp
from deepcomp.page import make_page

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --disable-dev-shm-usage"
)
NAMES = ["<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "y" * 300, "\u202eb"]


@pytest.fixture(scope="module")
def driver():
    webdriver = pytest.importorskip("selenium.webdriver")
    browser, service = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not service:
        pytest.skip("needs Chromium and its driver (on Debian: chromium, chromium-driver)")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    with tempfile.TemporaryDirectory() as profile:
        for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        no_output = Service(service, log_output=os.devnull)
        found = webdriver.Chrome(options=options, service=no_output)
        yield found
        found.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(64, 128)).astype(np.float32)
    exact = np.where(rng.random((60, 70)) < 0.2, rng.normal(size=(60, 70)), 0)
    model = {
        "conv1.weight": weight,
        "tied": weight,
        "conv2.weight": np.eye(60, dtype=np.float32),
        "fc.exact": exact,
        "steps": np.array(7),
        "empty": np.zeros((0, 3)),
        "zeros": np.zeros((50, 50)),
        "odd": np.array([1.7e308, -1.7e308, np.nan, np.inf] * 900),
        "flags": rng.random(5000) < 0.3,
        **{name: rng.normal(size=(5, 9)) for name in NAMES},
    }
    packed = deepcomp.compress(model, bits={"conv1*": 5}, sparsity={"conv1*": 0.9})
    return write(tmp_path_factory.mktemp("page"), packed)


def write(folder, packed):
    path = folder / "page.html"
    path.write_text(make_page(packed, "a name"), encoding="utf-8")
    return path.as_uri()


def visit(driver, page, width=1440, dark=False):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    driver.get(page)


def run(driver, script, *arguments):
    return driver.execute_script(script, *arguments)


def names(driver):
    """Return the names of the rows that are shown, in their order."""
    return run(
        driver,
        "return [...document.querySelectorAll('tr.row')].filter((row) => row.offsetParent)"
        ".map((row) => row.querySelector('.name').textContent)",
    )


def click(driver, selector):
    run(driver, "document.querySelector(arguments[0]).click()", selector)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_with_everything_open_there_are_no_errors_and_nothing_overflows(driver, page, width, dark):
    visit(driver, page, width, dark)
    n_open = run(
        driver,
        "const all = document.querySelectorAll('.open'); all.forEach((b) => b.click());"
        "return all.length",
    )
    assert n_open == 12
    click(driver, "[data-map=before]")
    assert run(driver, "return document.documentElement.scrollWidth") <= width
    # within the page nothing but the table may be wider than what holds it
    wide = run(
        driver,
        "return [...document.querySelectorAll('section, figure, #map, .controls, header')]"
        ".filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.outerHTML.slice(0, 80))",
    )
    assert wide == []
    drawn = "return document.querySelectorAll('figure svg').length"
    assert run(driver, drawn) >= 14
    broken = "return [...document.querySelectorAll('svg *')].filter((e) => /NaN|Infinity/.test("
    assert run(driver, broken + "[...e.attributes].map((a) => a.value).join())).length") == 0
    assert driver.get_log("browser") == []
    assert run(driver, "return performance.getEntriesByType('resource').length") == 0


def test_names_of_the_file_are_shown_as_text(driver, page):
    visit(driver, page)
    shown = names(driver)
    assert [n for n in NAMES if n.isprintable()] == [n for n in shown if n in NAMES]
    assert "\\u202eb" in shown and run(driver, "return document.images.length") == 0
    assert driver.get_log("browser") == []


def test_a_click_on_a_column_sorts_and_the_third_one_gives_the_order_of_the_file(driver, page):
    visit(driver, page)
    in_file = names(driver)

    def head(full):
        return f"th[data-full='{full}']"

    def state(full):
        return run(
            driver,
            "const head = document.querySelector(arguments[0]);"
            "const column = [...head.parentNode.cells].indexOf(head);"
            "const rows = [...document.querySelectorAll('tr.row')];"
            "return [head.ariaSort, rows.map((row) => row.cells[column].dataset.value)]",
            head(full),
        )

    click(driver, head("bytes") + " button")
    order, values = state("bytes")
    assert order == "descending"
    assert [int(v) for v in values] == sorted(map(int, values), reverse=True)
    click(driver, head("bytes") + " button")
    order, values = state("bytes")
    assert order == "ascending" and [int(v) for v in values] == sorted(map(int, values))
    click(driver, head("bytes") + " button")
    assert state("bytes")[0] == "none" and names(driver) == in_file
    click(driver, head("kept, %") + " button")
    order, values = state("kept, %")
    numbers = [float(v) for v in values if v]
    assert numbers == sorted(numbers, reverse=True) and "" not in values[: len(numbers)]
    click(driver, head("tensor") + " button")
    assert state("kept, %")[0] == "none" and state("tensor")[0] == "ascending"
    assert names(driver).index("conv1.weight") < names(driver).index("tied")


def test_the_filter_takes_a_part_of_a_name_a_pattern_and_a_layout(driver, page):
    visit(driver, page)

    def filtered(name, layout=""):
        run(
            driver,
            "const [name, layout] = ['filter', 'layout'].map((i) => document.getElementById(i));"
            "name.value = arguments[0]; layout.value = arguments[1];"
            "name.dispatchEvent(new Event('input'))",
            name,
            layout,
        )
        return names(driver)

    everything = names(driver)
    click(driver, "tr.row .open")
    assert filtered("CONV") == ["conv1.weight", "conv2.weight"]
    assert run(driver, "return document.querySelectorAll('tr.detail')[0].offsetParent !== null")
    assert filtered("*.weight") == ["conv1.weight", "conv2.weight"]
    assert filtered("conv?.weight") == ["conv1.weight", "conv2.weight"]
    assert filtered("weight*") == [] and filtered("[(.") == []
    assert run(driver, "return document.querySelectorAll('tr.detail')[0].offsetParent === null")
    assert run(driver, "return document.getElementById('shown').value").startswith("0 of 13 shown")
    assert filtered("", "alias") == ["tied"]
    assert filtered("") == everything


def test_a_row_opens_with_the_keyboard_and_shows_the_pattern_of_zeros(driver, page):
    from selenium.webdriver.common.keys import Keys

    visit(driver, page)
    button = driver.find_elements("css selector", ".open")[1]
    button.send_keys(Keys.ENTER)
    assert button.get_attribute("aria-expanded") == "true"
    alphas = run(
        driver,
        "const c = document.querySelector('canvas');"
        "const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return [c.width, c.height, [...data].filter((_, i) => i % 4 === 3)]",
    )
    assert alphas == [60, 60, (255 * np.eye(60, dtype=int)).ravel().tolist()]
    titles = [e.text for e in driver.find_elements("css selector", "tr.detail h3")]
    assert titles[:2] == ["Weights and codebook", "Pattern of zeros"]
    assert all(e.get_attribute("aria-label") for e in driver.find_elements("tag name", "canvas"))
    button.send_keys(Keys.ENTER)
    assert not driver.find_elements("css selector", "tr.detail")


def test_the_map_has_a_tile_for_each_tensor_as_large_as_its_bytes(driver, page):
    visit(driver, page)
    areas = (
        "const tiles = [...document.querySelectorAll('#map > svg > svg')];"
        "return tiles.map((t) => [t.querySelector('title').textContent.split('\\n')[0],"
        "t.getAttribute('width') * t.getAttribute('height')])"
    )
    data = run(driver, "return JSON.parse(document.getElementById('data').textContent)")
    in_file = names(driver)
    for mode in ("after", "before"):
        click(driver, f"[data-map={mode}]")
        found = dict(run(driver, areas))
        sizes = {
            name: sum(item["parts"]) if mode == "after" else item["dense"]
            for name, item in zip(in_file, data, strict=True)
            if item
        }
        size = run(driver, "return document.getElementById('map').getBoundingClientRect()")
        scale = size["width"] * size["height"] / sum(sizes.values())
        expected = {name: scale * size for name, size in sizes.items() if size}
        assert found == pytest.approx(expected)
    run(driver, "document.querySelector('#map > svg > svg').dispatchEvent(new Event('click'))")
    assert len(driver.find_elements("css selector", "tr.detail")) == 1


def luminance(colour):
    """Relative luminance of an rgb() of CSS, as WCAG defines it."""
    parts = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_theme_follows_the_system_and_then_the_button_and_text_has_contrast(driver, page, dark):
    visit(driver, page, dark=dark)
    click(driver, "tr.row .open")
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    for is_dark in (dark, not dark):
        assert (luminance(run(driver, style, "body", "backgroundColor")) < 0.1) == is_dark
        card = luminance(run(driver, style, "section", "backgroundColor"))
        for selector in ("h1", ".note", ".open", "th", ".detail figcaption", "tfoot td"):
            light, low = sorted([card, luminance(run(driver, style, selector, "color"))])[::-1]
            assert (light + 0.05) / (low + 0.05) >= 4.5, selector
        for kind in ("labels", "gaps", "codebook", "exact", "raw", "overhead"):
            fill = luminance(run(driver, style, f".k-{kind}", "fill"))
            on = luminance(run(driver, style, "#map text", "fill"))
            assert (max(fill, on) + 0.05) / (min(fill, on) + 0.05) >= 4.5, kind
        click(driver, "#theme")


def test_a_page_of_300_layers_opens(driver, tmp_path):
    rng = np.random.default_rng(0)
    model = {f"layer.{i}.weight": rng.normal(size=(64, 96)).astype(np.float32) for i in range(300)}
    visit(driver, write(tmp_path, deepcomp.compress(model, bits=4, sparsity=0.9)))
    assert len(names(driver)) == 300 and driver.get_log("browser") == []
    loaded = "return performance.getEntriesByType('navigation')[0].loadEventEnd"
    print(f"300 layers: loaded after {run(driver, loaded):.0f} ms")
