"""What compressing lost: relative errors against NumPy, where they are shown, and the warning."""

import copy
import json
import math
import pickle
import sys
import tracemalloc
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from strategies import FLOAT_DTYPES
from test_large import write_shards

import deepcomp
from deepcomp import _kernels, large_model, squares
from deepcomp.arrays import Source
from deepcomp.cli import main
from deepcomp.floats import to_patterns, to_values
from deepcomp.page import make_page

SETTINGS = [
    {"bits": 5},
    {"bits": 2},
    {"bits": 8, "sparsity": 0.9},
    {"bits": None, "sparsity": 0.5},
    {"bits": None, "threshold": 1.0},
    {"bits": 3, "std": 0.7},
    {"bits": None, "sparsity": 0.0},
]


@pytest.fixture(autouse=True)
def warnings_are_seen():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", deepcomp.LossWarning)
        yield


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def patterns_of(values, dtype):
    """Return the patterns of numbers, one by one, in a dtype that NumPy may not have."""
    if dtype == "bfloat16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(dtype).view(f"u{np.dtype(dtype).itemsize}")


def weight_of(dtype, shape, seed=0):
    patterns = patterns_of(normal(*shape, seed=seed).reshape(-1), dtype)
    source = Source("w", dtype, shape, (seed,), lambda: patterns.copy())
    return source, to_values(patterns, dtype).astype(np.float64).reshape(shape)


def error_of(before, after):
    before, after = before.astype(np.float64), np.asarray(after, np.float64)
    return np.linalg.norm(after - before) / np.linalg.norm(before)


# --- what it is ---


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("shape", [(7, 9), (300, 200)])  # sorted, and tallied
def test_the_relative_error_is_that_of_the_decoded_weight(dtype, shape, settings):
    source, before = weight_of(dtype, shape)
    packed = deepcomp.compress({"w": source}, **settings)
    expected = error_of(before, packed["w"].to_dense())
    assert packed["w"].relative_error == pytest.approx(expected, rel=1e-9)
    assert packed.relative_error == packed["w"].relative_error
    assert (expected == 0) == (settings == {"bits": None, "sparsity": 0.0})


def test_of_equal_magnitudes_those_that_go_count():
    values = np.tile([1.0, -1.0, 2.0], 30).reshape(9, 10)
    packed = deepcomp.compress({"w": values}, bits=None, sparsity=0.4)
    assert np.count_nonzero(packed["w"].to_dense()) == 54
    expected = error_of(values, packed["w"].to_dense())
    assert packed["w"].relative_error == pytest.approx(expected)


@pytest.mark.parametrize("scale", [1e-305, 1e-200, 1e-160, 1e160, 1e200, 1e307])
def test_squares_out_of_range_change_nothing(scale):
    values = normal(60, 50).astype(np.float64)
    usual, other = (
        deepcomp.compress({"w": s * values}, bits=3, sparsity=0.5)["w"].relative_error
        for s in (1.0, scale)
    )
    assert other == pytest.approx(usual, rel=1e-6)


def test_the_largest_and_the_least_numbers_have_a_relative_error():
    for value in (sys.float_info.max, 5e-324 * 4):
        values = np.array([[value, -value], [value / 2, value]])
        packed = deepcomp.compress({"w": values}, bits=None, sparsity=0.25)
        assert packed["w"].relative_error == pytest.approx(0.5 / math.sqrt(3.25))
        assert packed.relative_error == packed["w"].relative_error


def test_of_several_tensors_those_that_changed_count_together():
    model = {"a": normal(30, 40), "b": 100 * normal(20, 9), "bias": 1e6 * normal(30)}
    model["few"] = np.sign(normal(50, 50)) * 1e6
    packed = deepcomp.compress(model, bits=4)
    changed = ["a", "b"]
    before = np.concatenate([model[name].ravel() for name in changed])
    after = np.concatenate([packed[name].to_dense().ravel() for name in changed])
    assert packed.relative_error == pytest.approx(error_of(before, after))
    assert packed["bias"].relative_error == packed["few"].relative_error == 0.0


