"""The table of deliberate faults (`make mutants`) fits the tree: what it replaces is there."""

import importlib.util
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("faults", TESTS / "mutants" / "faults.py")
faults = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(faults)


@pytest.mark.parametrize("path", sorted({fault.path for fault in faults.FAULTS}))
def test_what_is_replaced_is_there_exactly_once(path):
    source = (faults.ROOT / path).read_text("utf-8")
    for fault in faults.FAULTS:
        if fault.path == path:
            assert source.count(fault.old) == 1 and fault.new != fault.old, fault


def test_there_are_enough_faults_and_the_tests_of_each():
    native = [fault for fault in faults.FAULTS if fault.module]
    assert len(native) >= 30 and len(faults.FAULTS) - len(native) >= 45
    for fault in faults.FAULTS:
        assert all((TESTS / f"test_{name}.py").is_file() for name in fault.tests.split()), fault
        if fault.module:
            assert (faults.ROOT / "deepcomp" / "_native" / f"{fault.module}.pyx").is_file()
