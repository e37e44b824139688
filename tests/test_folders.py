"""What a path stands for, and what is copied beside the weights: every verb takes every folder."""

import json
import os
import shutil

import numpy as np
import pytest

import deepcomp
from deepcomp.cli import main
from deepcomp.companions import copy_companions
from deepcomp.container import Reader
from deepcomp.exporters import write_checkpoint
from deepcomp.folders import main_folder, packed_in
from deepcomp.importers import read_checkpoint

RNG = np.random.default_rng(0)
MODEL = {
    "fc1.weight": RNG.normal(size=(60, 80)).astype(np.float32),
    "fc1.bias": RNG.normal(size=60).astype(np.float32),
    "fc2.weight": RNG.normal(size=(10, 60)).astype(np.float16),
}
LAYOUTS = ("file", "shards", "part")


@pytest.fixture(params=LAYOUTS)
def packed(request, tmp_path, monkeypatch):
    """Make model.dcz, and a folder `packed` with the same model; the current folder has both."""
    monkeypatch.chdir(tmp_path)
    model = deepcomp.compress(MODEL, bits=4, sparsity=0.5)
    deepcomp.save(model, "model.dcz")
    if request.param == "file":
        os.mkdir("packed")
        shutil.copy("model.dcz", "packed/model.dcz")
    else:
        part = "dense/0_Transformer" if request.param == "part" else "dense"
        os.makedirs(part)
        write_checkpoint(model, f"{part}/model.safetensors")
        if request.param == "part":
            write_modules("dense", "0_Transformer")
        arguments = ["compress", "dense", "packed", "--bits", "none", "--shard-size", "15KB"]
        assert main(arguments) == 0
        assert len(list((tmp_path / "packed").rglob("*.dcz"))) == 2
    return tmp_path / "packed"


def write_modules(folder, *paths):
    modules = [{"idx": i, "name": str(i), "path": path} for i, path in enumerate(paths)]
    with open(os.path.join(folder, "modules.json"), "w") as file:
        json.dump(modules, file)


def run(capsys, *arguments):
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def check_same(found, expected="model.dcz"):
    expected = deepcomp.load(expected)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert np.array_equal(found[name].to_dense(), tensor.to_dense())


# --- every verb, and load


def test_load_takes_the_folder(packed):
    for path in (packed, str(packed), packed_in(str(packed))):
        check_same(deepcomp.load(path))


def test_inspect_verify_diff_and_report_take_the_folder(packed, capsys):
    status, out, err = run(capsys, "inspect", "packed", "--json")
    found = json.loads(out)
    assert (status, err) == (0, "") and [t["name"] for t in found["tensors"]] == list(MODEL)
    files = [*packed.rglob("*.dcz"), *packed.rglob("*.dcz.index.json")]
    assert found["file_nbytes"] == sum(path.stat().st_size for path in files)
    assert "fc1.weight" in run(capsys, "inspect", "packed")[1]
    for arguments in (("inspect", "packed", "--verify"), ("verify", "packed")):
        status, out, _ = run(capsys, *arguments)
        assert status == 0 and "whole (3 tensors, " in out
    assert run(capsys, "diff", "packed", "model.dcz")[0] == 0
    assert run(capsys, "report", "packed", "-o", "page.html")[0] == 0
    assert "fc1.weight" in (packed.parent / "page.html").read_text()


def test_decompress_takes_the_folder_and_counts_its_bytes(packed, capsys):
    _, out, _ = run(capsys, "decompress", "packed", "dense.npz", "--json")
    expected, found = deepcomp.load("model.dcz"), np.load("dense.npz")
    assert all(np.array_equal(found[name], expected[name].to_dense()) for name in MODEL)
    files = [*packed.rglob("*.dcz"), *packed.rglob("*.dcz.index.json")]
    assert json.loads(out)["input_nbytes"] == sum(path.stat().st_size for path in files)


@pytest.mark.parametrize("target", ["again", "again.dcz"])
def test_compress_and_plan_take_the_folder(packed, capsys, target):
    status, out, _ = run(capsys, "plan", "packed", "--bits", "3", "--json")
    assert status == 0 and json.loads(out)["n_tensors"] == 3
    assert run(capsys, "compress", "packed", target, "--bits", "none")[0] == 0
    check_same(deepcomp.load(target))
    smaller = f"smaller-{target}"
    assert run(capsys, "compress", "packed", smaller, "--sparsity", "0.9")[0] == 0
    density = deepcomp.load(smaller)["fc1.weight"].density
    assert density == pytest.approx(0.1, abs=0.01)


