"""Train, prune, share, retrain, save, load: what is lost without retraining comes back with it."""

import copy

import digits
import pytest

import deepcomp

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
from torch import nn  # noqa: E402

from deepcomp.nn import schedules  # noqa: E402

SPARSITY, BITS = 0.94, 2


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))


@pytest.fixture(scope="module")
def dense():
    return digits.trained(make_model())


def retrain(model, n_steps, lr, pruner=None):
    x, y = digits.data()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    draw = torch.Generator().manual_seed(2)
    for _ in range(n_steps):
        batch = torch.randint(1000, (128,), generator=draw)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
        if pruner:
            pruner.step()


def test_retraining_regains_what_pruning_and_sharing_lose(dense, tmp_path):
    plain = make_model()
    settings = {"bits": BITS, "sparsity": SPARSITY, "scope": "global"}
    deepcomp.compress(dense, **settings).restore(plain)
    without = digits.accuracy(plain)

    model = copy.deepcopy(dense)
    ramp = schedules.cubic(end=200, every=10)
    pruner = deepcomp.Pruner(model, sparsity=SPARSITY, scope="global", schedule=ramp)
    retrain(model, 400, 3e-3, pruner)
    pruner.remove()
    deepcomp.share_weights(model, bits=BITS)
    retrain(model, 100, 1e-3)
    deepcomp.save(deepcomp.compress(model), tmp_path / "model.dcz")
    restored = make_model()
    deepcomp.load(tmp_path / "model.dcz").restore(restored)

    before, after = digits.accuracy(dense), digits.accuracy(restored)
    assert after == digits.accuracy(model)
    assert before > 0.93
    assert without < before - 0.2
    assert after > before - 0.03
    weights = [restored[i].weight for i in (0, 2)]
    assert sum(int(w.count_nonzero()) for w in weights) == round((1 - SPARSITY) * 7400)
    assert all(w.unique().numel() <= (1 << BITS) + 1 for w in weights)


def test_training_codebooks_regains_what_one_bit_loses(dense):
    model = copy.deepcopy(dense)
    deepcomp.share_weights(model, bits=1)
    before = digits.accuracy(model)
    retrain(model, 150, 5e-3)
    assert digits.accuracy(model) > before + 0.01
