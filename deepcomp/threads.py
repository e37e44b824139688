"""Threads that are kept, and work that is shared out among them."""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

WORK_A_THREAD = 1 << 20  # multiplications, some 100 us: to wake a thread takes a third of it


_QUOTAS = (  # of control groups, version 2 and 1, as a container sees its own
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


def n_cpus() -> int:
    """Return how many processors this process may use, at least 1."""
    has_affinity = hasattr(os, "sched_getaffinity")
    n = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    for paths in _QUOTAS:
        try:
            quota, period = map(int, " ".join(map(_text, paths)).split())
        except (OSError, ValueError):  # not there, or "max"
            continue
        if quota > 0 and period > 0:  # -1: no quota
            n = min(n, math.ceil(quota / period))
    return max(1, n)


def _text(path: str) -> str:
    with open(path) as file:
        return file.read()


@cache
def threads() -> ThreadPoolExecutor:
    """Return threads that are kept: to start one takes as long as to decode a million entries."""
    return ThreadPoolExecutor(n_cpus(), thread_name_prefix="deepcomp")


if hasattr(os, "register_at_fork"):  # a forked process has none of them
    os.register_at_fork(after_in_child=threads.cache_clear)


def share(work: Callable[[int, int], None], n: int, n_products: int, n_threads: int) -> None:
    """Call work(first, last) for parts of range(n), in this thread and others."""
    n_threads = max(1, min(n_threads, n_products // WORK_A_THREAD, n))
    bounds = [n * i // n_threads for i in range(n_threads + 1)]
    others = [threads().submit(work, *bounds[i : i + 2]) for i in range(1, n_threads)]
    try:
        work(bounds[0], bounds[1])
    finally:
        wait(others)  # nothing is written any more when this returns
    for other in others:
        other.result()
