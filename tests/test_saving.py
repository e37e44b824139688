"""A save gives the old file or the new one, whole, whatever happens; and always the same bytes."""

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import deepcomp
from deepcomp import files, part_tasks, writer
from deepcomp.files import Replacement

IS_ROOT = os.geteuid() == 0
NOBODY = 65534


def noise(seed, n=200_000):
    return np.random.default_rng(seed).integers(0, 256, n, dtype=np.uint8)


def run(script, *arguments, **options):
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def old(tmp_path):
    """Save a file; check that it is untouched, and alone in its folder, when the test is over."""
    path = tmp_path / "m.dcz"
    deepcomp.save({"w": np.arange(9)}, path)
    before = path.read_bytes()
    yield path
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.dcz"]


# Children that are forked save over a file, the old content and the new one by turns, and are
# killed at the n-th line of the package's code that a save runs: the same moments in each run.
KILL = """
    import json, os, signal, sys, numpy as np, deepcomp
    from deepcomp.files import Replacement

    path, n_rounds = sys.argv[1], int(sys.argv[2])
    rng = np.random.default_rng(0)
    models = [
        deepcomp.compress({f"w{i}": rng.integers(0, 256, 99_999, np.uint8) for i in range(9)})
        for _ in range(2)
    ]
    contents = []
    for model in models:
        deepcomp.save(model, path)
        contents.append(open(path, "rb").read())

    def trace_to(n, action):
        count = 0
        def trace(frame, event, argument):
            nonlocal count
            if "deepcomp" not in frame.f_code.co_filename:
                return None
            if event == "line":
                count += 1
                if count == n:
                    action()
            return trace
        sys.settrace(trace)
        deepcomp.save(models[1 - current], path)
        sys.settrace(None)
        return count

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    current = 1
    n_lines = trace_to(0, None)
    current = 0
    end = n_lines - 100  # from here on: index, sync, rename, sync of the folder
    moments = sorted(rng.choice(end, 25, replace=False)) + list(range(end + 2, n_lines, 4))
    if n_rounds:  # all moments
        moments = list(range(n_lines)) * n_rounds
    results = []

    def finish(child, where):
        global current
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
        found = contents.index(open(path, "rb").read())  # raises where it is neither
        n_left = len(os.listdir(os.path.dirname(path))) - 1
        results.append((where, "old" if found == current else "new", n_left))
        current = found

    for moment in moments:
        child = os.fork()
        if not child:
            trace_to(int(moment) + 1, die)
            os._exit(0)
        finish(child, int(moment) / n_lines)
    for step in ["sync", "commit"] * (5 + 30 * n_rounds):  # from outside, while the step goes on
        ready, begun = os.pipe()
        child = os.fork()
        if not child:
            method = getattr(Replacement, step)
            setattr(Replacement, step, lambda file: (os.write(begun, b"x"), method(file)))
            deepcomp.save(models[1 - current], path)
            signal.pause()
        os.read(ready, 1)
        os.kill(child, signal.SIGKILL)
        finish(child, step)
    deepcomp.save({}, path)
    print(json.dumps([results, os.listdir(os.path.dirname(path))]))
"""


def test_a_killed_save_leaves_the_old_or_the_new_file_and_the_next_one_cleans_up(tmp_path):
    n_rounds = os.environ.get("KILL_ROUNDS", "0")
    results, names = json.loads(run(KILL, tmp_path / "m.dcz", n_rounds))
    print(len(results), "saves killed")
    assert len(results) == 60 or n_rounds != "0"
    assert {which for _, which, _ in results} == {"old", "new"}
    assert {n_left for _, _, n_left in results} == {0, 1}
    assert names == ["m.dcz"]


def test_files_are_synced_before_the_rename_and_the_folder_after_it(tmp_path):
    calls = []

    def recorded(function):
        def call(*arguments):
            is_folder = isinstance(arguments[0], int) and stat.S_ISDIR(os.fstat(arguments[0])[0])
            calls.append((function.__name__, is_folder))
            return function(*arguments)

        return mock.patch.object(os, function.__name__, call)

    with recorded(os.fsync), recorded(os.replace):
        deepcomp.save({"w": np.ones(3)}, tmp_path / "m.dcz")
    assert calls == [("fsync", False), ("replace", False), ("fsync", True)]