def test_a_file_and_an_index_are_compressed_again_too(packed, capsys):
    for source in ("model.dcz", packed_in("packed")):
        assert run(capsys, "compress", source, "again.dcz", "--bits", "none")[0] == 0
        check_same(deepcomp.load("again.dcz"))
    with pytest.raises(ValueError, match=r"model\.dcz: a key is for PyTorch checkpoints"):
        read_checkpoint("model.dcz", key="model")


def test_tied_weights_and_metadata_stay_when_they_are_compressed_again(tmp_path):
    weight = MODEL["fc1.weight"]
    deepcomp.save({"a": weight, "b": weight}, tmp_path / "model.dcz", {"key": "value"})
    again = deepcomp.compress_checkpoint(tmp_path, tmp_path / "again", bits=None)
    assert again.aliases == {"b": "a"} and again.metadata == {"key": "value"}


def test_the_model_of_a_folder_that_has_changed_is_noticed(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    deepcomp.save(MODEL, source / "model.dcz")
    deepcomp.compress_checkpoint(source, target)
    deepcomp.save({**MODEL, "fc1.bias": MODEL["fc1.bias"] + 1}, source / "model.dcz")
    with pytest.raises(ValueError, match=r"model\.dcz has changed since this folder was begun"):
        deepcomp.compress_checkpoint(source, target)


@pytest.mark.parametrize("verb", ["decompress", "report", "compress"])
def test_no_file_of_the_folder_is_written_over(packed, capsys, verb):
    for path in [*packed.rglob("*.dcz"), *packed.rglob("*.dcz.index.json")]:
        before = path.read_bytes()
        (packed.parent / "link.dcz").symlink_to(path)
        more = {"decompress": ["--format", "npz"]}.get(verb, [])
        option = ["-o"] if verb == "report" else []
        status, out, err = run(capsys, verb, "packed", *option, "link.dcz", *more)
        assert (status, out) == (2, "") and "input and output are the same file" in err
        assert path.read_bytes() == before
        (packed.parent / "link.dcz").unlink()


@pytest.mark.parametrize("packed", ["shards"], indirect=True)
def test_damage_in_a_shard_is_wrong_content_and_a_missing_one_cannot_be_read(packed, capsys):
    path = packed / "model-00002-of-00002.dcz"
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    status, out, _ = run(capsys, "verify", "packed")
    assert status == 1 and "DAMAGED" in out and path.name in out
    assert run(capsys, "inspect", "packed")[0] == 1
    path.unlink()
    status, out, _ = run(capsys, "verify", "packed")
    assert status == 2 and "packed: UNREADABLE: No such file" in out


VERBS = {
    "inspect": ["packed"],
    "verify": ["packed"],
    "diff": ["packed", "model.dcz"],
    "report": ["packed", "-o", "page.html"],
    "decompress": ["packed", "out.npz"],
    "compress": ["packed", "out.dcz"],
    "plan": ["packed"],
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("packed", ["shards"], indirect=True)
def test_a_folder_with_two_models_is_refused_by_all(packed, capsys, verb):
    shutil.copy("model.dcz", "packed/model.dcz")
    status, out, err = run(capsys, verb, *VERBS[verb])
    assert status == 2 and "found model.dcz, model.dcz.index.json: give the path" in out + err


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_with_none_says_what_was_looked_for_and_what_is_there(
    tmp_path, monkeypatch, capsys, verb
):
    monkeypatch.chdir(tmp_path)
    os.mkdir("packed")
    (tmp_path / "packed" / "config.json").write_text("{}")
    deepcomp.save(MODEL, "model.dcz")
    status, out, err = run(capsys, verb, *VERBS[verb])
    told = out + err
    assert status == 2 and "packed: " in told and "found config.json" in told
    assert "model.dcz or one *.dcz.index.json in the folder" in told


HINTS = {
    "": "found nothing$",
    "model.dcz.job.json": "found model.dcz.job.json: dcz compress did not finish it",
    "other.dcz": r"found other\.dcz: there is other\.dcz: give the path of the file",
    "pytorch_model.bin": r"\(dcz compress .*packed .*packed/model\.dcz --bits none makes one",
}


@pytest.mark.parametrize("name", HINTS)
def test_the_error_of_load_says_what_to_do(tmp_path, name):
    folder = tmp_path / "packed"
    folder.mkdir()
    if name:
        (folder / name).touch()
    with pytest.raises(deepcomp.DczError, match=HINTS[name]):
        deepcomp.load(folder)


def test_a_folder_behind_a_url_may_have_either(packed):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(main_folder(str(packed)), "/folders/packed", recursive=True)
    try:
        for url in ("memory://folders/packed", "memory://folders/packed/"):
            check_same(deepcomp.load(url))
        with pytest.raises(FileNotFoundError, match=r"a folder with .*or model\.dcz.*//folders/no"):
            deepcomp.load("memory://folders/no")
    finally:
        memory.rm("/folders", recursive=True)


# --- the part of a folder that is the model


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        "[]",
        "{}",
        "[3]",
        '[{"path": 3}]',
        '[{"path": ""}]',
        '[{"path": "."}]',
        '[{"path": ".."}]',
        '[{"path": "../other"}]',
        '[{"path": "part/../../other"}]',
        '[{"path": "/"}]',
        '[{"path": "no"}]',
        '[{"path": "a\\u0000b"}]',
        '[{"path": "modules.json"}]',
    ],
)
def test_modules_that_name_no_part_of_the_folder_are_as_if_they_were_not_there(tmp_path, text):
    for name in ("model/part", "other"):
        (tmp_path / name).mkdir(parents=True)
    folder = tmp_path / "model"
    (folder / "modules.json").write_text(text)
    assert main_folder(str(folder)) == str(folder)


