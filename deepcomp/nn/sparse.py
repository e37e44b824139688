"""Sparse torch tensors as tensors of a model."""

import torch

from ..arrays import Source
from ..decode import Patterns
from ..sparse import expand_indptr, scatter
from .convert import flat_patterns

_LAYOUTS = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc)


def sparse_source(name: str, dtype: str, tensor: torch.Tensor) -> Source:
    """Present a sparse torch tensor as a source.

    Parameters
    ----------
    name : str
    dtype : str
        A key of ``records.ITEMSIZE``.
    tensor : torch.Tensor
        COO, without dense dimensions; what is not coalesced is summed. Or CSR or CSC, of two
        dimensions.

    Raises
    ------
    ValueError
        If it is another one; when it is fetched, if its indices are out of range.
    """
    is_coo = tensor.layout is torch.sparse_coo
    n_dense = tensor.dense_dim() if tensor.layout in _LAYOUTS else 0
    is_plain = n_dense == 0 and (tensor.sparse_dim() > 0 if is_coo else tensor.ndim == 2)
    if tensor.layout not in _LAYOUTS or not is_plain:
        dense = f" and {n_dense} dense dimensions" if n_dense else ""
        raise ValueError(
            f"tensor {name!r} has layout {tensor.layout}{dense}: call .to_dense() first"
        )

    def fetch() -> Patterns:
        try:
            entries = tensor.detach().cpu()
            return _from_coo(entries) if is_coo else _from_compressed(entries)
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"tensor {name!r}: {error}") from None

    values = tensor._values() if is_coo else tensor.values()
    identity: tuple[object, ...] = (name,)
    if values.numel():
        identity = (str(tensor.device), values.data_ptr(), dtype, tuple(tensor.shape))
    return Source(name, dtype, tuple(tensor.shape), identity, fetch)


def _from_coo(tensor: torch.Tensor) -> Patterns:
    if not tensor.is_coalesced():  # and coalesce trusts the indices
        indices, values = tensor._indices(), tensor._values()
        tensor = torch.sparse_coo_tensor(indices, values, tensor.shape, check_invariants=True)
        tensor = tensor.coalesce()
    coordinates = [indices.numpy() for indices in tensor.indices()]
    return scatter(flat_patterns(tensor.values().contiguous()), coordinates, tuple(tensor.shape))


def _from_compressed(tensor: torch.Tensor) -> Patterns:
    rows, columns = tensor.shape
    patterns = flat_patterns(tensor.values().contiguous())
    if tensor.layout is torch.sparse_csr:
        indices = tensor.col_indices().numpy()
        row = expand_indptr(tensor.crow_indices().numpy(), rows, patterns.size)
        return scatter(patterns, [row, indices], (rows, columns))
    indices = tensor.row_indices().numpy()
    column = expand_indptr(tensor.ccol_indices().numpy(), columns, patterns.size)
    return scatter(patterns, [indices, column], (rows, columns))