def test_a_file_that_need_not_be_durable_is_not_synced_but_what_is_told_at_its_end_is_heard(
    tmp_path,
):
    no_sync = mock.patch.object(os, "fsync", side_effect=AssertionError("synced"))
    with no_sync, Replacement(tmp_path / "part", durable=False) as file:
        file.write(b"abc")
    assert (tmp_path / "part").read_bytes() == b"abc"
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # a network folder says so when closed
    file = Replacement(tmp_path / "part", durable=False)
    file.write(b"longer")
    telling = mock.patch.object(os, "close", side_effect=full)
    with telling, pytest.raises(OSError, match=r"No space left on device: '.*part'"):
        file.sync()
    file.close()
    assert (tmp_path / "part").read_bytes() == b"abc"
    assert os.listdir(tmp_path) == ["part"]


def test_temporary_files_of_living_saves_stay_and_those_of_dead_ones_go(tmp_path):
    path = tmp_path / "m.dcz"
    living, dead = Replacement(path), Replacement(tmp_path / "other.dcz")
    dead._file.close()  # as the end of a process does
    deepcomp.save({"w": np.ones(3)}, path)
    assert sorted(os.listdir(tmp_path)) == [os.path.basename(living.temporary), "m.dcz"]
    living.write(b"whole")
    living.sync()
    living.commit()
    living.close()
    assert path.read_bytes() == b"whole" and os.listdir(tmp_path) == ["m.dcz"]


def test_a_save_of_another_process_goes_on_beside_this_one(tmp_path):
    script = """
        import sys, deepcomp
        from deepcomp.writer import Writer
        with Writer(sys.argv[1], {"by": "other"}):
            print("begun", flush=True)
            sys.stdin.read()
    """
    path = tmp_path / "m.dcz"
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"begun\n"
        deepcomp.save({}, path, metadata={"by": "this"})
        assert deepcomp.load(path).metadata == {"by": "this"}
        other.stdin.close()
        assert other.wait() == 0
    assert deepcomp.load(path).metadata == {"by": "other"}
    assert os.listdir(tmp_path) == ["m.dcz"]


def test_threads_that_save_to_one_file_give_the_file_of_one_of_them(tmp_path):
    models = [deepcomp.compress({"w": noise(i)}, bits=None) for i in range(4)]
    threads = [
        threading.Thread(
            target=lambda m=m: [deepcomp.save(m, tmp_path / "m.dcz", verify=True) for _ in range(5)]
        )
        for m in models
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = deepcomp.load(tmp_path / "m.dcz")["w"].to_dense()
    assert any(np.array_equal(found, m["w"].to_dense()) for m in models)
    assert os.listdir(tmp_path) == ["m.dcz"]


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 256 KiB; yield its folder and a function that makes it read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("file systems cannot be mounted")
    remount = ["mount", "-o", "remount,ro", str(folder)]
    yield folder, lambda: subprocess.run(remount, check=True)
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_or_read_only_disk_leaves_the_old_file(small_disk):
    folder, make_read_only = small_disk
    path = folder / "m.dcz"
    deepcomp.save({"w": noise(0, 100_000)}, path)
    before = path.read_bytes()
    for seed, n in enumerate((170_000, 200_000, 1_000_000)):
        with pytest.raises(OSError, match=r"No space left.*m\.dcz'") as caught:
            deepcomp.save({"w": noise(seed, n)}, path)
        assert caught.value.errno == errno.ENOSPC
    make_read_only()
    with pytest.raises(OSError, match=r"m\.dcz'") as caught:
        deepcomp.save({}, path)
    assert caught.value.errno in (errno.EROFS, errno.EACCES)
    with pytest.raises(OSError, match=r"Read-only.*new\.dcz'"):
        deepcomp.save({}, folder / "new.dcz")
    assert path.read_bytes() == before
    assert os.listdir(folder) == ["m.dcz"]


@pytest.mark.parametrize("name", ["write", "sync", "commit"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "broken"), KeyboardInterrupt()]
)
def test_an_error_at_any_step_leaves_the_old_file(old, name, error):
    method, calls = getattr(Replacement, name), []

    def fail_at(self, *arguments):
        calls.append(name)
        if len(calls) == n:
            raise error
        return method(self, *arguments)

    for n in range(1, 6 if name == "write" else 2):  # pages, then the index
        calls.clear()
        with mock.patch.object(Replacement, name, fail_at), pytest.raises(type(error)):
            deepcomp.save({"w": noise(0)}, old)
        assert len(calls) == n


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ValueError])
@pytest.mark.parametrize("n", [0, 1, 4])
def test_an_error_while_a_tensor_is_encoded_leaves_the_old_file(old, error, n):
    from deepcomp import pipeline

    results = [pipeline.encode_tensor] * n + [mock.Mock(side_effect=error("in the middle"))]
    with (
        mock.patch.object(pipeline, "encode_tensor", lambda weight: results.pop(0)(weight)),
        pytest.raises(error, match="in the middle"),
    ):
        deepcomp.save({f"w{i}": noise(i) for i in range(5)}, old)
    assert not results


