"""The errors that deepcomp raises on purpose."""


class DczError(ValueError):
    """Raise when a ``.dcz`` file, or a part of it, breaks a rule of ``formats/dcz.md``.

    The message names the file and the tensor, and says what was expected and found.
    """


class UnsupportedVersionError(DczError):
    """Raise when a ``.dcz`` file has a version that this reader does not know."""
