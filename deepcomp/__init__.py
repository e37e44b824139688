"""deepcomp: pruned and weight-shared networks, really small on disk.

The public names are resolved when they are first used, so that ``import deepcomp`` loads
neither numpy nor torch.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "CompressedModel": "model",
    "CompressedTensor": "tensor",
    "DczError": "errors",
    "LossWarning": "errors",
    "Pruner": "nn.pruner",
    "UnsupportedVersionError": "errors",
    "compress": "compression",
    "compress_checkpoint": "large",
    "factorize": "nn.lowrank",
    "load": "storage",
    "matmul": "multiply",
    "save": "storage",
    "search": "nn.budget",
    "sensitivity": "nn.scan",
    "share_weights": "nn.shared",
    "shrink": "nn.shrinking",
}

_MODULES = ("csr", "exporters", "hf", "importers", "nn", "page", "plot")

__all__ = ["__version__", *_HOMES, *_MODULES]

if TYPE_CHECKING:
    from . import csr as csr
    from . import exporters as exporters
    from . import hf as hf
    from . import importers as importers
    from . import nn as nn
    from . import page as page
    from . import plot as plot
    from .compression import compress as compress
    from .errors import DczError as DczError
    from .errors import LossWarning as LossWarning
    from .errors import UnsupportedVersionError as UnsupportedVersionError
    from .large import compress_checkpoint as compress_checkpoint
    from .model import CompressedModel as CompressedModel
    from .multiply import matmul as matmul
    from .nn.budget import search as search
    from .nn.lowrank import factorize as factorize
    from .nn.pruner import Pruner as Pruner
    from .nn.scan import sensitivity as sensitivity
    from .nn.shared import share_weights as share_weights
    from .nn.shrinking import shrink as shrink
    from .storage import load as load
    from .storage import save as save
    from .tensor import CompressedTensor as CompressedTensor


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    if name in _MODULES:
        from importlib import import_module

        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
