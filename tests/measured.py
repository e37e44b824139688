"""A process that measures what files do to their reader: see test_claims.py.

Standard input is JSON, a list of [path, name of an action]; for each a line is printed: what came
of it (the message of a DczError, or an exit status), CPU seconds, and bytes of memory.
"""

import json
import re
import sys
import time
import tracemalloc
from pathlib import Path

import torch

import deepcomp
from deepcomp.cli import inspect_main


def restore(path):
    packed, model = deepcomp.load(path), torch.nn.Module()
    shape = packed["w"].shape  # of one entry that stands for all: what is claimed takes no memory
    model.w = torch.nn.Parameter(torch.empty(()).expand(shape))
    packed.restore(model)


ACTIONS = {
    "load": lambda path: deepcomp.load(path),
    "load max_dense_bytes": lambda path: deepcomp.load(path, max_dense_bytes=1 << 30),
    "to_dense": lambda path: deepcomp.load(path)["w"].to_dense(),
    "to_csr": lambda path: deepcomp.load(path)["w"].to_csr(),
    "verify": lambda path: deepcomp.load(path)["w"].verify(),
    "state_dict": lambda path: deepcomp.load(path).state_dict(),
    "restore": restore,
    "inspect": lambda path: inspect_main([path]),
    "inspect --verify": lambda path: inspect_main([path, "--verify"]),
}


def outcome(action, path):
    """Return the message of a DczError, or an exit status, or None."""
    try:
        result = action(path)
    except deepcomp.DczError as error:
        return str(error)
    return result if isinstance(result, int) else None


def peak():
    """Return the most memory that this process has had; `ru_maxrss` begins with its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def measure(path, name):
    action = ACTIONS[name]
    outcome(action, path)  # imports, and what is made but once
    seconds = []
    for _ in range(3):  # the least of them is not due to others on this machine
        start = time.process_time()
        found = outcome(action, path)
        seconds.append(time.process_time() - start)
    before = peak()
    tracemalloc.start()  # counts what is asked for, be it touched or not
    outcome(action, path)
    traced = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found, min(seconds), max(traced, peak() - before)


if __name__ == "__main__":
    for task in json.load(sys.stdin):
        print(json.dumps([*task, *measure(*task)]))
