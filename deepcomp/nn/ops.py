"""Products with compressed weights as operators, for torch.compile, torch.export and gradients.

A weight goes through a traced program as two arguments: its section, a tensor of bytes, and its
description, a text. What has been made of it for computing is found again by both.
"""

import hashlib
from dataclasses import replace
from functools import cached_property
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from ..convolution import CompressedConvolution, Window
from ..entries import transposed
from ..errors import DczError
from ..index import Index, decode_index, encode_index
from ..multiply import CompressedMatrix
from ..records import TensorRecord
from ..tensor import CompressedTensor
from .fixed import refuse_onnx

_NAME = "weight"


class StoredWeight:
    """A compressed weight, and what has been made of it for computing.

    Parameters
    ----------
    section : torch.Tensor of uint8, shape (section_nbytes,)
        On the CPU.
    record : TensorRecord
    """

    def __init__(self, section: Tensor, record: TensorRecord) -> None:
        self.tensor = CompressedTensor(record, lambda *_: memoryview(section.numpy()))
        self.shape = record.shape
        self.matrix: CompressedMatrix = self.tensor._matrix
        self._convolutions: dict[Window, CompressedConvolution] = {}

    @cached_property
    def transposed(self) -> CompressedMatrix:
        """The transposed matrix, for gradients."""
        entries = self.tensor._entries
        return CompressedMatrix(lambda: transposed(entries()), self.matrix.shape[::-1])

    def convolution(self, window: Window) -> CompressedConvolution:
        """Return the weight as that of a convolution."""
        found = self._convolutions.get(window)
        if found is None:
            found = CompressedConvolution(self.tensor._entries, self.shape, window)
            found = self._convolutions.setdefault(window, found)
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of what has been made of the weight."""
        matrices = [self.matrix]
        if "transposed" in self.__dict__:
            matrices.append(self.transposed)
        convolutions = list(self._convolutions.values())
        return sum(m.nbytes for m in matrices) + sum(c.nbytes for c in convolutions)


_stored: WeakValueDictionary[str, StoredWeight] = WeakValueDictionary()
_kept: dict[str, StoredWeight] = {}  # those of programs, which no module holds


def describe(section: Tensor, record: TensorRecord) -> str:
    """Return a text that says what a section holds, and which one it is.

    Parameters
    ----------
    section : torch.Tensor of uint8, shape (section_nbytes,)
    record : TensorRecord

    Returns
    -------
    str
        The index of a file of this tensor alone, after the digest of the section.
    """
    named = replace(record, name=_NAME, crc32=None)  # whatever file it is from
    digest = hashlib.blake2b(section.numpy(), digest_size=16).hexdigest()
    return f"{digest} {encode_index(Index({}, {_NAME: named})).decode()}"


def record_of(description: str) -> TensorRecord:
    """Read the record in a description.

    Raises
    ------
    DczError
        If it is not as `describe` writes it.
    """
    _, _, text = description.partition(" ")
    record = decode_index(text.encode()).entries.get(_NAME)
    if not isinstance(record, TensorRecord):
        raise DczError("the description of a weight has no tensor of that name")
    return record


def stored_weight(section: Tensor, description: str) -> StoredWeight:
    """Find what has been made of a weight, or begin with it.

    Parameters
    ----------
    section : torch.Tensor of uint8, shape (section_nbytes,)
    description : str

    Returns
    -------
    StoredWeight

    Raises
    ------
    DczError
        If the two do not belong together, or break a rule of ``formats/dcz.md``.
    """
    record = record_of(description)
    if section.shape != (record.section_nbytes,) or describe(section, record) != description:
        raise DczError("a weight's section and its description do not belong together")
    found = _stored.get(description)
    if found is None:
        found = StoredWeight(section, record)
        found.tensor.check()
        found = _stored.setdefault(description, found)
    return found


def _of_program(section: Tensor, description: str) -> StoredWeight:
    found = _stored.get(description)
    if found is None:
        found = _kept[description] = stored_weight(section, description)
    return found


# --- vectors times a matrix ---


def multiply(weight: CompressedMatrix, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply the rows of x, of any dtype, and add a bias; sums are float32."""
    n_rows, n_columns = weight.shape
    if x.ndim == 0 or x.shape[-1] != n_columns:
        raise ValueError(f"x has shape {list(x.shape)}: expected [..., {n_columns}]")
    _check_bias(bias, n_rows)
    rows = x.detach().to(torch.float32).contiguous()
    out = torch.empty((*x.shape[:-1], n_rows), dtype=torch.float32)
    bias = None if bias is None else bias.detach().to(torch.float32).contiguous()
    n_vectors = out.numel() // n_rows if n_rows else 0
    if n_columns == 0:
        out[:] = 0 if bias is None else bias
    elif n_vectors:
        weight.multiply_into(
            rows.data_ptr(), n_columns, True, n_vectors, 0 if bias is None else bias.data_ptr(),
            out.data_ptr(), n_rows, torch.get_num_threads(),
        )  # fmt: skip
    return out.to(x.dtype)


