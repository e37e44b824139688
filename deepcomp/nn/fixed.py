"""What a layer with a compressed weight refuses, with the way out."""

import sys
from types import FrameType
from typing import Any, NoReturn

import torch
from torch.fx import Proxy

_WAY = (
    "computes from the compressed form: restore the CompressedModel that it came from into a "
    "network built anew, with layers='dense', and"
)


class FixedWeight(torch.nn.Module):
    """A module whose ``weight`` is no parameter: it can be read, and not be changed.

    Functions of torch that put another weight in its place, or compute it anew, as
    ``torch.nn.utils`` has, get a RuntimeError that says what to do.
    """

    def __init__(self) -> None:
        super().__init__()
        self._parameters["weight"] = None  # torch.nn.utils asks for it, then takes it out

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            self._refuse()
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name == "weight":
            self._refuse()
        super().__delattr__(name)

    def register_parameter(self, name: str, param: torch.nn.Parameter | None) -> None:
        """Add a parameter, but none that a weight would be made of, as ``weight_orig``."""
        if name.partition("_")[0] == "weight":
            self._refuse()
        super().register_parameter(name, param)

    def __prepare_scriptable__(self) -> NoReturn:  # called by torch.jit.script
        name = type(self).__name__
        raise RuntimeError(f"TorchScript cannot express a {name}, which {_WAY} script that")

    def _refuse(self) -> NoReturn:
        self._parameters["weight"] = None  # weight_norm has taken it out by now
        raise RuntimeError(f"{type(self).__name__} {_WAY} change its weight there")


def refuse_onnx(what: str) -> None:
    """Raise RuntimeError while something is exported to ONNX.

    Parameters
    ----------
    what : str
        What is asked for it.
    """
    onnx = sys.modules.get("torch.onnx")  # whoever exports has imported it
    if onnx is not None and onnx.is_in_onnx_export():
        raise RuntimeError(f"ONNX has no operator for {what}, which {_WAY} export that")


def refuse_safetensors(what: str) -> None:
    """Raise RuntimeError where safetensors asks for a state_dict, to save a module or to load it.

    It holds tensors alone, and stumbles over the text in the state_dict. Nothing but who asks
    tells that apart from ``torch.save``, which can hold it.

    Parameters
    ----------
    what : str
        What is asked for it.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        is_theirs = frame.f_globals.get("__name__") == "safetensors.torch"
        if is_theirs and frame.f_code.co_name in ("save_model", "load_model"):
            raise RuntimeError(f"safetensors cannot hold {what}, which {_WAY} use that")
        frame = frame.f_back


def describe_untraceable(x: Any) -> str:
    """Say what to do where an input is none because torch.fx is looking into a layer."""
    return f": the layer {_WAY} trace that" if isinstance(x, Proxy) else ""
