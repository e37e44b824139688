"""The verbs of dcz: each does what the Python functions do, and says what is wrong in one line."""

import json
import re
import shutil
import tracemalloc

import numpy as np
import pytest
import torch

import deepcomp
from deepcomp import importers
from deepcomp.cli import main
from deepcomp.exporters import write_checkpoint


@pytest.fixture
def model():
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return {
        "conv.weight": normal(8, 4, 3, 3),
        "conv.bias": normal(8),
        "fc1.weight": normal(50, 80),
        "fc2.weight": normal(10, 50).astype(np.float16),
        "steps": np.array(7),
    }


@pytest.fixture
def folder(tmp_path, model, monkeypatch):
    """Return a folder, the current one, with model.npz and what `compress` makes of it."""
    monkeypatch.chdir(tmp_path)
    np.savez("model.npz", **model)
    deepcomp.save(deepcomp.compress(model, bits=5, sparsity=0.9), "model.dcz")
    return tmp_path


@pytest.fixture
def dcz(folder, capsys):
    def run(*arguments):
        try:
            status = main([str(a) for a in arguments])
        except SystemExit as end:
            status = end.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def fails(result, status, message):
    """Say whether a command ended with this status, and one line on standard error."""
    found, out, err = result
    assert (found, out, err.count("\n")) == (status, "", 1), result
    assert re.match(r"dcz( \w+)?: ", err) and message in err
    return True


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


SETTINGS = {
    "": {},
    "--bits 3": {"bits": 3},
    "--bits none": {"bits": None},
    "--sparsity 0.9": {"sparsity": 0.9},
    "--std 1.5 --scope global": {"std": 1.5, "scope": "global"},
    "--threshold 1 --bits none": {"threshold": 1.0, "bits": None},
    "--set conv*:bits=8": {"bits": {"conv*": 8, "*": 5}},
    "--set fc*:bits=none,sparsity=0.5": {
        "bits": {"fc*": None, "*": 5},
        "sparsity": {"fc*": 0.5},
    },
    "--sparsity 0.8 --set fc1:sparsity=none --set conv:sparsity=0.3": {
        "sparsity": {"fc1": None, "conv": 0.3, "*": 0.8},
    },
    "--bits none --set conv.bias:bits=2": {"bits": {"conv.bias": 2}},
    "--sparsity 0.5 --exact fc1 --exact *2.weight": {
        "sparsity": 0.5,
        "exclude": ["fc1", "fc2.weight"],
    },
    "--set fc*:bits=2 --exact fc1.weight": {
        "bits": {"fc*": 2, "*": 5},
        "exclude": "fc1.weight",
    },
}


@pytest.mark.parametrize("arguments", SETTINGS)
def test_compress_writes_what_the_python_functions_write(dcz, folder, model, arguments):
    assert dcz("compress", "model.npz", "out.dcz", *arguments.split())[0] == 0
    deepcomp.save(deepcomp.compress(model, **SETTINGS[arguments]), "expected.dcz")
    assert (folder / "out.dcz").read_bytes() == (folder / "expected.dcz").read_bytes()


def test_general_settings_leave_vectors_alone_even_if_there_is_nothing_else(dcz, folder):
    vectors = {name: np.linspace(0, 1, 300) for name in ("a", "b")}
    np.savez("vectors.npz", **vectors)
    assert dcz("compress", "vectors.npz", "out.dcz", "--bits", "2", "--set", "a:bits=1")[0] == 0
    packed = deepcomp.load("out.dcz")
    assert len(np.unique(packed["a"].to_dense())) == 3
    assert np.array_equal(packed["b"].to_dense(), vectors["b"])


