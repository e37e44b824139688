"""search: what it finds is small, within the budget, and really what compress gives."""

import copy
import dataclasses
import itertools
import math
import zlib

import numpy as np
import pytest
import torch
from digits import accuracy, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import deepcomp

FEW = {"sparsities": (0.3, 0.6, 0.9), "bits": (2, 4, 8)}
SOME = {"sparsities": (0.3, 0.5, 0.7), "bits": (1, 2, 3)}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return trained(nn.Sequential(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10)))


@pytest.fixture(scope="module")
def found(model):
    return deepcomp.search(model, accuracy, max_drop=0.02, **SOME, max_evaluations=40)


def bits_of(model):
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: t.detach().numpy().tobytes() for name, t in tensors.items()}


def make_small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 12), nn.BatchNorm1d(12), nn.Linear(12, 8))


def constant(model):
    return 1.0


def file_nbytes(packed, folder):
    deepcomp.save(packed, folder / "m.dcz")
    return (folder / "m.dcz").stat().st_size


# --- what is found ---


def test_settings_give_the_file_and_the_score_that_are_told(model, found, tmp_path):
    packed = deepcomp.compress(model, **found.settings)
    assert file_nbytes(packed, tmp_path) == found.nbytes
    restored = copy.deepcopy(model)
    deepcomp.load(tmp_path / "m.dcz").restore(restored)
    assert accuracy(restored) == found.score >= found.baseline - 0.02
    assert found.baseline == accuracy(model)
    assert found.dense_nbytes == 4 * sum(p.numel() for p in model.parameters())
    assert found.compression_ratio == found.dense_nbytes / found.nbytes > 4
    for row in found.rows:
        assert row.nbytes == packed[row.name].nbytes
        assert row.sparsity == found.settings["sparsity"].get(row.name)
        assert row.bits == found.settings["bits"].get(row.name)


def test_the_file_is_smaller_than_with_one_setting_for_all_layers(model, found, tmp_path):
    sizes = []
    for sparsity, bits in itertools.product([0, *SOME["sparsities"]], SOME["bits"]):
        packed = deepcomp.compress(model, bits, sparsity)
        restored = copy.deepcopy(model)
        packed.restore(restored)
        if accuracy(restored) >= found.baseline - 0.02:
            sizes.append(file_nbytes(packed, tmp_path))
    assert found.nbytes < min(sizes)


def test_a_larger_budget_gives_a_smaller_file(model, found):
    more = deepcomp.search(model, accuracy, max_drop=0.2, **SOME, max_evaluations=40)
    assert more.nbytes < found.nbytes
    assert more.score < found.score


def test_the_same_call_finds_the_same(model, found):
    again = deepcomp.search(model, accuracy, max_drop=0.02, **SOME, max_evaluations=40)
    assert dataclasses.replace(again, seconds=found.seconds) == found


@settings(max_examples=8)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.01, 0.3, 0.9]),
    st.integers(1, 40),
)
def test_no_evaluate_makes_it_break_the_budget_or_count_wrong(seed, max_drop, max_evaluations):
    """Scores without rhyme or reason near the budget, but the same for the same model."""
    model = make_small(seed % 5)
    before, scores = bits_of(model), []
    least = 1 - max_drop
    possible = [1.0, least, np.nextafter(least, 0), least - 0.1 * max_drop, 0.0]

    def evaluate(model):
        now = bits_of(model)
        crc = zlib.crc32(b"".join(now.values()), seed)
        scores.append(1.0 if now == before else possible[crc % len(possible)])
        with torch.no_grad():
            model[0].weight.add_(1)
        return scores[-1]

    found = deepcomp.search(model, evaluate, max_drop, **FEW, max_evaluations=max_evaluations)
    assert bits_of(model) == before
    assert found.n_evaluations == len(scores) <= max_evaluations
    restored = copy.deepcopy(model)
    deepcomp.compress(model, **found.settings).restore(restored)
    assert evaluate(restored) == found.score >= least


def test_when_nothing_fits_the_model_stays_exact_and_the_summary_says_so(tmp_path):
    model = make_small()
    own = bits_of(model)
    found = deepcomp.search(model, lambda m: float(bits_of(m) == own), 0.5, **FEW)
    assert found.settings == {"bits": {}, "sparsity": {}}
    assert found.score == found.baseline == 1
    packed = deepcomp.compress(model, **found.settings)
    assert file_nbytes(packed, tmp_path) == found.nbytes
    assert all(torch.equal(packed[n].to_torch(), t) for n, t in model.state_dict().items())
    assert "this is the exact model" in str(found)


