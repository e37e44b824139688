"""Run the fuzzers for a while: ``make fuzz TIME=60``, or one input again: ``make fuzz INPUT=...``.

Inputs that reached something new are kept in build/fuzz/corpus, so that the next run goes on from
them. Inputs with which something went wrong are in build/fuzz/findings/TARGET; there are none if
the exit status is 0.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "fuzz"
WORKER = ROOT / "fuzz" / "worker.py"
SHARES = {  # of the time
    "structure": 0.3,
    "section": 0.2,
    "huffman": 0.25,
    "file": 0.15,
    "state_dict": 0.1,
}
OPTIONS = ("-timeout=20", "-detect_leaks=0", "-rss_limit_mb=4096", "-print_final_stats=1")
GROWING = ("-len_control=100", "-max_len=4096")  # short inputs first
OWN_OPTIONS = {
    "structure": (
        "-max_len=4096",
        "-mutate_depth=2",
    ),  # of many changes at once few files are valid
    "section": GROWING,
    "huffman": ("-len_control=100", "-max_len=1024"),
    "file": GROWING,
    "state_dict": ("-max_len=64",),
}
LEAST_SECONDS = 3
MAX_FINDINGS = 5  # of a target in a job


def fuzz(target, job, seconds):
    """Run one worker after the other until the time is over; return (executions, findings)."""
    corpus, findings, log = (FOLDER / f / target for f in ("corpus", "findings", "log"))
    for folder in (corpus, findings, log):
        folder.mkdir(parents=True, exist_ok=True)
    n_runs = n_findings = 0
    end = time.monotonic() + seconds
    while n_findings < MAX_FINDINGS:
        left = int(end - time.monotonic())
        if left < LEAST_SECONDS and n_runs:
            break
        command = [sys.executable, WORKER, target, corpus, f"-artifact_prefix={findings}/"]
        command += [*OPTIONS, *OWN_OPTIONS[target], f"-max_total_time={max(left, LEAST_SECONDS)}"]
        path = log / f"{job}.txt"
        with open(path, "w") as file:
            status = subprocess.call(command, stdout=file, stderr=file)
        text = path.read_text(errors="replace")
        found = re.search(r"number_of_executed_units: (\d+)", text)
        n_runs += int(found[1]) if found else 0
        if status:
            n_findings += 1
            report(target, text)
    return n_runs, n_findings


def report(target, text):
    """Print the end of a worker's log, where its finding is, and how to repeat it."""
    print(text[-4000:])
    path = re.search(r"Test unit written to (\S+)", text)
    if path:
        path = os.path.relpath(path[1], ROOT)
        print(f"FINDING of {target}: {path}; to repeat it: make fuzz INPUT={path}", flush=True)
    else:
        print(f"FINDING: the fuzzer of {target} failed", flush=True)


def campaign(seconds, n_jobs, only):
    """Fuzz all targets in each job, and print what was done; return the number of findings."""
    started = time.monotonic()
    targets = [only] if only else list(SHARES)
    total = sum(SHARES[target] for target in targets)

    def work(job):
        order = targets[job % len(targets) :] + targets[: job % len(targets)]
        return {t: fuzz(t, job, seconds * SHARES[t] / total) for t in order}

    with ThreadPoolExecutor(n_jobs) as pool:
        results = list(pool.map(work, range(n_jobs)))
    all_runs = all_findings = 0
    print(f"{'target':10} {'executions':>12} {'a second':>9} {'corpus':>7} {'findings':>9}")
    for target in targets:
        n_runs, n_findings = map(sum, zip(*(result[target] for result in results), strict=True))
        corpus = len(os.listdir(FOLDER / "corpus" / target))
        rate = n_runs / (n_jobs * seconds * SHARES[target] / total)
        print(f"{target:10} {n_runs:12,} {rate:9,.0f} {corpus:7,} {n_findings:9}")
        all_runs, all_findings = all_runs + n_runs, all_findings + n_findings
    print(f"{'all':10} {all_runs:12,} in {time.monotonic() - started:,.0f} s, jobs: {n_jobs}")
    return all_findings


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--time", type=float, default=60, help="seconds for each job")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--target", choices=SHARES)
    parser.add_argument("--input", type=Path, help="run only this file, of findings/TARGET")
    options = parser.parse_args()
    if options.input:
        target = options.target or options.input.resolve().parent.name
        sys.exit(subprocess.call([sys.executable, WORKER, target, options.input]))
    sys.exit(campaign(options.time, options.jobs, options.target) > 0)


if __name__ == "__main__":
    main()
