"""Options, fixtures, and the writing of RESULTS.md at the end."""

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before NumPy and torch are imported

from .report import Results, write_results  # noqa: E402

HERE = Path(__file__).parent
RESULTS = pytest.StashKey[Results]()
LOAD = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the benchmarks."""
    parser.addoption(
        "--data",
        metavar="DIR",
        default=os.environ.get("DEEPCOMP_DATA"),
        help="folder with resnet20-cifar10.safetensors and resnet32-cifar10.safetensors "
        "(default: the environment variable DEEPCOMP_DATA)",
    )
    parser.addoption(
        "--results",
        metavar="FILE",
        default=HERE / "RESULTS.md",
        help="where to write the results (default: RESULTS.md beside the benchmarks)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begin with no rows."""
    config.stash[RESULTS] = Results()
    config.stash[LOAD] = os.getloadavg()[0]


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Results:
    """Return the rows of this run, to add to."""
    return request.config.stash[RESULTS]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data(request: pytest.FixtureRequest) -> Path:
    """Return the folder with real networks, or skip the test."""
    folder = request.config.getoption("--data")
    if not folder:
        pytest.skip("needs a folder with data: --data DIR or the variable DEEPCOMP_DATA")
    return Path(folder)


@pytest.fixture
def all_cores() -> Iterator[int]:
    """Let this process use every core that there is, for one test; return their number."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield len(os.sched_getaffinity(0))
    finally:
        os.sched_setaffinity(0, before)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Write RESULTS.md, and name the bars that were missed."""
    results = config.stash[RESULTS]
    not_measured = [
        (_test(report), why)
        for kind in ("skipped", "failed", "error")
        for report in terminalreporter.stats.get(kind, [])
        for why in [_reason(report) if kind == "skipped" else kind]
    ]
    if not results.groups and not not_measured:
        return
    n_left_out = len(terminalreporter.stats.get("deselected", []))
    if n_left_out:
        not_measured.append((f"{n_left_out} other(s)", "not selected"))
    path = Path(config.getoption("--results"))
    load = f"load average {config.stash[LOAD]:.2f} before, {os.getloadavg()[0]:.2f} after"
    write_results(path, results, _command(config), load, not_measured)
    terminalreporter.section("bars")
    for group, row in results.missed:
        terminalreporter.line(f"missed: {group}: {row.what}: {row.ratio or row.figure} ({row.bar})")
    terminalreporter.line(f"{len(results.missed)} missed; all rows are in {path.name}")


def _test(report: pytest.TestReport) -> str:
    return report.nodeid.rpartition("/")[2]


def _reason(report: pytest.TestReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def _command(config: pytest.Config) -> str:
    """Return the command of this run; folders of this machine are left out."""
    arguments, hidden = [], False
    for argument in map(str, config.invocation_params.args):
        option, equals, _ = argument.partition("=")
        takes_path = option in ("--data", "--results")
        if hidden:
            argument = "DIR"
        elif takes_path and equals:
            argument = f"{option}=DIR"
        elif os.path.isabs(argument):
            argument = os.path.relpath(argument)
        hidden = takes_path and not equals
        arguments.append(shlex.quote(argument))
    program = os.path.basename(sys.argv[0])
    return " ".join(["python -m pytest" if program == "__main__.py" else program, *arguments])