def test_tied_tensors_count_once():
    weight = normal(30, 40)
    once = deepcomp.compress({"a": weight, "b": 2 * weight}, bits=2, sparsity={"a": 0.5})
    tied = deepcomp.compress({"a": weight, "c": weight, "b": 2 * weight}, 2, {"a": 0.5})
    assert tied.aliases and tied.relative_error == once.relative_error


def test_the_error_of_groups_that_are_cut_together_is_that_of_each():
    model = {"a": normal(30, 40), "b": normal(20, 9, seed=1).astype(np.float16)}
    packed = deepcomp.compress(model, bits=5, sparsity=0.5, scope="global")
    for name, before in model.items():
        after = packed[name].to_dense()
        assert packed[name].relative_error == pytest.approx(error_of(before, after))


# --- where nothing is lost ---


def test_what_is_exact_has_an_error_of_0_whatever_it_holds():
    odd = np.array([[np.inf, np.nan, -0.0, 1.0]] * 4)
    model = {"odd": odd, "w": normal(9, 9), "n": np.arange(9), "none": np.zeros((0, 3))}
    packed = deepcomp.compress(model, bits={"w": 8})
    assert [t.relative_error for t in packed.values()] == [0.0, 0.0, 0.0, 0.0]  # 81 values: few
    assert packed.relative_error == 0.0 and repr(packed).endswith(" bytes, exact>")
    assert repr(packed["odd"]).endswith(" bytes, exact>")
    zeros = {"w": np.zeros((30, 30), np.float32), "signed": np.full((30, 30), -0.0)}
    assert deepcomp.compress(zeros, bits=2, sparsity=0.9).relative_error == 0.0


def test_what_was_pruned_before_loses_nothing_by_pruning():
    weight = normal(200, 100)
    weight[np.abs(weight) < np.quantile(np.abs(weight), 0.9)] = 0
    again = deepcomp.compress({"w": weight}, bits=None, sparsity=0.9)
    assert again.relative_error == 0.0
    assert deepcomp.compress({"w": weight}, bits=5, sparsity=0.9).relative_error < 0.05


def test_a_weight_that_share_weights_made_is_exact():
    model = torch.nn.Sequential(torch.nn.Linear(300, 100))
    model = deepcomp.share_weights(model, bits=3)
    packed = deepcomp.compress(model, bits=2)
    assert packed["0.weight"].relative_error == packed.relative_error == 0.0


# --- where it is known ---


def test_a_file_does_not_know_it(tmp_path):
    packed = deepcomp.compress({"w": normal(40, 50)}, bits=2)
    deepcomp.save(packed, tmp_path / "m.dcz")
    loaded = deepcomp.load(tmp_path / "m.dcz")
    assert loaded["w"].relative_error is None and loaded.relative_error is None
    assert "error" not in repr(loaded) + repr(loaded["w"])


def test_it_stays_with_copies_and_other_names():
    packed = deepcomp.compress({"a.w": normal(40, 50), "b.w": normal(9, 9)}, bits=2)
    for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed)), packed.select("*.w")):
        assert other.relative_error == packed.relative_error > 0
        assert other["a.w"].relative_error == packed["a.w"].relative_error
    assert packed["a.w"].under("c").relative_error == packed["a.w"].relative_error
    assert repr(packed).endswith(f"relative error {packed.relative_error:.3g}>")
    assert repr(packed["a.w"]).endswith(f"relative error {packed['a.w'].relative_error:.3g}>")


