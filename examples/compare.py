"""One network, one budget of fine-tuning, all methods: accuracy, bytes and speed side by side.

    python examples/compare.py --data DIR [--quick] [--output DIR]

DIR holds cifar10-jpeg.npz and resnet20-cifar10.safetensors. Every result is saved to a .dcz file,
loaded back into a network that is built anew, and evaluated from there: on the test images once, at
the end; learning rates were chosen with --held-out, on images held out of the training set. What is
done is kept in the output folder, a JSON file and networks for each: a second call does what is
missing. Times are taken last, alone, on one thread. Needs the extras torch, channels and bench.
"""

import argparse
import csv
import json
import os
import tempfile
from pathlib import Path

import compare_figures
from compare_methods import N_LAYERS, jobs
from compare_rows import Row, add_speed, read_data, run
from joblib import Parallel, delayed
from resnet_cifar import find_files
from tqdm import tqdm

N_STEPS, N_LONG = 200, 1600
QUICK_PART, QUICK_STEPS, QUICK_LONG = 20, 15, 45


def measure(options: argparse.Namespace, output: Path) -> list[Row]:
    """Do what is missing, time all, and write table and figures."""
    _, network_path = find_files(options.data, N_LAYERS)
    part = QUICK_PART if options.quick else 1
    n_steps, n_long = (QUICK_STEPS, QUICK_LONG) if options.quick else (N_STEPS, N_LONG)
    kind = f"networks{'-quick' if options.quick else ''}{'-held-out' if options.held_out else ''}"
    networks = output / kind  # what is there was made and evaluated in the same way
    networks.mkdir(parents=True, exist_ok=True)
    wanted = jobs(n_steps, n_long, options.quick)
    longest_first = sorted(wanted, key=lambda job: -job.n_steps)  # so none is left to one process
    tasks = [delayed(run)(j, options.data, part, options.held_out, networks) for j in longest_first]
    found = Parallel(n_jobs=options.jobs, return_as="generator_unordered")(tasks)
    list(tqdm(found, total=len(tasks)))
    rows, n_layers = [], {}
    for job in wanted:
        own = json.loads((networks / f"{job.name}.json").read_text())
        rows += own
        n_layers.update((row["file"], job.n_layers) for row in own)
    *_, trained = read_data(options.data, part, options.held_out)
    add_speed(rows, n_layers, networks, trained)
    for row in rows:
        row["ratio"] = round(network_path.stat().st_size / row["bytes"], 2)
    with (output / "compared.csv").open("w", newline="") as file:
        columns = [key for key in rows[0] if key != "file"]
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    compare_figures.draw(rows, output)
    return rows


def print_table(rows: list[Row]) -> None:
    print(f"{'method':<32}{'strength':<20}{'bits':>7}{'steps':>7}{'accuracy':>10}", end="")
    print(f"{'bytes':>11}{'ratio':>8}{'dense ms':>10}{'auto ms':>9}{'speed-up':>10}")
    for row in rows:
        print(
            f"{row['method']:<32}{row['strength']:<20}{row['bits']:>7}{row['steps']:>7}"
            f"{row['accuracy %']:>9.2f}%{row['bytes']:>11,}{row['ratio']:>7.2f}x"
            f"{row['dense ms']:>10.1f}{row['auto ms']:>9.1f}{row['speed-up']:>9.2f}x"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--data",
        metavar="DIR",
        default=os.environ.get("DEEPCOMP_DATA"),
        help="folder of images and networks (default: the variable DEEPCOMP_DATA)",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="keep networks, table, figures")
    parser.add_argument("--quick", action="store_true", help="fewer images, steps and strengths")
    parser.add_argument(
        "--held-out", action="store_true", help="evaluate on held-out images, to choose settings"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    options = parser.parse_args()
    find_files(options.data, N_LAYERS)
    with tempfile.TemporaryDirectory() as folder:
        print_table(measure(options, options.output or Path(folder)))


if __name__ == "__main__":
    main()
