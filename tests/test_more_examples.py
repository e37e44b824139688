"""The examples of pruning with next to no retraining, and of Bayesian networks."""

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
def bayes(monkeypatch):
    pytest.importorskip("joblib")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import bayes

    return bayes


@pytest.fixture
def layer(bayes):
    torch.manual_seed(0)
    return bayes.BayesianLinear(torch.nn.Linear(6, 4), delta=0.3)


def run(script, *arguments):
    """Run an example with the same build as in this process; return what it prints."""
    info = _kernels.build_info()
    if info["kernels"] != "native" or info["debug"]:
        pytest.skip("trains for some seconds: one build is enough")
    pytest.importorskip("joblib")
    pytest.importorskip("sklearn")
    result = subprocess.run(
        [sys.executable, EXAMPLES / script, *map(str, arguments)],
        env={k: v for k, v in os.environ.items() if k != "DEEPCOMP_DATA"}
        | {"PYTHONPATH": str(Path(deepcomp.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_bayesian_layer_begins_at_the_trained_one(layer):
    linear = torch.nn.Linear(6, 4)
    linear.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    x = torch.randn(5, 6)
    assert torch.equal(layer.eval()(x), linear(x))
    torch.testing.assert_close(layer.sigma, 0.3 * layer.weight.abs())


def test_its_outputs_are_distributed_as_if_the_weights_were_drawn(layer):
    x = torch.randn(2, 6)
    drawn = layer.train()(x.repeat(20_000, 1, 1)).detach()
    weights = layer.weight + layer.sigma * torch.randn(20_000, 4, 6)
    expected = (x @ weights.mT + layer.bias).detach()
    torch.testing.assert_close(drawn.mean(0), expected.mean(0), rtol=0, atol=0.02)
    torch.testing.assert_close(drawn.std(0), expected.std(0), rtol=0.03, atol=0)


def test_a_pruned_weight_has_no_deviation(layer):
    x = torch.randn(3, 6)
    with torch.no_grad():
        layer.weight[1] = 0
    first, second = (layer.train()(x).detach() for _ in range(2))
    torch.testing.assert_close(first[:, 1], layer.bias[1].expand(3), rtol=0, atol=1e-5)
    assert (first != second)[:, [0, 2, 3]].all()


def test_the_divergence_is_that_of_normal_distributions(layer):
    normal = torch.distributions.Normal
    posterior = normal(layer.weight.double(), layer.sigma.double())
    prior = normal(torch.tensor(0.0).double(), torch.tensor(0.5).double())
    expected = torch.distributions.kl_divergence(posterior, prior).sum()
    torch.testing.assert_close(layer.divergence(0.5).double(), expected, rtol=1e-5, atol=0)


def test_signal_to_noise_prunes_what_is_uncertain_not_what_is_small(bayes):
    torch.manual_seed(0)
    model = bayes.bayesian(bayes.lenet_300_100(64), delta=0.2)
    with torch.no_grad():
        for layer in bayes.layers_of(model).values():
            layer.weight_rho[:, ::2] = 3.0  # a deviation far above all means
    found = bayes.pruned(model, 0.5)
    for layer in bayes.layers_of(found).values():
        assert not layer.weight[:, ::2].any() and layer.weight[:, 1::2].all()


def test_bayes_keeps_accuracy_where_magnitude_pruning_loses_it(tmp_path):
    out = run("bayes.py", "--shorten", 4, "--output", tmp_path)
    rows = dict(re.findall(r"^ *([\d.]+) % +(\d.*)$", out, re.MULTILINE))
    means, samples, n_bytes, magnitude, _ = (
        float(x.replace(",", "")) for x in rows["75.0"].split()
    )
    assert min(means, samples) > 90 and min(means, samples) >= magnitude
    path = tmp_path / "bayes-0.75.dcz"
    assert path.stat().st_size == n_bytes
    weights = [t.to_dense() for t in deepcomp.load(path).values() if len(t.shape) > 1]
    assert sum(np.count_nonzero(w) for w in weights) == sum(w.size for w in weights) // 4


def test_lenet_table_keeps_as_many_parameters_as_the_others(tmp_path):
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    images = np.kron(16 * digits.images.clip(0, 15), np.ones((3, 3)))
    images = np.pad(images, ((0, 0), (2, 2), (2, 2))).astype(np.uint8)
    labels = digits.target.astype(np.uint8)
    np.savez(
        tmp_path / "mnist.npz",
        x_train=np.tile(images[:1500], (4, 1, 1)),  # 5,000 of them are held out
        y_train=np.tile(labels[:1500], 4),
        x_test=images[1500:],
        y_test=labels[1500:],
    )
    out = run("lenet_table.py", "--data", tmp_path, "--output", tmp_path)
    rows = re.findall(r"^  (.+?)  +([\d,]+) +([\d,]+) +[\d.]+% +([\d,]+)$", out, re.MULTILINE)
    assert [(title, n) for title, _, n, _ in rows][1:4] == [
        ("pruned at once", "15,023"),
        ("L1, pruned at once", "15,023"),
        ("L1, pruned in one epoch more", "15,023"),
    ]
    assert {(n, kept) for _, n, kept, _ in rows[5:]} == {("29,456", "1,603")}
    n_bytes = (tmp_path / "small-cnn-pruned-at-once.dcz").stat().st_size
    assert rows[5][3] == f"{n_bytes:,}"


def test_lenet_table_says_what_is_missing(bayes, monkeypatch, capsys, tmp_path):
    import lenet_table

    monkeypatch.setattr(sys, "argv", ["lenet_table.py", "--data", str(tmp_path)])
    with pytest.raises(SystemExit) as exit_:
        lenet_table.main()
    assert exit_.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"lenet_table.py: missing in {tmp_path}: mnist.npz (examples/README.md ")
    assert err.count("\n") == 1
