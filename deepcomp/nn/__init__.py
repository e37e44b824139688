"""The torch side: the only place that imports torch."""

from typing import Any

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"this needs torch: pip install 'deepcomp[torch]' ({error})", name=error.name
    ) from error

_HOMES = {"SparseConv2d": "layers", "SparseLinear": "layers"}

_MODULES = (
    "budget", "channels", "choice", "criteria", "distillation", "layers", "lowrank", "model",
    "scan", "schedules", "shrinking", "thinet",
)  # fmt: skip

__all__ = [
    "SparseConv2d",
    "SparseLinear",
    "channels",
    "criteria",
    "distillation",
    "schedules",
    "thinet",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
