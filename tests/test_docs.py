"""The pages of docs/ print what one gets, name everything that is public, and link to what is there.

In a page, Python blocks with prompts and console blocks are run from top to bottom, in an empty
folder, and their output is compared (``...`` stands for anything).
"""

import contextlib
import doctest
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import deepcomp

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PROGRAMS = {"dcz": "main", "dcz-inspect": "inspect_main"}


def examples_of(page):
    """Turn a page into a doctest: all but the blocks that are run is blank, lines keep their numbers.

    A command ``$ dcz ...`` becomes a call of `shell`.
    """
    lines, language = [], None
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = re.match(r"\s*```+(\S*)", line)
        if fence:
            language = None if language is not None else fence[1]
            lines.append("")
        elif language == "console" and line.startswith("$ "):
            lines.append(f">>> shell({line[2:]!r})")
        elif language in ("python", "console"):
            lines.append(line)
        else:
            lines.append("")
    return "\n".join(lines) + "\n"


def shell(command):
    """Run ``dcz`` in this process (a test has no time to start others), anything else by a shell."""
    from deepcomp import cli

    name, *arguments = shlex.split(command)
    if name in PROGRAMS and not set("|<>;&") & set(command):
        with contextlib.suppress(SystemExit):  # of --help
            getattr(cli, PROGRAMS[name])(arguments)
        return
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    print(result.stdout, end="")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_prints_what_one_gets(page, tmp_path, monkeypatch):
    text = examples_of(page)
    if ">>>" not in text:
        pytest.skip("nothing to run")
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    test = doctest.DocTestParser().get_doctest(text, {"shell": shell}, page.stem, str(page), 0)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)
    assert runner.tries > 0


def test_every_public_name_is_in_the_reference():
    text = (DOCS / "api.rst").read_text(encoding="utf-8")
    named = set(re.findall(r"^\.\. auto\w+:: (\S+)", text, re.MULTILINE))
    public = {f"deepcomp.{name}" for name in deepcomp.__all__ if name != "__version__"}
    public |= {f"deepcomp.nn.{name}" for name in deepcomp.nn.__all__}
    public |= {"deepcomp.hf.save_pretrained", "deepcomp.hf.from_pretrained"}
    for package in ("importers", "exporters"):
        if importlib.util.find_spec(f"deepcomp.{package}"):
            module = importlib.import_module(f"deepcomp.{package}")
            public |= {f"deepcomp.{package}.{name}" for name in module.__all__}
    assert public <= named


def test_pictures_are_those_that_their_script_draws(tmp_path):
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, DOCS / "pictures.py", tmp_path]
    subprocess.run(command, check=True, env=environment)
    drawn = {path.name: path.read_text() for path in tmp_path.glob("*.svg")}
    assert drawn
    assert drawn == {name: (DOCS / "images" / name).read_text() for name in drawn}


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert (DOCS / target).exists(), f"{page.name}: {target}"
