"""Make deliberate faults, one at a time, and see which ones the tests notice: ``make mutants``.

The tree is copied to build/mutants, once for each of two processes. For each fault of faults.py its
text is replaced there, the native module that it is in is built anew, the test files named with it
are run, and the fault is taken back. The exit status is 1 if a fault was not noticed that is not
said to be equivalent; an error says if the table does not fit the tree any more.
"""

import argparse
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from faults import FAULTS, ROOT

FOLDER = ROOT / "build" / "mutants"
WHOLE = FOLDER / "whole"
NOT_COPIED = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "*.so")
N_PROCESSES = 2
SECONDS = 300  # of the tests of a fault, which take half a minute at most
ALL_SECONDS = 3600  # of a build
# Of all modules or one, and as fast as the compiler can: what is wrong is wrong without -O3 too.
SETUP = {
    'native.glob("*.pyx")': 'native.glob(os.environ.get("MODULE", "*") + ".pyx")',
    '["-O3", "-g0"]': '["-O0", "-g0"]',
}
ISAS = ("portable", "avx2", "avx512")
NOTICED = ("noticed", "signal", "time-out")


class BrokenTableError(Exception):
    """Say what in the table of faults does not fit the tree."""


def replace_once(path, old, new):
    """Replace a text that must be there exactly once."""
    text = path.read_text("utf-8")
    if text.count(old) != 1:
        raise BrokenTableError(f"{path}: expected once, found {text.count(old)} times: {old!r}")
    path.write_text(text.replace(old, new), "utf-8")


def run(command, tree, seconds, **variables):
    """Run a command in a tree; return its exit status (None: out of time) and its output."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("DEEPCOMP_")}
    env |= {"PYTHONPATH": str(tree), **variables}
    process = subprocess.Popen(
        command, cwd=tree, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=seconds)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the processes that a test started
        process.communicate()
        return None, ""


def build(tree, module="*"):
    """Build one native module in place, or all."""
    shutil.rmtree(tree / "build", ignore_errors=True)  # has copies of headers, taken if not older
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    status, output = run(command, tree, ALL_SECONDS, MODULE=module)
    if status != 0:
        raise BrokenTableError(f"{tree}: {module} was not built:\n{output}")


def run_tests(tree, tests, seconds):
    """Run tests up to the first that fails; return the exit status and the output."""
    # The script, not `python -m pytest`: that one puts the current folder before PYTHONPATH.
    pytest = Path(sys.executable).with_name("pytest")
    command = [pytest, "-x", "-q", "-p", "no:cacheprovider", "-m", "not browser", *tests]
    return run(command, tree, seconds, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")  # they take 3 s to load


def prepare(faults):
    """Copy the tree, see that all faults fit, and build it."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    shutil.copytree(ROOT, WHOLE, ignore=NOT_COPIED)
    for fault in faults:
        replace_once(WHOLE / fault.path, fault.old, fault.new)
        shutil.copy2(ROOT / fault.path, WHOLE / fault.path)
    for old, new in SETUP.items():
        replace_once(WHOLE / "setup.py", old, new)
    build(WHOLE)
    where = "import deepcomp, sys; sys.exit(not deepcomp.__file__.startswith(sys.argv[1]))"
    status, _ = run([sys.executable, "-c", where, f"{WHOLE}/"], WHOLE, SECONDS)
    if status != 0:
        raise BrokenTableError(f"another deepcomp is imported than that of {WHOLE}")
    for i in range(N_PROCESSES):
        shutil.copytree(WHOLE, FOLDER / str(i))


def attempt(number, fault, tree):
    """Make a fault and run its tests; return what became of it, and the test that noticed it."""
    tests = [f"tests/test_{name}.py" for name in fault.tests.split()]
    path = tree / fault.path
    replace_once(path, fault.old, fault.new)
    os.utime(path, (number, number))  # no bytecode of another text has this time
    try:
        if fault.module:
            build(tree, fault.module)
        status, output = run_tests(tree, tests, SECONDS)
    finally:
        shutil.copy2(WHOLE / fault.path, path)
        for library in (WHOLE / "deepcomp" / "_native").glob(f"{fault.module or '-'}.*.so"):
            shutil.copy2(library, tree / library.relative_to(WHOLE))
    if status == 0:
        return "survived", tests
    if status is None:
        return "time-out", tests
    if status < 0:
        return "signal", tests
    found = re.search(r"^(?:FAILED|ERROR) (tests/[\w/.]+(?:::\w+)*)", output, re.MULTILINE)
    if status > 2 or not found:
        raise BrokenTableError(f"{fault.path}: {fault.tests}: pytest says\n{output[-2000:]}")
    return "noticed", [found[1]]


def check_tests(tests):
    """Raise BrokenTableError if tests that noticed a fault fail without one as well."""
    status, output = run_tests(WHOLE, sorted(tests), ALL_SECONDS)
    if status != 0:
        raise BrokenTableError(f"these tests fail without a fault too:\n{output[-4000:]}")


def best_isa():
    command = [sys.executable, "-c", "from deepcomp._native import cpu; print(cpu.best_isa())"]
    return int(run(command, WHOLE, SECONDS)[1])


def campaign(faults):
    """Try all faults, two at a time; return how many became what."""
    isa, trees = best_isa(), queue.SimpleQueue()
    for i in range(N_PROCESSES):
        trees.put(FOLDER / str(i))

    def work(numbered):
        number, fault = numbered
        if ISAS.index(fault.isa) > isa:
            return "not run", [f"needs {fault.isa}"], 0
        tree, started = trees.get(), time.monotonic()
        try:
            outcome, tests = attempt(number, fault, tree)
        finally:
            trees.put(tree)
        if fault.why:
            outcome = "wrongly called equivalent" if outcome in NOTICED else "equivalent"
        return outcome, tests, time.monotonic() - started

    outcomes, noticing = Counter(), set()
    with ThreadPoolExecutor(N_PROCESSES) as pool:
        for fault, done in zip(faults, pool.map(work, enumerate(faults, 1)), strict=True):
            outcome, tests, seconds = done
            outcomes[outcome] += 1
            noticing.update(tests if outcome in NOTICED else ())
            old, new = (" ".join(text.split()) for text in (fault.old, fault.new))
            print(f"{outcome:9} {fault.path}: {old} -> {new}")
            print(f"          {seconds:.0f} s: {' '.join(tests)}", flush=True)
    if noticing:
        check_tests(noticing)
    return outcomes


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("only", nargs="*", help="parts of paths: only faults in these files")
    only = parser.parse_args().only
    faults = [f for f in FAULTS if not only or any(part in f.path for part in only)]
    started = time.monotonic()
    prepare(faults)
    print(f"prepared in {time.monotonic() - started:.0f} s; {len(faults)} faults", flush=True)
    outcomes = campaign(faults)
    n_noticed = sum(outcomes[name] for name in NOTICED)
    n_tried = outcomes.total() - outcomes["equivalent"] - outcomes["not run"]
    details = ", ".join(f"{n} {name}" for name, n in outcomes.items())
    print(
        f"{n_noticed} of {n_tried} faults noticed ({details}) in {time.monotonic() - started:.0f} s"
    )
    sys.exit(n_noticed < n_tried)


if __name__ == "__main__":
    try:
        main()
    except BrokenTableError as error:
        sys.exit(f"tests/mutants/faults.py: {error}")
