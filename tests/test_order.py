"""A pruner called between backward() and optimizer.step() says so, and nothing else is refused."""

import copy

import pytest

import deepcomp

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from deepcomp.nn.order import _watching  # noqa: E402

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def parts(sparsity=0.5):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, optimizer, deepcomp.Pruner(model, sparsity=sparsity)


def backward(model, factor=1.0):
    (factor * model(X).square().mean()).backward()


def test_a_step_before_the_optimizers_is_refused_and_changes_nothing():
    model, optimizer, pruner = parts()
    backward(model)
    pruner.step()
    optimizer.step()
    optimizer.zero_grad()
    backward(model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match=r"call it right after optimizer\.step\(\)"):
        pruner.step()
    assert pruner.n_steps == 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    optimizer.step()
    pruner.step()  # repaired, the loop goes on
    assert pruner.n_steps == 2
    assert model[0].weight.count_nonzero() == 15


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("when", ["before", "after"])
def test_zero_grad_may_come_before_or_after_the_pruner(when, set_to_none):
    model, optimizer, pruner = parts()
    for _ in range(3):
        backward(model)
        optimizer.step()
        if when == "before":
            optimizer.zero_grad(set_to_none)
        pruner.step()
        if when == "after":
            optimizer.zero_grad(set_to_none)
    assert pruner.n_steps == 3


def test_gradients_may_be_accumulated_over_steps_of_the_pruner():
    model, optimizer, pruner = parts()
    for i in range(9):
        backward(model)
        if i % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
        pruner.step()


def test_a_step_that_the_grad_scaler_skips_is_not_refused():
    model, optimizer, pruner = parts()
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    for factor in (1.0, float("inf"), 1.0, float("inf"), float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale(factor * model(X).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        pruner.step()
    assert pruner.n_steps == 6


def test_a_second_optimizer_may_work_on_the_same_gradients():
    model, optimizer, pruner = parts()
    generator = nn.Linear(6, 6)
    other = torch.optim.SGD(generator.parameters(), lr=0.1)
    for _ in range(3):
        backward(model)
        optimizer.step()
        model(generator(X)).sum().backward()  # gives the first model gradients, too
        other.step()
        pruner.step()
        optimizer.zero_grad()


def test_weights_updated_by_hand_are_not_refused():
    model, _, pruner = parts()
    for _ in range(3):
        backward(model)
        pruner.step()
        with torch.no_grad():
            for weight in model.parameters():
                weight.sub_(0.1 * weight.grad)


def test_a_copy_of_model_and_pruner_watches_its_own_weights():
    model, optimizer, pruner = copy.deepcopy(parts())
    for _ in range(3):
        backward(model)
        optimizer.step()
        pruner.step()
    optimizer.step()
    backward(model)
    with pytest.raises(RuntimeError, match="between backward"):
        pruner.step()


def test_a_removed_pruner_leaves_no_hook():
    model, _, pruner = parts()
    assert model[0].weight._post_accumulate_grad_hooks
    pruner.remove()
    assert not model[0].weight._post_accumulate_grad_hooks
    assert pruner._order not in _watching
