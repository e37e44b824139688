"""Convolution with a compressed weight: where its inputs are, scratch, threads."""

import math
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _kernels
from .entries import Entries, Floats
from .layouts import to_blocks
from .memory import scratch
from .threads import share

_MAX_SIZES = 8  # of inputs, that offsets are kept for
_MAX_TILE = 128  # pixels; also what a tile may read beyond the planes
_MAX_BLOCK = 1 << 16  # columns
_CACHE_NBYTES = 32 << 10
_CACHE_PIXELS = 128
_LEAST_ENTRIES = 12  # of a row in a block
_MAX_OFFSET = (1 << 32) - 1
_LANES = 16  # numbers of a register
_MAX_WASTE = 1.25  # of pixels computed for nothing, for the sake of aligned loads

Pair = tuple[int, int]


class Window(NamedTuple):
    """How a convolution looks at its input.

    Attributes
    ----------
    stride : (int, int)
    padding : (int, int, int, int)
        Rows of zeros at the top and bottom, columns at the left and right.
    dilation : (int, int)
    groups : int
    """

    stride: Pair
    padding: tuple[int, int, int, int]
    dilation: Pair
    groups: int


class _Offsets(NamedTuple):
    geometry: NDArray[np.int64]  # as convolve_into takes it
    starts: NDArray[np.int64]
    offsets: NDArray[np.uint32]
    labels: NDArray[np.uint8]
    values: Floats

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self)


