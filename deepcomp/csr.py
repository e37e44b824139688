"""Compressed sparse rows of a compressed tensor."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import relindex
from .errors import DczError
from .records import MAX_EMPTY_ROWS
from .tensor import CompressedTensor
from .values import numpy_dtype, to_values


class CSR(NamedTuple):
    """A matrix in compressed sparse row form, as SciPy names its parts.

    Attributes
    ----------
    data : ndarray, shape (nnz,)
    indices : ndarray of int64, shape (nnz,)
        Columns, rising within each row.
    indptr : ndarray of int64, shape (rows + 1,)
    shape : (int, int)
    """

    data: NDArray[Any]
    indices: NDArray[np.int64]
    indptr: NDArray[np.int64]
    shape: tuple[int, int]


def to_csr(tensor: CompressedTensor) -> CSR:
    """Decode the kept entries of a tensor; see `CompressedTensor.to_csr`."""
    numel = tensor.record.numel
    rows = tensor.shape[0] if tensor.shape else 1
    shape = (rows, numel // rows if rows else 0)
    if rows > max(numel, MAX_EMPTY_ROWS):
        raise DczError(f"tensor {tensor.name!r}: {rows} empty rows are too many for CSR")
    if numel == 0:
        indptr = np.zeros(rows + 1, np.int64)
        return CSR(np.empty(0, numpy_dtype(tensor.dtype)), indptr[:0], indptr, shape)
    positions, patterns = tensor.decode_with(lambda decoder: decoder.kept())
    indptr, indices = relindex.to_csr(positions, shape)
    return CSR(to_values(patterns, tensor.dtype), indices, indptr, shape)
