"""y = W x and Y = W X from the compressed form: checks, choice of layout and kernel, threads."""

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import _kernels
from .entries import Entries, Floats, check_rows
from .layouts import (
    ROWS_A_GROUP,
    Blocks,
    Windows,
    block_columns_for,
    to_blocks,
    to_windows,
    window_kind,
)
from .memory import address, scratch
from .threads import WORK_A_THREAD, share

if TYPE_CHECKING:
    from .tensor import CompressedTensor

_FEW = 4  # vectors up to which the layout for one is the faster one (measured at 9 and 10 %)
_MAX_TILE = 64  # vectors that a kernel takes at a time
_MAX_COLUMNS = (1 << 31) - 1


class CompressedMatrix:
    """A matrix that is multiplied in its compressed form.

    Its layouts, for one, few and many vectors, are made when they are first needed.

    Parameters
    ----------
    decode : callable
        Returns the `Entries`; called once for each layout that is made.
    shape : (int, int)
    decode_windows : callable, optional
        Returns the `Windows` without the entries, or None if it cannot.
    """

    def __init__(
        self,
        decode: Callable[[], Entries],
        shape: tuple[int, int],
        decode_windows: Callable[[], Windows | None] | None = None,
    ) -> None:
        if shape[1] > _MAX_COLUMNS:
            raise ValueError(f"{shape[1]} columns are too many: expected at most {_MAX_COLUMNS}")
        check_rows(shape)
        self._decode, self._decode_windows = decode, decode_windows
        self.shape = shape
        self._windows: Windows | None = None
        self._addresses = 0, 0, 0, 0  # of its arrays: to look them up takes too long
        self._blocks: dict[int, Blocks] = {}  # by the number of columns of a block
        self._has_windows = True  # until its values turn out to be too many
        self._nnz: int | None = None
        self._making = threading.Lock()

    def __deepcopy__(self, memo: object) -> "CompressedMatrix":
        return CompressedMatrix(self._decode, self.shape, self._decode_windows)

    @property
    def nbytes(self) -> int:
        """Bytes that the layouts made so far take."""
        windows = self._windows.nbytes if self._windows else 0
        return windows + sum(blocks.nbytes for blocks in list(self._blocks.values()))

    @property
    def _density(self) -> float:
        return (self._nnz or 0) / max(1, self.shape[0] * self.shape[1])

    def multiply_into(
        self,
        x: int,
        x_stride: int,
        are_rows: bool,
        n_vectors: int,
        bias: int,
        out: int,
        out_stride: int,
        n_threads: int,
    ) -> None:
        """Multiply vectors that are at an address; see ``blocks_times_vectors_into``.

        Parameters
        ----------
        x, bias, out : int
            Addresses of float32 numbers; without a bias, 0.
        x_stride, out_stride : int
            Numbers from row to row.
        are_rows : bool
            Whether the vectors are the rows of `x` and `out`, or their columns.
        n_vectors : int
        n_threads : int
        """
        if n_vectors <= _FEW and (are_rows or n_vectors == 1) and self._has_windows:
            windows = self._windows or self._make_windows()
            if windows is not None:
                for _ in range(n_vectors):
                    self._times_vector(windows, x, bias, out, n_threads)
                    x, out = x + 4 * x_stride, out + 4 * out_stride
                return
        vectors = x_stride, are_rows or n_vectors == 1, n_vectors
        self._times_vectors(x, vectors, bias, out, out_stride, n_threads)

    def _times_vectors(
        self,
        x: int,
        vectors: tuple[int, bool, int],
        bias: int,
        out: int,
        out_stride: int,
        n_threads: int,
    ) -> None:
        blocks = self._blocks_for(vectors[-1])

        def groups(first_group: int, last_group: int) -> None:
            first = first_group * ROWS_A_GROUP
            last = min(last_group * ROWS_A_GROUP, self.shape[0])
            room = scratch("tile", _MAX_TILE * (blocks.block_columns + last - first))
            _kernels.blocks_times_vectors_into(
                blocks.starts, blocks.order, ROWS_A_GROUP, blocks.columns, blocks.labels,
                blocks.values, self.shape[1], blocks.block_columns, x, *vectors, bias,
                _kernels.ISA, first, last, room, out, out_stride,
            )  # fmt: skip

        n_groups = -(-self.shape[0] // ROWS_A_GROUP)
        share(groups, n_groups, blocks.columns.size * vectors[-1], n_threads)

    def _times_vector(self, w: Windows, x: int, bias: int, out: int, n_threads: int) -> None:
        n_groups, n_products = w.starts.size - 1, w.nnz
        if n_threads == 1 or n_products < 2 * WORK_A_THREAD:  # no more calls than it needs
            self._times_groups(w, x, bias, out, 0, n_groups)
        else:
            work = partial(self._times_groups, w, x, bias, out)
            share(work, n_groups, n_products, n_threads)

    def _times_groups(self, w: Windows, x: int, bias: int, out: int, first: int, last: int) -> None:
        room = np.empty(2 * (w.shape[1] + 80), np.uint16) if w.kind == 1 else None
        _kernels.windows_times_vector_into(
            *self._addresses, w.kind, *w.shape, x, bias, _kernels.ISA, first, last,
            0 if room is None else address(room), out,
        )  # fmt: skip

    def _make_windows(self) -> Windows | None:
        with self._making:
            if self._windows is None and self._has_windows:
                w = self._decode_windows() if self._decode_windows else None
                if w is None:
                    entries = self._entries()
                    kind = window_kind(entries.n_values, self._density, _kernels.ISA)
                    self._has_windows = kind is not None
                    if kind is None:
                        self._add_blocks(entries, 1)
                        return None
                    w = to_windows(entries, kind)
                self._nnz = w.nnz
                self._addresses = (
                    address(w.starts),
                    address(w.offsets),
                    address(w.words),
                    address(w.codebook),
                )
                self._windows = w
            return self._windows

    def _blocks_for(self, n_vectors: int) -> Blocks:
        if self._nnz is not None:
            blocks = self._blocks.get(block_columns_for(self._density, n_vectors))
            if blocks is not None:
                return blocks
        with self._making:
            return self._add_blocks(self._entries(), n_vectors)

    def _add_blocks(self, entries: Entries, n_vectors: int) -> Blocks:
        width = block_columns_for(self._density, n_vectors)
        if width not in self._blocks:
            self._blocks[width] = to_blocks(entries, width)
        return self._blocks[width]

    def _entries(self) -> Entries:
        entries = self._decode()
        self._nnz = entries.nnz
        return entries


def matmul(
    tensor: "CompressedTensor",
    x: NDArray[Any],
    out: Floats | None = None,
    n_threads: int = 1,
) -> Floats:
    """Multiply a compressed matrix by a vector or a matrix, without making it dense.

    The first product of a kind (up to four vectors, or more) makes a layout for it, which takes as
    long as a few dense products; the tensor keeps it.

    Parameters
    ----------
    tensor : CompressedTensor
        With two dimensions, (n, k). Of any dtype; its values are rounded to float32.
    x : ndarray of float32 or float16, shape (k,) or (k, m)
        An entry that is NaN or infinite reaches only the rows that keep a weight in its column.
    out : ndarray of float32, shape (n,) or (n, m), optional
        C-contiguous, not overlapping `x`; filled and returned.
    n_threads : int, default 1
        At most so many threads share the rows; a small product takes fewer.

    Returns
    -------
    ndarray of float32, shape (n,) or (n, m)

    Raises
    ------
    DczError
        If the file is damaged or breaks a rule of ``formats/dcz.md``.
    TypeError
        If `tensor` is no compressed tensor.
    ValueError
        If a shape or dtype does not fit.

    Examples
    --------
    >>> import deepcomp
    >>> packed = deepcomp.compress({"w": np.eye(3, dtype=np.float32)}, bits=2)
    >>> deepcomp.matmul(packed["w"], np.arange(3, dtype=np.float32))
    array([0., 1., 2.], dtype=float32)
    """
    matrix = getattr(tensor, "_matrix", None)
    if matrix is None:
        raise TypeError(f"expected a CompressedTensor, not {type(tensor).__name__}")
    n, k = _matrix_dimensions(tensor)
    x = _checked_input(x, k)
    shape = (n, *x.shape[1:])
    if isinstance(n_threads, bool) or not isinstance(n_threads, int) or n_threads < 1:
        raise ValueError(f"n_threads is {n_threads!r}: expected an integer of 1 or more")
    if out is None:
        out = np.empty(shape, np.float32)
    else:
        _check_out(out, shape, x)
    n_vectors = x.size // k if k else 0
    if out.size == 0 or n_vectors == 0:
        out[...] = 0
        return out
    matrix.multiply_into(
        address(x), n_vectors, False, n_vectors, 0, address(out), n_vectors, n_threads
    )
    return out


def _matrix_dimensions(tensor: "CompressedTensor") -> tuple[int, int]:
    if len(tensor.shape) != 2:
        raise ValueError(
            f"tensor {tensor.name!r} has shape {list(tensor.shape)}: expected two dimensions"
        )
    return tensor.shape[0], tensor.shape[1]


def _checked_input(x: NDArray[Any], k: int) -> Floats:
    if not isinstance(x, np.ndarray) or x.dtype not in (np.float32, np.float16):
        found = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        raise ValueError(f"x is {found}: expected an array of float32 or float16")
    if x.ndim not in (1, 2) or x.shape[0] != k:
        raise ValueError(f"x has shape {x.shape}: expected ({k},) or ({k}, m)")
    return np.require(x, np.float32, ("C", "ALIGNED"))


def _check_out(out: Floats, shape: tuple[int, ...], x: Floats) -> None:
    if not isinstance(out, np.ndarray) or out.dtype != np.float32 or out.shape != shape:
        found = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise ValueError(f"out is {found}: expected float32 {shape}")
    if not out.flags.carray:
        raise ValueError("out must be C-contiguous, aligned and writable")
    if np.may_share_memory(out, x):
        raise ValueError("out overlaps x")