def test_compress_prints_bytes_that_add_up_and_ratios_that_are_true(dcz, folder):
    status, out, err = dcz("compress", "model.npz", "out.dcz", "--sparsity", "0.9")
    assert status == 0 and err.count("\n") == 1 and "have a relative error of 0.7" in err
    head, _, *lines = out.split("\n\n")[0].splitlines()
    end = head.index("bytes") + len("bytes")
    cells = [line[:end].split()[-1].replace(",", "") for line in lines if set(line) != {"-"}]
    size = (folder / "out.dcz").stat().st_size
    assert sum(map(int, cells[:-1])) == int(cells[-1]) == size
    for ratio, nbytes in re.findall(r"([\d.]+)x smaller than .*: ([\d,]+) bytes", out):
        assert float(ratio) == pytest.approx(int(nbytes.replace(",", "")) / size, abs=0.006)
    assert f"model.npz: {(folder / 'model.npz').stat().st_size:,} bytes" in out


def test_compress_json_has_the_errors_of_the_file_that_was_written(dcz, folder, model):
    status, out, _ = dcz("compress", "model.npz", "out.dcz", "--bits", "3", "--json")
    result = json.loads(out)
    assert status == 0 and result["schema"] == 1
    assert set(result) == {
        "schema", "input", "output", "input_nbytes", "dense_nbytes", "float32_nbytes",
        "file_nbytes", "compression_ratio", "compression_ratio_float32",
        "compression_ratio_input", "left_out", "relative_error", "seconds", "tensors",
    }  # fmt: skip
    assert result["file_nbytes"] == (folder / "out.dcz").stat().st_size
    packed = deepcomp.load("out.dcz")
    assert [t["name"] for t in result["tensors"]] == list(model)
    for tensor in result["tensors"]:
        name = tensor["name"]
        distance = packed[name].to_dense().astype(np.float64) - model[name]
        assert tensor["largest_error"] == np.abs(distance).max()
        assert tensor["mean_square_error"] == pytest.approx((distance**2).mean())
        norm = np.linalg.norm(model[name].astype(np.float64))
        assert tensor["relative_error"] == pytest.approx(np.linalg.norm(distance) / norm)
        assert tensor["is_exact"] == (model[name].ndim != 2 and name != "conv.weight")


def test_compress_exactly_keeps_every_bit(dcz, model):
    model["fc1.weight"][0, :3] = -0.0, np.nan, np.inf
    np.savez("odd.npz", **model)
    assert dcz("compress", "odd.npz", "out.dcz", "--bits", "none")[0] == 0
    for name, tensor in deepcomp.load("out.dcz").items():
        assert tensor.to_dense().tobytes() == model[name].tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--set nothing:bits=3", "'nothing' matches no float tensor"),
        ("--set conv:bits=3 --set conv:bits=4", "bits of 'conv' is given twice"),
        ("--std 1 --set conv:sparsity=0.5", "at most one of them"),
        ("--set conv", "expected PATTERN:SETTING=VALUE"),
        ("--set conv:bits", "expected PATTERN:SETTING=VALUE"),
        ("--set conv:speed=3", "expected one of bits, sparsity, threshold, std"),
        ("--set conv:bits=3,bits=4", "given twice"),
        ("--set conv:bits=9", "'9': expected 1 to 8, or none"),
        ("--exact fc9", "--exact: the pattern 'fc9' matches no tensor"),
        ("--bits 0", "expected 1 to 8"),
        ("--bits five", "expected 1 to 8"),
        ("--sparsity 1", "from 0 to less than 1"),
        ("--sparsity nan", "from 0 to less than 1"),
        ("--threshold=-1", "not negative"),
        ("--std inf", "not negative"),
        ("--std x", "expected a number"),
        ("--std 1 --sparsity 0.5", "not allowed with argument"),
        ("--scope model", "invalid choice"),
        ("--scope global", "--sparsity or --std is missing"),
        ("--speed 3", "unrecognized arguments: --speed 3 (dcz compress --help"),
        ("--key fc1", "a key is for PyTorch checkpoints"),
    ],
)
def test_wrong_settings_are_wrong_usage_and_write_nothing(dcz, folder, arguments, message):
    assert fails(dcz("compress", "model.npz", "out.dcz", *arguments.split()), 2, message)
    assert sorted(p.name for p in folder.iterdir()) == ["model.dcz", "model.npz"]


