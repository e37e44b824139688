"""The errors that deepcomp raises on purpose, and its warning."""


class DczError(ValueError):
    """Raise when a ``.dcz`` file, or a part of it, breaks a rule of ``formats/dcz.md``.

    The message names the file and the tensor, and says what was expected and found.
    """


class UnsupportedVersionError(DczError):
    """Raise when a ``.dcz`` file has a version that this reader does not know."""


class LossWarning(UserWarning):
    """Warn that what was pruned and shared lost much: a relative error above 0.1.

    The message names the tensors that lost most, and says what loses less.
    """