class CompressedConvolution:
    """A weight of shape (outputs, inputs / groups, height, width) to convolve images with.

    For each size of the images, the offsets of the weight's entries are made when it first comes.

    Parameters
    ----------
    decode : callable
        Returns the `Entries`; called once for each size.
    shape : (int, int, int, int)
    window : Window

    Raises
    ------
    ValueError
        If one of the numbers is too small, or the outputs cannot be cut into groups.
    """

    def __init__(
        self, decode: Callable[[], Entries], shape: tuple[int, ...], window: Window
    ) -> None:
        sizes = *window.stride, *window.dilation, window.groups
        if len(shape) != 4 or min(sizes) < 1 or min(window.padding) < 0 or shape[0] % window.groups:
            raise ValueError(f"a weight of {list(shape)} cannot be used with {window}")
        self._decode = decode
        self.shape = shape
        self.window = window
        self._sizes: dict[Pair, _Offsets] = {}
        self._making = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes that the offsets made so far take."""
        return sum(offsets.nbytes for offsets in list(self._sizes.values()))

    def out_size(self, height: int, width: int) -> Pair:
        """Return height and width of the output for an input.

        Raises
        ------
        ValueError
            If the kernel is larger than the input and its padding.
        """
        top, bottom, left, right = self.window.padding
        sizes = []
        for padded, kernel, stride, dilation in zip(
            (height + top + bottom, width + left + right),
            self.shape[2:],
            self.window.stride,
            self.window.dilation,
            strict=True,
        ):
            reach = dilation * (kernel - 1) + 1
            if reach > padded:
                raise ValueError(
                    f"an input of {height} x {width} is too small: the kernel reaches over {reach} "
                    f"pixels, and with padding there are {padded}"
                )
            sizes.append((padded - reach) // stride + 1)
        return sizes[0], sizes[1]

    def convolve_into(
        self, x: int, n_images: int, size: Pair, bias: int, out: int, n_threads: int
    ) -> None:
        """Convolve float32 images that are at an address, channel by channel, row by row.

        Parameters
        ----------
        x, bias, out : int
            Addresses; without a bias, 0.
        n_images : int
        size : (int, int)
            Height and width of the input.
        n_threads : int
        """
        o = self._sizes.get(size) or self._make(size)
        n_rows, planes_numel = self.shape[0], _planes_numel(o.geometry)
        image_numel = int(o.geometry[0]) * size[0] * size[1]
        by_image = n_images >= n_threads

        def work(first: int, last: int) -> None:
            rows = (0, n_rows) if by_image else (first, last)
            images = (first, last) if by_image else (0, n_images)
            room = scratch("planes", planes_numel + _MAX_TILE * (1 + rows[1] - rows[0]))
            _kernels.convolve_into(
                o.starts, o.offsets, o.labels, o.values, o.geometry, x, bias, _kernels.ISA, *rows,
                *images, room, image_numel, out,
            )  # fmt: skip

        n_products = o.offsets.size * int(o.geometry[9] * o.geometry[10]) * n_images
        share(work, n_images if by_image else n_rows, n_products, n_threads)

    def _make(self, size: Pair) -> _Offsets:
        with self._making:
            if size not in self._sizes:
                if len(self._sizes) == _MAX_SIZES:
                    del self._sizes[next(iter(self._sizes))]
                self._sizes[size] = self._offsets(size)
            return self._sizes[size]

    def _offsets(self, size: Pair) -> _Offsets:
        entries = self._decode()
        geometry = self._geometry(size)
        plane = _plane_numel(geometry)
        if int(geometry[0]) * plane > _MAX_OFFSET:
            raise ValueError(f"images of {size[0]} x {size[1]} are too large")
        blocks = to_blocks(entries, self._block_columns(entries, geometry), is_sorted=False)
        counts = np.diff(blocks.starts).reshape(-1)  # of each block and row
        n_outputs, n_inputs = self.shape[:2]
        group = np.arange(n_outputs) // (n_outputs // self.window.groups)
        first_column = np.arange(len(blocks.starts)) * blocks.block_columns
        columns = np.repeat(np.repeat(first_column, n_outputs), counts) + blocks.columns
        first_input = np.tile(group * n_inputs * plane, len(blocks.starts))
        offsets = self._places(geometry, plane)[columns] + np.repeat(first_input, counts)
        return _Offsets(
            geometry, blocks.starts, offsets.astype(np.uint32), blocks.labels, blocks.values
        )

    def _block_columns(self, entries: Entries, geometry: NDArray[np.int64]) -> int:
        """Return the width of blocks: so many channels that their inputs stay in the cache."""
        _, n_inputs, height, width = self.shape
        rows_above = (height - 1) * self.window.dilation[0] // self.window.stride[0]
        pixels = _CACHE_PIXELS + rows_above * int(geometry[8])
        pixels *= int(geometry[11]) if self.window.stride[1] == 1 else 1
        n_blocks = n_inputs * 4 * pixels // _CACHE_NBYTES
        n_blocks = min(n_blocks, entries.nnz // (_LEAST_ENTRIES * self.shape[0]))
        n_channels = -(-n_inputs // max(1, n_blocks))
        return max(1, min(n_channels * height * width, _MAX_BLOCK))

    def _geometry(self, size: Pair) -> NDArray[np.int64]:
        top, bottom, left, right = self.window.padding
        stride = self.window.stride
        plane_height = (size[0] + top + bottom - 1) // stride[0] + 1
        plane_width = (size[1] + left + right - 1) // stride[1] + 1
        n_channels = self.shape[1] * self.window.groups
        out = self.out_size(*size)
        n_apart, step = stride[1], 1
        whole_width = -(-out[1] // _LANES) * _LANES
        if stride[1] == 1 and self.shape[3] > 1 and whole_width <= _MAX_WASTE * plane_width:
            plane_width, n_apart, step = whole_width, self.shape[3], self.window.dilation[1]
        planes = plane_height, plane_width, *out, n_apart, step
        return np.array((n_channels, *size, top, left, *stride, *planes), np.int64)

    def _places(self, geometry: NDArray[np.int64], plane: int) -> NDArray[np.int64]:
        """Return the offset of each entry of a kernel, shape (inputs * height * width,)."""
        stride, n_apart, step = self.window.stride, int(geometry[11]), int(geometry[12])
        _, n_inputs, height, width = self.shape
        channel, row, column = np.indices((n_inputs, height, width)).reshape(3, -1)
        row, column = row * self.window.dilation[0], column * self.window.dilation[1] // step
        number = (row % stride[0]) * n_apart + column % n_apart
        in_plane = row // stride[0] * geometry[8] + column // n_apart
        return channel * plane + number * (geometry[7] * geometry[8]) + in_plane


def _plane_numel(geometry: NDArray[np.int64]) -> int:
    """Return how many numbers the planes of a channel have; beyond 64 bits for some."""
    return math.prod(int(geometry[i]) for i in (5, 7, 8, 11))


def _planes_numel(geometry: NDArray[np.int64]) -> int:
    return int(geometry[0]) * _plane_numel(geometry)
