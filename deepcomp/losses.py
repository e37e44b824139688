"""How much tensors lost when they were pruned and shared: relative errors, and what to say of them.

Standard library only. The sums are found in `squares`.
"""

import math
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .errors import LossWarning
from .tables import printable

LARGE = 0.1  # a relative error that is worth a warning: 4 bits lose about so much, 5 bits half
_MOST_NAMES = 3


class Loss(NamedTuple):
    """Sums of squares over entries, in units of ``4.0**exponent``; those of parts add up.

    Attributes
    ----------
    lost : float
        Of the differences.
    whole : float
        Of the entries as they were.
    exponent : int
        Not 0 only where squares would be out of range.
    """

    lost: float = 0.0
    whole: float = 0.0
    exponent: int = 0

    @property
    def relative_error(self) -> float:
        """Norm of the differences over the norm of the entries: 0 if nothing was lost."""
        if not self.lost:
            return 0.0
        return math.sqrt(self.lost / self.whole) if self.whole else math.inf


EXACT = Loss()


def add(losses: Iterable[Loss]) -> Loss:
    """Add what parts of a tensor lost, or tensors of a model.

    Examples
    --------
    >>> add([Loss(1.0, 4.0), Loss(0.0, 3.0, exponent=1)])
    Loss(lost=0.25, whole=4.0, exponent=1)
    """
    found = [loss for loss in losses if loss.lost or loss.whole]
    exponent = max((loss.exponent for loss in found), default=0)
    shifts = [2 * (loss.exponent - exponent) for loss in found]
    return Loss(
        sum(math.ldexp(loss.lost, shift) for loss, shift in zip(found, shifts, strict=True)),
        sum(math.ldexp(loss.whole, shift) for loss, shift in zip(found, shifts, strict=True)),
        exponent,
    )


def in_order(cut: Loss, shared: Loss) -> Loss:
    """Put together what a cut took away, and what sharing the values of the rest changed.

    Examples
    --------
    >>> in_order(Loss(1.0, 5.0), Loss(0.5, 4.0))
    Loss(lost=1.5, whole=5.0, exponent=0)
    """
    return add([cut, shared._replace(whole=0.0)]) if cut.lost else shared


def total(losses: Iterable[Loss]) -> float:
    """Return the relative error of all tensors that lost something, taken together."""
    return add(loss for loss in losses if loss.lost).relative_error


def text_of(relative_error: float) -> str:
    """Return a relative error for a table or a message.

    Examples
    --------
    >>> text_of(0.0), text_of(0.0512345)
    ('exact', '0.0512')
    """
    return f"{relative_error:.3g}" if relative_error else "exact"


def suffix(relative_error: float | None) -> str:
    """Return what a repr says of a relative error: nothing if it is not known.

    Examples
    --------
    >>> suffix(0.4), suffix(0.0), suffix(None)
    (', relative error 0.4', ', exact', '')
    """
    if not relative_error:
        return "" if relative_error is None else ", exact"
    return f", relative error {text_of(relative_error)}"


def note_on(losses: Mapping[str, Loss | None], leave_out: str = "exclude=") -> str | None:
    """Say that the pruned and shared tensors, all together, lost much, and what loses less.

    Parameters
    ----------
    losses : mapping of str to Loss or None
        By the names of the tensors; those that are not known are left out.
    leave_out : str
        The argument that keeps tensors exact.

    Returns
    -------
    str or None
        None if the relative error is not above `LARGE`.
    """
    known = {name: loss for name, loss in losses.items() if loss is not None}
    error = total(known.values())
    if not error > LARGE:
        return None
    errors = {name: loss.relative_error for name, loss in known.items()}
    worst = sorted((n for n in errors if errors[n] > LARGE), key=lambda name: -errors[name])
    listed = ", ".join(f"{printable(n)} {text_of(errors[n])}" for n in worst[:_MOST_NAMES])
    listed += ", ..." if worst[_MOST_NAMES:] else ""
    return (
        f"the pruned and shared weights have a relative error of {error:.2g} (most: {listed}): "
        f"more bits, less sparsity, leaving these out ({leave_out}), or retraining "
        "(deepcomp.Pruner, deepcomp.share_weights) loses less"
    )


def warn(losses: Mapping[str, Loss | None]) -> None:
    """Give a LossWarning if tensors lost much, in the name of the first caller outside."""
    note = note_on(losses)
    if note is not None:
        package = __name__.rpartition(".")[0]
        level, frame = 1, sys._getframe()
        while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] == package:
            level, frame = level + 1, frame.f_back
        warnings.warn(note, LossWarning, stacklevel=level)
