"""The torch side: the only place that imports torch."""

from typing import Any

_HOMES = {"SparseConv2d": "layers", "SparseLinear": "layers"}

__all__ = ["SparseConv2d", "SparseLinear"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
