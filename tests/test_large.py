"""Checkpoints in parts: the bytes of `compress`, whatever does the work and whatever stops it."""

import errno
import json
import os
import signal
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from unittest import mock

import joblib
import numpy as np
import pytest

import deepcomp
from deepcomp import _kernels, large_model, part_tasks, rounds, workers
from deepcomp.cli import main
from deepcomp.importers import read_checkpoint
from deepcomp.records import MAX_BLOCK_NUMEL, MAX_WHOLE_NUMEL

TASK = 1 << 20
pytestmark = pytest.mark.skipif(
    _kernels.build_info()["kernels"] != "native",
    reason="takes long with the twins, of which test_parts.py has the same",
)
SHAPES = {
    "embed.weight": (1100, 1000),  # of two tasks
    "norm.weight": (500,),
    "fc1.weight": (300, 1000),
    "empty": (0, 3),
    "fc2.weight": (1060, 1000),  # of two as well
    "head.weight": (100, 1000),
}
SETTINGS = {"bits": 5, "sparsity": 0.5}


def write_shards(folder, tensors, n_shards=2):
    """Write bfloat16 tensors, given as patterns, as a folder of safetensors files."""
    folder.mkdir()
    weight_map, names = {}, list(tensors)
    for k in range(n_shards):
        header, offset = {}, 0
        shard, name_of = names[k::n_shards], f"part-{k}.safetensors"
        for name in shard:
            end = offset + tensors[name].nbytes
            shape = list(tensors[name].shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
            weight_map[name], offset = name_of, end
        raw = json.dumps(header).encode()
        data = b"".join(tensors[name].tobytes() for name in shard)
        (folder / name_of).write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    index = {"weight_map": {name: weight_map[name] for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def make_tensors():
    rng = np.random.default_rng(7)
    tensors = {}
    for name, shape in SHAPES.items():
        values = 0.02 * rng.standard_normal(shape, dtype=np.float32)
        tensors[name] = (values.view(np.uint32) >> 16).astype(np.uint16)
    return tensors


@pytest.fixture(scope="module", autouse=True)
def small_tensors_are_cut():
    """Cut tensors as small as those of this module, which no user's are."""
    with mock.patch.object(large_model, "MAX_WHOLE_NUMEL", TASK):
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large") / "source"
    write_shards(folder, make_tensors())
    return folder


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    """What one process makes of it, without joblib: the bytes of each file."""
    target = tmp_path_factory.mktemp("large") / "target"
    with mock.patch.dict(sys.modules, {"joblib": None}):
        compress(source, target)
    return contents(target)


def compress(source, target, **changed):
    settings = {"shard_nbytes": 2_400_000, "task_numel": TASK, **SETTINGS, **changed}
    return deepcomp.compress_checkpoint(source, target, **settings)


def contents(target):
    return {path.name: path.read_bytes() for path in target.iterdir() if "job" not in path.name}


def times_in(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def check_as_compress(target, source, **settings):
    packed = deepcomp.compress(read_checkpoint(source).tensors, **settings)
    found = deepcomp.load(target)
    assert list(found) == list(packed) and found.aliases == packed.aliases
    for name, tensor in packed.items():
        assert replace(found[name].record, crc32=None) == tensor.record
        assert bytes(found[name].section()) == bytes(tensor.section())


def test_a_checkpoint_in_parts_becomes_what_compress_makes_of_it(source, expected, tmp_path):
    compress(source, tmp_path / "target")
    check_as_compress(tmp_path / "target", source, **SETTINGS)
    assert contents(tmp_path / "target") == expected
    tensors = deepcomp.load(tmp_path / "target").values()
    summed = {t.name: t.record.crc32 for t in tensors if t.record.crc32 is not None}
    assert summed == {t.name: zlib.crc32(t.section()) for t in tensors if t.name in summed} != {}
    assert expected["model.dcz.index.json"].startswith(b'{"format":["dcz-shards",1,1],')
    assert sorted(expected) == [
        "model-00001-of-00003.dcz",
        "model-00002-of-00003.dcz",
        "model-00003-of-00003.dcz",
        "model.dcz.index.json",
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"bits": None},
        {"bits": {"fc*": 3}, "sparsity": {"embed": 0.9, "fc*": 0.4}, "scope": "global"},
        {"bits": 8, "std": 1.0, "scope": "global"},
        {"bits": None, "threshold": 0.01},
    ],
    ids=str,
)
def test_all_settings_mean_what_they_mean_for_compress(source, tmp_path, settings):
    compress(source, tmp_path / "target", **{"sparsity": None, **settings})
    check_as_compress(tmp_path / "target", source, **settings)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "bool"])