@pytest.fixture
def in_parts(tmp_path):
    """Return a checkpoint of which a tensor is cut into pieces, and its patterns."""
    tensors = {
        "large": patterns_of(0.02 * normal(1100, 1000).reshape(-1), "bfloat16"),
        "small": patterns_of(normal(50, 40).reshape(-1), "bfloat16"),
        "bias": patterns_of(normal(50), "bfloat16"),
    }
    tensors["large"], tensors["small"] = (
        tensors["large"].reshape(1100, 1000),
        tensors["small"].reshape(50, 40),
    )
    write_shards(tmp_path / "source", tensors)
    with mock.patch.object(large_model, "MAX_WHOLE_NUMEL", 1 << 20):
        yield tmp_path / "source", tensors


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_checkpoint_in_parts_has_the_errors_of_compress(in_parts, tmp_path, settings):
    source, tensors = in_parts
    packed = deepcomp.compress_checkpoint(
        source, tmp_path / "out", task_numel=1 << 20, n_jobs=1, **settings
    )
    for name, patterns in tensors.items():
        before = to_values(patterns.reshape(-1), "bfloat16").astype(np.float64)
        expected = error_of(before, packed[name].to_dense().reshape(-1))
        assert packed[name].relative_error == pytest.approx(expected, rel=1e-9), name
    assert (packed.relative_error == 0) == (settings == {"bits": None, "sparsity": 0.0})


def test_a_call_that_goes_on_knows_the_errors_of_what_it_finds_in_parts(in_parts, tmp_path):
    source, _ = in_parts
    arguments = {"task_numel": 1 << 20, "bits": 2}
    with (
        mock.patch("deepcomp.rounds.assemble", side_effect=KeyboardInterrupt),
        mock.patch("deepcomp.workers._parallel", return_value=None),
        pytest.raises(KeyboardInterrupt),
    ):
        deepcomp.compress_checkpoint(source, tmp_path / "out", **arguments)
    assert list((tmp_path / "out" / "parts").glob("*.dcz"))
    second = deepcomp.compress_checkpoint(source, tmp_path / "out", **arguments)
    first = deepcomp.compress_checkpoint(source, tmp_path / "other", **arguments)
    assert {n: t.relative_error for n, t in second.items()} == {
        n: t.relative_error for n, t in first.items()
    }
    finished = deepcomp.compress_checkpoint(source, tmp_path / "out", **arguments)
    assert finished.relative_error is None  # its file is that of an earlier call


@pytest.mark.skipif(
    _kernels.build_info()["kernels"] != "native",
    reason="the NumPy twins take more",
)
def test_no_other_copy_of_a_tensor_is_made_to_measure_it():
    patterns = normal(1 << 23).view(np.uint32)
    squares.cut_off(patterns[: 1 << 17], "float32", 1 << 29, 0, patterns[: 1 << 17])
    tracemalloc.start()
    squares.cut_off(patterns, "float32", 1 << 29, 0, patterns)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < patterns.nbytes / 16


# --- the warning ---


def warnings_of(action):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return [w for w in caught if issubclass(w.category, deepcomp.LossWarning)]


def test_one_warning_names_the_worst_and_what_to_try():
    model = {f"w{i}": normal(20, 50, seed=i) for i in range(6)} | {"fine": normal(20, 50)}
    settings = {"sparsity": {f"w{i}": 0.1 * (i + 1) for i in range(6)}, "bits": None}
    [warning] = warnings_of(lambda: deepcomp.compress(model, **settings))
    packed = deepcomp.compress(model, **settings)
    text = str(warning.message)
    worst = ", ".join(f"w{i} {packed[f'w{i}'].relative_error:.3g}" for i in (5, 4, 3))
    assert f"relative error of {packed.relative_error:.2g} (most: {worst}, ...)" in text
    for what in ("more bits", "less sparsity", "exclude=", "Pruner", "share_weights"):
        assert what in text
    assert "fine" not in text and warning.filename == __file__


def test_what_loses_little_gives_no_warning():
    trained = normal(300, 400)
    trained[np.abs(trained) < 1.6] = 0
    quiet = [
        lambda: deepcomp.compress({"w": normal(300, 400)}),  # 5 bits
        lambda: deepcomp.compress({"w": normal(300, 400)}, bits=None),
        lambda: deepcomp.compress({"w": trained}, bits=4, sparsity=0.85),
        lambda: deepcomp.compress({"w": normal(300, 400), "b": normal(9, 9)}, {"w": 6, "b": 2}),
    ]
    assert [len(warnings_of(action)) for action in quiet] == [0, 0, 0, 0]