def test_folders_that_may_not_be_written_are_named(tmp_path):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        deepcomp.save({"w": np.ones(3)}, folder / "m.dcz")
        (folder / "protected.dcz").write_bytes(b"old")
        for path, mode in ((folder / "protected.dcz", 0o444), (folder, 0o555)):
            path.chmod(mode)
            if IS_ROOT:
                os.chown(path, NOBODY, NOBODY)
        os.chown(folder / "m.dcz", NOBODY, NOBODY) if IS_ROOT else None
        before = (folder / "m.dcz").read_bytes()
        try:
            if IS_ROOT:
                os.seteuid(NOBODY)  # nothing is forbidden to root
            with pytest.raises(PermissionError, match=r"m\.dcz'"):
                deepcomp.save({}, folder / "m.dcz")
            folder.chmod(0o755)
            with pytest.raises(PermissionError, match=r"write-protected: .*protected\.dcz'"):
                deepcomp.save({}, folder / "protected.dcz")
        finally:
            if IS_ROOT:
                os.seteuid(0)
        assert (folder / "m.dcz").read_bytes() == before
        assert (folder / "protected.dcz").read_bytes() == b"old"
        assert sorted(os.listdir(folder)) == ["m.dcz", "protected.dcz"]


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "to_folder").symlink_to("folder")
    (tmp_path / "to_fifo").symlink_to("fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "to_missing").symlink_to("missing/m.dcz")
    before = sorted((p.name, os.lstat(p).st_mode) for p in tmp_path.rglob("*"))
    for name, error, message in [
        ("fifo", OSError, "not a regular file"),
        ("to_fifo", OSError, "not a regular file"),
        ("/dev/null", OSError, "not a regular file"),
        ("folder", IsADirectoryError, "folder'"),
        ("to_folder", IsADirectoryError, "to_folder'"),
        ("new/", IsADirectoryError, "new/'"),
        ("loop", OSError, "loop'"),
        ("missing/m.dcz", FileNotFoundError, "missing/m.dcz'"),
        ("to_missing", FileNotFoundError, "to_missing'"),
        ("file/m.dcz", NotADirectoryError, "file/m.dcz'"),
        ("x" * 256, OSError, "too long: .*xxx'"),
    ]:
        with pytest.raises(error, match=message):
            deepcomp.save({"w": np.ones(3)}, f"{tmp_path}/{name}" if name[0] != "/" else name)
    assert sorted((p.name, os.lstat(p).st_mode) for p in tmp_path.rglob("*")) == before
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_link_to_nothing_gets_its_file(tmp_path):
    (tmp_path / "link").symlink_to("second")
    (tmp_path / "second").symlink_to("m.dcz")
    deepcomp.save({}, tmp_path / "link", metadata={"a": "b"})
    assert os.readlink(tmp_path / "link") == "second"
    assert deepcomp.load(tmp_path / "m.dcz").metadata == {"a": "b"}
    assert len(os.listdir(tmp_path)) == 3


@pytest.mark.parametrize("ending", [".pt", ".PTH", ".bin", ".safetensors", ".npz"])
def test_a_checkpoint_is_not_written_over(tmp_path, ending):
    path = tmp_path / f"model{ending}"
    path.write_bytes(b"weights")
    for name in (path, str(path), os.fsencode(path)):
        with pytest.raises(ValueError, match="expected a name like model"):
            deepcomp.save({"w": np.ones(3)}, name)
    assert path.read_bytes() == b"weights" and os.listdir(tmp_path) == [path.name]


def test_names_of_any_length_and_of_bytes_are_written(tmp_path):
    for name in ("x" * 255, b"\xff\xfe.dcz", ".hidden"):
        path = os.path.join(os.fsencode(tmp_path) if isinstance(name, bytes) else tmp_path, name)
        deepcomp.save({"w": np.ones(3)}, path)
        assert deepcomp.load(path)["w"].to_dense().sum() == 3
    assert len(os.listdir(tmp_path)) == 3


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755])
def test_permissions_and_owner_of_the_old_file_are_kept(tmp_path, mode):
    path = tmp_path / "m.dcz"
    deepcomp.save({}, path)
    path.chmod(mode)
    if IS_ROOT:
        os.chown(path, NOBODY, NOBODY)
    before = path.stat()
    deepcomp.save({"w": np.ones(3)}, path)
    after = path.stat()
    assert after.st_ino != before.st_ino
    for what in ("st_mode", "st_uid", "st_gid"):
        assert getattr(after, what) == getattr(before, what)