def test_tensors_of_all_dtypes_are_cut(tmp_path, dtype):
    values = np.random.default_rng(1).standard_normal((3, 350_000))
    values = values > 0 if dtype == "bool" else values * (1 if "f" in dtype else 1000)
    tensors = {"w": values.astype(dtype), "b": np.ones(9, dtype)}
    deepcomp.save(tensors, tmp_path / "dense.dcz")
    path = tmp_path / "source.safetensors"
    deepcomp.exporters.write_checkpoint(deepcomp.load(tmp_path / "dense.dcz"), path)
    compress(path, tmp_path / "target")
    check_as_compress(tmp_path / "target", path, **SETTINGS)


def test_negative_zeros_keep_their_signs(tmp_path):
    rng = np.random.default_rng(2)
    w = rng.choice(
        np.array([0, 0x8000, 0x3F80, 0xBF80], np.uint16), (1050, 1000), p=[0.5, 0.3, 0.1, 0.1]
    )
    write_shards(tmp_path / "source", {"w": w, "other": w[:9]})
    index = tmp_path / "source" / "model.safetensors.index.json"
    compress(index, tmp_path / "target", bits=None, sparsity=None)
    check_as_compress(tmp_path / "target", index, bits=None)
    assert deepcomp.load(tmp_path / "target")["w"].record.zero_signs


def test_tied_tensors_are_stored_once(tmp_path):
    tied = np.ones((30, 40), np.float32)
    deepcomp.save({"a": tied, "b": np.eye(30), "c": tied}, tmp_path / "tied.dcz")
    path = tmp_path / "tied.safetensors"
    deepcomp.exporters.write_checkpoint(deepcomp.load(tmp_path / "tied.dcz"), path)
    found = compress(path, tmp_path / "target", shard_nbytes=1)
    assert found.aliases == {"c": "a"} and found["c"] is found["a"]
    check_as_compress(tmp_path / "target", path, **SETTINGS)


@pytest.mark.parametrize(("backend", "task_numel"), [("threading", 2 * TASK), ("loky", TASK)])
def test_bytes_do_not_depend_on_backend_and_cut(source, expected, tmp_path, backend, task_numel):
    with joblib.parallel_config(backend=backend):
        compress(source, tmp_path / "target", n_jobs=2, task_numel=task_numel)
    assert contents(tmp_path / "target") == expected


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_rows_of_zeros_are_left_out_in_parts_as_they_are_in_one_piece(tmp_path, backend):
    rng = np.random.default_rng(1)
    tensors = {"filters": (40, 30), "large.filters": (1100, 1000), "full": (30, 40)}
    for name, shape in tensors.items():
        tensors[name] = rng.integers(1, 9, shape, np.uint16) << 10
        tensors[name][::4] = 0 if "filters" in name else 1 << 10
    write_shards(tmp_path / "source", tensors)
    never_cut = mock.patch.object(large_model, "MAX_WHOLE_NUMEL", MAX_WHOLE_NUMEL)
    with never_cut, joblib.parallel_config(backend=backend):
        compress(tmp_path / "source", tmp_path / "target", n_jobs=2, bits=None, sparsity=None)
    check_as_compress(tmp_path / "target", tmp_path / "source", bits=None)
    packed = deepcomp.load(tmp_path / "target")
    assert {name: t.record.kept_rows for name, t in packed.items()} == {
        "filters": 30, "large.filters": 825, "full": None,
    }  # fmt: skip


