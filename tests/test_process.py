"""dcz as a process: pipes, signals, terminals, exit statuses, and how little it imports."""

import os
import pty
import signal
import subprocess
import sys

import numpy as np
import pytest

import deepcomp

DCZ = f"'{sys.executable}' -m deepcomp"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the current folder, with a checkpoint, a file made from it, and a damaged one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_COLOR", raising=False)
    weight = np.random.default_rng(0).normal(size=(50, 80)).astype(np.float32)
    np.savez("model.npz", weight=weight)
    deepcomp.save(deepcomp.compress({"weight": weight}), "model.dcz")
    data = bytearray((tmp_path / "model.dcz").read_bytes())
    data[20] ^= 1
    (tmp_path / "bad.dcz").write_bytes(data)
    return tmp_path


def shell(command, **options):
    """Run a line of a shell in which `dcz` is the command."""
    line = f'dcz() {{ {DCZ} "$@"; }}\n{command}'
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, **options)


def test_exit_statuses_reach_the_shell(folder):
    result = shell(
        "dcz verify model.dcz; echo $?; dcz verify bad.dcz; echo $?; dcz verify no.dcz; echo $?;"
        "dcz diff model.dcz model.dcz; echo $?; dcz diff model.dcz; echo $?"
    )
    numbers = [line for line in result.stdout.splitlines() if line.isdecimal()]
    assert numbers == ["0", "1", "2", "0", "2"]


def test_a_reader_that_has_seen_enough_is_no_error_and_does_not_hide_a_bad_file(folder):
    for verb in ("inspect", "inspect --json", "report -o -"):
        result = shell(f"dcz {verb} model.dcz | true; echo ${{PIPESTATUS[0]}}")
        assert (result.stdout, result.stderr) == ("0\n", "")
    result = shell("dcz verify model.dcz bad.dcz | true; echo ${PIPESTATUS[0]}")
    assert result.stdout == "1\n"
    assert result.stderr == "dcz verify: 1 of 2 files not whole\n"


def test_a_full_disk_is_one_line_and_status_2(folder):
    result = shell("dcz inspect model.dcz > /dev/full; echo $?")
    assert result.stdout == "2\n"
    assert result.stderr == "dcz inspect: No space left on device\n"


def test_dash_is_standard_input_and_output(folder):
    result = shell(
        "set -o pipefail; dcz compress - - < model.npz | tee out.dcz | dcz verify - &&"
        "dcz diff - model.dcz < out.dcz && cat out.dcz | dcz inspect - --json > out.json &&"
        "dcz decompress - - --format npz < out.dcz > out.npz"
    )
    assert result.returncode == 0 and result.stderr == ""
    assert result.stdout.startswith("standard input: whole (1 tensor, 1 page)\n1 tensor in both")
    assert (folder / "out.dcz").read_bytes() == (folder / "model.dcz").read_bytes()
    expected = deepcomp.load("model.dcz")["weight"].to_dense()
    assert np.array_equal(np.load("out.npz")["weight"], expected)


def test_piped_output_has_neither_bars_nor_colors(folder):
    result = shell("dcz compress model.npz out.dcz; dcz verify out.dcz bad.dcz")
    assert "\x1b" not in result.stdout and "\r" not in result.stdout
    assert result.stderr == "dcz verify: 1 of 2 files not whole\n"


def on_terminal(command, **environment):
    """Run a command on a terminal; return what it shows there, and its exit status."""
    ours, theirs = pty.openpty()
    variables = {"TERM": "xterm", **os.environ, **environment}
    with subprocess.Popen(
        ["sh", "-c", command], stdin=theirs, stdout=theirs, stderr=theirs, env=variables
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 1 << 16):
                shown += part
        except OSError:  # nobody holds the other end any more
            pass
        os.close(ours)
    return shown.decode(), process.returncode


def test_a_terminal_shows_colors_unless_no_color_is_set(folder):
    shown, status = on_terminal(f"{DCZ} verify model.dcz bad.dcz", TERM="xterm")
    assert status == 1 and "\x1b[32mwhole" in shown and "\x1b[31mDAMAGED\x1b[0m" in shown
    for variables in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b" not in on_terminal(f"{DCZ} verify model.dcz bad.dcz", **variables)[0]


def test_a_terminal_gets_no_binary_data(folder):
    shown, status = on_terminal(f"{DCZ} compress model.npz -")
    assert status == 2 and shown == (
        "dcz compress: a terminal shows no binary data: redirect it, or name a file\r\n"
    )


SLOW_WRITER = """
import os, signal, time
from deepcomp import cli, writer
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in jobs of the background
def add(self, *arguments, add=writer.Writer.add):
    add(self, *arguments)
    self._file._file.flush()
    print(os.getpid(), flush=True)
    time.sleep(600)
writer.Writer.add = add
cli.command()
"""