def test_a_group_that_cannot_be_kept_gets_no_more_than_everybody(tmp_path):
    path = tmp_path / "m.dcz"
    deepcomp.save({}, path)
    path.chmod(0o664)
    with (
        mock.patch.object(files.os, "fchown", side_effect=PermissionError),
        mock.patch.object(files, "_status", lambda path: mock.Mock(st_mode=0o100664, st_gid=-5)),
    ):
        deepcomp.save({}, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_new_files_honour_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        deepcomp.save({}, tmp_path / "m.dcz")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "m.dcz").stat().st_mode) == 0o640


# What a file must not depend on, each in a process of its own; NPY_DISABLE_CPU_FEATURES makes
# NumPy add up in the order of another machine.
SURROUNDINGS = {
    "one": {"PYTHONHASHSEED": "1", "TZ": "UTC", "LC_ALL": "C", "DEEPCOMP_ISA": "portable"},
    "two": {
        "PYTHONHASHSEED": "2",
        "TZ": "Asia/Tokyo",
        "LC_ALL": "C.UTF-8",
        "PYTHONUTF8": "1",
        "OMP_NUM_THREADS": "3",
        "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL",
    },
    "three": {"PYTHONHASHSEED": "3", "DEEPCOMP_KERNELS": "reference", "LANG": "tr_TR.UTF-8"},
}

SAVE = """
    import os, sys, warnings
    os.umask(int(sys.argv[2], 8))
    import numpy as np, deepcomp
    rng = np.random.default_rng(5)
    weights = {"conv": rng.normal(size=(20, 9, 3, 3)), "\\u00e4/\\u03b2": rng.normal(size=(90, 70)),
               "half": rng.normal(size=(50, 40)).astype(np.float16), "bias": rng.normal(size=90),
               "ids": np.arange(300), "flags": rng.random((30, 30)) < 0.5}
    weights["tied"] = weights["conv"]
    settings = dict(bits={"conv*": 8, "*": 5}, std={"*": 0.7}, scope="global")
    packed = deepcomp.compress({k: v.astype("f4") if v.dtype == "f8" else v
                                for k, v in weights.items()}, **settings)
    metadata = dict.fromkeys({"b", "a", "c", "\\u00fc"}, "x")  # in the order of the hashes
    deepcomp.save(packed, "one.dcz", metadata)
    deepcomp.save(weights, "two.dcz", metadata, verify=True)
    deepcomp.save(deepcomp.load("one.dcz"), "three.dcz", verify=True)
"""


