"""Checkpoints larger than memory: speed, memory, processes, clusters, kills (`make bench-large`).

Makes a checkpoint with the shapes of a Llama-like model, and compresses it in every way, each in a
process of its own whose memory is watched from outside. A script, not a part of `make bench`: it
takes some ten minutes and 10 GB of disk. `--scale 0.1` is for trying.
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

import numpy as np

SETTINGS = {"bits": 5, "sparsity": 0.5}
KILLS = 5


def shapes(scale: float) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a model of two billion parameters, one of 500 million; or a part."""
    width, inner = 2560, 6912
    result = {"model.embed_tokens.weight": (int(195_312 * scale), width)}
    for i in range(max(1, round(19 * scale))):
        layer = f"model.layers.{i}"
        for name, shape in {
            "self_attn.q_proj": (width, width),
            "self_attn.k_proj": (640, width),
            "self_attn.v_proj": (640, width),
            "self_attn.o_proj": (width, width),
            "mlp.gate_proj": (inner, width),
            "mlp.up_proj": (inner, width),
            "mlp.down_proj": (width, inner),
        }.items():
            result[f"{layer}.{name}.weight"] = shape
        result[f"{layer}.input_layernorm.weight"] = (width,)
        result[f"{layer}.post_attention_layernorm.weight"] = (width,)
    result["model.norm.weight"] = (width,)
    result["lm_head.weight"] = (int(64_000 * scale), width)
    return result


def make_checkpoint(folder: Path, scale: float, n_shards: int = 5) -> None:
    """Write normal bfloat16 weights, each tensor with its own deviation, as safetensors shards."""
    if (folder / "model.safetensors.index.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    model, rng = shapes(scale), np.random.default_rng(2016)
    total = sum(2 * int(np.prod(shape)) for shape in model.values())
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in model.items():
        if shards[-1] and filled >= total * len(shards) / n_shards:
            shards.append([])
        shards[-1].append(name)
        filled += 2 * int(np.prod(shape))
    weight_map = {}
    for i, names in enumerate(shards, 1):
        path = folder / f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(names, path.name)
        _write_shard(path, {name: model[name] for name in names}, rng)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _write_shard(path: Path, model: dict[str, tuple[int, ...]], rng: np.random.Generator) -> None:
    header, offset = {}, 0
    for name, shape in model.items():
        end = offset + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with open(path, "wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for shape in model.values():
            deviation, left = rng.uniform(0.01, 0.05), int(np.prod(shape))
            while left:
                n = min(left, 1 << 22)
                values = deviation * rng.standard_normal(n, dtype=np.float32)
                file.write(((values.view(np.uint32) + 0x8000) >> 16).astype(np.uint16).tobytes())
                left -= n


@contextlib.contextmanager
def backend(name: str, n_jobs: int) -> Iterator[None]:
    """Start what joblib shall use: its own processes, a LocalCluster of Dask, or Ray."""
    import joblib

    with contextlib.ExitStack() as stack:
        if name == "dask":
            from distributed import Client, LocalCluster

            options = {"n_workers": n_jobs, "threads_per_worker": 1, "dashboard_address": None}
            stack.enter_context(Client(stack.enter_context(LocalCluster(**options))))
        if name == "ray":
            import ray
            from ray.util.joblib import register_ray

            # workers do not inherit the path on which the package is
            environment = {"env_vars": {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}}
            options = {"include_dashboard": False, "log_to_driver": False}
            ray.init(num_cpus=n_jobs, runtime_env=environment, **options)
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
        time.sleep(0.05)


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


def kill_runs(source: Path, target: Path, seconds: float, expected: str) -> None:
    """Kill the whole run at random moments, call it again, and compare the bytes."""
    rng = random.Random(2016)
    for _ in range(KILLS):
        shutil.rmtree(target, ignore_errors=True)
        process = start(source, target, "loky", 2)
        moment = rng.uniform(1.5, 0.9 * seconds + 1.5)
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
        moment = rng.uniform(4, 0.8 * seconds + 4)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, default=Path("build/large"))
    parser.add_argument("--skip", nargs="*", default=[], help="dask, ray, kills")
    parser.add_argument("--once", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        compress_once(*options.once[:3], int(options.once[3]))
        return
    source, target = options.folder / f"source-{options.scale}", options.folder / "target"
    make_checkpoint(source, options.scale)
    numel = sum(int(np.prod(shape)) for shape in shapes(options.scale).values())
    print(f"{numel:,} parameters, {len(shapes(options.scale))} tensors")
    expected, times = "", {}
    for name, n_jobs in [("loky", 1), ("loky", 2), ("threading", 2), ("dask", 2), ("ray", 2)]:
        if name in options.skip:
            continue
        seconds, peak = run(source, target, name, n_jobs)
        times[name, n_jobs] = seconds
        expected = expected or digest(target)
        assert digest(target) == expected, f"{name} with {n_jobs}: other bytes"
        print(
            f"{name:9} {n_jobs}: {seconds:6.1f} s, {numel / seconds / 1e6:5.1f} M parameters/s, "
            f"{times['loky', 1] / seconds:4.2f}x, at most {peak:5.0f} MB in a process"
        )
    nbytes = sum(path.stat().st_size for path in target.glob("model*"))
    print(f"{nbytes:,} bytes, {2 * numel / nbytes:.2f}x smaller")
    measure_opening(target)
    if "kills" not in options.skip:
        kill_runs(source, target, times["loky", 2], expected)
        if "dask" not in options.skip:
            kill_dask_workers(source, target, times["dask", 2], expected)
    shutil.rmtree(target)


if __name__ == "__main__":
    main()