@pytest.mark.parametrize("target", ["model.dcz", "new.dcz"])
def test_ctrl_c_leaves_nothing_half_written_and_the_old_file_whole(folder, target):
    names = sorted(os.listdir())
    before = (folder / "model.dcz").read_bytes()
    command = [sys.executable, "-c", SLOW_WRITER, "compress", "model.npz", target, "--bits", "2"]
    with subprocess.Popen(  # a shell that says how the command ended
        ["bash", "-c", '"$@"; echo $?', "bash", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        pid = int(process.stdout.readline())
        assert any(name.endswith(".tmp") for name in os.listdir())
        os.kill(pid, signal.SIGINT)
        out, err = process.communicate()
    assert (out, err.splitlines()[0]) == ("130\n", "dcz compress: interrupted")
    assert "Traceback" not in err
    assert sorted(os.listdir()) == names
    assert (folder / "model.dcz").read_bytes() == before


def test_ctrl_c_ends_a_loop_of_the_shell(folder):
    """It ends by the signal, which is what a shell looks at, not at the number 130."""
    command = [sys.executable, "-c", SLOW_WRITER, "compress", "model.npz", "new.dcz"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        os.kill(int(process.stdout.readline()), signal.SIGINT)
        process.communicate()
    assert process.returncode == -signal.SIGINT


def test_no_heavy_module_is_imported_before_it_is_needed(folder):
    code = """
import contextlib, io, sys
from deepcomp.cli import main
for arguments in sys.argv[1:]:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main(arguments.split(","))
heavy = {"numpy", "torch", "tqdm", "shtab", "scipy", "safetensors", "rich"} & set(sys.modules)
sys.exit(", ".join(heavy) or None)
"""
    light = ["--help", "compress,--help", "--version", "inspect,model.dcz", "inspect,no.dcz"]
    light += ["compress,a", "compress,a,b,--bits,9", "verify,no.dcz", "decompress,no.dcz,out.pt"]
    light += ["compress,no.npz,no/out.dcz", "diff,no.dcz,no.dcz", "report,no.dcz,-o,x"]
    result = subprocess.run([sys.executable, "-c", code, *light], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    result = subprocess.run([sys.executable, "-c", code, "verify,model.dcz"], capture_output=True)
    assert b"numpy" in result.stderr and b"torch" not in result.stderr


def test_what_needs_numpy_says_so_and_inspect_does_not(folder):
    code = """
import sys
from deepcomp.cli import main
sys.modules["numpy"] = None
sys.exit([main(arguments.split(",")) for arguments in sys.argv[1:]])
"""
    verbs = [
        "inspect,model.dcz",
        "inspect,model.dcz,--verify",
        "verify,model.dcz",
        "plan,model.npz",
    ]
    verbs += ["compress,model.npz,o.dcz", "decompress,model.dcz,o.npz", "report,model.dcz,-o,o"]
    verbs += ["diff,model.dcz,model.dcz"]
    result = subprocess.run([sys.executable, "-c", code, *verbs], capture_output=True, text=True)
    *told, statuses = result.stderr.splitlines()
    assert statuses == str([0] + [2] * 7)
    names = ["inspect", "verify", "plan", "compress", "decompress", "report", "diff"]
    assert told == [f"dcz {name}: needs numpy: pip install numpy" for name in names]


def test_completion_knows_verbs_options_and_files(folder):
    pytest.importorskip("shtab")
    script = 'source <(dcz --print-completion bash)\nask() { COMP_WORDS=("$@"); '
    script += "COMP_CWORD=$(($# - 1)); COMPREPLY=(); _shtab_dcz; echo ${COMPREPLY[@]}; }\n"
    script += "ask dcz com; ask dcz compress --sp; ask dcz inspect --sort r\n"
    script += "ask dcz verify mod | tr ' ' '\\n' | sort"
    result = shell(script)
    assert result.stdout.splitlines() == [
        "compress",
        "--sparsity",
        "ratio",
        "model.dcz",
        "model.npz",
    ]


def test_completion_of_which_nobody_reads_the_rest_is_no_error(folder):
    pytest.importorskip("shtab")
    result = shell("dcz --print-completion bash | true; echo ${PIPESTATUS[0]}")
    assert (result.stdout, result.stderr) == ("0\n", "")
    result = shell("dcz --print-completion bash > /dev/full; echo $?")
    assert (result.stdout, result.stderr) == ("2\n", "dcz: No space left on device\n")


def test_completion_without_its_extra_names_it(folder):
    code = "import sys; sys.modules['shtab'] = None; from deepcomp.cli import main; main()"
    command = [sys.executable, "-c", code, "--print-completion", "bash"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "pip install 'deepcomp[completion]'" in result.stderr
