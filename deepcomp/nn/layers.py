"""Layers that compute from compressed weights: in place of nn.Linear and nn.Conv2d."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..convolution import Window
from .fixed import FixedWeight, describe_untraceable, refuse_onnx, refuse_safetensors
from .ops import convolution, convolve, multiply, product
from .stored import StoredWeight, describe, record_of, stored_weight

if TYPE_CHECKING:
    from ..tensor import CompressedTensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
EXTRA_STATE = "_extra_state"  # torch's name for it in a state_dict


class SparseLayer(FixedWeight):
    """What the sparse layers share: the compressed weight, as bytes, and a bias.

    The weight's section is a buffer, so that it is part of the state_dict; what it means is the
    extra state. It is not trained, and computing happens on the CPU, from a copy of the bytes that
    is the layer's own: whatever happens to the buffer, the layer's weight stays what it was.

    Attributes
    ----------
    section : torch.Tensor of uint8
        The weight as it is in a ``.dcz`` file. What is written into it changes nothing.
    bias : nn.Parameter or None
    """

    section: Tensor
    bias: torch.nn.Parameter | None

    def __init__(self, weight: "CompressedTensor", bias: torch.nn.Parameter | None = None) -> None:
        super().__init__()
        if isinstance(bias, Tensor) and not isinstance(bias, torch.nn.Parameter):
            bias = torch.nn.Parameter(bias)
        data = bytes(weight.section())
        self.register_buffer("section", _tensor(data))
        self.register_parameter("bias", bias)
        self._description = describe(data, weight.record)
        self._weight = stored_weight(self.section, self._description)

    @property
    def density(self) -> float | None:
        """Fraction of the weight's entries that are kept; None where it is not recorded."""
        return self._weight.tensor.density

    @property
    def memory_nbytes(self) -> int:
        """Bytes that the layer holds: the section twice, layouts made from it, the bias."""
        bias = 0 if self.bias is None else self.bias.nbytes
        return self.section.nbytes + self._weight.nbytes + bias

    @property
    def weight(self) -> Tensor:
        """The weight, decoded at each access: a copy, for code that asks for its dtype."""
        return self.to_dense()

    def to_dense(self) -> Tensor:
        """Decode the weight.

        Returns
        -------
        torch.Tensor
            Of the weight's own shape and dtype.
        """
        return self._weight.tensor.to_torch()

    def get_extra_state(self) -> str:
        """Return what the section holds."""
        refuse_onnx(name := f"a {type(self).__name__}")
        refuse_safetensors(name)
        return self._description

    def set_extra_state(self, state: Any) -> None:
        """Take a weight from a state_dict; it must have the same shape."""
        if state != self._description:
            self._weight, self._description = self._fitting(self.section, state), state

    def _fitting(self, section: Any, description: Any) -> StoredWeight:
        """Return the weight of a state_dict; it is distrusted like a file."""
        found, expected = record_of(description).shape, self._weight.shape
        if found != expected:
            raise RuntimeError(f"the weight has shape {list(found)}: expected {list(expected)}")
        return stored_weight(section, description)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Take a section with its description, or neither: one says what the other is."""
        before = self.section, self._weight, self._description
        keys = prefix + "section", prefix + EXTRA_STATE
        missing = [key for key in keys if key not in state_dict]
        if len(missing) == 1:
            raise RuntimeError(f"state_dict: {missing[0]!r} is missing, which belongs to {keys}")
        if not missing:
            section, description = (state_dict[key] for key in keys)
            try:
                weight = self._fitting(section, description)
            except (RuntimeError, TypeError, ValueError) as error:
                raise type(error)(f"state_dict, {keys[0]!r}: {error}") from None
            # a new buffer: another size is no error, and a copy of the layer may share the old one
            buffer = _tensor(weight.tensor.section()).to(self.section.device)
            self.section, self._weight, self._description = buffer, weight, description
        n_errors = len(error_msgs)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if len(error_msgs) > n_errors:  # of the bias
            self.section, self._weight, self._description = before

    def _save_to_state_dict(self, *arguments: Any) -> None:
        self._mend()
        super()._save_to_state_dict(*arguments)

    def _mend(self) -> None:
        """Undo what was written into the buffer, before it is saved or copied."""
        old, section = self.section, _tensor(self._weight.tensor.section())
        if old.is_meta:
            return
        if old.dtype != torch.uint8 or not torch.equal(old.cpu(), section):
            self.section = section.to(old.device)

    def __getstate__(self) -> dict[str, Any]:
        self._mend()
        state = self.__dict__.copy()
        del state["_weight"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._weight = stored_weight(self.section, self._description)

    def _is_plain(self, x: Tensor, bias: Tensor | None) -> bool:
        """Whether nothing but the result is wanted: no graph, no trace, no gradient."""
        return (
            type(x) is Tensor
            and x.is_cpu
            and not torch.compiler.is_compiling()
            and not (
                torch.is_grad_enabled()
                and (x.requires_grad or (bias is not None and bias.requires_grad))
            )
            and not torch.jit.is_tracing()
        )

    def _bias(self) -> Tensor | None:
        own = self._parameters  # asked first, as that is faster; a pruned bias is elsewhere
        return own["bias"] if "bias" in own else self.bias  # noqa: SIM401

    def _check(self, x: Tensor) -> None:
        name = type(self).__name__
        if not isinstance(x, Tensor):
            hint = describe_untraceable(x)
            raise TypeError(f"{name}: expected a tensor, not a {type(x).__name__}{hint}")
        if x.device.type not in ("cpu", "meta") or x.is_sparse:
            raise RuntimeError(f"{name} computes on the CPU: got a {x.layout} tensor on {x.device}")
        if x.dtype not in DTYPES:
            raise RuntimeError(
                f"{name}: got {x.dtype}, expected torch.float32, torch.bfloat16 or torch.float16: "
                "call .float() on the input"
            )

    def extra_repr(self) -> str:
        """Describe the layer."""
        record = self._weight.tensor.record
        density = "" if self.density is None else f", {100 * self.density:.1f} % kept"
        bias = self.bias is not None
        return f"{list(self._weight.shape)}{density}, {record.layout}, bias={bias}"


class SparseLinear(SparseLayer):
    """A linear layer that computes from a compressed weight, on the CPU.

    Parameters
    ----------
    weight : CompressedTensor
        Shape (out_features, in_features).
    bias : nn.Parameter or torch.Tensor, shape (out_features,), optional

    Attributes
    ----------
    in_features, out_features : int

    Examples
    --------
    >>> import deepcomp, torch
    >>> packed = deepcomp.compress(torch.nn.Linear(30, 20), bits=4, sparsity=0.8)
    >>> layer = SparseLinear(packed["weight"])
    >>> layer
    SparseLinear([20, 30], 20.0 % kept, sparse, bias=False)
    >>> layer(torch.ones(2, 30)).shape
    torch.Size([2, 20])
    """

    def __init__(self, weight: "CompressedTensor", bias: torch.nn.Parameter | None = None) -> None:
        if len(weight.shape) != 2:
            raise ValueError(f"weight has shape {list(weight.shape)}: expected two dimensions")
        super().__init__(weight, bias)
        self.out_features, self.in_features = weight.shape

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the last dimension of `x`, which may be of float32, bfloat16 or float16.

        Sums are float32; under autocast `x` is rounded, as of nn.Linear. Gradients flow to `x` and
        the bias.
        """
        bias = self._bias()
        if torch.is_autocast_enabled("cpu"):
            x = _autocast(x)
        if not self._is_plain(x, bias):
            self._check(x)
            y = product(x, self.section, self._description, False)
            return y if bias is None else y + bias.to(y.dtype)
        n_in, n_out = self.in_features, self.out_features
        shape = x.shape
        if (
            len(shape) != 2
            or shape[1] != n_in
            or not (shape[0] and n_in and n_out)
            or not _is_simple(x)
            or not (bias is None or (bias.numel() == n_out and _is_simple(bias)))
        ):
            self._check(x)
            return multiply(self._weight.matrix, x, bias)
        out = torch.empty(shape[0], n_out)
        self._weight.matrix.multiply_into(
            x.data_ptr(), n_in, True, shape[0], 0 if bias is None else bias.data_ptr(),
            out.data_ptr(), n_out, torch.get_num_threads(),
        )  # fmt: skip
        return out

    def _check(self, x: Tensor) -> None:
        super()._check(x)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise RuntimeError(
                f"SparseLinear: got an input of shape {list(x.shape)}, "
                f"expected [..., {self.in_features}]"
            )