def test_the_same_model_gives_the_same_bytes_whatever_surrounds_it(tmp_path):
    digests = []
    for name, environment in SURROUNDINGS.items():
        folder = tmp_path / name
        folder.mkdir()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("DEEPCOMP")}
        inherited["PYTHONPATH"] = str(Path(deepcomp.__file__).parents[1])
        mask = "077" if name == "one" else "022"
        run(
            SAVE, "-", mask, cwd=folder, env={**inherited, "PYTHONWARNINGS": "ignore"} | environment
        )
        found = [hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())]
        assert len(found) == 3 and found[0] == found[1]  # "one", "three", "two"
        digests.append(found)
    assert digests[1:] == digests[:1] * (len(digests) - 1)


def test_verify_notices_each_kind_of_damage_between_memory_and_disk(old):
    model = {"first": noise(0), "weights": np.random.default_rng(0).normal(size=(190, 80))}
    sync = Replacement.sync

    def damage(position, value):
        def damaged(self):
            sync(self)
            with open(self.temporary, "r+b") as file:
                file.seek(position, os.SEEK_END if position < 0 else os.SEEK_SET)
                file.write(value)

        return mock.patch.object(Replacement, "sync", damaged)

    for position, value, message in [
        (5000, b"??", r"m\.dcz: tensor 'first': the page of bytes 0 to 65536.*expected.*found"),
        (262_200, b"??", r"m\.dcz: tensor 'weights': the page of bytes 262144 to"),
        (-60, b"??", r"m\.dcz: the index is damaged"),
        (0, b"??", r"m\.dcz: not a \.dcz file"),
    ]:
        for saved in (model, deepcomp.compress(model, bits=None)):
            with damage(position, value), pytest.raises(deepcomp.DczError, match=message):
                deepcomp.save(saved, old, verify=True)


def test_verify_notices_a_file_that_is_right_but_of_another_model(old):
    """The checksums are right: only the comparison can tell."""
    model = {"w": np.arange(1000, dtype=np.float32), "v": noise(0)}
    write = writer.Writer._write_checked

    def write_wrong(self, part):
        wrong = bytearray(part)
        if len(wrong) == 200_000:
            wrong[77] ^= 1
        write(self, wrong)

    message = r"m\.dcz: tensor 'v': read back other.*byte 77 of its (entries|section): expected"
    for saved in (model, deepcomp.compress(model, bits=None)):
        with (
            mock.patch.object(writer.Writer, "_write_checked", write_wrong),
            pytest.raises(deepcomp.DczError, match=message),
        ):
            deepcomp.save(saved, old, verify=True)
    encode_index = writer.encode_index
    wrong = [lambda index: encode_index(index).replace(b'"name":"w"', b'"name":"x"')]
    with (
        mock.patch.object(
            writer, "encode_index", lambda index: (wrong or [encode_index]).pop()(index)
        ),
        pytest.raises(deepcomp.DczError, match=r"m\.dcz: the index that was read back is not"),
    ):
        deepcomp.save(model, old, verify=True)


def test_verify_notices_a_model_that_changes_while_it_is_saved(old):
    from deepcomp import pipeline

    array = np.random.default_rng(0).normal(size=(90, 80)).astype(np.float32)

    def encode_and_change(weight):
        record, section = encode_tensor(weight)
        array[7, 5] += 1
        return record, section

    encode_tensor = pipeline.encode_tensor
    with (
        mock.patch.object(pipeline, "encode_tensor", encode_and_change),
        pytest.raises(deepcomp.DczError, match=r"m\.dcz: tensor 'w': read back other than it was"),
    ):
        deepcomp.save({"w": array}, old, verify=True)


