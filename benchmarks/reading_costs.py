"""What a byte of a file can cost its reader at most, in memory and CPU time.

``python benchmarks/reading_costs.py`` prints a line for each kind of content.
"""

import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from deepcomp.errors import DczError
from deepcomp.index import decode_index
from deepcomp.records import TensorRecord
from deepcomp.sections import read_section

NBYTES = 8_000_000
RAW = {"dtype": "bool", "layout": "raw", "name": "", "shape": [0]}


def index_of(*tensors, **metadata):
    """The JSON of an index."""
    index = {"metadata": metadata, "tensors": tensors}
    return json.dumps(index, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def many_aliases():
    """An index of one tensor and aliases of it."""
    aliases = [{"alias": "", "name": f"{i:x}"} for i in range(NBYTES // 28)]
    return index_of(RAW, *aliases)


INDEXES = {
    "one long name": lambda: index_of(RAW | {"name": "a" * NBYTES}),
    "one long name, not all ASCII": lambda: index_of(RAW | {"name": "\U0001f600" + "a" * NBYTES}),
    "much metadata": lambda: index_of(**{f"{i:x}": "" for i in range(NBYTES // 11)}),
    "many tensors": lambda: index_of(*[RAW | {"name": f"{i:x}"} for i in range(NBYTES // 57)]),
    "many aliases": many_aliases,
    "an array of arrays": lambda: index_of({"shape": [[]] * (NBYTES // 3)}),
    "an array of numbers": lambda: index_of({"shape": [0] * (NBYTES // 2)}),
}


def sparse(numel, data, nnz, codebook):
    """A tensor of uint8 in blocks of 4096, with its section."""
    return TensorRecord("w", "uint8", (numel,), "sparse", len(data), nnz, codebook, 2, 4096), data


def huffman(n):
    """A tensor with one kept entry in each block, whose gaps take a byte."""
    return sparse(n << 12, b"\5\2\x11\1\0" + b"\1\0\1" * n + b"\0" * n, n, 1)


def constant(n):
    """A tensor of one value."""
    data = b"\0\1\0" + bytes(n)
    return TensorRecord("w", "uint8", (n << 12,), "dense", len(data), 0, 1, None, 4096), data


DIRECTORIES = {
    "blocks of one value": lambda: constant(NBYTES // 8),
    "blocks without symbols": lambda: sparse(NBYTES << 9, bytes(2 + NBYTES // 4), 0, 0),
    "blocks of a byte": lambda: huffman(NBYTES // 16),
}


def measure(what, data, action):
    """Print what an action costs for each byte of the data."""
    before, start = peak(), time.process_time()
    with contextlib.suppress(DczError):
        action()
    seconds, nbytes = time.process_time() - start, peak() - before
    per_byte = f"{nbytes / len(data):5.1f} bytes, {1e9 * seconds / len(data):6.0f} ns"
    print(f"{what:45}{per_byte}", flush=True)


def peak():
    """The most memory that this process has had (`ru_maxrss` begins with its parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def main():
    """Measure all, or, in a process of its own, the one that is named."""
    if sys.argv[1:2] == ["index"]:
        text = Path(sys.argv[3]).read_bytes()
        measure(f"inflated index, {sys.argv[2]}", text, lambda: decode_index(text))
        return
    if sys.argv[1:2] == ["section"]:
        record, data = DIRECTORIES[sys.argv[2]]()
        measure(f"section, {sys.argv[2]}", data, lambda: read_section(record, memoryview(data)))
        return
    command = [sys.executable, __file__]
    with tempfile.TemporaryDirectory() as folder:
        for what, make in INDEXES.items():
            path = Path(folder, "index.json")
            path.write_bytes(make())
            subprocess.run([*command, "index", what, str(path)], check=True)
    for what in DIRECTORIES:
        subprocess.run([*command, "section", what], check=True)


if __name__ == "__main__":
    main()