@pytest.mark.parametrize("numel", [MAX_WHOLE_NUMEL, MAX_WHOLE_NUMEL + 1024])
def test_tensors_that_may_be_cut_store_their_rows_of_zeros(tmp_path, numel):
    weight = np.full((numel // 1024, 1024), 0x3F80, np.uint16)
    weight[::2, 0], weight[1::2] = 0x4000, 0
    write_shards(tmp_path / "source", {"w": weight}, 1)
    never_cut = mock.patch.object(large_model, "MAX_WHOLE_NUMEL", MAX_WHOLE_NUMEL)
    with never_cut:
        compress(tmp_path / "source", tmp_path / "target", bits=None, sparsity=None)
    check_as_compress(tmp_path / "target", tmp_path / "source", bits=None)
    found = deepcomp.load(tmp_path / "target")["w"].record.kept_rows
    assert found == (numel // 2048 if numel == MAX_WHOLE_NUMEL else None)


# --- interrupted ---


def test_what_a_broken_run_has_finished_stays_and_a_second_one_goes_on(source, expected, tmp_path):
    target = tmp_path / "target"
    encode_piece, done = part_tasks.encode_piece, []

    def encode_some(path, *arguments):
        if len(done) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        encode_piece(path, *arguments)
        done.append(path)

    full = mock.patch.object(rounds, "encode_piece", encode_some)
    with full, pytest.raises(OSError, match=r"tensor '\w+.weight', entries .*: No space left"):
        compress(source, target)
    kept = times_in(target / "parts")
    assert len(kept) > len(done) == 3
    stopped = mock.patch.object(rounds, "assemble", side_effect=OSError("stop"))
    with stopped, pytest.raises(OSError, match="stop"):
        compress(source, target)
    assert kept.items() <= times_in(target / "parts").items()
    compress(source, target)
    assert contents(target) == expected


def test_whole_shards_are_left_alone_and_damaged_ones_written_again(source, expected, tmp_path):
    target = tmp_path / "target"
    compress(source, target)
    whole, damaged = (target / f"model-0000{i}-of-00003.dcz" for i in (1, 2))
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    before = whole.stat().st_mtime_ns
    compress(source, target)
    assert contents(target) == expected
    assert whole.stat().st_mtime_ns == before


def test_a_shard_that_is_whole_takes_its_parts_away_at_once(source, expected, tmp_path):
    target = tmp_path / "target"
    assemble, left = part_tasks.assemble, []

    def assemble_and_look(*arguments):
        assemble(*arguments)
        left.append(sorted(os.listdir(target / "parts")))

    with mock.patch.object(rounds, "assemble", assemble_and_look):
        compress(source, target)
    assert [len(names) for names in left] == sorted({len(names) for names in left}, reverse=True)
    assert left[-1] == []
    assert contents(target) == expected


def test_a_shard_that_is_gone_is_named_with_a_tensor_and_the_index(source, tmp_path):
    compress(source, tmp_path / "target")
    packed = deepcomp.load(tmp_path / "target")
    (tmp_path / "target" / "model-00001-of-00003.dcz").unlink()
    message = r"it has 'embed\.weight'.*, as .*json says: '.*-00001-of-00003.dcz'"
    with pytest.raises(FileNotFoundError, match=message):
        packed["embed.weight"].to_dense()
    (tmp_path / "target" / "model.dcz.index.json").unlink()
    with pytest.raises(deepcomp.DczError, match=r"found model-00002-of-.*the same command goes on"):
        deepcomp.load(tmp_path / "target")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_shard_that_another_worker_has_put_together_is_taken(source, expected, tmp_path, moment):
    target = tmp_path / "target"
    assemble, write = part_tasks.assemble, part_tasks._write_shard

    def write_too_late(*arguments):  # the other one, thought to be lost, has removed the parts
        write(*arguments)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "part")

    def assemble_twice(*arguments):
        assemble(*arguments)
        assemble(*arguments)

    late = mock.patch.object(part_tasks, "_write_shard", write_too_late)
    twice = mock.patch.object(rounds, "assemble", assemble_twice)
    with late if moment == "before" else twice:
        compress(source, target)
    assert contents(target) == expected


def test_a_shard_that_cannot_be_put_together_keeps_its_parts(source, expected, tmp_path):
    target = tmp_path / "target"
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "shard")
    failing = mock.patch.object(part_tasks, "_write_shard", side_effect=full)
    with failing, pytest.raises(OSError, match=r"tensors? 'embed.weight'.*: No space left"):
        compress(source, target)
    kept = times_in(target / "parts")
    assert len(kept) > 4
    compress(source, target)
    assert contents(target) == expected


@pytest.mark.parametrize(
    ("changed", "name"), [({"bits": 4}, "bits"), ({"shard_nbytes": 1 << 30}, "shard_nbytes")]
)
def test_other_arguments_are_refused(source, tmp_path, changed, name):
    compress(source, tmp_path / "target")
    before = contents(tmp_path / "target")
    with pytest.raises(ValueError, match=f"begun with {name} = "):
        compress(source, tmp_path / "target", **changed)
    assert contents(tmp_path / "target") == before


def test_another_checkpoint_and_a_folder_with_another_model_are_refused(source, tmp_path):
    write_shards(tmp_path / "source", {"w": np.ones((30, 30), np.uint16)})
    compress(tmp_path / "source", tmp_path / "target")
    with pytest.raises(ValueError, match="begun with source = "):
        compress(source, tmp_path / "target")
    (tmp_path / "target" / "model.dcz.job.json").unlink()
    with pytest.raises(ValueError, match="give another folder"):
        compress(tmp_path / "source", tmp_path / "target")


def test_a_checkpoint_that_has_changed_is_named(tmp_path):
    path = tmp_path / "source"
    write_shards(path, {"w": np.ones((30, 30), np.uint16)})
    compress(path, tmp_path / "target")
    before = contents(tmp_path / "target")
    os.utime(path / "part-0.safetensors", (1, 1))
    expected = r"target: part-0\.safetensors has changed since .*delete the folder, or give another"
    for changed in ({}, {"bits": 4}):
        with pytest.raises(ValueError, match=expected):
            compress(path, tmp_path / "target", **changed)
    assert contents(tmp_path / "target") == before


KILLED = """
import os, signal, sys, deepcomp
from deepcomp import large_model, part_tasks, rounds
large_model.MAX_WHOLE_NUMEL = 1 << 20
encode, left = part_tasks.encode_wholes, [1]
def encode_and_die(*arguments):
    encode(*arguments)
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left.pop()
rounds.encode_wholes = encode_and_die
deepcomp.compress_checkpoint(sys.argv[1], sys.argv[2], bits=5, sparsity=0.5,
                             shard_nbytes=2_400_000, task_numel=1 << 20)
"""


def test_a_killed_run_is_finished_by_a_second_one(source, expected, tmp_path):
    command = [sys.executable, "-c", KILLED, str(source), str(tmp_path / "target")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert list((tmp_path / "target" / "parts").glob("*.dcz"))
    compress(source, tmp_path / "target")
    assert contents(tmp_path / "target") == expected


def die_once(path, flag, *arguments):
    """Encode, and kill the worker before anybody knows of it: once."""
    part_tasks.encode_wholes(path, *arguments)
    if not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)


def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def with_deaths(flag):
    """Let one of the tasks kill its worker."""
    whole_task = rounds._whole_task

    def made(path, batch, cuts):
        task = whole_task(path, batch, cuts)
        arguments = (task.arguments[0], flag, *task.arguments[1:])
        return task._replace(function=die_once, arguments=arguments)

    return mock.patch.object(rounds, "_whole_task", made)


def test_a_killed_worker_is_replaced(source, expected, tmp_path):
    with with_deaths(str(tmp_path / "died")):
        compress(source, tmp_path / "target", n_jobs=2)
    assert (tmp_path / "died").exists()
    assert contents(tmp_path / "target") == expected


def test_workers_that_die_again_and_again_end_the_run_with_the_name_of_the_tensor():
    with workers.Workers(2, 0) as some, pytest.raises(RuntimeError, match="tensor 'w'"):
        some.run([workers.Task("tensor 'w'", 0, die, ())])


def test_a_killed_worker_of_dask_is_replaced(source, expected, tmp_path):
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with (
        distributed.LocalCluster(**options) as cluster,
        distributed.Client(cluster) as client,
        joblib.parallel_config(backend="dask"),
    ):
        client.upload_file(__file__)
        with with_deaths(str(tmp_path / "died")):
            compress(source, tmp_path / "target", n_jobs=None)
    assert (tmp_path / "died").exists()
    assert contents(tmp_path / "target") == expected


# --- what is wrong is named ---


def test_tensors_that_are_not_finite_are_named(tmp_path):
    bad = np.ones((1050, 1000), np.uint16)
    bad[1049, 3] = 0x7FC0
    for i, tensors in enumerate(
        [{"good": bad[:900], "bad": bad}, {"good": bad[:9], "bad": bad[1040:]}]
    ):
        write_shards(tmp_path / f"source{i}", tensors)
        with pytest.raises(ValueError, match=r"^tensor 'bad' has NaN or infinite entries"):
            compress(tmp_path / f"source{i}", tmp_path / f"target{i}")


def test_a_shard_that_was_cut_off_is_named_with_its_tensor(source, tmp_path):
    write_shards(tmp_path / "source", make_tensors())
    path = tmp_path / "source" / "part-0.safetensors"
    read = read_checkpoint(tmp_path / "source")

    def cut_off_then(*_):
        os.truncate(path, path.stat().st_size // 2)
        return read

    cut_off = mock.patch("deepcomp.large_model.read_checkpoint", cut_off_then)
    with cut_off, pytest.raises(ValueError, match=r"tensor.*part-0.safetensors: cut off"):
        compress(tmp_path / "source", tmp_path / "target")


def test_a_missing_joblib_is_named_with_the_extra(source, tmp_path):
    without = mock.patch.dict(sys.modules, {"joblib": None})
    with without, pytest.raises(ImportError, match=r"pip install 'deepcomp\[parallel\]'"):
        compress(source, tmp_path / "target", n_jobs=2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"task_numel": MAX_BLOCK_NUMEL + 1},
            "task_numel is 1048577: expected a positive integer, a multiple",
        ),
        ({"shard_nbytes": 0}, "shard_nbytes is 0"),
        ({"bits": 9}, "bits of 'embed.weight' is 9"),
        ({"n_jobs": 0}, "n_jobs is 0: expected a number of workers"),
        ({"sparsity": {"nothing": 0.5}}, "matches no float tensor"),
    ],
)
def test_arguments_that_are_not_possible_leave_nothing(source, tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        compress(source, tmp_path / "target", **changed)
    assert not (tmp_path / "target").exists()


# --- the command ---


def test_dcz_compress_makes_shards_of_shards(source, expected, tmp_path, capsys):
    target = tmp_path / "target"
    arguments = [
        "compress",
        str(source),
        str(target),
        "--sparsity",
        "0.5",
        "--shard-size",
        "2400KB",
    ]
    assert main([*arguments, "--jobs", "1", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["files_nbytes"] == sum(map(len, expected.values()))
    assert contents(target) == expected
    assert main([*arguments, "--bits", "3"]) == 1
    assert "begun with bits = 5, now it is 3" in capsys.readouterr().err


def test_dcz_compress_takes_jobs_for_shards_only(source, tmp_path, capsys):
    assert main(["compress", str(source), str(tmp_path / "one.dcz"), "--jobs", "2"]) == 2
    assert "--jobs is for a folder: OUT must not be -" in capsys.readouterr().err
    file = next(source.glob("*.safetensors")) if source.is_dir() else source
    assert main(["compress", str(file), str(tmp_path / "one"), "--jobs", "2"]) == 2
    assert "--jobs is for a folder of shards, not for one file" in capsys.readouterr().err
    assert main(["compress", str(file), str(tmp_path / "one"), "--shard-size", "1MB"]) == 2
    assert "--shard-size is for a folder of shards, not for one" in capsys.readouterr().err
    assert main(["compress", str(source), str(tmp_path / "one.dcz")]) == 0
    assert list(deepcomp.load(tmp_path / "one.dcz")) == list(SHAPES)


def test_what_is_exact_stays_so_in_a_folder_and_in_its_plan(source, tmp_path, capsys):
    before = read_checkpoint(source).tensors
    target = tmp_path / "packed"
    assert main(["compress", str(source), str(target), "--exact", "embed"]) == 0
    packed = deepcomp.load(target)
    changed = {
        name
        for name, tensor in packed.items()
        if not np.array_equal(tensor.decode_patterns(), before[name].fetch())
    }
    assert "embed.weight" not in changed and "fc1.weight" in changed
    capsys.readouterr()
    nbytes = []
    for options in ([], ["--exact", "embed"], ["--exact", "*"]):
        assert main(["plan", str(source), "--json", *options]) == 0
        nbytes.append(json.loads(capsys.readouterr().out)["nbytes"])
    assert nbytes == sorted(set(nbytes))
    for verb in (["plan", str(source)], ["compress", str(source), str(tmp_path / "other")]):
        assert main([*verb, "--exact", "nothing"]) == 2
        message = capsys.readouterr().err
        assert "--exact: the pattern 'nothing' matches no tensor" in message


def test_dcz_plan_is_near_the_size_and_writes_nothing(source, monkeypatch, capsys):
    monkeypatch.setattr("deepcomp.commands.plan.n_cpus", lambda: 4)
    before = sorted(os.listdir(source))
    assert main(["plan", str(source), "--sparsity", "0.5", "--jobs", "4", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["n_tensors"] == len(SHAPES)
    assert values["n_weights"] == sum(int(np.prod(shape)) for shape in SHAPES.values())
    packed = deepcomp.compress(read_checkpoint(source).tensors, **SETTINGS)
    sections = sum(tensor.nbytes for tensor in packed.values())
    assert values["nbytes"] == pytest.approx(sections, rel=0.02)
    assert values["core_seconds"] == pytest.approx(4 * values["seconds"])
    assert sorted(os.listdir(source)) == before
    assert main(["plan", str(source)]) == 0
    assert "smaller" in capsys.readouterr().out


def test_dcz_plan_counts_no_more_processes_than_cores(source, monkeypatch, capsys):
    monkeypatch.setattr("deepcomp.commands.plan.n_cpus", lambda: 3)
    for jobs, n_processes in (("8", 3), ("2", 2), ("-1", 3)):
        assert main(["plan", str(source), "--jobs", jobs, "--json"]) == 0
        values = json.loads(capsys.readouterr().out)
        assert values["jobs"] == n_processes
        assert values["core_seconds"] == pytest.approx(n_processes * values["seconds"])
    assert main(["plan", str(source), "--jobs", "8"]) == 0
    told = capsys.readouterr().out
    assert "with 3 processes, as many as there are cores, (" in told
    assert main(["plan", str(source), "--jobs", "3"]) == 0
    assert "with 3 processes (" in capsys.readouterr().out
