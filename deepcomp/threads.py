"""Threads that are kept, and work that is shared out among them."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

WORK_A_THREAD = 1 << 20  # multiplications, some 100 us: to wake a thread takes a third of it


@cache
def threads() -> ThreadPoolExecutor:
    """Return threads that are kept: to start one takes as long as to decode a million entries."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="deepcomp")


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
