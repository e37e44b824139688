"""The smallest file within a budget of accuracy, without retraining."""

import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from glob import escape
from math import isfinite
from numbers import Integral, Real
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch

from ..compression import compress
from ..errors import LossWarning
from ..records import TensorRecord
from ..rules import Names
from ..storage import save
from .lagrange import Search, Setting
from .trial import BITS, SPARSITIES, Trial, align, check_bits, check_sparsities


class Row(NamedTuple):
    """A tensor of a model found by `search`.

    Attributes
    ----------
    name : str
    n_weights : int
    sparsity : float or None
    bits : int or None
        None for both: stored exactly.
    nbytes, dense_nbytes : int
        Bytes in the file, and of the dense tensor.
    """

    name: str
    n_weights: int
    sparsity: float | None
    bits: int | None
    nbytes: int
    dense_nbytes: int


@dataclass(frozen=True)
class Found:
    """What `search` returns. Printing it shows a table.

    Attributes
    ----------
    settings : dict
        ``deepcomp.compress(model, **settings)`` gives the model that was found.
    score, baseline : float
        Of that model, and of the model as it is.
    max_drop : float
    nbytes, dense_nbytes : int
        Bytes of the complete file, and of all tensors when dense.
    n_evaluations : int
    seconds : float
    rows : tuple of Row
        The tensors that were searched.
    """

    settings: dict[str, dict[str, Any]]
    score: float
    baseline: float
    max_drop: float
    nbytes: int
    dense_nbytes: int
    n_evaluations: int
    seconds: float
    rows: tuple[Row, ...]

    @property
    def compression_ratio(self) -> float:
        """Dense bytes over bytes of the file."""
        return self.dense_nbytes / self.nbytes

    def __str__(self) -> str:
        head = ["tensor", "weights", "sparsity", "bits", "bytes", "ratio"]
        lines = [
            [
                row.name,
                f"{row.n_weights:,}",
                "-" if row.sparsity is None else f"{row.sparsity:g}",
                "-" if row.bits is None else str(row.bits),
                f"{row.nbytes:,}",
                f"{row.dense_nbytes / row.nbytes:.1f}x",
            ]
            for row in self.rows
        ]
        places = 2 if abs(self.baseline) >= 2 else 4
        text = (
            f"file   {self.nbytes:,} of {self.dense_nbytes:,} bytes, "
            f"{self.compression_ratio:.1f}x\n"
            f"score  {self.score:.{places}f}, dense {self.baseline:.{places}f}, "
            f"budget {self.max_drop:g}\n"
            f"spent  {self.n_evaluations} evaluations, {self.seconds:.1f} s"
        )
        if not any(self.settings.values()):
            text = f"Nothing smaller stays within the budget: this is the exact model.\n\n{text}"
        return f"{align(head, lines)}\n\n{text}"