def test_a_tensor_that_cannot_be_shared_is_wrong_content_and_the_old_file_stays(dcz, folder, model):
    model["fc1.weight"][3, 3] = np.nan
    np.savez("nan.npz", **model)
    before = (folder / "model.dcz").read_bytes()
    result = dcz("compress", "nan.npz", "model.dcz")
    assert fails(result, 1, "nan.npz: tensor 'fc1.weight' has NaN or infinite entries")
    assert "--exact fc1.weight stores it" in result[2]
    for settings in ((), ("--std", "1")):
        assert dcz("compress", "nan.npz", "out.dcz", *settings, "--exact", "fc1.weight")[0] == 0
        assert np.isnan(deepcomp.load("out.dcz")["fc1.weight"].to_dense()[3, 3])
        (folder / "out.dcz").unlink()
    assert (folder / "model.dcz").read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == ["model.dcz", "model.npz", "nan.npz"]


def test_what_is_no_checkpoint_is_unusable(dcz, folder):
    (folder / "note.txt").write_text("hello")
    assert fails(dcz("compress", "note.txt", "out.dcz"), 2, "note.txt: ")
    assert fails(dcz("compress", "missing.npz", "out.dcz"), 2, "missing.npz: No such file")
    url = "https://me:secret@host/m.pt"
    assert fails(dcz("compress", url, "out.dcz"), 2, "https://host/m.pt: of a URL a .safetensors")
    np.savez("empty.npz")
    torch.save({}, "empty.pt")
    assert fails(dcz("compress", "empty.npz", "out.dcz"), 2, "empty.npz: no tensors found")
    assert fails(dcz("compress", "empty.pt", "out.dcz"), 2, "empty.pt: no tensors found")
    assert not (folder / "out.dcz").exists()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ".npz", ".bin", ".NPZ"])
def test_compress_does_not_write_a_file_with_the_name_of_a_checkpoint(dcz, folder, suffix):
    target = f"other{suffix}"
    (folder / target).write_text("a checkpoint, given as the second one by mistake")
    before = (folder / target).read_bytes()
    assert fails(dcz("compress", "model.npz", target), 2, f"{target}: ")
    assert (folder / target).read_bytes() == before


def test_compress_takes_the_key_of_the_state_dict(dcz, model):
    state = {"fc1.weight": torch.from_numpy(model["fc1.weight"])}
    torch.save({"ema": state, "epoch": 3}, "m.pt")
    assert fails(dcz("compress", "m.pt", "out.dcz"), 2, "--key")
    assert dcz("compress", "m.pt", "out.dcz", "--key", "ema")[0] == 0
    assert list(deepcomp.load("out.dcz")) == ["fc1.weight"]


def test_a_larger_file_is_called_larger(dcz, folder):
    np.savez("small.npz", w=np.ones(2, np.float32))
    _, out, _ = dcz("compress", "small.npz", "out.dcz")
    size = (folder / "out.dcz").stat().st_size
    assert f"  {size / 8:.2f}x larger than its tensors when dense: 8 bytes" in out


def test_a_tensor_that_became_zero_is_named(dcz, model):
    np.savez("zero.npz", **model, gone=np.zeros((3, 3)))
    status, _, err = dcz("compress", "zero.npz", "out.dcz", "--set", "conv:threshold=9")
    assert status == 0 and err.startswith("dcz compress: every entry became zero: conv.weight\n")
    assert "(most: conv.weight 1)" in err.splitlines()[1]


def test_negative_zeros_that_cost_are_counted_and_what_drops_them_is_said(dcz, folder, model):
    weight = model["fc1.weight"]
    weight *= np.abs(weight) > 1.5  # as prune.remove does
    n = np.count_nonzero((weight == 0) & np.signbit(weight))
    np.savez("signs.npz", w=weight)
    command = ["compress", "signs.npz", "out.dcz", "--bits", "none"]
    note = f"dcz compress: {n:,} zeros are -0.0; --threshold 0 drops their signs\n"
    assert dcz(*command)[2] == note
    before = (folder / "out.dcz").stat().st_size
    assert dcz(*command, "--threshold", "0")[2] == ""
    assert (folder / "out.dcz").stat().st_size < before
    assert np.array_equal(deepcomp.load("out.dcz")["w"].to_dense(), weight)


