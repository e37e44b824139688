"""The pages of docs/: what they print is what one gets, and all that is public is named.

The Python and console blocks of a page are run from top to bottom in an empty folder, and their
output is compared; only times may be others.
"""

import doctest
import importlib
import os
import re
import shlex
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from deepcomp import _kernels

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PROGRAMS = {"dcz": "main", "dcz-inspect": "inspect_main"}
MODULES = ["deepcomp.exporters", "deepcomp.hf", "deepcomp.importers", "deepcomp.importers.han"]
MODULES += [
    "deepcomp",
    "deepcomp.nn",
    "deepcomp.nn.channels",
    "deepcomp.nn.criteria",
    "deepcomp.nn.distillation",
    "deepcomp.nn.schedules",
    "deepcomp.nn.thinet",
    "deepcomp.page",
    "deepcomp.plot",
]
TIMES = re.compile(r"[\d.,]+(?= (s|ms)\b)")
COUNTS = " ".join(map(str, range(999))).encode()


class Checker(doctest.OutputChecker):
    """Compare all but times: those of a page are of the machine on which it was written."""

    def check_output(self, want, got, optionflags):
        return super().check_output(TIMES.sub("N", want), TIMES.sub("N", got), optionflags)


def examples_of(page):
    """Turn a page into a doctest: what is not run becomes blank, so that lines keep their numbers.

    A command ``$ dcz ...`` becomes a call of `shell`, and a blank line of its output what doctest
    wants instead.
    """
    lines, language = [], None
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = re.match(r"\s*```+(\S*)", line)
        if fence:
            language = None if language is not None else fence[1]
            lines.append("")
        elif language == "console" and line.startswith("$ "):
            lines.append(f">>> shell({line[2:]!r})")
        elif language == "console":
            lines.append(line or "<BLANKLINE>")
        elif language == "python":
            lines.append(line)
        else:
            lines.append("")
    return "\n".join(lines) + "\n"


def shell(command):
    """Run ``dcz``, in this process: there is no time to start others."""
    from deepcomp import cli

    program, *arguments = shlex.split(command)
    getattr(cli, PROGRAMS[program])(arguments)


RUN = [page for page in PAGES if ">>>" in examples_of(page)]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_a_page_prints_what_one_gets(page, tmp_path, monkeypatch):
    text = examples_of(page)
    pytest.importorskip("torch")
    info = _kernels.build_info()
    if info["kernels"] != "native" or info["debug"]:
        pytest.skip("one build is enough: other tests compare the results of all")
    if zlib.crc32(zlib.compress(COUNTS, 9)) != 2456340193:
        pytest.skip("another make of zlib: sizes of files are others by some bytes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    test = doctest.DocTestParser().get_doctest(text, {"shell": shell}, page.stem, str(page), 0)
    report: list[str] = []
    runner = doctest.DocTestRunner(Checker(), verbose=False, optionflags=FLAGS)
    runner.run(test, out=report.append)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")  # what the page drew
    assert not runner.failures, "".join(report)
    assert runner.tries > 0


def test_every_python_block_is_one_that_is_run():
    for page in PAGES:
        for block in re.findall(r"^```python\n(.*)$", page.read_text("utf-8"), re.MULTILINE):
            assert block.startswith(">>> "), f"{page.name}: {block}"


def test_every_public_name_is_in_the_reference():
    text = (DOCS / "api.rst").read_text(encoding="utf-8")
    whole = set(re.findall(r"^\.\. automodule:: (\S+)", text, re.MULTILINE))
    named = set(re.findall(r"^\.\. auto\w+:: (\S+)", text, re.MULTILINE))
    public = set()
    for module in map(importlib.import_module, MODULES):
        names = getattr(module, "__all__", None) or [
            name
            for name, value in vars(module).items()
            if name[0] != "_" and getattr(value, "__module__", None) == module.__name__
        ]
        found = {name: getattr(module, name) for name in names if name != "__version__"}
        public |= {f"{module.__name__}.{name}" for name in found if callable(found[name])}
    assert len(public) > 25
    assert {name for name in public if name.rpartition(".")[0] not in whole} <= named


RESOLVE = """
import os, sys
import numpy, torch  # once; what is tested is imported anew for each name
for name in sys.argv[1:]:
    if not os.fork():
        import deepcomp
        try:
            eval(name)
        except AttributeError as error:
            print(f"{name}: {error}", flush=True)
        os._exit(0)
    os.wait()
"""


def test_every_name_of_the_reference_is_there_after_import_deepcomp():
    text = (DOCS / "api.rst").read_text(encoding="utf-8")
    names = re.findall(r"^\.\. auto\w+:: ([\w.]+)", text, re.MULTILINE)
    pytest.importorskip("torch")
    command = [sys.executable, "-c", RESOLVE, *names]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(names) > 25 and result.stdout == ""


def test_pictures_are_those_that_their_script_draws(tmp_path):
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, DOCS / "pictures.py", tmp_path]
    subprocess.run(command, check=True, env=environment)
    drawn = {path.name: path.read_text() for path in tmp_path.glob("*.svg")}
    assert drawn
    assert drawn == {name: (DOCS / "images" / name).read_text() for name in drawn}
