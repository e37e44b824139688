"""Pruned weights stay zero, whatever trains them; masks are what compress would prune."""

import copy
import os
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import deepcomp

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from deepcomp.nn import criteria, schedules  # noqa: E402
from deepcomp.nn.ranking import lowest  # noqa: E402

OPTIMIZERS = {
    "SGD with momentum and weight decay": lambda p: torch.optim.SGD(
        p, lr=0.05, momentum=0.9, weight_decay=0.01
    ),
    "Nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "Adam with weight decay": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
}


def make_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 5))


def make_conv():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3))


def train_step(model, optimizer, generator, pruner=None, clip=False, autocast=False):
    x = torch.randn(16, 20, generator=generator)
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = (model(x) - x[:, :5].sin()).square().mean()
    loss.backward()
    if clip:
        pruner.mask_gradients()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
    if pruner:
        pruner.step()


def masks_of(packed):
    return {n: t.to_torch() != 0 for n, t in packed.items() if len(t.shape) > 1}


def zeros_of(model):
    return {n: p.detach() == 0 for n, p in model.named_parameters() if p.dim() > 1}


def equal_states(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


@pytest.mark.parametrize(
    ("name", "variant"),
    [*((name, "plain") for name in OPTIMIZERS), ("AdamW", "clip"), ("AdamW", "autocast")],
)
def test_no_pruned_weight_revives_in_hundreds_of_steps(name, variant):
    model, generator = make_model(), torch.Generator().manual_seed(1)
    optimizer = OPTIMIZERS[name](model.parameters())
    ramp = schedules.cubic(end=100, every=5)
    pruner = deepcomp.Pruner(model, sparsity=0.8, schedule=ramp)
    before = zeros_of(model)
    for _ in range(300):
        options = {"clip": variant == "clip", "autocast": variant == "autocast"}
        train_step(model, optimizer, generator, pruner, **options)
        now = zeros_of(model)
        assert all((now[n] | ~was).all() for n, was in before.items())
        before = now
    assert int(model[0].weight.count_nonzero()) == 120
    assert int(model[2].weight.count_nonzero()) == 30


def test_without_the_pruner_momentum_revives_them():
    # what the class is for: the test above can fail
    model, generator = make_model(), torch.Generator().manual_seed(1)
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    deepcomp.Pruner(model, sparsity=0.8).remove()
    for _ in range(3):
        train_step(model, optimizer, generator)
    assert model[0].weight.count_nonzero() > 500


RULES = [dict(sparsity=0.9), dict(threshold=0.1), dict(std=1.0), dict(sparsity=0.8, scope="global")]


@pytest.mark.parametrize("ramp", [schedules.cubic(end=80, every=7), schedules.once()])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("stop", [0, 60])
def test_resumed_training_is_that_without_a_break_bit_for_bit(stop, rule, ramp, tmp_path):
    def make(seed=0):
        model = make_model(seed)
        optimizer = OPTIMIZERS["AdamW"](model.parameters())
        return model, optimizer, deepcomp.Pruner(model, schedule=ramp, **rule)

    def run(parts, generator, n):
        model, optimizer, pruner = parts
        for _ in range(n):
            train_step(model, optimizer, generator, pruner)

    whole, generator = make(), torch.Generator().manual_seed(2)
    run(whole, generator, 100)

    first, generator = make(), torch.Generator().manual_seed(2)
    run(first, generator, stop)
    torch.save([part.state_dict() for part in first], tmp_path / "checkpoint.pt")
    second = make(seed=1)
    for part, state in zip(second, torch.load(tmp_path / "checkpoint.pt"), strict=True):
        part.load_state_dict(state)
    assert second[2].n_steps == stop
    run(second, generator, 100 - stop)
    assert equal_states(whole[0].state_dict(), second[0].state_dict())
    assert equal_states(whole[2].masks, second[2].masks)


def test_a_copy_of_model_and_pruner_goes_on_by_itself():
    model = make_model()
    pruner = deepcomp.Pruner(model, sparsity=0.8)
    other, other_pruner = copy.deepcopy((model, pruner))
    with torch.no_grad():
        other[0].weight.fill_(1.0)
        model[0].weight.add_(1.0)
    other_pruner.step()
    assert int(other[0].weight.count_nonzero()) == 120
    assert model[0].weight.count_nonzero() > 120
    assert (pruner.n_steps, other_pruner.n_steps) == (0, 1)


def test_parameters_that_were_assigned_anew_are_pruned_too():
    model = make_model()
    pruner = deepcomp.Pruner(model, sparsity=0.8)
    model.load_state_dict(make_model(1).state_dict(), assign=True)
    pruner.step()
    assert int(model[0].weight.count_nonzero()) == 120


def test_gradients_are_masked_and_their_norm_is_that_of_the_kept_weights():
    model = make_model()
    pruner = deepcomp.Pruner(model, sparsity={"0": 0.8})
    pruner.mask_gradients()  # there are none yet
    model(torch.ones(4, 20)).sum().backward()
    kept = model[0].weight.grad[pruner.masks["0.weight"]].clone()
    pruner.mask_gradients()
    assert not model[0].weight.grad[~pruner.masks["0.weight"]].any()
    torch.testing.assert_close(model[0].weight.grad.norm(), kept.norm())


def test_gradients_of_an_embedding_may_be_sparse():
    model = nn.Embedding(9, 4, sparse=True)
    optimizer = torch.optim.SparseAdam(model.parameters(), lr=0.1)
    pruner = deepcomp.Pruner(model, sparsity=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.tensor([1, 2, 2])).square().sum().backward()
        pruner.mask_gradients()
        optimizer.step()
        pruner.step()
    assert int(model.weight.count_nonzero()) == 18


def test_a_scaler_that_skips_steps_changes_nothing():
    model, generator = make_model(), torch.Generator().manual_seed(0)
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    pruner = deepcomp.Pruner(model, sparsity=0.8)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    for _ in range(60):
        x = torch.randn(16, 20, generator=generator)
        optimizer.zero_grad()
        scaler.scale(model(x).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        pruner.step()
        assert model[0].weight.count_nonzero() <= 120


def test_loading_a_state_zeroes_what_it_prunes():
    pruner, other = (deepcomp.Pruner(make_model(seed), sparsity=0.8) for seed in (0, 1))
    other.load_state_dict(pruner.state_dict())
    for name, is_zero in zeros_of(other._model).items():
        assert is_zero[~pruner.masks[name]].all()


def test_a_criterion_may_read_the_gradient():
    model = make_model()
    model(torch.randn(4, 20)).sum().backward()
    pruner = deepcomp.Pruner(model, sparsity=0.5, criterion=lambda w: (w * w.grad).abs())
    assert pruner.sparsity == 0.5


def test_a_layer_of_zeros_is_kept_as_it_is_where_zeros_are_kept():
    model = make_model()
    nn.init.zeros_(model[2].weight)
    pruner = deepcomp.Pruner(model)
    assert not pruner.masks["2.weight"].any() and pruner.masks["0.weight"].all()


def test_dead_filters_do_not_count_for_the_geometric_median():
    weight = torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    with_dead = torch.cat((weight, torch.zeros(5, 3, 3, 3)))
    torch.testing.assert_close(
        criteria.geometric_median(with_dead)[:8], criteria.geometric_median(weight)
    )


@pytest.mark.parametrize("value", [float("nan"), 1.5, -0.1])
def test_a_schedule_that_gives_no_fraction_is_refused(value):
    with pytest.raises(ValueError, match="expected 0 to 1"):
        deepcomp.Pruner(make_model(), sparsity=0.5, schedule=lambda step: value)


DISTRIBUTED = """
import os, sys, torch, torch.distributed as dist
import deepcomp
from deepcomp.nn import schedules
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
torch.manual_seed(rank)  # the wrapper makes the weights equal
model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Tanh(), torch.nn.Linear(30, 5))
model = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
ramp = schedules.cubic(end=30, every=3)
pruner = deepcomp.Pruner(model, sparsity=0.8, scope="global", schedule=ramp)
generator = torch.Generator().manual_seed(rank)  # data of its own
for _ in range(50):
    x = torch.randn(8, 20, generator=generator)
    optimizer.zero_grad()
    (model(x) - x[:, :5]).square().mean().backward()
    optimizer.step()
    pruner.step()
pruner.remove()
deepcomp.share_weights(model.module, bits=2)
model = torch.nn.parallel.DistributedDataParallel(model.module)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for _ in range(5):
    optimizer.zero_grad()
    x = torch.randn(8, 20, generator=generator)
    (model(x) - x[:, :5]).square().mean().backward()
    optimizer.step()
torch.save((pruner.masks, model.module.state_dict()), f"{folder}/{rank}.pt")
dist.barrier()
os._exit(0)  # torch's own threads at times abort a process that takes its group down
"""


def test_two_distributed_processes_have_the_same_masks(tmp_path):
    if not torch.distributed.is_available():
        pytest.skip("this torch has no distributed")
    package = Path(deepcomp.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(package), "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", DISTRIBUTED, str(rank), str(tmp_path)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    (masks, state), (other_masks, other_state) = (torch.load(tmp_path / f"{r}.pt") for r in (0, 1))
    assert equal_states(masks, other_masks) and equal_states(state, other_state)
    assert sum(int(mask.sum()) for mask in masks.values()) == 150
    weight = state["0.parametrizations.weight.0.labels"]
    assert torch.equal(weight != 0, masks["module.0.weight"])


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_masks_are_what_compress_would_prune(data):
    seed = data.draw(st.integers(0, 1000))
    what = data.draw(st.sampled_from(["sparsity", "threshold", "std"]))
    scope = data.draw(st.sampled_from(["layer", "global"]))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    amount = data.draw(st.floats(0, 0.9))
    model = make_model(seed).to(dtype)
    if data.draw(st.booleans()):  # ties
        model[0].weight.data.mul_(8).round_()
    packed = deepcomp.compress(model, bits=None, scope=scope, **{what: amount})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pruner = deepcomp.Pruner(model, scope=scope, **{what: amount})
    except ValueError as error:
        assert "nothing of" in str(error)
        return
    except UserWarning as warning:  # compress leaves a weight less than a Pruner does
        assert "too little of" in str(warning)
        kept = {name: int(mask.sum()) for name, mask in masks_of(packed).items()}
        assert kept["0.weight"] < 30 or kept["2.weight"] < 5
        return
    for name, mask in pruner.masks.items():
        kept = packed[name].to_torch() != 0
        assert torch.equal(mask & (model.get_parameter(name) != 0), kept)
        assert torch.equal(model.get_parameter(name) != 0, kept)


def test_patterns_give_each_weight_its_own_and_none_leaves_it_alone():
    model = make_model()
    pruner = deepcomp.Pruner(model, sparsity={"2": None, "*": 0.5})
    assert list(pruner.masks) == ["0.weight"]
    assert pruner.sparsity == 0.5
    assert model[2].weight.count_nonzero() == 150


def test_without_settings_the_zeros_are_kept():
    model = make_model()
    deepcomp.Pruner(model, sparsity=0.7).remove()
    before = zeros_of(model)
    pruner = deepcomp.Pruner(model)
    optimizer, generator = OPTIMIZERS["AdamW"](model.parameters()), torch.Generator()
    for _ in range(5):
        train_step(model, optimizer, generator, pruner)
    assert equal_states(zeros_of(model), before)


def test_tied_weights_are_pruned_once_and_stay_tied():
    model = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)})
    model["b"].weight = model["a"].weight
    pruner = deepcomp.Pruner(model, sparsity=0.5)
    assert list(pruner.masks) == ["a.weight"]
    assert model["b"].weight is model["a"].weight and model["b"].weight.count_nonzero() == 32


