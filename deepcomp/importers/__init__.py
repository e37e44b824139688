"""Models in other people's formats, to be compressed."""

from .checkpoint import Checkpoint, read_checkpoint

__all__ = ["Checkpoint", "read_checkpoint"]
