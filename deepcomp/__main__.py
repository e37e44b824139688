"""``python -m deepcomp`` is ``dcz``."""

from .cli import command

command()