def test_the_first_part_is_the_model(tmp_path):
    (tmp_path / "0_Transformer").mkdir()
    write_modules(tmp_path, "0_Transformer", "1_Pooling")
    assert main_folder(str(tmp_path)) == str(tmp_path / "0_Transformer")
    (tmp_path / "modules.json").unlink()
    os.mkfifo(tmp_path / "modules.json")  # it is not waited for
    assert main_folder(str(tmp_path)) == str(tmp_path)


# --- what is beside the weights


def write_files(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def names_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


BESIDE = (
    "1_Pooling/config.json",
    "2_Dense/model.safetensors",
    "README.md",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "config.json",
    "sparse_linear.pt",
    "tokenizer.json",
)
SAME = (
    "consolidated.00.pth",
    "flax_model.msgpack",
    "model.onnx",
    "model-q4.gguf",
    "optimizer.pt",
    "pytorch_model.bin",
    "tf_model.h5",
    "onnx/model.onnx",
    "openvino/openvino_model.bin",
    "checkpoint-500/config.json",
    "packed/config.json",
)


@pytest.fixture
def dense(tmp_path):
    """Make a folder of a model with all that may be beside it."""
    folder = tmp_path / "dense"
    write_files(folder, *BESIDE, *SAME, ".git/config", ".env", "pytorch_model.bin.index.json")
    (folder / "2_Normalize").mkdir()
    deepcomp.save(MODEL, folder / "packed" / "model.dcz")
    write_checkpoint(deepcomp.compress(MODEL), folder / "model.safetensors")
    return folder


def test_all_beside_the_weights_is_copied_but_the_same_weights_of_which_the_names_are_said(
    dense, tmp_path, capsys
):
    target = tmp_path / "target"
    status, _, err = run(capsys, "compress", dense, target)
    assert status == 0
    told = err.removeprefix(f"dcz compress: {dense}: not copied: ").strip().split(", ")
    files = {name for name in SAME if "/" not in name}
    assert set(told) == files | {"onnx/", "openvino/", "checkpoint-500/", "packed/"}
    made = [name for name in names_in(target) if ".dcz" in name]
    folders = {"1_Pooling", "2_Dense", "2_Normalize"}
    assert set(names_in(target)) - set(made) == {*BESIDE, *folders}
    for name in BESIDE:
        assert (target / name).read_text() == name
    assert list(deepcomp.load(target)) == list(MODEL)


def test_python_is_warned_of_what_is_not_copied(dense, tmp_path):
    with pytest.warns(UserWarning, match=r"dense: not copied: .*openvino/"):
        deepcomp.compress_checkpoint(dense, tmp_path / "target")


def test_the_files_beside_shards_go_to_a_url_too(dense):
    import fsspec

    memory = fsspec.filesystem("memory")
    try:
        with pytest.warns(UserWarning, match="not copied"):
            deepcomp.compress_checkpoint(dense, "memory://beside/target")
        for name in BESIDE:
            assert memory.cat_file(f"/beside/target/{name}").decode() == name
    finally:
        memory.rm("/beside", recursive=True)


def test_links_to_files_are_copied_as_files_and_other_links_and_devices_are_not(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    write_files(tmp_path, "blobs/abc", "elsewhere/secret")
    write_files(source, "config.json")
    (source / "tokenizer.json").symlink_to("../blobs/abc")  # as in the cache of the Hub
    (source / "parts").symlink_to("../elsewhere")
    (source / "loop").symlink_to(".")
    (source / "gone").symlink_to("nowhere")
    os.mkfifo(source / "pipe")
    left_out = copy_companions(str(source), str(target))
    assert left_out == ["gone", "loop/", "parts/", "pipe"]
    assert names_in(target) == ["config.json", "tokenizer.json"]
    assert not (target / "tokenizer.json").is_symlink()
    assert (target / "tokenizer.json").read_text() == "blobs/abc"


def test_a_target_in_the_source_is_not_copied_into_itself(tmp_path):
    write_files(tmp_path, "config.json", "part/config.json")
    for _ in range(2):
        copy_companions(str(tmp_path), str(tmp_path / "target"))
    assert names_in(tmp_path / "target") == ["config.json", "part", "part/config.json"]
    assert copy_companions(str(tmp_path), str(tmp_path / ".")) == []


def test_a_file_of_the_source_is_never_written_over(tmp_path):
    write_files(tmp_path, "source/config.json", "source/source/config.json")
    with pytest.raises(ValueError, match=r"source/config\.json: would be written over: give"):
        copy_companions(str(tmp_path / "source"), str(tmp_path))
    assert (tmp_path / "source" / "config.json").read_text() == "source/config.json"
    write_files(tmp_path, "other/config.json")
    copy_companions(str(tmp_path / "other"), str(tmp_path))
    assert (tmp_path / "config.json").read_text() == "other/config.json"


def test_files_are_replaced_whole_or_not_at_all_and_others_stay(tmp_path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "target"
    write_files(source, "config.json", "tokenizer.json")
    write_files(target, "config.json", "old.txt")
    (target / "config.json").write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError, match="full"):
            copy_companions(str(source), str(target))
    assert names_in(target) == ["config.json", "old.txt"]
    assert (target / "config.json").read_text() == "old"
    copy_companions(str(source), str(target))
    assert names_in(target) == ["config.json", "old.txt", "tokenizer.json"]
    assert (target / "config.json").read_text() == "config.json"


def test_the_index_is_written_after_the_files_beside_it(dense, tmp_path, monkeypatch):
    target = tmp_path / "target"
    with monkeypatch.context() as patch:
        patch.setattr("deepcomp.companions.make_folder", lambda _: os.mkdir("/dev/null/full"))
        with pytest.raises(OSError, match="/dev/null/full"):
            deepcomp.compress_checkpoint(dense, target)
    with pytest.raises(deepcomp.DczError, match="did not finish it: the same command goes on"):
        deepcomp.load(target)
    with pytest.warns(UserWarning, match="not copied"):
        deepcomp.compress_checkpoint(dense, target)
    assert list(deepcomp.load(target)) == list(MODEL)
    assert Reader(next(target.glob("*.dcz"))).index.entries


def test_a_model_of_several_parts_keeps_its_layout(tmp_path, capsys):
    source, target = tmp_path / "source", tmp_path / "target"
    write_files(source, "0_Transformer/config.json", "1_Pooling/config.json", "README.md")
    write_files(source, "2_Dense/config.json")
    write_modules(source, "0_Transformer", "1_Pooling", "2_Dense")
    write_checkpoint(deepcomp.compress(MODEL), source / "0_Transformer" / "model.safetensors")
    dense = {"linear.weight": MODEL["fc1.weight"]}
    write_checkpoint(deepcomp.compress(dense, bits=None), source / "2_Dense" / "model.safetensors")
    assert run(capsys, "compress", source, target)[::2] == (0, "")
    status, _, _ = run(capsys, "decompress", target, target / "0_Transformer" / "model.safetensors")
    assert status == 0
    made = {name for name in names_in(target) if ".dcz" in name}
    assert set(names_in(target)) - made == set(names_in(source))
    for part, names in (("0_Transformer", MODEL), ("2_Dense", dense)):
        assert list(read_checkpoint(target / part / "model.safetensors").tensors) == list(names)
    assert (source / "2_Dense" / "model.safetensors").read_bytes() == (
        target / "2_Dense" / "model.safetensors"
    ).read_bytes()