def test_a_search_that_measures_gives_no_warning():
    model = torch.nn.Linear(64, 4)
    settings = {"max_drop": 1.0, "max_evaluations": 8}
    assert not warnings_of(lambda: deepcomp.search(model, lambda _: 0.5, **settings))


def test_all_that_compress_warn_in_the_name_of_their_caller(in_parts, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64,
    )  # fmt: skip
    bert = transformers.BertForMaskedLM(config)
    for action in (
        lambda: deepcomp.hf.save_pretrained(bert, tmp_path / "bert", bits=1),
        lambda: deepcomp.compress_checkpoint(in_parts[0], tmp_path / "out", bits=1),
    ):
        [warning] = warnings_of(action)
        assert warning.filename == __file__


# --- the command ---


@pytest.fixture
def dcz(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_compress_prints_the_error_beside_the_ratio_and_one_note(dcz):
    model = {"w": normal(40, 50), "b": normal(50)}
    np.savez("m.npz", **model)
    status, out, err = dcz("compress", "m.npz", "m.dcz", "--bits", "2")
    packed = deepcomp.compress(model, bits=2)
    error = f"{packed.relative_error:.3g}"
    head, _, first = out.splitlines()[:3]
    assert head.split("  ")[-2:] == ["relative error", "largest error"]
    assert status == 0 and first.split()[-3].endswith("x") and first.split()[-2] == error
    assert next(line for line in out.splitlines() if line.startswith("file ")).endswith(error)
    assert err.count("\n") == 1 and f"(most: w {error})" in err and "(--exact)" in err
    values = json.loads(dcz("compress", "m.npz", "m.dcz", "--bits", "2", "--json")[1])
    assert values["relative_error"] == values["tensors"][0]["relative_error"]
    assert values["relative_error"] == packed.relative_error
    assert dcz("compress", "m.npz", "m.dcz")[2] == ""  # 5 bits


def test_compress_of_a_folder_says_the_errors_too(dcz, in_parts):
    status, out, err = dcz("compress", "source", "packed", "--bits", "2")
    assert status == 0 and "\n  relative error: 0.3" in out and "have a relative error of" in err
    status, out, err = dcz("compress", "source", "packed", "--bits", "2")
    assert status == 0 and "relative error:" not in out
    assert err == (
        "dcz compress: the relative error of 3 tensors is not known: an earlier call finished "
        "their files\n"
    )
    values = json.loads(dcz("compress", "source", "other", "--bits", "2", "--json")[1])
    assert [t["name"] for t in values["tensors"]] == list(in_parts[1])
    assert values["tensors"][2]["relative_error"] == 0 < values["tensors"][0]["relative_error"]


def test_diff_of_a_file_and_the_original_says_the_error(dcz):
    model = {"w": normal(40, 50), "n": np.arange(2000).reshape(40, 50)}
    deepcomp.save(model, "a.dcz")
    packed = deepcomp.compress(model, bits=3)
    deepcomp.save(packed, "b.dcz")
    _, out, _ = dcz("diff", "a.dcz", "b.dcz")
    assert f"at most, relative error {packed.relative_error:.3g}" in out
    found = json.loads(dcz("diff", "a.dcz", "b.dcz", "--json")[1])["different"]["w"]["values"]
    assert found["relative_error"] == pytest.approx(packed.relative_error)
    other = {"w": model["w"].astype(np.float64) * 1.5, "n": model["n"] * 2}
    deepcomp.save(other, "c.dcz")
    found = json.loads(dcz("diff", "a.dcz", "c.dcz", "--json")[1])["different"]
    assert found["w"]["values"]["relative_error"] == pytest.approx(0.5)
    assert found["n"]["values"]["relative_error"] == pytest.approx(1.0)


# --- the page ---


def test_the_page_of_what_was_just_compressed_has_a_column_for_it(tmp_path):
    packed = deepcomp.compress({"w": normal(40, 50), "b": normal(50)}, bits=2)
    page = make_page(packed, "m.dcz")
    error = f"{packed.relative_error:.3g}"
    assert 'data-full="relative error"' in page and f">{error}</td></tr>" in page
    assert f"relative error {error}</p>" in page and page.count(f">{error}</td>") == 2
    deepcomp.save(packed, tmp_path / "m.dcz")
    assert 'data-full="relative error"' not in make_page(deepcomp.load(tmp_path / "m.dcz"))


def test_report_beside_the_original_has_the_column_too(dcz):
    model = {"w": normal(40, 50), "tied": None, "b": normal(50)}
    model["tied"] = model["w"]
    packed = deepcomp.compress(model, bits=2)
    deepcomp.save(packed, "m.dcz")
    torch.save({name: torch.from_numpy(array) for name, array in model.items()}, "m.pt")
    assert dcz("report", "m.dcz", "--original", "m.pt", "-o", "page.html")[0] == 0
    assert Path("page.html").read_text(encoding="utf-8") == make_page(packed, "m.dcz")
    np.savez("other.npz", w=normal(50, 40), b=normal(50))
    status, _, err = dcz("report", "m.dcz", "--original", "other.npz", "-o", "page.html")
    assert status == 2 and "other.npz: expected a tensor 'w' of shape [40, 50]" in err
    np.savez("less.npz", w=model["w"])
    status, _, err = dcz("report", "m.dcz", "--original", "less.npz", "-o", "page.html")
    assert status == 2 and "a tensor 'b' of shape [50], found none" in err


# --- training checkpoints ---


def training_checkpoint(path):
    """Save what a training loop saves; return the bytes of the weights."""
    model = torch.nn.Linear(200, 100)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(3, 200)).sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**state, "epoch": 3, "step": 281}, path)
    return 4 * (200 * 100 + 100)


