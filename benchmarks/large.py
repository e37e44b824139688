"""Checkpoints larger than memory: speed, memory, processes, clusters, kills (`make bench-large`).

Makes a checkpoint with the shapes of a Llama-like model, and compresses it in every way, each in a
process of its own whose memory is watched from outside. A script, not a part of `make bench`: it
takes some fifteen minutes and 10 GB of disk. `--scale 0.1` is for trying; `--only two dask` does
these alone, with the checkpoint that an earlier call has made. The ways take turns, a few rounds of
them, and the medians are compared: on a shared machine a second core comes and goes.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from large_checkpoint import make_checkpoint, shapes

SETTINGS = {"bits": 5, "sparsity": 0.5}
WAYS = {
    "one": ("loky", 1),
    "two": ("loky", 2),
    "threading": ("threading", 2),
    "dask": ("dask", 2),
    "ray": ("ray", 2),
}
KILLED = {"kills": "two", "dask-kills": "dask"}  # at moments in the time that this way takes
KILLS = 5
Known = dict[str, Any]  # "digest" of the result; "seconds" and "peaks" of each way

# As docs/large.md says. By default malloc gives each large array of a worker new pages, 100 times a
# second a worker stops to note what it does, and all look at themselves some 50 times a second.
DASK = {
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.monitor-interval": "1s",
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "10s",
}


@contextlib.contextmanager
def backend(name: str, n_jobs: int) -> Iterator[None]:
    """Start what joblib shall use: its own processes, a LocalCluster of Dask, or Ray."""
    import joblib

    with contextlib.ExitStack() as stack:
        if name == "dask":
            import dask
            from distributed import Client, LocalCluster

            dask.config.set(DASK)
            options = {"n_workers": n_jobs, "threads_per_worker": 1, "dashboard_address": None}
            stack.enter_context(Client(stack.enter_context(LocalCluster(**options))))
        if name == "ray":
            import ray
            from ray.util.joblib import register_ray

            options = {"include_dashboard": False, "log_to_driver": False}
            options["object_store_memory"] = 100_000_000  # tasks are small, and so are results
            ray.init(num_cpus=n_jobs, **options)
            stack.callback(ray.shutdown)
            register_ray()
        stack.enter_context(joblib.parallel_config(backend=name, n_jobs=n_jobs))
        yield


def compress_once(source: str, target: str, name: str, n_jobs: int) -> None:
    """Compress; print the seconds without the start of a cluster."""
    import deepcomp

    with backend(name, n_jobs):
        start = time.perf_counter()
        deepcomp.compress_checkpoint(source, target, shard_nbytes=1_000_000_000, **SETTINGS)
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


def run(source: Path, target: Path, name: str, n_jobs: int) -> tuple[float, float]:
    """Compress in another process; return the seconds, and the peak MB of the largest process."""
    shutil.rmtree(target, ignore_errors=True)
    process = start(source, target, name, n_jobs)
    peaks: dict[int, int] = {}
    watch = threading.Thread(target=_watch, args=(process, peaks))
    watch.start()
    output, _ = process.communicate()
    watch.join()
    if process.returncode:
        raise SystemExit(f"{name} with {n_jobs}: exit status {process.returncode}")
    return json.loads(output.splitlines()[-1])["seconds"], max(peaks.values()) / 1024


def start(source: Path, target: Path, name: str, n_jobs: int) -> "subprocess.Popen[str]":
    command = [sys.executable, __file__, "--once", str(source), str(target), name, str(n_jobs)]
    options = {"stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen(command, **options)


def _watch(process: "subprocess.Popen[str]", peaks: dict[int, int]) -> None:
    while process.poll() is None:
        for pid in [process.pid, *descendants(process.pid)]:
            with contextlib.suppress(OSError, ValueError, IndexError):
                status = Path(f"/proc/{pid}/status").read_text()
                peaks[pid] = int(status.split("VmHWM:")[1].split()[0])
        time.sleep(0.5)  # VmHWM is the most until now, and to look more often slows all down


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that these have started."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            parents[int(entry.name)] = int(fields[1])
    found, level = [], {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        found += sorted(level)
    return found


def digest(target: Path) -> str:
    """Return a checksum of all shards and their index."""
    result = hashlib.sha256()
    for path in sorted(target.glob("model*")):
        if "job" not in path.name:
            result.update(path.name.encode() + path.read_bytes())
    return result.hexdigest()[:16]


def wait_until_begun(target: Path) -> None:
    while not (target / "model.dcz.job.json").exists():
        time.sleep(0.01)


def kill_runs(source: Path, target: Path, seconds: float, expected: str) -> None:
    """Kill the whole run at random moments, call it again, and compare the bytes."""
    rng = random.Random(2016)
    for _ in range(KILLS):
        shutil.rmtree(target, ignore_errors=True)
        process = start(source, target, "loky", 2)
        moment = rng.uniform(0.1, 0.9) * seconds
        wait_until_begun(target)
        time.sleep(moment)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process = start(source, target, "loky", 2)
        process.communicate()
        assert process.returncode == 0 and digest(target) == expected
        print(f"killed after {moment:.1f} s, called again: identical bytes")


def kill_dask_workers(source: Path, target: Path, seconds: float, expected: str) -> None:
    """Kill one worker of Dask at random moments; the cluster starts another one."""
    rng = random.Random(16)
    for _ in range(KILLS):
        shutil.rmtree(target, ignore_errors=True)
        process = start(source, target, "dask", 2)
        moment = rng.uniform(0.1, 0.8) * seconds
        wait_until_begun(target)
        time.sleep(moment)
        workers = [pid for pid in descendants(process.pid) if _is_dask_worker(pid)]
        killed = bool(workers) and process.poll() is None
        if killed:
            os.kill(rng.choice(workers), signal.SIGKILL)
        process.communicate()
        assert process.returncode == 0 and digest(target) == expected
        what = "a Dask worker killed" if killed else "no worker to kill"
        print(f"{what} after {moment:.1f} s: identical bytes")


def _is_dask_worker(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def measure_opening(target: Path) -> None:
    """Time opening the result and reading one tensor, in a new process each time."""
    code = (
        "import sys, time, numpy, deepcomp, deepcomp.decode, deepcomp.values, deepcomp.storage\n"
        "start = time.perf_counter()\n"
        "packed = deepcomp.load(sys.argv[1])\n"
        "packed['model.norm.weight'].to_dense()\n"
        "print(1000 * (time.perf_counter() - start))"
    )
    command = [sys.executable, "-c", code, str(target)]
    times = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(9)
    ]
    print(f"open and read one tensor: {sorted(times)[4]:.1f} ms (median of 9 processes)")


def measure(source: Path, target: Path, ways: list[str], rounds: int, known: Known) -> None:
    """Compress in each way, in turns; compare the bytes. Keep the seconds and the peaks."""
    if "one" in ways:  # all others are compared with this one
        known.pop("digest", None)
    known["seconds"] |= {way: [] for way in ways}
    known["peaks"] |= {way: 0 for way in ways}
    for i in range(rounds):
        for way in ways if i % 2 == 0 else ways[::-1]:
            seconds, peak = run(source, target, *WAYS[way])
            known["seconds"][way].append(seconds)
            known["peaks"][way] = max(known["peaks"][way], peak)
            found = digest(target)
            assert found == known.setdefault("digest", found), f"{way}: other bytes"


def report(ways: list[str], numel: int, known: Known) -> None:
    """Print the medians of the seconds, and what they are against other ways."""
    medians = {way: median(seconds) for way, seconds in known["seconds"].items()}
    for way in ways:
        ratios = "".join(
            f", {medians[other] / medians[way]:4.2f}x {other}"
            for other in ("one", "two")
            if other in medians and way not in ("one", other)
        )
        print(
            f"{way:9} {WAYS[way][1]}: {medians[way]:6.1f} s, "
            f"{numel / medians[way] / 1e6:5.1f} M parameters/s, "
            f"at most {known['peaks'][way]:5.0f} MB in a process{ratios} "
            f"(runs: {', '.join(f'{s:.1f}' for s in known['seconds'][way])})"
        )


def report_result(target: Path, numel: int) -> None:
    nbytes = sum(path.stat().st_size for path in target.glob("model*"))
    print(f"{nbytes:,} bytes, {2 * numel / nbytes:.2f}x smaller; the same in all runs")
    measure_opening(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument(
        "--folder", type=Path, default=Path("build/large"), help="the checkpoint stays there"
    )
    everything = [*WAYS, *KILLED]
    parser.add_argument(
        "--only",
        nargs="*",
        choices=everything,
        default=everything,
        metavar="WAY",
        help=f"of {', '.join(everything)}; earlier calls are compared with",
    )
    parser.add_argument("--rounds", type=int, default=3, help="of all ways; medians are printed")
    parser.add_argument("--once", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        compress_once(*options.once[:3], int(options.once[3]))
        return
    source, target = options.folder / f"source-{options.scale}", options.folder / "target"
    make_checkpoint(source, options.scale)
    numel = sum(int(np.prod(shape)) for shape in shapes(options.scale).values())
    print(f"{numel:,} parameters, {len(shapes(options.scale))} tensors", flush=True)
    notes = options.folder / f"known-{options.scale}.json"
    known = json.loads(notes.read_text()) if notes.exists() else {"seconds": {}, "peaks": {}}
    killed = [way for way in KILLED if way in options.only]
    ways = [way for way in WAYS if way in options.only]
    ways += [KILLED[k] for k in killed if KILLED[k] not in [*known["seconds"], *ways]]
    measure(source, target, ways, options.rounds, known)
    notes.write_text(json.dumps(known))
    report(ways, numel, known)
    report_result(target, numel)
    for kill in killed:
        function = kill_runs if kill == "kills" else kill_dask_workers
        function(source, target, median(known["seconds"][KILLED[kill]]), known["digest"])
    shutil.rmtree(target, ignore_errors=True)


if __name__ == "__main__":
    main()
