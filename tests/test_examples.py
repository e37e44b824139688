"""The examples do what they claim: the quickstart, and ResNet-20 through a file."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import deepcomp
from deepcomp import _kernels

torch = pytest.importorskip("torch")

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def examples(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


def test_quickstart(tmp_path):
    pytest.importorskip("safetensors")
    pytest.importorskip("sklearn")
    package = Path(deepcomp.__file__).parents[1]  # the same build as in this process
    result = subprocess.run(
        [sys.executable, EXAMPLES / "quickstart.py", "--epochs", "1", "--output", tmp_path],
        env=os.environ | {"PYTHONPATH": str(package)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    table, _, summary = result.stdout.partition("test accuracy")
    assert "0.weight" in table and "bits/index" in table

    accuracy = dict(re.findall(r"^  (.+?) +([\d.]+%)$", summary, re.MULTILINE))
    assert len(accuracy) == 5
    assert accuracy["loaded from the file"] == accuracy["shared, 5 bits"]
    assert "bit for bit" in summary

    n_bytes = (tmp_path / "digits.dcz").stat().st_size
    sizes = dict(re.findall(r"^  (.+?) +([\d,]+)(?: +[\d.]+x)?$", summary, re.MULTILINE))
    sizes = {title: int(n.replace(",", "")) for title, n in sizes.items()}
    assert sizes["pruned, shared: .dcz"] == n_bytes
    assert sizes["pruned, shared: safetensors"] > 5 * n_bytes
    assert sizes["pruned, shared: safetensors, gzip -9"] > n_bytes

    kept = deepcomp.load(tmp_path / "digits.dcz")
    weights = [kept[f"{i}.weight"].to_dense() for i in (0, 2, 4)]
    n_kept = sum((w != 0).sum() for w in weights)
    assert n_kept <= 0.1 * sum(w.size for w in weights) + 1


@pytest.mark.parametrize("arguments", [[], ["--data", "FOLDER"]])
def test_resnet_cifar_says_what_is_missing(examples, monkeypatch, capsys, tmp_path, arguments):
    import resnet_cifar

    monkeypatch.delenv("DEEPCOMP_DATA", raising=False)
    arguments = [str(tmp_path) if a == "FOLDER" else a for a in arguments]
    monkeypatch.setattr(sys, "argv", ["resnet_cifar.py", *arguments])
    with pytest.raises(SystemExit) as exit_:
        resnet_cifar.main()
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    expected = ["cifar10-jpeg.npz", "resnet20-cifar10.safetensors"] if arguments else ["--data"]
    assert all(word in err for word in [*expected, "examples/README.md"])


def random_resnet(tied):
    from resnet import ResNet

    torch.manual_seed(0)
    model = ResNet(20)
    model(torch.randn(8, 3, 32, 32))  # statistics for batch norm
    if tied:
        model.layer1[2].conv1.weight = model.layer1[1].conv1.weight
    return model.eval()


def outputs(model):
    """Return the bits of the outputs for some images."""
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model.eval()(images).numpy().tobytes()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bits", [5, None])
def test_resnet_from_a_file_is_the_one_in_memory(examples, tmp_path, tied, bits):
    from resnet import ResNet

    model = random_resnet(tied)
    packed = deepcomp.compress(model, bits=bits, sparsity=0.5, scope="global")
    deepcomp.save(packed, tmp_path / "resnet.dcz")
    loaded = deepcomp.load(tmp_path / "resnet.dcz")
    first, second = "layer1.1.conv1.weight", "layer1.2.conv1.weight"
    assert loaded.aliases == packed.aliases == ({second: first} if tied else {})

    in_memory, from_file, same_ties = ResNet(20), ResNet(20), random_resnet(tied)
    for source, target in ((packed, in_memory), (loaded, from_file), (loaded, same_ties)):
        assert not any(source.restore(target))  # no missing, no unexpected names
    assert outputs(from_file) == outputs(same_ties) == outputs(in_memory) != outputs(model)
    assert (same_ties.layer1[2].conv1.weight is same_ties.layer1[1].conv1.weight) == tied


def test_resnet_that_is_only_stored_is_unchanged(examples, tmp_path):
    from resnet import ResNet

    model, from_file = random_resnet(tied=False), ResNet(20)
    deepcomp.save(model, tmp_path / "resnet.dcz")
    deepcomp.load(tmp_path / "resnet.dcz").restore(from_file)
    assert outputs(from_file) == outputs(model)


def test_mnist_writes_the_file_that_it_reports(tmp_path):
    info = _kernels.build_info()
    if info["kernels"] != "native" or info["debug"]:
        pytest.skip("trains for ten seconds: one build is enough, as test_quickstart runs in all")
    net = "lenet-5"
    pytest.importorskip("joblib")
    rng = np.random.default_rng(0)
    images = {
        "x_train": rng.integers(0, 256, (5400, 28, 28), np.uint8),
        "y_train": rng.integers(0, 10, 5400, np.uint8),
        "x_test": rng.integers(0, 256, (200, 28, 28), np.uint8),
        "y_test": rng.integers(0, 10, 200, np.uint8),
    }
    np.savez(tmp_path / "mnist.npz", **images)
    package = Path(deepcomp.__file__).parents[1]
    command = [sys.executable, EXAMPLES / "mnist.py", "--data", tmp_path, "--net", net]
    command += ["--seeds", "7", "--shorten", "1000", "--output", tmp_path]
    result = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(package)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    n_bytes = (tmp_path / f"{net}-7.dcz").stat().st_size
    assert re.search(rf"^seed 7 .* {n_bytes:,} ", result.stdout, re.MULTILINE)
    assert "(ip1)" in result.stdout and "paper" in result.stdout
    packed = deepcomp.load(tmp_path / f"{net}-7.dcz")
    assert sum(t.record.numel for t in packed.values()) == 431_080
    weights = [t.to_dense() for t in packed.values() if len(t.shape) > 1]
    assert 0.005 < sum((w != 0).sum() for w in weights) / sum(w.size for w in weights) < 0.03
    assert all(np.unique(w).size <= 9 for w in weights)


def test_mnist_says_what_is_missing(examples, monkeypatch, capsys, tmp_path):
    pytest.importorskip("joblib")
    import mnist

    command = ["mnist.py", "--net", "lenet-5", "--data", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as exit_:
        mnist.main()
    assert exit_.value.code == 2
    assert "missing" in (err := capsys.readouterr().err) and "mnist.npz" in err


def test_curves_are_drawn_with_their_points_beside(examples, monkeypatch, tmp_path):
    pytest.importorskip("joblib")
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    monkeypatch.syspath_prepend(str(EXAMPLES.parent / "benchmarks"))
    import curves

    points = [
        {"sparsity": s, "curve": c, "accuracy": 98 - 9 * s, "bytes": 1000.0}
        for c in ("pruned", "pruned, retrained")
        for s in (0.0, 0.9)
    ]
    curves.draw(points, "sparsity", "sparsity", tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000
    lines = (tmp_path / "figure.csv").read_text().splitlines()
    assert lines[0] == "sparsity,curve,accuracy,bytes" and len(lines) == 5
