"""Every family of models goes through a file, and is restored from it dense and sparse."""

import json
from pathlib import Path

import numpy as np
import pytest

import deepcomp
from deepcomp.cli import inspect_main

torch = pytest.importorskip("torch")

EXAMPLES = Path(__file__).parents[1] / "examples"

# Small members of the families, or whole models that are small: name -> shape of an input.
SMALL = {
    "lenet-300-100": (1, 28, 28),
    "lenet-5": (1, 28, 28),
    "small-cnn": (1, 28, 28),
    "resnet-20": (3, 32, 32),
    "squeezenet": (3, 32, 32),
    "resnet-18, narrow": (3, 32, 32),
    "densenet, shallow": (3, 32, 32),
}


@pytest.fixture
def models(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import models

    return models


def make(models, name):
    """Make the module of a name in SMALL, with all parameters zero."""
    makers = {
        "squeezenet": lambda: models.squeezenet(n_classes=10),
        "resnet-18, narrow": lambda: models.resnet(18, n_classes=10, width=8),
        "densenet, shallow": lambda: models.densenet((2, 3), growth=8, n_classes=10),
    }
    with torch.device("meta"):
        model = makers[name]() if name in makers else models.MODELS[name].make()
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.zero_()
    return model.eval()


def outputs(model, shape):
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model(images)


def test_models_have_the_parameters_of_their_papers(models):
    for name, entry in models.MODELS.items():
        with torch.device("meta"):
            model = entry.make().eval()
            scores = model(torch.empty(2, *entry.shape))
        assert sum(p.numel() for p in model.parameters()) == entry.n_parameters, name
        assert scores.shape == (2, 1000 if entry.shape == models.IMAGENET else 10), name


@pytest.mark.parametrize("name", SMALL)
def test_a_model_from_a_file_computes_what_it_did_in_memory(models, tmp_path, name):
    shape, path = SMALL[name], tmp_path / "model.dcz"
    model = models.build(lambda: make(models, name))
    packed = deepcomp.compress(model, bits=5, sparsity=0.9)
    deepcomp.save(packed, path)
    in_memory, dense, sparse = (make(models, name) for _ in range(3))
    packed.restore(in_memory)
    assert not any(deepcomp.load(path).restore(dense))
    assert not any(deepcomp.load(path).restore(sparse, layers="sparse"))

    expected, found = outputs(in_memory, shape), outputs(sparse, shape)
    assert expected.any() and not torch.equal(expected, outputs(model, shape))
    assert outputs(dense, shape).numpy().tobytes() == expected.numpy().tobytes()
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    plain = {"Linear", "Conv2d"}  # not one layer was left out
    assert not plain & {type(module).__name__ for module in sparse.modules()}
    for key, weight in dense.state_dict().items():
        if weight.dim() > 1:
            assert weight.count_nonzero() == weight.numel() - round(0.9 * weight.numel()), key
            assert np.unique(weight.numpy()).size <= 33, key


@pytest.mark.parametrize("name", SMALL)
def test_the_size_table_of_a_model_has_every_tensor_and_byte(models, tmp_path, capsys, name):
    path = tmp_path / "model.dcz"
    model = models.build(lambda: make(models, name))
    deepcomp.save(deepcomp.compress(model, **models.SETTINGS), path)
    assert inspect_main([str(path)]) == 0
    table, n_bytes = capsys.readouterr().out, path.stat().st_size
    assert f" {n_bytes:,} " in table.partition("\npart ")[0].split("\nfile ")[1]
    assert all(f"\n{key} " in table for key in model.state_dict())

    assert inspect_main([str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [tensor["name"] for tensor in found["tensors"]] == list(model.state_dict())
    tensors_nbytes = sum(tensor["nbytes"] for tensor in found["tensors"])
    assert tensors_nbytes + sum(found["overhead"].values()) == n_bytes == found["file_nbytes"]


def test_the_zoo_prints_the_size_table_of_a_model(models, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["models.py", "small-cnn"])
    models.main()
    assert "7.weight" in (out := capsys.readouterr().out) and "29,456" in out
    monkeypatch.setattr("sys.argv", ["models.py"])
    models.main()
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(models.MODELS)