@pytest.mark.parametrize("criterion", [criteria.l1_norm, criteria.geometric_median])
def test_filters_go_whole(criterion):
    model = make_conv()
    weights = [model[i].weight.detach().clone() for i in (0, 2)]
    deepcomp.Pruner(model, sparsity=0.5, criterion=criterion)
    for i, weight in zip((0, 2), weights, strict=True):
        after = model[i].weight.detach()
        alive = after.flatten(1).any(1)
        assert int(alive.sum()) == len(weight) // 2
        assert torch.equal(after[alive], weight[alive])
        scores = criterion(weight).flatten()
        assert scores[alive].min() >= scores[~alive].max()


def test_filters_of_different_sizes_are_counted_by_their_entries():
    model = make_conv()
    pruner = deepcomp.Pruner(model, sparsity=0.14, scope="global", criterion=criteria.l1_norm)
    n = sum(mask.numel() for mask in pruner.masks.values())
    removed = n - sum(int(mask.sum()) for mask in pruner.masks.values())
    assert 0.14 * n - 72 < removed <= 0.14 * n  # 72: the largest filter


def test_the_geometric_median_is_that_of_the_definition():
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    flat = weight.flatten(1).double()
    expected = [sum((a - b).norm() for b in flat) for a in flat]
    found = criteria.geometric_median(weight)
    assert found.shape == (6, 1, 1, 1)
    torch.testing.assert_close(found.flatten().double(), torch.stack(expected))