def test_verified_files_are_those_of_a_plain_save(tmp_path):
    model = {
        "w": np.random.default_rng(0).normal(size=(200, 100)).astype(np.float32),
        "empty": np.zeros((0, 3)),
        "": noise(0),
        "flags": np.ones(700, bool),
    }
    model["tied"] = model["w"]
    for saved in (model, deepcomp.compress(model, sparsity=0.9), {}):
        deepcomp.save(saved, tmp_path / "plain.dcz")
        deepcomp.save(saved, tmp_path / "verified.dcz", verify=True)
        assert (tmp_path / "plain.dcz").read_bytes() == (tmp_path / "verified.dcz").read_bytes()


# --- what the system says of the disk ---

NOT_SUPPORTED = [errno.EINVAL, errno.ENOTSUP, errno.EACCES]
TOLD = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE]


def failing_on_folders(function, number):
    """Let a function of `os` fail for folders, which are given by path or descriptor."""

    def call(where, *arguments, **options):
        if os.path.isdir(where):
            raise OSError(number, os.strerror(number))
        return function(where, *arguments, **options)

    return mock.patch.object(os, function.__name__, call)


WRITERS = {
    "save": lambda path: deepcomp.save({"w": np.ones(3)}, path),
    "save verify": lambda path: deepcomp.save({"w": np.ones(3)}, path, verify=True),
    "write_checkpoint": lambda path: deepcomp.exporters.write_checkpoint(
        deepcomp.compress({"w": np.ones(3)}), path, "safetensors"
    ),
    "write_whole": lambda path: files.write_whole(str(path), b"abc"),
}


@pytest.mark.parametrize("number", TOLD)
@pytest.mark.parametrize("how", WRITERS)
def test_a_folder_that_cannot_be_synced_is_an_error(tmp_path, how, number):
    path = tmp_path / "m.dcz"
    path.write_bytes(b"old")
    message = rf"written, but its folder could not be synced: {os.strerror(number)}: '.*m\.dcz'"
    for function in (os.fsync, os.open):
        with failing_on_folders(function, number), pytest.raises(OSError, match=message) as caught:
            WRITERS[how](path)
        assert caught.value.errno == number
        assert os.listdir(tmp_path) == ["m.dcz"] and path.read_bytes() != b"old"


@pytest.mark.parametrize("number", NOT_SUPPORTED)
@pytest.mark.parametrize("how", WRITERS)
def test_a_system_that_does_not_sync_folders_is_no_error(tmp_path, how, number):
    for function in (os.fsync, os.open):
        with failing_on_folders(function, number):
            WRITERS[how](tmp_path / "m.dcz")
        (tmp_path / "m.dcz").unlink()  # it is there


def test_a_large_job_whose_folder_cannot_be_synced_does_not_end_as_if_all_were_well(tmp_path):
    np.savez(tmp_path / "m.npz", w=np.eye(64))
    paths = tmp_path / "m.npz", tmp_path / "packed"
    write_shard = part_tasks._write_shard

    def write_on_a_broken_disk(*arguments):
        with failing_on_folders(os.fsync, errno.EIO):
            write_shard(*arguments)

    with (
        mock.patch.object(part_tasks, "_write_shard", write_on_a_broken_disk),
        pytest.raises(OSError, match=r"could not be synced: Input/output error: '.*-00001\.dcz'"),
    ):
        deepcomp.compress_checkpoint(*paths)
    np.testing.assert_array_equal(deepcomp.compress_checkpoint(*paths)["w"].to_dense(), np.eye(64))


def test_permissions_that_cannot_be_given_are_an_error_before_the_old_file_is_touched(old):
    broken = OSError(errno.EIO, os.strerror(errno.EIO))
    with mock.patch.object(os, "fchmod", side_effect=broken), pytest.raises(OSError, match="Input"):
        deepcomp.save({"w": np.ones(3)}, old)


@pytest.mark.parametrize("number", [*NOT_SUPPORTED, errno.EPERM])
def test_a_system_without_permissions_is_no_error(tmp_path, number):
    deepcomp.save({}, tmp_path / "m.dcz")
    refusing = OSError(number, os.strerror(number))
    with mock.patch.object(os, "fchmod", side_effect=refusing):
        deepcomp.save({"w": np.ones(3)}, tmp_path / "m.dcz")
    assert list(deepcomp.load(tmp_path / "m.dcz")) == ["w"]