def search(
    model: torch.nn.Module,
    evaluate: Callable[[torch.nn.Module], float],
    max_drop: float = 0.01,
    sparsities: Iterable[float] | None = SPARSITIES,
    bits: Iterable[int] | None = BITS,
    names: Names = None,
    max_evaluations: int = 200,
    exclude: Names = None,
) -> Found:
    """Find sparsity and bits for each layer that give the smallest file, without retraining.

    The score of what is found was measured on the whole compressed model, and is at least that
    of the model as it is less `max_drop`, on the data that `evaluate` uses. To know the
    accuracy on new data, test once on data that it does not use.

    Parameters
    ----------
    model : nn.Module
        On any device. Changed for each evaluation and then put back, as by `sensitivity`.
    evaluate : callable
        Is called with `model` and returns its score, higher for a better model. The same model
        must get the same score.
    max_drop : float, default 0.01
        How much lower the score may be, in the units of `evaluate`: 0.01 is one point of an
        accuracy from 0 to 1.
    sparsities : iterable of float, or None
        To choose from, in [0, 1). None: no pruning.
    bits : iterable of int, or None
        To choose from, 1 to 8. None: no sharing.
    names : str or iterable of str, optional
        Names or patterns of the tensors to compress, as in `compress`; by default all weights.
        All others are stored exactly.
    max_evaluations : int, default 200
        At most half of them are spent on single layers, the largest first; the others on the
        whole model. The search ends earlier when it finds nothing more to save.
    exclude : str or iterable of str, optional
        Names or patterns of the tensors that are not compressed, as in `compress`.

    Returns
    -------
    Found
        With `settings` for `compress`; print it for a summary. If nothing smaller stays within
        the budget, the settings are empty: the exact model.

    Raises
    ------
    TypeError
        If `model` is no module, or `evaluate` returns something else than a number.
    ValueError
        If the model has no weights, a pattern matches nothing, an argument is out of range, a
        tensor is not finite, or `evaluate` returns NaN.

    References
    ----------
    Han, Pool, Tran, Dally, "Learning both Weights and Connections for Efficient Neural
    Networks", NIPS 2015, section 3. Han, Mao, Dally, "Deep Compression", ICLR 2016,
    sections 2 and 3. The Lagrangian choice: Shoham, Gersho, "Efficient Bit Allocation for an
    Arbitrary Set of Quantizers", IEEE Trans. ASSP 36 (9), 1988.

    Examples
    --------
    >>> import deepcomp, torch
    >>> _ = torch.manual_seed(0)
    >>> model, x = torch.nn.Linear(256, 4), torch.randn(100, 256)
    >>> labels = model(x).argmax(1)
    >>> def accuracy(model):
    ...     return (model(x).argmax(1) == labels).float().mean()
    >>> found = deepcomp.search(model, accuracy, max_drop=0.1, max_evaluations=20)
    >>> found.score >= found.baseline - 0.1 and found.nbytes < found.dense_nbytes / 5
    True
    >>> packed = deepcomp.compress(model, **found.settings)
    """
    from tqdm import tqdm

    started = perf_counter()
    _check_budget(max_drop, max_evaluations)
    choices = check_sparsities(sparsities), check_bits(bits)[::-1]
    if not any(choices):
        raise ValueError("neither sparsities nor bits were given: there is nothing to search")
    trial = Trial(model, evaluate, names, exclude)
    with tqdm(total=max_evaluations, desc="search", unit="eval", delay=1, disable=None) as bar:
        found = Search(trial, float(max_drop), max_evaluations, bar.update)
        options = found.options(*choices)
        found.bisect(options)
        found.refine(options)
        found.polish(options)
    settings = _settings({name: option.setting for name, option in found.best.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LossWarning)  # the score says what was lost
        packed = compress(model, bits=settings["bits"], sparsity=settings["sparsity"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "found.dcz")
        save(packed, path)
        nbytes = path.stat().st_size
    records = {name: t.record for name, t in packed.items() if name not in packed.aliases}
    rows = [_row(records[name], settings) for name in trial.names]
    return Found(
        settings,
        found.best_score,
        found.baseline,
        float(max_drop),
        nbytes,
        sum(r.dense_nbytes for r in records.values()),
        found.n_evaluations,
        perf_counter() - started,
        tuple(rows),
    )


def _settings(chosen: Mapping[str, Setting]) -> dict[str, dict[str, Any]]:
    # names are escaped: in a mapping they are patterns
    sparsity = {escape(name): s for name, (s, _) in chosen.items() if s is not None}
    bits = {escape(name): b for name, (_, b) in chosen.items() if b is not None}
    return {"bits": bits, "sparsity": sparsity}


def _row(record: TensorRecord, settings: dict[str, dict[str, Any]]) -> Row:
    pattern = escape(record.name)
    sparsity, bits = settings["sparsity"].get(pattern), settings["bits"].get(pattern)
    return Row(
        record.name, record.numel, sparsity, bits, record.section_nbytes, record.dense_nbytes
    )


def _check_budget(max_drop: Any, max_evaluations: Any) -> None:
    is_number = isinstance(max_drop, Real) and not isinstance(max_drop, bool)
    if not is_number or not isfinite(max_drop) or max_drop < 0:
        raise ValueError(f"max_drop is {max_drop!r}: expected a number, finite and not negative")
    is_integer = isinstance(max_evaluations, Integral) and not isinstance(max_evaluations, bool)
    if not is_integer or max_evaluations < 1:
        raise ValueError(
            f"max_evaluations is {max_evaluations!r}: expected an integer of 1 or more"
        )