def test_a_target_that_cannot_be_written_is_refused_before_the_work(dcz, monkeypatch):
    monkeypatch.setattr(importers, "read_checkpoint", lambda path: 1 / 0)
    assert fails(dcz("compress", "model.npz", "no/out.dcz"), 2, "no/out.dcz: no such folder: /")
    assert fails(dcz("compress", "model.npz", "."), 2, "Is a directory")


def test_bits_none_keeps_exactly_what_no_pattern_matches(dcz, model):
    assert dcz("compress", "model.npz", "out.dcz", "--bits", "none", "--set", "fc1:bits=3")[0] == 0
    packed = deepcomp.load("out.dcz")
    assert np.array_equal(packed["conv.weight"].to_dense(), model["conv.weight"])
    assert len(np.unique(packed["fc1.weight"].to_dense())) == 8


@pytest.mark.parametrize("verb", ["compress", "decompress", "report"])
def test_a_file_is_not_written_over_itself(dcz, folder, verb):
    before = (folder / "model.dcz").read_bytes()
    (folder / "link.dcz").symlink_to("model.dcz")
    option = ["-o"] if verb == "report" else []
    assert fails(dcz(verb, "model.dcz", *option, "link.dcz"), 2, "are the same file")
    assert (folder / "model.dcz").read_bytes() == before


@pytest.mark.parametrize("source", ["shards", "shards/m.safetensors.index.json"])
def test_a_shard_of_the_input_is_not_written_over(dcz, folder, model, source):
    (folder / "shards").mkdir()
    dcz("decompress", "model.dcz", "shards/1.safetensors")
    before = (folder / "shards/1.safetensors").read_bytes()
    index = {"weight_map": dict.fromkeys(model, "1.safetensors")}
    (folder / "shards/m.safetensors.index.json").write_text(json.dumps(index))
    (folder / "shards/out.dcz").symlink_to("1.safetensors")
    (folder / "shards/out").symlink_to("1.safetensors")
    for target in ("shards/out.dcz", "shards/out"):
        assert fails(dcz("compress", source, target), 2, "are the same file")
    assert (folder / "shards/1.safetensors").read_bytes() == before
    result = json.loads(dcz("compress", source, "out.dcz", "--json")[1])
    assert result["input_nbytes"] == len(before)


def test_json_does_not_mix_with_a_file_on_standard_output(dcz):
    assert fails(dcz("compress", "model.npz", "-", "--json"), 2, "name a file")
    assert fails(dcz("decompress", "model.dcz", "-", "--format", "npz", "--json"), 2, "name a file")


@pytest.mark.parametrize(
    "target", ["out.npz", "out.safetensors", "out.pt", "OUT.PTH", "out --format npz"]
)
def test_decompress_gives_the_values_of_the_file(dcz, target):
    target, *option = target.split()
    status, out, err = dcz("decompress", "model.dcz", target, *option)
    assert (status, err) == (0, "") and out.startswith(f"{target}: ")
    packed = deepcomp.load("model.dcz")
    deepcomp.save(importers.read_checkpoint(target).tensors, "again.dcz")
    again = deepcomp.load("again.dcz")
    assert sorted(again) == sorted(packed)
    for name in packed:
        assert again[name].dtype == packed[name].dtype
        assert again[name].to_dense().tobytes() == packed[name].to_dense().tobytes()


def test_decompress_json_counts_bytes(dcz, folder):
    _, out, _ = dcz("decompress", "model.dcz", "out.npz", "--json")
    result = json.loads(out)
    assert result["output_nbytes"] == (folder / "out.npz").stat().st_size
    assert result["n_tensors"] == 5


