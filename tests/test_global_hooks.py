"""Torch's hooks for all optimizers are left alone until something has to watch optimizers."""

import subprocess
import sys

import pytest

pytest.importorskip("torch")

START = """
import importlib, pkgutil, torch
from torch.optim import optimizer
def hooks():
    tables = optimizer._global_optimizer_pre_hooks, optimizer._global_optimizer_post_hooks
    return [hook.__module__ for table in tables for hook in table.values()]
def model():
    return torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.ReLU(), torch.nn.Linear(30, 9))
assert hooks() == []
import deepcomp
"""

UNTIL_A_PRUNER = """
import deepcomp.nn
assert hooks() == [], "import deepcomp.nn"
for package in (deepcomp, deepcomp.nn):
    for name in package.__all__:
        getattr(package, name)
        assert hooks() == [], name
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            assert hooks() == [], module.name
packed = deepcomp.compress(model(), sparsity=0.8)
packed.restore(model())
assert hooks() == [], "dense restore"
for layers in ("sparse", "auto"):
    assert packed.restore(model(), layers=layers).layers[0].is_sparse
    assert hooks() == [], "sparse restore"
deepcomp.sensitivity(model(), lambda m: 1.0)
assert hooks() == [], "sensitivity"
for _ in range(2):
    deepcomp.Pruner(model(), sparsity=0.5)
    assert hooks() == ["deepcomp.nn.order"], hooks()
"""

UNTIL_WEIGHTS_ARE_SHARED = """
for _ in range(2):
    deepcomp.share_weights(model())
    deepcomp.factorize(model(), rank=2)
    assert hooks() == ["deepcomp.nn.replace"], hooks()
"""


@pytest.mark.parametrize("code", [UNTIL_A_PRUNER, UNTIL_WEIGHTS_ARE_SHARED])
def test_no_hook_is_there_until_somebody_trains(code):
    subprocess.run([sys.executable, "-c", START + code], check=True)
