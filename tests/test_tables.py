"""The tables of speed in README and docs: they are those of the run that they name."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import tables

sys.path.pop(0)

RESULTS = """
## Sparse layers, batch 1, one thread

| what | deepcomp | rival | ratio | bar | met |
|---|---|---|---|---|---|
| A 30x70, 9 % kept | 2 us | dense float32: 41 us | 20.6 | ratio >= 18 | yes |
| A 30x70, 9 % kept | 2 us | int8: 2 us | 1.04 | ratio > 1 | yes |
| B 3x7, 50 % kept | 2 us | dense float32: 4.9 us | 2.46 |  |  |
| B 3x7, 50 % kept | 2 us | int8: 1 us | 0.5 |  |  |

## Sparse layers, batch 64, one thread

| what | deepcomp | rival | ratio | bar | met |
|---|---|---|---|---|---|
| A 30x70, 9 % kept | 2 us | dense float32: 2,058 us | 1,029 |  |  |
| A 30x70, 9 % kept | 2 us | int8: 4 us | 2 |  |  |

## A 3x7 by density

| what | deepcomp | rival | ratio | bar | met |
|---|---|---|---|---|---|
| 10 % kept, batch 1 | 2 us | int8: 4 us | 4 |  |  |
| 50 % kept, batch 1 | 2 us | int8: 1 us | 0.25 |  |  |
| 10 % kept, batch 1 | 2 us | bfloat16: 4 us | 4 |  |  |
| 90 % kept, batch 1 | 2 us | bfloat16: 3 us | 1.5 |  |  |
"""


@pytest.mark.parametrize("page", tables.PAGES)
def test_a_page_has_the_figures_of_the_results(page):
    text = (tables.ROOT / page).read_text()
    results = (tables.ROOT / "benchmarks/RESULTS.md").read_text()
    assert tables.updated(text, results) == text, "python -m benchmarks.tables writes them"
    assert "| AlexNet fc6 4096x9216, 9 % | " in text


def test_ratios_are_rounded_and_missing_batches_left_empty():
    assert tables.layers(tables.ratios(RESULTS)) == [
        "| A 30x70, 9 % | 21 (1.0) |  | 1029 (2.0) |  |",
        "| B 3x7, 50 % | 2.5 (0.5) |  |  |  |",
    ]


def test_a_crossover_is_where_the_logarithm_of_the_gain_is_zero():
    points = tables.ratios(RESULTS)
    assert tables.crossovers(points, rivals=("int8", "bfloat16"), batches=(1,)) == [
        "| int8 | 30 % kept |",
        "| bfloat16 | never up to 90 % |",
    ]


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(10, 2), (50, 0.5)], "30 % kept"),
        ([(10, 0.9), (50, 0.5)], "at 10 % already"),
        ([(10, 2), (20, 0.5), (30, 1.5), (50, 0.9)], "15 % kept"),
        ([(50, 0.5), (10, 2)], "30 % kept"),
    ],
)
def test_the_first_crossover_is_told_whatever_comes_after_it(points, expected):
    results = "## A by density\n" + "".join(
        f"| {density} % kept, batch 1 | 2 us | int8: 4 us | {gain} |  |  |\n"
        for density, gain in points
    )
    found = tables.crossovers(tables.ratios(results), rivals=("int8",), batches=(1,))
    assert found == [f"| int8 | {expected} |"]