def test_compress_says_what_of_a_training_checkpoint_it_left_out(dcz):
    nbytes = training_checkpoint("run.pt")
    assert Path("run.pt").stat().st_size > 2.9 * nbytes
    status, out, err = dcz("compress", "run.pt", "m.dcz")
    size = Path("m.dcz").stat().st_size
    expected = "left out of run.pt: optimizer, epoch, step; ratios are those of its weights\n"
    assert status == 0 and err == f"dcz compress: {expected}"
    ratios = [line for line in out.splitlines() if "smaller than" in line]
    assert ratios == [
        f"  {nbytes / size:.2f}x smaller than its tensors when dense: {nbytes:,} bytes"
    ]
    values = json.loads(dcz("compress", "run.pt", "m.dcz", "--json")[1])
    assert values["left_out"] == ["optimizer", "epoch", "step"]
    assert values["compression_ratio"] == nbytes / size
    assert values["compression_ratio_input"] is None


def test_what_is_beside_the_weights_is_known_at_any_depth(tmp_path):
    state = torch.nn.Linear(3, 2).state_dict()
    for content, key, expected in (
        (state, None, []),
        ({"state_dict": state}, None, []),
        ({"epoch": 1, "model": {"net": state, "config": {}}}, None, ["epoch", "model.config"]),
        ({"model": state, "ema": state, 7: 1}, "ema", ["model", "7"]),
    ):
        torch.save(content, tmp_path / "m.pt")
        checkpoint = deepcomp.importers.read_checkpoint(tmp_path / "m.pt", key)
        assert checkpoint.left_out == expected and list(checkpoint.tensors) == list(state)


def test_a_folder_with_a_training_checkpoint_says_it_too(dcz, tmp_path):
    (tmp_path / "folder").mkdir()
    training_checkpoint(tmp_path / "folder" / "pytorch_model.bin")
    status, _, err = dcz("compress", "folder", "packed")
    assert status == 0 and "left out of folder: optimizer, epoch, step" in err
    np.savez("m.npz", w=normal(9, 9))
    assert "left out" not in dcz("compress", "m.npz", "m.dcz")[2]


def test_patterns_of_bfloat16_are_those_of_the_package():
    values = np.unique(to_values(patterns_of(normal(99), "bfloat16"), "bfloat16"))
    assert np.array_equal(
        to_patterns(values.astype(np.float64), "bfloat16"), patterns_of(values, "bfloat16")
    )
