"""Which tensors a setting goes to."""

import numpy as np
import pytest

from deepcomp.arrays import sources
from deepcomp.rules import assign

MODEL = {
    "conv1.weight": np.zeros((4, 3, 2, 2), np.float32),
    "conv1.bias": np.zeros(4, np.float32),
    "fc1.weight": np.zeros((5, 4), np.float16),
    "fc1.bias": np.zeros(5, np.float32),
    "fc2.weight": np.zeros((2, 5), np.float64),
    "steps": np.zeros((2, 2), np.int64),
    "scale": np.zeros((), np.float32),
}
WEIGHTS = ["conv1.weight", "fc1.weight", "fc2.weight"]


def accept(what, name, value):
    """Any value will do."""


def assigned(setting):
    return assign("bits", setting, sources(MODEL).values(), accept)


def test_no_setting_goes_to_no_tensor():
    assert assigned(None) == {}


def test_a_number_goes_to_float_tensors_of_two_or_more_dimensions():
    assert assigned(5) == dict.fromkeys(WEIGHTS, 5)


def test_zero_is_a_number():
    assert assigned(0) == dict.fromkeys(WEIGHTS, 0)


def test_an_empty_mapping_goes_to_no_tensor():
    assert assigned({}) == {}


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("fc1.weight", ["fc1.weight"]),
        ("fc1", ["fc1.weight"]),  # the module's name stands for its weight
        ("fc?", ["fc1.weight", "fc2.weight"]),
        ("fc[2-9]", ["fc2.weight"]),
        ("*", WEIGHTS),
        ("*.weight", WEIGHTS),
        ("fc1.*", ["fc1.weight"]),
        ("fc1.bias", ["fc1.bias"]),  # no weight matches: the others do
        ("*.bias", ["conv1.bias", "fc1.bias"]),
        ("scale", ["scale"]),
        ("s*", ["scale"]),  # and not the integers of steps
    ],
)
def test_a_pattern_stands_for_the_weights_it_matches_or_else_for_other_floats(pattern, names):
    assert assigned({pattern: 3}) == dict.fromkeys(names, 3)


def test_the_first_pattern_that_matches_decides():
    assert assigned({"fc1": 2, "*": 4}) == {"conv1.weight": 4, "fc1.weight": 2, "fc2.weight": 4}
    assert assigned({"*": 4, "fc1": 2}) == dict.fromkeys(WEIGHTS, 4)


def test_none_takes_a_tensor_out():
    assert assigned({"fc1": None, "*": 4}) == {"conv1.weight": 4, "fc2.weight": 4}


def test_tensors_that_no_pattern_matches_get_nothing():
    assert list(assigned({"conv*": 8})) == ["conv1.weight"]


@pytest.mark.parametrize("pattern", ["fc3", "FC1", "fc1.weight ", "", "weight", "steps"])
def test_a_pattern_that_matches_no_float_tensor_is_an_error_that_names_it(pattern):
    with pytest.raises(ValueError, match=r"bits: the pattern '.*' matches no float tensor") as info:
        assigned({"*": 5, pattern: 4})
    assert repr(pattern) in str(info.value)


def test_patterns_know_upper_case_from_lower_case():
    tensors = sources({"A.weight": MODEL["fc1.weight"], "a.weight": MODEL["fc2.weight"]}).values()
    assert assign("bits", {"a*": 5}, tensors, accept) == {"a.weight": 5}


def test_tensors_may_come_from_an_iterator():
    tensors = sources(MODEL).values()
    assert assign("std", {"conv1": 1.5, "fc1": 2.5}, iter(tensors), accept) == {
        "conv1.weight": 1.5,
        "fc1.weight": 2.5,
    }


@pytest.mark.parametrize("setting", [9, {"fc1": 9}, {"conv1": 4, "fc1": 9}])
def test_values_are_checked_before_they_are_assigned(setting):
    def refuse_nine(what, name, value):
        if value == 9:
            raise ValueError(f"{what} of {name} is 9")

    with pytest.raises(ValueError, match="bits of"):
        assign("bits", setting, sources(MODEL).values(), refuse_nine)
    with pytest.raises(ValueError, match="bits of every weight is 9"):
        assign("bits", 9, [], refuse_nine)
