"""Each check of the readers is the one that refuses some vector: none is there for nothing."""

import ast
import inspect

import pytest
from independent import FORMATS, dcz_decoder

import deepcomp
from deepcomp import container, decode, index, sections
from deepcomp.limits import ANY_SIZE

# Checks that no vector of a few bytes can reach, by what their lines hold.
NO_VECTOR = [
    "MAX_DECODED",  # the independent decoder's own limit
    "that was read back",  # the writer's
    "no text that UTF-8 can hold",  # the writer's
    "out is {out.dtype}",  # the caller's
    "{MAX_INDEX_NBYTES}",
    "closed_message",  # the caller's
    "an integer of",  # Python's own limit comes first where it has one
]


def refusals(read, error):
    """Return the lines of each source file that were on the way to an error, over all vectors."""
    lines = set()
    for path in sorted((FORMATS / "vectors" / "invalid").glob("*.dcz")):
        with pytest.raises(error) as caught:
            read(path)
        found = caught.value
        while found is not None:
            trace = found.__traceback__
            while trace is not None:
                lines.add((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
                trace = trace.tb_next
            found = found.__context__
    return lines


def unused(module, is_check, lines):
    """Return the checks of a module that refused nothing."""
    source = inspect.getsource(module)
    for node in ast.walk(ast.parse(source)):
        if is_check(node):
            text = ast.get_source_segment(source, node)
            on_the_way = {(module.__file__, n) for n in range(node.lineno, node.end_lineno + 1)}
            if not on_the_way & lines and not any(words in text for words in NO_VECTOR):
                yield text


def test_every_check_of_the_independent_decoder_refuses_a_vector():
    lines = refusals(lambda path: dcz_decoder.decode(path.read_bytes()), dcz_decoder.InvalidFile)

    def is_check(node):
        return isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check"

    assert list(unused(dcz_decoder, is_check, lines)) == []


def test_every_check_of_the_package_refuses_a_vector():
    def read(path):
        for tensor in deepcomp.load(path, max_dense_bytes=ANY_SIZE).values():
            tensor.verify()

    def is_check(node):
        return isinstance(node, ast.Raise) and "rror(" in ast.unparse(node)

    lines = refusals(read, deepcomp.DczError)
    for module in (container, index, sections, decode):
        assert list(unused(module, is_check, lines)) == []