def test_decompress_needs_to_know_the_format(dcz):
    assert fails(dcz("decompress", "model.dcz", "out.bin"), 2, "out.bin: expected a name")
    assert fails(dcz("decompress", "model.dcz", "-"), 2, "--format is needed")


def test_decompress_refuses_what_the_format_cannot_hold(dcz, folder):
    deepcomp.save({"w": torch.ones(3, dtype=torch.bfloat16)}, "b.dcz")
    assert fails(dcz("decompress", "b.dcz", "out.npz"), 2, "bfloat16")
    assert not (folder / "out.npz").exists()


def test_decompress_of_a_damaged_file_writes_nothing(dcz, folder):
    flip(folder / "model.dcz", 20)
    assert fails(dcz("decompress", "model.dcz", "out.npz"), 1, "is damaged")
    assert fails(dcz("decompress", "model.npz", "out.npz"), 2, "not a .dcz file")
    assert sorted(p.name for p in folder.iterdir()) == ["model.dcz", "model.npz"]


def test_verify_says_a_line_for_each_file_and_goes_on_after_a_bad_one(dcz, folder):
    for name in ("cut", "bad", "new"):
        shutil.copy("model.dcz", f"{name}.dcz")
    (folder / "cut.dcz").write_bytes((folder / "model.dcz").read_bytes()[:-1])
    flip(folder / "bad.dcz", 20)
    status, out, err = dcz("verify", "cut.dcz", "bad.dcz", "model.dcz")
    lines = out.splitlines()
    assert status == 2 and err == "dcz verify: 2 of 3 files not whole\n"
    assert lines[0].startswith("cut.dcz: UNREADABLE: cut off")
    assert re.match(r"bad.dcz: DAMAGED: .*the page of bytes 0 to \d+ is damaged", lines[1])
    assert lines[2:] == ["model.dcz: whole (5 tensors, 1 page)"]
    assert dcz("verify", "model.dcz") == (0, lines[2] + "\n", "")
    assert dcz("verify", "bad.dcz")[0] == 1


def test_diff_says_where_only_the_signs_of_zeros_differ(dcz):
    weights = np.zeros((20, 20), np.float32)
    deepcomp.save({"w": weights}, "plus.dcz")
    deepcomp.save({"w": -weights}, "minus.dcz")
    _, out, _ = dcz("diff", "plus.dcz", "minus.dcz")
    assert "values differ in 400 of 400 entries (the signs of zeros)" in out


def test_python_is_told_how_to_read_a_checkpoint_too(folder):
    for path in ("model.npz", folder / "model.npz"):
        with pytest.raises(deepcomp.DczError, match=r"model\.npz: not a \.dcz.*read_checkpoint"):
            deepcomp.load(path)
    with pytest.raises(TypeError, match="expected a path after the model, not a dict"):
        deepcomp.save("model.dcz", {})


def test_files_that_have_no_index_are_told_how_to_have_one(folder):
    (folder / "shards").mkdir()
    for name in ("a", "b"):
        write_checkpoint(deepcomp.load("model.dcz"), folder / "shards" / f"{name}.safetensors")
    with pytest.raises(ValueError, match=r'write a model\.safetensors\.index\.json: {"weight_map"'):
        importers.read_checkpoint(folder / "shards")


@pytest.mark.parametrize("verb", ["inspect", "decompress", "diff", "report", "verify"])
def test_a_checkpoint_in_the_place_of_a_file_is_told_how_to_make_one(dcz, folder, verb):
    more = {"decompress": ["out.pt"], "diff": ["model.dcz"], "report": ["-o", "page.html"]}
    shutil.copy("model.npz", "my model.npz")
    status, out, err = dcz(verb, "my model.npz", *more.get(verb, []))
    way = "this makes one: dcz compress 'my model.npz' 'my model.dcz' --bits none"
    assert status == 2 and way in out + err
    dcz("compress", "my model.npz", "my model.dcz", "--bits", "none")
    assert dcz(verb, "my model.dcz", *more.get(verb, []))[0] == (1 if verb == "diff" else 0)
    shutil.copy("model.npz", "no-name")
    assert "makes one" not in "".join(dcz(verb, "no-name", *more.get(verb, []))[1:])