def test_signal_to_noise_follows_a_deviation_that_is_trained():
    layer = nn.Module()
    layer.weight_mu = nn.Parameter(torch.tensor([[1.0, -2.0, 3.0, 4.0]]))
    layer.weight_rho = nn.Parameter(torch.tensor([[0.1, 0.1, 0.1, 0.1]]))
    pruner = deepcomp.Pruner(
        layer,
        sparsity={"*_mu": 0.5},
        criterion={"*_mu": criteria.signal_to_noise(lambda: layer.weight_rho.exp())},
        schedule=schedules.once(1),
    )
    with torch.no_grad():
        layer.weight_rho[0, 3] = 9.0  # the largest weight is the noisiest now
    pruner.step()
    assert layer.weight_mu.tolist() == [[0.0, -2.0, 3.0, 0.0]]
    assert layer.weight_rho.count_nonzero() == 4


def test_a_users_own_criterion_decides():
    model = make_model()
    deepcomp.Pruner(model, {"0": 0.5}, criterion=lambda w: torch.arange(w.numel()).view_as(w))
    flat = model[0].weight.flatten()
    assert not flat[:300].any() and flat[300:].all()


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(-2, 3), min_size=1, max_size=9), min_size=1, max_size=3),
    st.floats(0, 1),
)
def test_lowest_takes_the_lowest_and_of_equal_ones_the_last(rows, fraction):
    scores = [torch.tensor(row, dtype=torch.float32) for row in rows]
    removed = lowest(scores, [s.numel() for s in scores], fraction)
    flat, gone = np.concatenate(rows), torch.cat(removed).numpy()
    k = round(fraction * flat.size)
    order = np.lexsort((-np.arange(flat.size), flat))
    assert sorted(np.flatnonzero(gone)) == sorted(order[:k])