def test_when_everything_fits_the_smallest_of_all_settings_is_found(tmp_path):
    model = make_small()
    found = deepcomp.search(model, constant, sparsities=[0.5, 0.9], bits=[1, 4])
    assert found.nbytes == min(
        file_nbytes(deepcomp.compress(model, bits, sparsity), tmp_path)
        for sparsity in (0.5, 0.9)
        for bits in (1, 4)
    )


def test_only_the_named_tensors_are_changed_also_if_names_look_like_patterns():
    model = nn.ModuleDict({"3*3": nn.Linear(32, 32), "3x3": nn.Linear(32, 32)})
    found = deepcomp.search(model, constant, names="3[*]3", **FEW)
    packed = deepcomp.compress(model, **found.settings)
    assert [row.name for row in found.rows] == ["3*3.weight"]
    assert packed["3*3.weight"].nbytes == found.rows[0].nbytes < 400
    assert torch.equal(packed["3x3.weight"].to_torch(), model["3x3"].weight)


@pytest.mark.parametrize("what", ["sparsities", "bits"])
def test_without_sparsities_or_bits_nothing_is_pruned_or_shared(what):
    found = deepcomp.search(make_small(), constant, **(FEW | {what: None}))
    chosen = found.settings["sparsity" if what == "sparsities" else "bits"]
    assert chosen == {} and any(found.settings.values())


def test_half_and_double_precision_and_tied_weights_are_searched(tmp_path):
    model = nn.ModuleDict({"a": nn.Linear(16, 16), "b": nn.Linear(16, 16)}).double()
    model["b"].weight = model["a"].weight
    model["c"] = nn.Linear(16, 16).to(torch.bfloat16)
    found = deepcomp.search(model, constant, **FEW)
    assert [row.name for row in found.rows] == ["a.weight", "c.weight"]
    assert found.nbytes == file_nbytes(deepcomp.compress(model, **found.settings), tmp_path)
    assert found.dense_nbytes == 8 * (256 + 2 * 16) + 2 * (256 + 16)


def test_the_summary_tells_what_was_found_and_spent(found):
    text = str(found)
    for row in found.rows:
        [line] = [line.split() for line in text.splitlines() if line.startswith(row.name)]
        assert line[1] == f"{row.n_weights:,}"
        assert line[4] == f"{row.nbytes:,}"
    assert f"{found.nbytes:,} of {found.dense_nbytes:,} bytes" in text
    assert f"{found.n_evaluations} evaluations" in text


# --- errors ---


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("after", [0, 1, 9, 11])
def test_the_model_is_put_back_when_evaluate_raises(error, after):
    model = make_small()
    before, calls = bits_of(model), []

    def evaluate(model):
        calls.append(model.eval())
        if len(calls) > after:
            raise error
        return float((model[0].weight != 0).any())

    with pytest.raises(error):
        deepcomp.search(model, evaluate, **FEW)
    assert len(calls) == after + 1
    assert bits_of(model) == before
    assert all(m.training for m in model.modules())


@pytest.mark.parametrize("max_drop", [-0.1, math.nan, math.inf, None, True, "0.1"])
def test_max_drop_must_be_finite_and_not_negative(max_drop):
    with pytest.raises(ValueError, match=r"max_drop is .*: expected a number, finite and not"):
        deepcomp.search(make_small(), constant, max_drop)


@pytest.mark.parametrize("n", [0, -1, 2.5, None, True])
def test_max_evaluations_must_be_a_positive_integer(n):
    with pytest.raises(ValueError, match=r"max_evaluations is .*: expected an integer of 1"):
        deepcomp.search(make_small(), constant, max_evaluations=n)


def test_what_cannot_be_searched_is_refused():
    with pytest.raises(ValueError, match="the model has no weights"):
        deepcomp.search(nn.BatchNorm1d(3), constant)
    with pytest.raises(ValueError, match="names: the pattern 'fc' matches no float tensor"):
        deepcomp.search(make_small(), constant, names="fc")
    with pytest.raises(ValueError, match=r"sparsities: 1\.0 is not possible"):
        deepcomp.search(make_small(), constant, sparsities=[1.0])
    with pytest.raises(ValueError, match="bits: 9 is not possible"):
        deepcomp.search(make_small(), constant, bits=[9])
    with pytest.raises(ValueError, match="evaluate returned NaN"):
        deepcomp.search(make_small(), lambda m: math.nan)
    with pytest.raises(TypeError, match="evaluate returned None: expected a number"):
        deepcomp.search(make_small(), lambda m: None)
    with pytest.raises(ValueError, match="neither sparsities nor bits"):
        deepcomp.search(make_small(), constant, sparsities=None, bits=[])
