"""The examples that compare methods: one budget for all, and rows that hold for their files."""

import csv
import io
import sys
from pathlib import Path

import numpy as np
import pytest

import deepcomp
from deepcomp import _kernels

torch = pytest.importorskip("torch")
for extra in ("joblib", "matplotlib", "PIL", "safetensors", "torch_pruning"):
    pytest.importorskip(extra)

METHODS = ("filters, L1", "low rank", "ternary")
STUDENT = "student, soft targets, hints"
FIGURES = ("compared_speed_size", "compared_accuracy_speed", "compared_accuracy_size")


@pytest.fixture
def compare(monkeypatch):
    import matplotlib

    matplotlib.use("agg")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    import compare
    import compare_rows

    monkeypatch.setattr(compare_rows, "N_HELD_OUT", 20)
    return compare


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make up some images and a network."""
    from PIL import Image
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    parts = {}
    for part, n in (("train", 100), ("test", 40)):
        jpegs = []
        for _ in range(n):
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(file, "JPEG")
            jpegs.append(np.frombuffer(file.getvalue(), np.uint8))
        parts[f"{part}_jpeg"] = np.concatenate(jpegs)
        parts[f"{part}_offsets"] = np.cumsum([0, *map(len, jpegs)])
        parts[f"{part}_labels"] = rng.integers(0, 10, n, np.uint8)
    np.savez(folder / "cifar10-jpeg.npz", **parts)
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    from resnet import ResNet

    sys.path.pop(0)
    torch.manual_seed(0)
    model = ResNet(20)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # alike: global pruning leaves some everywhere
    state = model.state_dict()
    weights = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    save_file(weights, folder / "resnet20-cifar10.safetensors")
    return folder


def is_one_build():
    info = _kernels.build_info()
    return info["kernels"] == "native" and not info["debug"]


@pytest.mark.parametrize("quick", [False, True])
def test_all_methods_have_the_same_budget_but_students_that_are_called_longer(compare, quick):
    found = compare.jobs(7, 50, quick)
    assert len({job.name for job in found}) == len(found)
    longer = [job for job in found if job.n_steps == 50]
    assert longer and all("longer" in job.strength and job.teaching for job in longer)
    others = [job for job in found if job not in longer]
    assert {job.n_steps for job in others} == {0, 7}
    for job in others:
        is_student = bool(job.teaching)
        with_and_without = {j.n_steps for j in others if j[:2] == job[:2]}
        assert with_and_without == ({7} if is_student else {0, 7})


def test_rows_are_those_of_the_files_and_are_not_made_twice(
    compare, folder, monkeypatch, capsys, tmp_path
):
    if not is_one_build():
        pytest.skip("trains for seconds: one build is enough")
    jobs = compare.jobs
    import compare_rows

    for name, value in {"QUICK_STEPS": 2, "QUICK_LONG": 3, "QUICK_PART": 1}.items():
        monkeypatch.setattr(compare, name, value)
    for name, value in {"N_ROUNDS": 1, "N_TIMED": 2}.items():
        monkeypatch.setattr(compare_rows, name, value)

    def chosen(*settings):
        return [job for job in jobs(*settings) if job.method in (*METHODS, STUDENT)]

    monkeypatch.setattr(compare, "jobs", chosen)
    command = ["compare.py", "--data", str(folder), "--quick", "--jobs", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--output", str(tmp_path)])
    compare.main()

    with (tmp_path / "compared.csv").open() as file:
        rows = list(csv.DictReader(file))
    printed = capsys.readouterr().out
    assert [row["method"] for row in rows].count(STUDENT) == 2  # exact, and shared
    assert {row["method"] for row in rows} == {*METHODS, STUDENT}
    networks = tmp_path / "networks-quick"
    n_float32 = (folder / "resnet20-cifar10.safetensors").stat().st_size
    _, test, _ = compare_rows.read_data(str(folder), 1, False)
    for job in chosen(2, 3, True):
        packed = deepcomp.load(networks / f"{job.name}.dcz")
        [row] = [r for r in rows if (r["method"], r["strength"]) == job[:2]
                 and int(r["steps"]) == job.n_steps and r["bits"] != "5"]  # fmt: skip
        n_bytes = (networks / f"{job.name}.dcz").stat().st_size
        assert int(row["bytes"]) == n_bytes and f"{n_bytes:,}" in printed
        assert float(row["ratio"]) == round(n_float32 / n_bytes, 2)
        model, _ = compare_rows.restored(packed, job.n_layers)
        assert float(row["accuracy %"]) == compare_rows.accuracy(model, test)
        assert int(row["parameters"]) == sum(p.numel() for p in model.parameters())
    assert all((tmp_path / f"{name}.png").stat().st_size > 5000 for name in FIGURES)

    before = {path: path.stat().st_mtime_ns for path in networks.iterdir()}
    missing = sorted(networks.glob("low-rank*.json"))[0]
    missing.unlink()
    monkeypatch.setattr(compare.compare_figures, "draw", lambda *_: None)
    compare.main()
    after = {path: path.stat().st_mtime_ns for path in networks.iterdir()}
    changed = {path.stem.removesuffix("-5-bits") for path in before if before[path] != after[path]}
    assert changed == {missing.stem}


def test_thinet_table_has_a_row_for_each_width(compare, folder, monkeypatch, capsys):
    if not is_one_build():
        pytest.skip("trains for seconds: one build is enough")
    import thinet_table

    for name, value in {"WIDTHS": (48, 8), "N_STEPS": 2, "N_TUNING_STEPS": 1}.items():
        monkeypatch.setattr(thinet_table, name, value)
    thinet_table.measure(str(folder), 1, n_jobs=1)
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines if line.count("%") == 5}
    assert list(rows) == ["48", "8"]
    assert rows["48"].endswith("82.0, 82.2, 85.2, 85.4")
