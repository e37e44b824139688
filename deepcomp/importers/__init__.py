"""Models in other people's formats, to be compressed."""

from . import han
from .checkpoint import Checkpoint, read_checkpoint

__all__ = ["Checkpoint", "han", "read_checkpoint"]