@torch.library.custom_op("deepcomp::product", mutates_args=(), device_types="cpu")
def product(x: Tensor, section: Tensor, description: str, is_transposed: bool) -> Tensor:
    """Multiply the rows of x by a compressed matrix, or by its transpose."""
    weight = _of_program(section, description)
    return multiply(weight.transposed if is_transposed else weight.matrix, x)


@product.register_fake
def _(x: Tensor, section: Tensor, description: str, is_transposed: bool) -> Tensor:
    refuse_onnx("a product with a compressed weight")
    shape = record_of(description).shape
    n_columns = 1
    for extent in shape[1:]:
        n_columns *= extent
    return x.new_empty((*x.shape[:-1], n_columns if is_transposed else shape[0]))


def _keep_weight(ctx, inputs, output):  # type: ignore[no-untyped-def]
    _, section, ctx.description, ctx.is_transposed = inputs
    ctx.save_for_backward(section)


def _product_backward(ctx, grad):  # type: ignore[no-untyped-def]
    (section,) = ctx.saved_tensors
    return product(grad, section, ctx.description, not ctx.is_transposed), None, None, None


product.register_autograd(_product_backward, setup_context=_keep_weight)


def _check_bias(bias: Tensor | None, n: int) -> None:
    if bias is not None and bias.shape != (n,):
        raise ValueError(f"the bias has shape {list(bias.shape)}: expected [{n}]")


# --- images ---


def convolve(weight: CompressedConvolution, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve images of any dtype, (n, channels, height, width), and add a bias."""
    n_channels = weight.shape[1] * weight.window.groups
    if x.ndim != 4 or x.shape[1] != n_channels:
        raise ValueError(f"x has shape {list(x.shape)}: expected [n, {n_channels}, height, width]")
    _check_bias(bias, weight.shape[0])
    images = x.detach().to(torch.float32).contiguous()
    n, height, width = x.shape[0], x.shape[2], x.shape[3]
    out = torch.empty((n, weight.shape[0], *weight.out_size(height, width)), dtype=torch.float32)
    bias = None if bias is None else bias.detach().to(torch.float32).contiguous()
    if out.numel():
        weight.convolve_into(
            images.data_ptr(), n, (height, width), 0 if bias is None else bias.data_ptr(),
            out.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
    return out.to(x.dtype)


def _window(stride: list[int], padding: list[int], dilation: list[int], groups: int) -> Window:
    top, bottom, left, right = padding
    return Window(
        (stride[0], stride[1]), (top, bottom, left, right), (dilation[0], dilation[1]), groups
    )


@torch.library.custom_op("deepcomp::convolution", mutates_args=(), device_types="cpu")
def convolution(
    x: Tensor,
    section: Tensor,
    description: str,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """Convolve images with a compressed weight; the padding is top, bottom, left, right."""
    window = _window(stride, padding, dilation, groups)
    return convolve(_of_program(section, description).convolution(window), x)


@convolution.register_fake
def _(x, section, description, stride, padding, dilation, groups):  # type: ignore[no-untyped-def]
    refuse_onnx("a convolution with a compressed weight")
    shape = record_of(description).shape
    top, bottom, left, right = padding
    height = (x.shape[2] + top + bottom - dilation[0] * (shape[2] - 1) - 1) // stride[0] + 1
    width = (x.shape[3] + left + right - dilation[1] * (shape[3] - 1) - 1) // stride[1] + 1
    return x.new_empty((x.shape[0], shape[0], height, width))


@torch.library.custom_op("deepcomp::dense", mutates_args=(), device_types="cpu")
def dense(section: Tensor, description: str) -> Tensor:
    """Decode a compressed weight, as float32."""
    return _of_program(section, description).tensor.to_torch().float()


@dense.register_fake
def _(section: Tensor, description: str) -> Tensor:
    return section.new_empty(record_of(description).shape, dtype=torch.float32)


def _keep_convolution(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, section, ctx.description, *ctx.window = inputs
    ctx.size = x.shape
    ctx.save_for_backward(section)


def _convolution_backward(ctx, grad):  # type: ignore[no-untyped-def]
    (section,) = ctx.saved_tensors
    stride, (top, bottom, left, right), dilation, groups = ctx.window
    n, channels, height, width = ctx.size
    padded = n, channels, height + top + bottom, width + left + right
    weight = dense(section, ctx.description).to(grad.dtype)
    grad_padded = torch.nn.grad.conv2d_input(padded, weight, grad, stride, 0, dilation, groups)
    grad_x = grad_padded[:, :, top : top + height, left : left + width]
    return grad_x.contiguous(), None, None, None, None, None, None


convolution.register_autograd(_convolution_backward, setup_context=_keep_convolution)
