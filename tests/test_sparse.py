"""Sparse matrices of SciPy and torch are tensors like others, kept bit for bit."""

import numpy as np
import pytest
import scipy.sparse
import torch
from checkpoints import awkward, bits_of
from hypothesis import given
from hypothesis import strategies as st

import deepcomp

# torch says once that CSR is new, and that nobody checks its indices
pytestmark = pytest.mark.filterwarnings("ignore:Sparse:UserWarning")

SCIPY_FORMATS = ["csr", "csc", "coo", "bsr", "lil", "dok", "dia"]


def exact(value):
    return deepcomp.compress({"w": value}, bits=None)["w"]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "bool"])
@pytest.mark.parametrize("kind", ["csr_array", "csc_matrix", "coo_array"])
def test_scipy_keeps_all_bits_of_its_entries(dtype, kind):
    dense = awkward(dtype)
    row, column = np.nonzero(dense.view(torch.uint8).reshape(*dense.shape, -1).any(-1).numpy())
    data = dense.numpy()[row, column]  # -0.0 and NaN among them
    order = np.random.default_rng(0).permutation(data.size)
    entries = (data[order], (row[order], column[order]))
    matrix = getattr(scipy.sparse, kind)(entries, shape=dense.shape)
    found = exact(matrix)
    assert found.dtype == dtype and found.shape == tuple(dense.shape)
    assert found.decode_patterns().tobytes() == bits_of(dense)


@pytest.mark.parametrize("format", SCIPY_FORMATS)
def test_every_format_of_scipy_is_taken(format):
    dense = np.where(np.random.default_rng(0).random((6, 9)) < 0.3, 1.5, 0)
    assert (exact(scipy.sparse.csr_array(dense).asformat(format)).to_dense() == dense).all()


def test_what_is_stored_twice_is_summed_and_the_input_is_not_changed():
    matrix = scipy.sparse.coo_array(([1.0, 2, 4], ([0, 0, 1], [1, 1, 2])), shape=(2, 3))
    assert exact(matrix).to_dense().tolist() == [[0, 3, 0], [0, 0, 4]]
    assert matrix.nnz == 3
    indices = torch.tensor([[0, 0, 1], [1, 1, 2]])
    tensor = torch.sparse_coo_tensor(indices, torch.tensor([1.0, 2, 4]), (2, 3))
    assert exact(tensor).to_dense().tolist() == [[0, 3, 0], [0, 0, 4]]
    assert not tensor.is_coalesced()


@given(st.integers(1, 9), st.integers(0, 9), st.sampled_from((0.0, 0.3, 1.0)), st.integers(0, 99))
def test_any_csr_is_the_inverse_of_to_csr(rows, columns, density, seed):
    rng = np.random.default_rng(seed)
    dense = (rng.random((rows, columns)) < density) * rng.normal(size=(rows, columns))
    csr = exact(scipy.sparse.csr_array(dense)).to_csr()
    assert csr.shape == (rows, columns)
    again = exact(scipy.sparse.csr_array(csr[:3], csr.shape))
    assert again.to_dense().tobytes() == (dense + 0.0).tobytes()


LAYOUTS = {
    "coo": lambda t: t.to_sparse(),
    "csr": lambda t: t.to_sparse_csr(),
    "csc": lambda t: t.to_sparse_csc(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", "int16", "bool"])
def test_torch_keeps_all_bits_of_its_entries(layout, dtype):
    like = LAYOUTS[layout](torch.from_numpy(np.random.default_rng(0).random((13, 17)) < 0.4))
    values = awkward(dtype, (like._nnz(),))
    parts = {
        "coo": lambda: (like.coalesce().indices(), values, like.shape),
        "csr": lambda: (like.crow_indices(), like.col_indices(), values, like.shape),
        "csc": lambda: (like.ccol_indices(), like.row_indices(), values, like.shape),
    }
    make = getattr(torch, f"sparse_{layout}_tensor")
    options = {"is_coalesced": True} if layout == "coo" else {}
    found = exact(make(*parts[layout](), **options, check_invariants=True))
    dense = np.zeros((13, 17), f"u{values.element_size()}")
    patterns = np.frombuffer(bits_of(values), dense.dtype)
    if layout == "csc":
        dense.T[like.to_dense().numpy().T] = patterns
    else:
        dense[like.to_dense().numpy()] = patterns
    assert found.dtype == dtype and found.decode_patterns().tobytes() == dense.tobytes()


def test_coo_of_three_dimensions_is_taken():
    dense = torch.arange(24.0).reshape(2, 3, 4) * (torch.arange(24).reshape(2, 3, 4) % 3 == 0)
    assert (exact(dense.to_sparse()).to_torch() == dense).all()


def test_sparse_weights_can_be_pruned_and_shared():
    dense = np.random.default_rng(0).normal(size=(50, 60)).astype(np.float32)
    dense[np.abs(dense) < 1] = 0
    packed = deepcomp.compress({"w": scipy.sparse.csr_array(dense)}, bits=3, sparsity=0.9)
    expected = deepcomp.compress({"w": dense}, bits=3, sparsity=0.9)
    assert (packed["w"].to_dense() == expected["w"].to_dense()).all()


def test_the_same_sparse_tensor_under_two_names_is_stored_once():
    matrix, coo = scipy.sparse.csr_array(np.eye(9)), torch.eye(9).to_sparse()
    csr = torch.eye(9).to_sparse_csr()
    model = {"a": matrix, "b": coo, "c": csr, "d": matrix, "e": coo.detach(), "f": csr}
    aliases = deepcomp.compress(model).aliases
    assert aliases == {"d": "a", "e": "b", "f": "c"}
    empty = {name: torch.zeros(2, 3).to_sparse() for name in "ab"}
    assert deepcomp.compress(empty).aliases == {}


def broken_csr(**parts):
    matrix = scipy.sparse.csr_array(np.eye(3))
    for name, value in parts.items():
        getattr(matrix, name)[...] = value
    return matrix


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda: broken_csr(indices=[0, 1, 3]), "tensor 'w': "),
        (lambda: broken_csr(indices=[0, 1, -1]), "tensor 'w': "),
        (lambda: broken_csr(indptr=[0, 9, 2, 3]), "tensor 'w': "),
        (lambda: scipy.sparse.csr_array(np.eye(3) * 1j), "tensor 'w' has dtype complex128"),
        (lambda: torch.eye(4).to_sparse_bsr((2, 2)), "'w' has layout torch.sparse_bsr: call"),
        (lambda: torch.eye(4).to_sparse(1), "layout torch.sparse_coo and 1 dense dimensions"),
        (lambda: torch.ones(2, 2, 2).to_sparse_csr(), "layout torch.sparse_csr: call"),
        (
            lambda: torch.sparse_csr_tensor([0, 1, 1], [9], [1.0], (2, 3), check_invariants=False),
            "tensor 'w': indices 9 to 9: expected 0 to 2",
        ),
        (
            lambda: torch.sparse_csr_tensor([0, 2, 1], [1], [1.0], (2, 3), check_invariants=False),
            "tensor 'w': indptr must rise from 0 to 1",
        ),
        (
            lambda: torch.sparse_coo_tensor([[9], [0]], [1.0], (2, 3), check_invariants=False),
            "tensor 'w': .*",
        ),
    ],
)
def test_what_is_no_matrix_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        exact(value())
