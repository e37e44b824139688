"""Compress AlexNet in a process of its own and print what memory it takes, as JSON.

Run by bench_alexnet.py. The kernel's own count for this program image is read: the `ru_maxrss` of
`getrusage` begins with the memory of the process that started this one. Linux only.
"""

import json
from pathlib import Path

import deepcomp

from .shapes import ALEXNET_SETTINGS, alexnet


def memory(key: str) -> int:
    """Return VmRSS (now) or VmHWM (the peak until now) in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"no {key} in /proc/self/status")


def main() -> None:
    before = memory("VmRSS")
    state_dict = alexnet().state_dict()
    made = memory("VmRSS")
    packed = deepcomp.compress(state_dict, **ALEXNET_SETTINGS)
    peak = memory("VmHWM")
    dense = sum(t.numel() * t.element_size() for t in state_dict.values())
    assert len(packed) == len(state_dict)
    print(json.dumps({"before": before, "made": made, "peak": peak, "dense": dense}))


if __name__ == "__main__":
    main()