def test_verify_tells_damaged_files_from_those_that_it_cannot_read(dcz, folder):
    flip(folder / "model.dcz", 8)  # the version
    status, out, _ = dcz("verify", "model.dcz", "missing.dcz", "model.npz", "--json")
    found = {f["file"]: f["status"] for f in json.loads(out)["files"]}
    assert status == 2 and list(found.values()) == ["unreadable"] * 3


USES = {
    "verify": "verify {}",
    "inspect": "inspect {}",
    "diff": "diff {} model.dcz",
    "report": "report {} -o page.html",
    "decompress": "decompress {} out.npz",
}


@pytest.mark.parametrize("verb", USES)
def test_damage_inside_has_status_1_and_what_cannot_be_opened_2_in_every_verb(dcz, folder, verb):
    data = (folder / "model.dcz").read_bytes()
    changes = {
        "inside": data[:20] + bytes([data[20] ^ 1]) + data[21:],
        "cut": data[:-1],
        "new": data[:8] + b"\x07" + data[9:],
        "other": b"PK" + data,
    }
    status = {}
    for name, content in changes.items():
        (folder / f"{name}.dcz").write_bytes(content)
        status[name] = dcz(*USES[verb].format(f"{name}.dcz").split())[0]
    assert status == {"inside": 1, "cut": 2, "new": 2, "other": 2}


def differ(dcz, first, second):
    """Save two models; return what differs, after looking at the text and the other direction."""
    for name, value in (("a.dcz", first), ("b.dcz", second)):
        deepcomp.save(value, name)
    status, out, err = dcz("diff", "a.dcz", "b.dcz", "--json")
    result = json.loads(out)
    assert err == "" and status == (0 if result["same"] else 1)
    backwards = json.loads(dcz("diff", "b.dcz", "a.dcz", "--json")[1])
    assert backwards["only_in_first"] == result["only_in_second"]
    assert sorted(backwards["different"]) == sorted(result["different"])
    status, text, _ = dcz("diff", "a.dcz", "b.dcz")
    n = len(result["different"])
    expected = "all the same" if n == 0 else "1 differs" if n == 1 else f"{n} differ"
    tensors = "1 tensor" if result["n_common"] == 1 else f"{result['n_common']} tensors"
    assert text.splitlines()[-1] == f"{tensors} in both: {expected}"
    assert all(f"\n{name}: " in f"\n{text}" for name in result["different"])
    return result


def test_diff_of_equal_models_says_so(dcz, model):
    packed = deepcomp.compress(model)
    assert differ(dcz, packed, packed)["same"]
    assert differ(dcz, model, {name: a.copy() for name, a in model.items()})["same"]


def test_diff_names_tensors_that_are_in_one_only(dcz, model):
    other = {("new" if name == "steps" else name): value for name, value in model.items()}
    result = differ(dcz, model, other)
    assert (result["only_in_first"], result["only_in_second"]) == (["steps"], ["new"])
    assert result["different"] == {}


def test_diff_counts_zeros_and_values(dcz, model):
    weight = model["fc1.weight"].copy()
    weight[0, :7] = 0  # seven zeros more
    weight[1, :2] += 0.25
    result = differ(dcz, model, model | {"fc1.weight": weight})
    found = result["different"]["fc1.weight"]
    assert list(result["different"]) == ["fc1.weight"] and found["n_entries"] == 4000
    assert found["zeros"] == 7 and found["values"]["n_different"] == 9
    distance = np.abs(weight.astype(np.float64) - model["fc1.weight"])
    assert found["values"]["largest_difference"] == distance.max()