@given(st.integers(0, 50), st.integers(1, 50), st.integers(1, 20), st.integers(1, 6))
def test_schedules_rise_from_zero_to_one_and_never_fall(begin, length, every, n):
    end = begin + length
    for schedule, last in [
        (schedules.once(begin), begin),
        (schedules.cubic(end, begin, every), end),
        (schedules.in_steps(n, every, begin), begin + every * n),
    ]:
        fractions = [schedule(t) for t in range(last + 2)]
        assert all(0 <= a <= b <= 1 for a, b in pairwise(fractions))
        assert fractions[-1] == 1
        assert begin == 0 or fractions[begin - 1] == 0


def test_cubic_is_the_formula_of_zhu_and_gupta():
    schedule = schedules.cubic(end=110, begin=10, every=5)
    assert schedule(37) == pytest.approx(1 - (1 - 25 / 100) ** 3)


BAD = {
    "leaves a layer empty": (dict(sparsity=0.999), "nothing of '2.weight'.*None to leave it alone"),
    "empty in the end": (
        dict(sparsity=0.999, schedule=schedules.cubic(9)),
        "nothing of '2.weight'",
    ),
    "threshold above all": (dict(threshold=1e9), "nothing of '0.weight'"),
    "pattern without a match": (dict(sparsity={"conv*": 0.5}), "'conv\\*' matches no float"),
    "sparsity of one": (dict(sparsity=1.0), "in \\[0, 1\\)"),
    "two rules": (dict(sparsity=0.5, std=1.0), "sparsity and std were given"),
    "scope": (dict(sparsity=0.5, scope="model"), "'layer' or 'global'"),
    "more than is kept": (
        dict(sparsity=0.96, scope="global", schedule=schedules.cubic(9)),
        "sparsity 0.96 leaves 30 of 750 entries: at least 35 are kept in 2 weights .min_kept.",
    ),
    "less than all filters": (
        dict(sparsity=0.95, criterion=criteria.l1_norm, schedule=schedules.cubic(9)),
        "nothing of '2.weight'",
    ),
    "min_kept": (dict(sparsity=0.5, scope="global", min_kept=1), r"expected a number in \[0, 1\)"),
    "min_kept of layers": (dict(sparsity=0.5, min_kept=0.1), "min_kept is for scope='global'"),
    "no weight left": (dict(sparsity={"*": None}), "finds no weight"),
    "criterion": (dict(sparsity=0.5, criterion="l1"), "expected a function"),
    "criterion's pattern": (dict(sparsity=0.5, criterion={"x": abs}), "'x' matches no float"),
    "shape of scores": (dict(sparsity=0.5, criterion=lambda w: w.sum(1)), r"with \[30\]"),
    "scores that are NaN": (dict(sparsity=0.5, criterion=lambda w: w / 0 * 0), "are NaN"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused_and_nothing_changed(case):
    arguments, message = BAD[case]
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        deepcomp.Pruner(model, **arguments)
    assert equal_states(model.state_dict(), before)


def test_a_model_without_weights_is_refused():
    for model in (nn.ReLU(), nn.BatchNorm1d(3), nn.Embedding(0, 4)):
        with pytest.raises(ValueError, match="finds no weight in"):
            deepcomp.Pruner(model, sparsity=0.5)


def test_a_step_that_would_empty_a_layer_is_refused_and_nothing_changed():
    model = make_model()
    pruner = deepcomp.Pruner(model, threshold=0.01, schedule=schedules.once(1))
    with torch.no_grad():
        model[2].weight.mul_(1e-6)
    before, masks = copy.deepcopy(model.state_dict()), dict(pruner.masks)
    with pytest.raises(ValueError, match=r"nothing of '2\.weight'"):
        pruner.step()
    assert equal_states(model.state_dict(), before) and equal_states(pruner.masks, masks)


def test_a_training_by_the_recipe_of_readme_goes_on_to_its_end():
    """Weights as they are initialized: those of the large layer are all among the smallest."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 30), nn.ReLU(), nn.Linear(30, 30), nn.Linear(30, 100))
    n_steps = 100
    pruner = deepcomp.Pruner(
        model, sparsity=0.95, scope="global", schedule=schedules.cubic(end=6 * n_steps // 10)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    with pytest.warns(UserWarning, match=r"too little of '0\.weight' \(118 of 23,520\)") as warned:
        for _ in range(n_steps):
            optimizer.zero_grad()
            model(torch.randn(8, 784)).square().mean().backward()
            optimizer.step()
            pruner.step()
    assert len(warned) == 1 and warned[0].filename == __file__
    assert int(model[0].weight.count_nonzero()) == 118  # 0.5 %, rounded up
    n_entries = sum(mask.numel() for mask in pruner.masks.values())
    assert sum(int(mask.sum()) for mask in pruner.masks.values()) == round(0.05 * n_entries)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 100), st.sampled_from(["sparsity", "std"]), st.sampled_from([None, 0, 0.1]))
def test_a_global_cut_keeps_the_best_of_each_layer(seed, what, min_kept):
    model = make_model(seed)
    with torch.no_grad():
        model[2].weight.mul_(1e-3)
        model[2].weight[0, :9] = 0.001  # ties
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    amount = {"sparsity": 0.8, "std": 2.0}[what]
    with pytest.warns(UserWarning, match="2.weight"):
        pruner = deepcomp.Pruner(model, scope="global", min_kept=min_kept, **{what: amount})
    least = {None: 5, 0: 1, 0.1: 15}[min_kept]
    small, large = (pruner.masks[name] for name in ("2.weight", "0.weight"))
    order = before["2.weight"].abs().flatten().sort(descending=True, stable=True).indices
    assert sorted(order[:least].tolist()) == small.flatten().nonzero().flatten().tolist()
    if what == "sparsity":  # what one layer keeps, the other gives
        assert int(large.sum()) + least == 150
    assert before["0.weight"].abs()[large].min() >= before["0.weight"].abs()[~large].max()


def test_a_global_cut_that_leaves_enough_warns_of_nothing_and_is_what_it_was():
    first, other = make_model(), make_model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deepcomp.Pruner(first, sparsity=0.8, scope="global")
    deepcomp.compress(other, bits=None, sparsity=0.8, scope="global").restore(other)
    assert equal_states(first.state_dict(), other.state_dict())


def test_filters_are_spared_whole_in_a_global_cut():
    model = make_conv()
    with torch.no_grad():
        model[2].weight.mul_(1e-6)
    with pytest.warns(UserWarning, match="2.weight"):
        deepcomp.Pruner(model, sparsity=0.9, scope="global", criterion=criteria.l1_norm)
    assert int(model[2].weight.flatten(1).any(1).sum()) == 1


def test_steps_after_remove_are_refused():
    pruner = deepcomp.Pruner(make_model(), sparsity=0.5)
    pruner.remove()
    for action in (pruner.step, pruner.mask_gradients):
        with pytest.raises(RuntimeError, match="was removed: make a new one"):
            action()


def test_a_second_remove_does_nothing():
    model = make_model()
    pruner = deepcomp.Pruner(model, sparsity=0.5)
    pruner.remove()
    with torch.no_grad():
        model[0].weight.add_(1.0)
    before = copy.deepcopy(model.state_dict())
    pruner.remove()
    assert equal_states(model.state_dict(), before)


@pytest.mark.parametrize("call", ["step", "mask_gradients", "remove"])
def test_a_layer_of_another_shape_than_before_is_named(call):
    model = nn.Sequential(nn.Linear(6, 4))
    pruner = deepcomp.Pruner(model, sparsity=0.5)
    model[0].weight = nn.Parameter(torch.ones(3, 6))
    with pytest.raises(RuntimeError, match=r"'0.weight' .* \[4, 6\], found \[3, 6\]: call pruner"):
        getattr(pruner, call)()
    assert model[0].weight.all() and pruner.n_steps == 0


def test_sharing_under_a_pruner_is_told_to_remove_it_first():
    model = make_model()
    pruner = deepcomp.Pruner(model, sparsity=0.5)
    deepcomp.share_weights(model)
    with pytest.raises(RuntimeError, match=r"call pruner.remove\(\) before share_weights"):
        pruner.step()
    for sparsity in (0.5, {"*": 0.5}, {"2": 0.5}):  # and not the biases in their place
        with pytest.raises(ValueError, match=r"prune before\s+share_weights"):
            deepcomp.Pruner(model, sparsity=sparsity)


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_a_state_for_other_weights_is_refused(change):
    pruner = deepcomp.Pruner(make_model(), sparsity=0.5)
    state = pruner.state_dict()
    if change == "missing":
        del state["masks"]["2.weight"]
    else:
        state["masks"]["2.weight"] = torch.ones(2, 2, dtype=torch.bool)
    masks = dict(pruner.masks)
    with pytest.raises(ValueError, match="the masks are for other weights: expected"):
        pruner.load_state_dict(state)
    assert equal_states(pruner.masks, masks)


def test_remove_zeroes_what_the_last_optimizer_step_moved():
    model = make_model()
    pruner = deepcomp.Pruner(model, sparsity=0.5)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    pruner.remove()
    assert model[0].weight.count_nonzero() == 300
