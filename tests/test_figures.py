"""What pictures show is what the tensors hold: counts, densities and bits against NumPy."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import deepcomp
from deepcomp import figures, report
from deepcomp.container import Reader
from deepcomp.tensor import CompressedTensor


def tensors():
    """Draw arrays of which some are pruned, some shared, some exact."""

    def make(rows, columns, kept, n_values, seed):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=(rows, columns)).astype(np.float32)
        if n_values:
            values = np.round(values * n_values) / np.float32(n_values)
        return np.where(rng.random((rows, columns)) < kept, values, np.float32(0))

    side = st.integers(1, 80)
    kept = st.sampled_from([0.0, 0.05, 0.5, 1.0])
    return st.builds(make, side, side, kept, st.sampled_from([0, 2, 20]), st.integers(0, 99))


def packed(array):
    return deepcomp.compress({"w": array}, bits=None)["w"]


@given(tensors())
def test_a_histogram_counts_every_entry_once(array):
    found = figures.histogram(packed(array))
    assert found.n_zeros == np.count_nonzero(array == 0) and found.n_not_finite == 0
    assert found.counts.sum() + found.n_zeros == array.size
    kept = array[array != 0].astype(np.float64)
    if found.width:
        edges = np.append(found.values, found.values[-1] + found.width)
        assert found.counts.tolist() == pytest.approx(np.histogram(kept, edges)[0], abs=1)
        assert edges[0] <= kept.min() and kept.max() <= edges[-1] * (1 + 1e-9) + 1e-300
    else:
        values, counts = np.unique(kept, return_counts=True)
        assert found.values.tolist() == values.tolist() and (found.counts == counts).all()


@given(tensors(), st.integers(1, 500))
def test_the_map_of_zeros_has_the_density_of_each_cell(array, max_cells):
    found = figures.zeros(packed(array), max_cells)
    assert found.density.size <= max_cells and found.shape == array.shape
    n_rows, n_columns = found.density.shape
    for i in range(n_rows):
        for j in range(n_columns):
            c = found.cell
            cell = array[i * c : (i + 1) * c, j * c : (j + 1) * c]
            assert found.density[i, j] == np.count_nonzero(cell) / cell.size


@pytest.mark.parametrize(
    ("shape", "matrix"),
    [
        ((), (1, 1)),
        ((7,), (1, 7)),
        ((0, 3), (0, 3)),
        ((4, 3, 2), (4, 6)),
        ((1 << 40, 0), (1 << 40, 0)),
    ],
)
def test_the_map_of_zeros_takes_any_shape(shape, matrix):
    found = figures.zeros(packed(np.ones(shape, np.float32)))
    assert found.shape == matrix and found.density.shape == matrix and (found.density == 1).all()


@given(tensors())
def test_code_lengths_are_those_that_the_bitstreams_take(array):
    tensor = packed(array)
    section = tensor.parts()
    codes = {code.name: code for code in figures.code_lengths(tensor)}
    for i, name in enumerate(tensor.record.stream_names if section else ()):
        n_symbols = section.stream_n_symbols(i)
        assert (name in codes) == (n_symbols > 0)
        if n_symbols:
            code = codes[name]
            n_bits = int(code.counts @ code.code_lengths)
            n_bytes = section.stream_nbytes(i)
            n_padded = sum(len(block.sizes[i]) for block in section.blocks)
            assert code.counts.sum() == n_symbols
            assert n_bits <= 8 * n_bytes < n_bits + 8 * n_padded + 1
            assert code.mean_bits >= code.entropy - 1e-9
            assert (np.diff(code.counts) <= 0).all()


def test_blocks_of_a_large_tensor_are_put_together():
    array = np.zeros((3, 1 << 20), np.float32)
    array[0, 5] = array[1, 7] = array[2, -1] = 0.5
    tensor = packed(array)
    assert len(tensor.parts().blocks) > 1
    assert figures.histogram(tensor).counts.tolist() == [3]
    found = figures.zeros(tensor, 300)
    assert np.count_nonzero(found.density[:, 0]) + np.count_nonzero(found.density[:, -1]) >= 2
    sizes = np.outer(
        np.minimum(found.cell, 3 - found.cell * np.arange(found.density.shape[0])),
        np.minimum(found.cell, (1 << 20) - found.cell * np.arange(found.density.shape[1])),
    )
    assert (found.density * sizes).sum() == pytest.approx(3)


def test_values_that_are_not_finite_or_very_large_are_counted():
    array = np.array([1.7e308, -1.7e308, 1e308, np.nan, np.inf, -np.inf, 0.0, -0.0] * 100)
    found = figures.histogram(packed(array))
    assert (found.n_zeros, found.n_not_finite, found.counts.sum()) == (200, 300, 300)
    rng = np.random.default_rng(0)
    exact = np.append(array, rng.uniform(-1.7, 1.7, 2000) * 1e308)
    found = figures.histogram(packed(exact))
    assert found.width > 0 and np.isfinite(found.values).all() and np.isfinite(found.width)
    assert found.counts.sum() + found.n_zeros + found.n_not_finite == exact.size


def test_entries_that_a_file_says_it_has_not_are_noticed():
    tensor = packed(np.eye(100))
    record = dataclasses.replace(tensor.record, nnz=0)
    hiding = CompressedTensor(record, lambda *_: tensor.section())
    with pytest.raises(deepcomp.DczError):
        figures.zeros(hiding)


def test_every_part_of_a_report_is_of_one_kind():
    parts = [part for names in figures.KINDS.values() for part in names]
    overhead = report.report_model(deepcomp.compress({"w": np.eye(9)})).overhead
    assert sorted(parts) == sorted([*report.STREAMS, *overhead])


def test_a_damaged_tensor_is_named(tmp_path):
    path = tmp_path / "m.dcz"
    deepcomp.save({"some.weight": np.random.default_rng(0).normal(size=(50, 50))}, path)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    tensor = deepcomp.load(path)["some.weight"]
    for function in (figures.histogram, figures.zeros, figures.code_lengths):
        with pytest.raises(deepcomp.DczError, match=r"m\.dcz: tensor 'some\.weight'"):
            function(tensor)


def test_the_report_of_a_model_is_that_of_its_file(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(300, 90)).astype(np.float32)
    model = {"a": weight, "tied": weight, "b": weight[0].copy(), "n": np.array(3)}
    in_memory = deepcomp.compress(model, bits=4, sparsity=0.8)
    deepcomp.save(in_memory, tmp_path / "m.dcz", metadata={"by": "me"})
    expected = report.make_report(Reader(tmp_path / "m.dcz"))
    loaded = report.report_model(deepcomp.load(tmp_path / "m.dcz"), expected.file)
    assert loaded == expected
    in_memory.metadata["by"] = "me"
    found = report.report_model(in_memory, expected.file)
    assert found.relative_error == in_memory.relative_error > 0.1
    rows = [
        dataclasses.replace(row, relative_error=None) for row in found.rows
    ]  # which no file says
    found = dataclasses.replace(found, rows=rows, relative_error=None)
    assert found == expected
    assert expected.file_nbytes == (tmp_path / "m.dcz").stat().st_size


def test_the_highest_density_is_that_of_a_whole_cell():
    weight = np.zeros((9, 9))
    weight[0, 0] = weight[8] = 1  # the last row has cells of one entry by two
    found = figures.zeros(deepcomp.compress({"w": weight})["w"], max_cells=25)
    assert found.cell == 2 and found.density.max() == 1 and found.highest == 0.25
    weight[0, 0] = 0
    assert figures.zeros(deepcomp.compress({"w": weight})["w"], max_cells=25).highest == 1