def test_diff_compares_codebooks(dcz):
    labels = np.random.default_rng(0).integers(0, 4, (60, 60))
    first = np.array([0, 1, 2, 3], np.float32)[labels]
    second = np.array([0, 1, 2, 5], np.float32)[labels]
    found = differ(dcz, {"w": first}, {"w": second})["different"]["w"]
    assert found["codebook"] == {"sizes": [3, 3], "n_common": 2}
    assert found["values"]["largest_difference"] == 2 and "zeros" not in found


def test_diff_says_that_one_has_no_codebook(dcz):
    noise = np.random.default_rng(0).normal(size=(60, 60)).astype(np.float32)
    packed = deepcomp.compress({"w": noise}, bits=2)
    found = differ(dcz, {"w": noise}, packed)["different"]["w"]
    assert found["codebook"] == {"sizes": [None, 4], "n_common": 0}
    assert "w: no codebook against one of 4 values; values" in dcz("diff", "a.dcz", "b.dcz")[1]
    assert "codebook of 4 values against none; values" in dcz("diff", "b.dcz", "a.dcz")[1]


def test_diff_of_large_tensors_needs_memory_for_blocks_only(dcz):
    zeros = np.zeros(8 << 20, np.float32)
    zeros[:: 1 << 16] = 1
    noise = np.random.default_rng(0).integers(0, 256, 32 << 20, np.uint8).view(np.int32)
    deepcomp.save({"coded": zeros, "raw": noise}, "a.dcz")
    zeros[-1] = noise[-1] = 2
    deepcomp.save({"coded": zeros, "raw": noise}, "b.dcz")
    assert deepcomp.load("b.dcz")["raw"].record.layout == "raw"
    tracemalloc.start()
    status, text, _ = dcz("diff", "a.dcz", "b.dcz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert status == 1 and text.count("values differ in 1 of 8,388,608 entries") == 2
    assert peak < zeros.nbytes


def test_diff_of_shapes_and_dtypes(dcz, model):
    other = model | {
        "fc1.weight": model["fc1.weight"].T.copy(),
        "conv.bias": model["conv.bias"].astype(np.float64),
    }
    found = differ(dcz, model, other)["different"]
    assert found["fc1.weight"] == {"shape": [[50, 80], [80, 50]]}
    assert found["conv.bias"] == {"dtype": ["float32", "float64"]}


def test_diff_of_entries_that_have_no_distance(dcz):
    found = differ(dcz, {"w": np.array([1, np.nan])}, {"w": np.array([1, 2.0])})["different"]["w"]
    nothing = {"largest_difference": None, "relative_error": None}
    assert found["values"] == {"n_different": 1, **nothing}


def test_diff_of_ties_and_metadata(dcz, model):
    weight = model["fc1.weight"]
    tied, untied = {"a": weight, "b": weight}, {"a": weight, "b": weight.copy()}
    assert differ(dcz, tied, untied)["different"] == {"b": {"tied_to": ["a", None]}}
    deepcomp.save(model, "a.dcz", metadata={"step": "3", "by": "me"})
    deepcomp.save(model, "b.dcz", metadata={"step": "4", "by": "me"})
    status, out, _ = dcz("diff", "a.dcz", "b.dcz")
    assert (status, out.splitlines()[0]) == (1, "metadata 'step': '3' against '4'")


def test_diff_says_what_keeps_it_from_comparing(dcz, folder):
    shutil.copy("model.dcz", "bad.dcz")
    flip(folder / "bad.dcz", 20)
    assert fails(dcz("diff", "model.dcz", "bad.dcz"), 1, "is damaged")
    assert fails(dcz("diff", "bad.dcz", "bad.dcz"), 1, "is damaged")
    assert fails(dcz("diff", "model.dcz", "missing.dcz"), 2, "No such file")
    assert fails(dcz("diff", "-", "-"), 2, "only one")


def test_report_writes_the_page(dcz, folder):
    assert dcz("report", "model.dcz", "-o", "page.html") == (0, "", "")
    status, out, err = dcz("report", "model.dcz", "-o", "-")
    assert (status, err) == (0, "") and "<!doctype html" in out.lower()
    assert out == (folder / "page.html").read_text() + "\n"


def test_report_of_a_damaged_file_leaves_the_old_page(dcz, folder):

    (folder / "page.html").write_text("old")
    flip(folder / "model.dcz", 20)
    assert fails(dcz("report", "model.dcz", "-o", "page.html"), 1, "is damaged")
    assert (folder / "page.html").read_text() == "old"
    assert len(list(folder.iterdir())) == 3


def test_inspect_is_dcz_inspect(dcz, capsys):
    from deepcomp.cli import inspect_main

    for options in ([], ["--json"], ["--verify"], ["--layers", "fc*", "--sort", "bytes"]):
        status, out, _ = dcz("inspect", "model.dcz", *options)
        assert inspect_main(["model.dcz", *options]) == status == 0
        assert capsys.readouterr().out == out


@pytest.mark.parametrize("verb", ["compress", "decompress", "verify", "diff", "report", "inspect"])
def test_help_has_examples_and_exit_statuses(dcz, verb):
    status, out, _ = dcz(verb, "--help")
    assert status == 0 and f"examples:\n  dcz {verb} " in out and "\nExit status: 0" in out
    assert dcz(verb)[0] == 2


def test_without_a_verb_the_help_is_shown_as_an_error(dcz):
    status, out, err = dcz()
    assert (status, out) == (2, "") and "usage: dcz" in err
    assert fails(dcz("squeeze"), 2, "invalid choice")
    assert dcz("--version") == dcz("-V") == (0, f"deepcomp {deepcomp.__version__}\n", "")


def test_json_holds_no_infinity(dcz):
    np.savez("large.npz", w=np.array([[1.7e308, -1.7e308, 1.0, 0.5]] * 64))
    status, out, _ = dcz("compress", "large.npz", "out.dcz", "--bits", "1", "--json")
    (tensor,) = json.loads(out)["tensors"]
    assert (status, tensor["mean_square_error"], tensor["is_exact"]) == (0, None, False)


def write_header(path, header):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def test_what_is_found_only_when_the_file_is_written_is_one_line(dcz, folder):
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    write_header(folder / "m.safetensors", {"\ud800": entry})
    before = (folder / "model.dcz").read_bytes()
    assert fails(dcz("compress", "m.safetensors", "model.dcz"), 1, "no text that UTF-8 can hold")
    assert (folder / "model.dcz").read_bytes() == before


def test_messages_are_short_and_keep_both_ends(dcz, folder):
    write_header(folder / "m.safetensors", {"w" * 100_000 + "end": 0})
    result = dcz("compress", "m.safetensors", "out.dcz")
    assert fails(result, 2, "m.safetensors: tensor 'www") and "wend': dtype is" in result[2]
    assert len(result[2]) < 2500


def test_a_closed_stream_is_named(dcz, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    assert fails(dcz("inspect", "-"), 2, "standard input is closed")
    monkeypatch.setattr("sys.stdout", None)
    assert fails(dcz("compress", "model.npz", "-"), 2, "standard output is closed")


def test_what_is_not_expected_does_not_control_the_terminal(dcz):
    assert fails(dcz("inspect", "model.dcz", "evil\x1b[2J\n.dcz"), 2, r"evil\x1b[2J\n.dcz")


def test_names_of_a_file_do_not_control_the_terminal(dcz):
    name, other = "evil\x1b[2J\nname", "other\x1b[2J"
    weight = np.random.default_rng(0).normal(size=(20, 20))
    np.savez("evil.npz", **{name: weight})
    _, out, _ = dcz("compress", "evil.npz", "evil.dcz")
    deepcomp.save({name: weight, other: weight}, "b.dcz", metadata={"\x1b": "\x1b"})
    out += dcz("diff", "evil.dcz", "b.dcz")[1] + dcz("verify", "evil\x1b")[1]
    assert "\x1b" not in out and out.count(r"evil\x1b[2J\nname") == 2
