"""Compressed models in other people's formats."""

from .checkpoint import write_checkpoint

__all__ = ["write_checkpoint"]
