"""dcz-inspect: its tables add up, and it says what is wrong in one line."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

import deepcomp
from deepcomp.cli import inspect_main


@pytest.fixture
def path(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(64, 128)).astype(np.float32)
    shared = rng.normal(size=(32, 3, 3, 3)).astype(np.float16)
    model = {
        "fc.weight": weight,
        "fc.bias": weight[0].copy(),
        "conv.weight": shared,
        "tied.weight": weight,
        "steps": np.array(7),
    }
    packed = deepcomp.compress(model, bits={"fc": 5, "conv": 2}, sparsity={"fc": 0.9})
    deepcomp.save(packed, tmp_path / "m.dcz")
    return tmp_path / "m.dcz"


def run(capsys, *arguments):
    status = inspect_main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def bytes_column(text):
    """Return the numbers of the column `bytes`, and the last one, the size of the file."""
    header, *lines = text.splitlines()
    end = header.index("bytes") + len("bytes")
    cells = [line[:end].split()[-1].replace(",", "") for line in lines if not set(line) <= {"-"}]
    numbers = [int(cell) for cell in cells if re.fullmatch(r"\d+", cell)]
    return numbers[:-1], numbers[-1]


@pytest.mark.parametrize("options", [[], ["--layers", "fc*"], ["--layers", "steps"]])
def test_both_columns_of_bytes_add_up_to_the_size_of_the_file(capsys, path, options):
    status, out, _ = run(capsys, path, *options)
    tables = out.split("\n\n")
    assert status == 0
    for table in tables[:2]:
        rows, total = bytes_column(re.sub(r" +\d+\.\d+$", "", table, flags=re.M))
        assert sum(rows) == total == path.stat().st_size


def test_table_has_the_columns_of_the_paper(capsys, path):
    _, out, _ = run(capsys, path)
    line = next(line for line in out.splitlines() if line.startswith("fc.weight"))
    assert line.split()[:7] == ["fc.weight", "64x128", "float32", "sparse", "8,192", "10.0", "5.0"]
    assert "= fc.weight" in next(line for line in out.splitlines() if "tied.weight" in line)


def test_the_ratio_to_float32_has_a_column_only_if_it_is_another(capsys, path, tmp_path):
    _, out, _ = run(capsys, path)
    assert out.splitlines()[0].endswith("ratio  vs f32") and "bytes as float32" in out
    deepcomp.save({"w": np.ones((9, 9), np.float32)}, tmp_path / "plain.dcz")
    _, out, _ = run(capsys, tmp_path / "plain.dcz")
    assert out.splitlines()[0].split()[-2:] == ["bytes", "ratio"] and "float32 (" not in out
    size = (tmp_path / "plain.dcz").stat().st_size
    assert out.endswith(f"dense: 324 bytes ({324 / size:.2f}x the file)\n")
    assert "ratio_float32" in run(capsys, tmp_path / "plain.dcz", "--json")[1]


def test_json_adds_up_and_keeps_its_schema(capsys, path):
    status, out, _ = run(capsys, path, "--json")
    report = json.loads(out)
    size = path.stat().st_size
    assert status == 0 and report["schema"] == 1
    assert set(report) == {
        "schema", "file", "format_version", "metadata", "tensors", "overhead", "parts",
        "file_nbytes", "dense_nbytes", "float32_nbytes", "compression_ratio",
        "compression_ratio_float32", "low_rank",
    }  # fmt: skip
    assert report["file_nbytes"] == size == sum(report["parts"].values())
    tensors = report["tensors"]
    assert sum(t["nbytes"] for t in tensors) + sum(report["overhead"].values()) == size
    assert all(sum(t["parts"].values()) == t["nbytes"] for t in tensors)
    assert set(tensors[0]) == {
        "name", "dtype", "layout", "shape", "tied_to", "n_weights", "nnz", "weight_bits",
        "weight_bits_huffman", "index_bits", "index_bits_huffman", "nbytes", "dense_nbytes",
        "parts", "kept", "ratio", "ratio_float32",
    }  # fmt: skip
    assert report["dense_nbytes"] == 64 * 128 * 4 + 128 * 4 + 32 * 27 * 2 + 8


@pytest.fixture
def factored(tmp_path):
    """Write a file with two layers of low rank; `odd`, `mixed` and the second names are none."""
    rng = np.random.default_rng(0)
    shapes = {
        "fc1.factors.0.weight": (8, 90),
        "fc1.factors.1.weight": (60, 8),
        "conv.factors.1.weight": (32, 4, 1, 1),
        "conv.factors.0.weight": (4, 16, 3, 3),
        "odd.factors.0.weight": (8, 90),
        "odd.factors.1.weight": (60, 9),
        "mixed.factors.0.weight": (8, 90),
        "fc2.weight": (10, 60),
    }
    model = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    model["mixed.factors.1.weight"] = rng.normal(size=(60, 8)).astype(np.float16)
    for i in (0, 1):
        model[f"tied.factors.{i}.weight"] = model[f"fc1.factors.{i}.weight"]
    deepcomp.save(deepcomp.compress(model, bits=3), tmp_path / "low.dcz")
    return tmp_path / "low.dcz"


LOW_RANK = [[], ["--layers", "fc*"], ["--layers", "fc1"], ["--layers", "*.1.weight"]]


@pytest.mark.parametrize("options", [*LOW_RANK, ["--sort", "ratio"]])
def test_bytes_of_factors_are_not_counted_twice(capsys, factored, options):
    _, out, _ = run(capsys, factored, *options)
    rows, total = bytes_column(out.split("\n\n")[0])
    assert sum(rows) == total == factored.stat().st_size
    has_pairs = options != LOW_RANK[3]
    assert ("of which" in out) == has_pairs


def test_a_layer_of_low_rank_stands_above_its_factors_with_the_shape_it_stands_for(
    capsys, factored
):
    _, out, _ = run(capsys, factored, "--layers", "fc1")
    layer, first, second, more = (line.split() for line in out.splitlines()[2:6])
    assert layer[:5] == ["fc1", "60x90", "float32", "low-rank", "1,200"]
    assert (first[:2], second[:2]) == (["factors.0.weight", "8x90"], ["factors.1.weight", "60x8"])
    n_bytes = int(layer[-3])
    assert n_bytes == int(first[-3]) + int(second[-3]) and more[0] == "(9"
    assert layer[-2] == f"{60 * 90 * 4 / n_bytes:.2f}x"
    _, out, _ = run(capsys, factored, "--sort", "name")
    names = [line.split()[0] for line in out.splitlines()[2:15]]
    assert names[:6] == ["conv", "factors.0.weight", "factors.1.weight", "fc1", *names[1:3]]
    assert {"odd.factors.1.weight", "mixed.factors.1.weight", "tied.factors.0.weight"} < set(names)
    whole = 4 * (60 * 90 + 32 * 16 * 9 + 8 * 90 + 60 * 9 + 8 * 90 + 600) + 2 * 480
    assert f"dense, whole weights in place of factors: {whole:,} bytes at" in out


def test_json_lists_layers_of_low_rank_beside_their_tensors(capsys, factored):
    report = json.loads(run(capsys, factored, "--json")[1])
    tensors = {tensor["name"]: tensor for tensor in report["tensors"]}
    assert len(tensors) == 11
    conv, fc1 = sorted(report["low_rank"], key=lambda layer: layer["name"])
    assert (conv["name"], conv["shape"], fc1["shape"]) == ("conv", [32, 16, 3, 3], [60, 90])
    for layer in (conv, fc1):
        first, second = (tensors[name] for name in layer["factors"])
        for key in ("nbytes", "n_weights", "nnz"):
            assert layer[key] == first[key] + second[key]
        assert sum(layer["parts"].values()) == layer["nbytes"]
        assert layer["ratio"] == layer["ratio_float32"] == layer["dense_nbytes"] / layer["nbytes"]


@pytest.mark.parametrize("key", ["name", "weights", "bytes", "ratio", "kept"])
def test_sort_orders_the_tensors(capsys, path, key):
    _, out, _ = run(capsys, path, "--sort", key)
    names = [line.split()[0] for line in out.splitlines()[2:7]]
    assert sorted(names) == ["conv.weight", "fc.bias", "fc.weight", "steps", "tied.weight"]
    first = {"name": "conv.weight", "weights": "fc.weight", "ratio": "fc.weight"}
    if key in first:
        assert names[0] == first[key]


def test_verify_accepts_a_whole_file(capsys, path):
    status, out, err = run(capsys, path, "--verify")
    assert status == 0 and "whole (5 tensors, 1 page)" in out and err == ""


def test_verify_names_what_is_damaged(capsys, path):
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    status, out, err = run(capsys, path, "--verify")
    assert status == 1 and out == ""
    assert re.fullmatch(r"dcz-inspect: .*m\.dcz: .*page of bytes 0 to \d+ is damaged.*\n", err)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"PK" + data, "not a .dcz file"),
        (lambda data: data[:-1], "cut off"),
        (lambda data: data[:8] + b"\x07" + data[9:], "version 7.0"),
        (lambda data: b"", "not a .dcz file"),
    ],
)
def test_unreadable_files_give_one_line_and_status_2(capsys, path, change, message):
    path.write_bytes(change(path.read_bytes()))
    for options in ([], ["--verify"], ["--json"]):
        status, out, err = run(capsys, path, *options)
        assert (status, out) == (2, "")
        assert err.count("\n") == 1 and message in err


def test_a_pattern_that_matches_nothing_gives_one_line_and_status_2(capsys, path):
    for options in (["--layers", "fc3*"], ["--layers", "fc3*", "--json"]):
        status, out, err = run(capsys, path, *options)
        assert (status, out) == (2, "")
        assert err == "dcz-inspect: --layers: the pattern 'fc3*' matches no tensor\n"


def test_a_file_without_tensors_is_no_trouble(capsys, tmp_path):
    deepcomp.save({}, tmp_path / "m.dcz")
    assert run(capsys, tmp_path / "m.dcz")[0] == 0


def test_missing_files_and_folders_give_one_line_and_status_2(capsys, tmp_path):
    for target, message in ((tmp_path / "no.dcz", "No such file"), (tmp_path, "found nothing")):
        status, out, err = run(capsys, target)
        assert (status, out) == (2, "") and err.count("\n") == 1 and message in err


def test_names_that_are_not_printable_do_not_reach_the_terminal(capsys, tmp_path):
    deepcomp.save({"evil\x1b[2J\nname": np.ones(3)}, tmp_path / "m.dcz")
    _, out, _ = run(capsys, tmp_path / "m.dcz")
    assert "\x1b" not in out and r"evil\x1b[2J\nname" in out


def test_a_reader_that_has_seen_enough_is_no_error(path):
    command = f"'{sys.executable}' -m deepcomp inspect '{path}' | true"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert result.stderr == ""
