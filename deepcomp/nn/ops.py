"""Products with compressed weights as operators, for torch.compile, torch.export and gradients.

A weight goes through a traced program as two arguments: its section, a tensor of bytes, and its
description, a text. What has been made of it for computing is found again by the description.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..convolution import CompressedConvolution, Window
from ..multiply import CompressedMatrix
from .fixed import refuse_onnx
from .stored import record_of, weight_of_program

# Not `torch.library.custom_op`: at the first call it imports torch._dynamo, a second of CPU time.
# Operators go with their library: it is kept where it outlives this module, which others may import
# anew while layers and programs still have the operators.
_LIBRARY: torch.library.Library = vars(torch.ops.deepcomp).setdefault(
    "_library", torch.library.Library("deepcomp", "FRAGMENT")
)


def _operator(
    schema: str,
    kernel: Callable[..., Tensor],
    fake: Callable[..., Tensor],
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., None] | None = None,
) -> Callable[..., Tensor]:
    """Define an operator for the CPU; `fake` returns a tensor of the shape of the result."""
    name = schema.partition("(")[0]
    if not hasattr(torch.ops.deepcomp, name):
        qualified = f"deepcomp::{name}"
        _LIBRARY.define(schema, tags=torch.Tag.pt2_compliant_tag)
        _LIBRARY.impl(name, kernel, "CPU")
        torch.library.register_fake(qualified, fake, lib=_LIBRARY)
        if backward is not None:
            torch.library.register_autograd(
                qualified, backward, setup_context=setup_context, lib=_LIBRARY
            )
    operator: Callable[..., Tensor] = getattr(torch.ops.deepcomp, name).default
    return operator


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


def _product(x: Tensor, section: Tensor, description: str, is_transposed: bool) -> Tensor:
    weight = weight_of_program(section, description)
    return multiply(weight.transposed if is_transposed else weight.matrix, x)


def _fake_product(x: Tensor, section: Tensor, description: str, is_transposed: bool) -> Tensor:
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


# the rows of x times a compressed matrix, or its transpose
product = _operator(
    "product(Tensor x, Tensor section, str description, bool is_transposed) -> Tensor",
    _product,
    _fake_product,
    _product_backward,
    _keep_weight,
)


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


def _convolution(
    x: Tensor,
    section: Tensor,
    description: str,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    window = _window(stride, padding, dilation, groups)
    return convolve(weight_of_program(section, description).convolution(window), x)


def _fake_convolution(x, section, description, stride, padding, dilation, groups):  # type: ignore[no-untyped-def]
    refuse_onnx("a convolution with a compressed weight")
    shape = record_of(description).shape
    top, bottom, left, right = padding
    height = (x.shape[2] + top + bottom - dilation[0] * (shape[2] - 1) - 1) // stride[0] + 1
    width = (x.shape[3] + left + right - dilation[1] * (shape[3] - 1) - 1) // stride[1] + 1
    return x.new_empty((x.shape[0], shape[0], height, width))


def _dense(section: Tensor, description: str) -> Tensor:
    return weight_of_program(section, description).tensor.to_torch().float()


def _fake_dense(section: Tensor, description: str) -> Tensor:
    return section.new_empty(record_of(description).shape, dtype=torch.float32)


dense = _operator("dense(Tensor section, str description) -> Tensor", _dense, _fake_dense)


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


# images with a compressed weight; the padding is top, bottom, left, right
convolution = _operator(
    "convolution(Tensor x, Tensor section, str description, SymInt[] stride, SymInt[] padding, "
    "SymInt[] dilation, SymInt groups) -> Tensor",
    _convolution,
    _fake_convolution,
    _convolution_backward,
    _keep_convolution,
)
