"""Han's released files are read as the published decoder does it, and their values are kept."""

import numpy as np
import pytest
from checkpoints import han_bytes

import deepcomp
from deepcomp.importers import han

SHAPES = {"conv1": (4, 3, 5, 5), "fc6": (7, 31), "ip": (1, 3)}


def layer(seed, shape, bits, density):
    """Prune and share a weight, and write its entries with fillers; return both."""
    rng = np.random.default_rng(seed)
    codebook = np.concatenate(([0], rng.normal(size=(1 << bits) - 1))).astype(np.float32)
    dense_labels = rng.integers(1, 1 << bits, shape) * (rng.random(shape) < density)
    labels, gaps, run = [], [], 0
    for label in dense_labels.reshape(-1).tolist():
        if label or run == 15:  # the 16th zero in a row is a filler
            labels.append(label)
            gaps.append(run)
            run = 0
        else:
            run += 1
    bias = rng.normal(size=shape[0]).astype(np.float32)
    return codebook[dense_labels], bias, (codebook, bias, labels, gaps)


def network():
    weights, layers = {}, []
    for seed, (name, shape) in enumerate(SHAPES.items()):
        weight, bias, parts = layer(seed, shape, 8 if "conv" in name else 4, (0.3, 0.05, 1)[seed])
        weights |= {f"{name}.weight": weight, f"{name}.bias": bias}
        layers.append(parts)
    return weights, layers


def test_a_network_comes_back_and_its_values_are_kept_exactly(tmp_path):
    expected, layers = network()
    assert len(layers[1][2]) > np.count_nonzero(expected["fc6.weight"])  # there are fillers
    assert len(layers[2][2]) % 2 == 1  # and half a byte that is not used
    (tmp_path / "a.net").write_bytes(han_bytes(layers))
    weights = han.read(tmp_path / "a.net", SHAPES)
    assert list(weights) == list(expected)
    exact = deepcomp.compress(weights, bits=None)
    shared = deepcomp.compress(weights, bits={"conv*": 8, "*": 4})
    for name, array in expected.items():
        assert weights[name].dtype == np.float32 and weights[name].shape == array.shape
        for found in (weights[name], exact[name].to_dense()):
            assert found.tobytes() == array.tobytes(), name
        if name.endswith("weight"):
            assert shared[name].to_dense().tobytes() == array.tobytes()


def test_the_bits_of_layers_can_be_given(tmp_path):
    weight, bias, parts = layer(0, (5, 9), 8, 0.3)
    (tmp_path / "a.net").write_bytes(han_bytes([parts]))
    for bits in (8, {"fc": 8}):
        weights = han.read(tmp_path / "a.net", {"fc": (5, 9)}, bits)
        assert (weights["fc.weight"] == weight).all() and (weights["fc.bias"] == bias).all()
    with pytest.raises(ValueError, match="bits of 'fc' is 5: expected 4 or 8"):
        han.read(tmp_path / "a.net", {"fc": (5, 9)}, 5)


def test_values_of_any_bits_are_kept(tmp_path):
    values = np.zeros(16, np.uint32)
    values[1:4] = 0x80000000, 0x7FC01234, 0xFF812345  # -0.0 and NaNs
    parts = (values.view(np.float32), [0.0], [1, 2, 3], [0, 1, 15])
    (tmp_path / "a.net").write_bytes(han_bytes([parts]))
    weights = han.read(tmp_path / "a.net", {"fc": (1, 20)})
    expected = np.zeros(20, np.uint32)
    expected[[0, 2, 18]] = values[1:4]
    assert weights["fc.weight"].tobytes() == expected.tobytes()
    deepcomp.save(weights, tmp_path / "a.dcz")
    packed = deepcomp.load(tmp_path / "a.dcz")
    assert packed["fc.weight"].to_dense().tobytes() == expected.tobytes()


def test_files_that_do_not_fit_the_shapes_are_refused(tmp_path):
    _, layers = network()
    path = tmp_path / "a.net"
    path.write_bytes(han_bytes(layers))
    smaller = SHAPES | {"fc6": (7, 20)}
    with pytest.raises(ValueError, match=r"a\.net: fc6: indices .* expected 0 to 139 .*\[7, 20\]"):
        han.read(path, smaller)


@pytest.mark.parametrize("n", [0, 3, 11, 12, 500, 1300, -1])
def test_files_that_are_cut_off_or_too_long_are_refused(tmp_path, n):
    data, path = han_bytes(network()[1]), tmp_path / "a.net"
    path.write_bytes(data[:n])
    with pytest.raises(ValueError, match=r"a\.net: .* expected \d+ bytes, found \d+"):
        han.read(path, SHAPES)
    path.write_bytes(data + b"\0")
    with pytest.raises(ValueError, match=rf"take {len(data)} bytes, found {len(data) + 1}"):
        han.read(path, SHAPES)
    path.write_bytes(b"\xff" * 4 + data[4:])
    with pytest.raises(ValueError, match=r"conv1: its labels at .* expected 4294967295 bytes"):
        han.read(path, SHAPES)
