"""How many processors a process may use, and the threads that are kept."""

import os
import subprocess
import sys

import pytest

from deepcomp import threads

AFFINITY = hasattr(os, "sched_setaffinity")


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Let control groups be files of the test; return what writes them."""
    names = [tuple(str(tmp_path / name) for name in group) for group in (("max",), ("quota", "of"))]
    monkeypatch.setattr(threads, "_QUOTAS", names)

    def write(**texts):
        for name, text in texts.items():
            (tmp_path / name).write_text(text)

    return write


@pytest.mark.skipif(not AFFINITY, reason="needs affinity")
def test_processors_are_those_that_the_process_may_use_not_all_of_the_machine(groups, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 7, 11})
    assert threads.n_cpus() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # as on systems without it
    assert threads.n_cpus() == 64


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({}, 8),
        ({"max": "max 100000\n"}, 8),
        ({"max": "200000 100000\n"}, 2),
        ({"max": "250000 100000\n"}, 3),
        ({"max": "1000 100000\n"}, 1),
        ({"max": "9900000 100000\n"}, 8),
        ({"quota": "-1\n", "of": "100000\n"}, 8),
        ({"quota": "150000\n", "of": "50000\n"}, 3),
        ({"quota": "150000\n"}, 8),
        ({"max": "0 0\n"}, 8),
        ({"max": "nonsense\n"}, 8),
    ],
)
def test_a_quota_of_a_control_group_counts(groups, monkeypatch, texts, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    groups(**texts)
    assert threads.n_cpus() == expected


@pytest.mark.skipif(not AFFINITY, reason="needs affinity")
def test_a_process_on_one_processor_keeps_one_thread():
    """In a process of its own: the threads are made once."""
    script = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "os.cpu_count = lambda: 64\n"
        "import numpy as np, deepcomp\n"
        "from deepcomp.threads import threads\n"
        "w = np.random.default_rng(0).normal(size=(1500, 1500)).astype('f4')\n"
        "tensor = deepcomp.compress({'w': w}, sparsity=0.9)['w']\n"
        "assert (tensor.to_dense(n_threads=4) == tensor.to_dense()).all()\n"
        "print(threads()._max_workers, len(threads()._threads))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout == "1 1\n", result.stderr