class SparseConv2d(SparseLayer):
    """A convolution of images that computes from a compressed weight, on the CPU.

    Parameters
    ----------
    weight : CompressedTensor
        Shape (out_channels, in_channels / groups, height, width).
    bias : nn.Parameter or torch.Tensor, shape (out_channels,), optional
    stride, padding, dilation : int or (int, int)
        As of ``nn.Conv2d``; `padding` may be "valid" or "same". Padded with zeros.
    groups : int

    Examples
    --------
    >>> import deepcomp, torch
    >>> packed = deepcomp.compress(torch.nn.Conv2d(8, 16, 3), bits=4, sparsity=0.8)
    >>> layer = SparseConv2d(packed["weight"], padding=1)
    >>> layer(torch.ones(1, 8, 12, 12)).shape
    torch.Size([1, 16, 12, 12])
    """

    def __init__(
        self,
        weight: "CompressedTensor",
        bias: torch.nn.Parameter | None = None,
        stride: int | tuple[int, int] = 1,
        padding: int | str | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
    ) -> None:
        if len(weight.shape) != 4 or 0 in weight.shape:
            raise ValueError(f"weight has shape {list(weight.shape)}: expected four dimensions")
        if groups < 1 or weight.shape[0] % groups:
            raise ValueError(f"{weight.shape[0]} channels cannot be cut into {groups} groups")
        super().__init__(weight, bias)
        self.out_channels, self.in_channels = weight.shape[0], weight.shape[1] * groups
        self._window = Window(
            _pair(stride),
            _four(padding, weight.shape[2:], _pair(dilation)),
            _pair(dilation),
            groups,
        )
        if self._window.stride != (1, 1) and padding == "same":
            raise ValueError("padding='same' needs a stride of 1")

    def forward(self, x: Tensor) -> Tensor:
        """Convolve images, (n, channels, height, width) or one without n; see `SparseLinear`."""
        bias = self._bias()
        self._check(x)
        if torch.is_autocast_enabled("cpu"):
            x = _autocast(x)
        images = x if x.ndim == 4 else x.unsqueeze(0)
        if self._is_plain(x, bias):
            y = convolve(self._weight.convolution(self._window), images, bias)
        else:
            stride, padding, dilation, groups = self._window
            y = convolution(
                images, self.section, self._description, stride, padding, dilation, groups
            )
            y = y if bias is None else y + bias.to(y.dtype).reshape(-1, 1, 1)
        return y if x.ndim == 4 else y.squeeze(0)

    def _check(self, x: Tensor) -> None:
        super()._check(x)
        if x.ndim not in (3, 4) or x.shape[-3] != self.in_channels:
            raise RuntimeError(
                f"SparseConv2d: got an input of shape {list(x.shape)}, "
                f"expected [n, {self.in_channels}, height, width]"
            )
        reach = [d * (k - 1) + 1 for d, k in zip(self._window.dilation, self._weight.shape[2:])]
        top, bottom, left, right = self._window.padding
        if x.shape[-2] + top + bottom < reach[0] or x.shape[-1] + left + right < reach[1]:
            raise RuntimeError(
                f"SparseConv2d: got images of {list(x.shape[-2:])}, "
                f"with padding smaller than the kernel's {reach}"
            )

    def extra_repr(self) -> str:
        """Describe the layer."""
        w = self._window
        return f"{super().extra_repr()}, stride={w.stride}, padding={w.padding}, groups={w.groups}"


def _tensor(data: bytes | memoryview) -> Tensor:
    """Copy bytes into a tensor."""
    if not data:  # which frombuffer refuses
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _autocast(x: Tensor) -> Tensor:
    """Round an input as autocast rounds that of a dense layer."""
    is_rounded = isinstance(x, Tensor) and x.is_cpu and x.dtype in DTYPES
    return x.to(torch.get_autocast_dtype("cpu")) if is_rounded else x


def _is_simple(x: Tensor) -> bool:
    """Whether a kernel can read it where it is."""
    return x.dtype is torch.float32 and x.is_cpu and x.is_contiguous()


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return int(first), int(second)


def _four(
    padding: int | str | tuple[int, int], kernel: tuple[int, ...], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return the padding at the top, bottom, left and right."""
    if padding == "same":  # what is odd goes to the bottom and the right
        height, width = (d * (k - 1) for d, k in zip(dilation, kernel))
        return height // 2, height - height // 2, width // 2, width - width // 2
    if isinstance(padding, str):
        if padding != "valid":
            raise ValueError(f"padding is {padding!r}: expected numbers, 'valid' or 'same'")
        padding = 0
    height, width = _pair(padding)
    return height, height, width, width
