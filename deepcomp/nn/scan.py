"""How much each layer minds pruning and sharing: one layer changed at a time."""

import csv
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..rules import Names
from .trial import BITS, SPARSITIES, Trial, align, check_bits, check_sparsities

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEGEND_ROWS = 26
_MARKERS = "osD^v"


class Row(NamedTuple):
    """The score of a model in which one tensor is changed.

    Attributes
    ----------
    name : str
        The tensor.
    what : {"sparsity", "bits"}
    setting : float or int
    score, baseline : float
        Of the model with that tensor changed, and as it is.
    """

    name: str
    what: str
    setting: float
    score: float
    baseline: float


@dataclass(frozen=True)
class Sensitivity:
    """What `sensitivity` returns: scores by layer and setting. Printing it shows two tables.

    Attributes
    ----------
    baseline : float
        Score of the model as it is.
    rows : tuple of Row
        Layer by layer in the order of the model; of each the sparsities, then the bits.
    """

    baseline: float
    rows: tuple[Row, ...]

    def __str__(self) -> str:
        places = 2 if abs(self.baseline) >= 2 else 4
        parts = [f"baseline {self.baseline:.{places}f}"]
        for what in self._scanned():
            settings = sorted({row.setting for row in self.rows if row.what == what})
            lines = [
                [name, *(f"{score:.{places}f}" for score in by_setting.values())]
                for name, by_setting in self._scores(what).items()
            ]
            parts.append(align([what, *map(str, settings)], lines))
        return "\n\n".join(parts)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the rows as comma-separated values, under a line with the names of the columns.

        Parameters
        ----------
        path : str or os.PathLike
        """
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(Row._fields)
            writer.writerows(self.rows)

    def plot(self, path: str | os.PathLike[str] | None = None) -> "Figure":
        """Draw the score against sparsity and against bits, one line a layer.

        Parameters
        ----------
        path : str or os.PathLike, optional
            Where to save the figure, in the format of its suffix. It is closed then; else
            ``matplotlib.pyplot.show()`` shows it.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ImportError
            If matplotlib is missing.
        """
        try:
            from matplotlib import pyplot
        except ImportError as error:
            raise ImportError(
                "plot() needs matplotlib: pip install 'deepcomp[plot]'", name=error.name
            ) from error
        scanned = self._scanned()
        n_names = len(self._scores(scanned[0]))
        n_columns = -(-n_names // _LEGEND_ROWS)
        figure, axes = pyplot.subplots(
            1,
            len(scanned),
            figsize=(4.5 * len(scanned) + 1.8 * n_columns, 4.8),
            layout="constrained",
            sharey=True,
            squeeze=False,
        )
        for ax, what in zip(axes[0], scanned, strict=True):
            self._draw(ax, what)
        axes[0, 0].set_ylabel("score")
        figure.legend(
            *axes[0, 0].get_legend_handles_labels(),
            loc="outside right upper",
            ncols=n_columns,
            fontsize="small",
            handlelength=1.6,
            frameon=False,
        )
        if path is not None:
            figure.savefig(path, dpi=150)
            pyplot.close(figure)
        return figure

    def _draw(self, ax: "Axes", what: str) -> None:
        ax.axhline(self.baseline, color="0.4", linewidth=1, linestyle="--", label="baseline")
        scores = self._scores(what)
        for i, (name, by_setting) in enumerate(scores.items()):
            # of many layers, colours run from the first to the last, and markers tell neighbours
            # apart
            ax.plot(
                list(by_setting),
                list(by_setting.values()),
                color=_colour(i, len(scores)),
                marker=_MARKERS[i % len(_MARKERS)],
                markersize=3.5,
                linewidth=1.2,
                label=name.removesuffix(".weight"),
            )
        ax.set_xlabel("sparsity" if what == "sparsity" else "bits of a shared weight")
        if what == "bits":
            ax.set_xticks(sorted({int(row.setting) for row in self.rows if row.what == what}))
        ax.spines[["top", "right"]].set_visible(False)

    def _scanned(self) -> list[str]:
        return list(dict.fromkeys(row.what for row in self.rows))

    def _scores(self, what: str) -> dict[str, dict[float, float]]:
        """Return name -> setting -> score."""
        scores: dict[str, dict[float, float]] = {}
        for row in self.rows:
            if row.what == what:
                scores.setdefault(row.name, {})[row.setting] = row.score
        return scores


def _colour(i: int, n: int) -> Any:
    from matplotlib import colormaps

    return colormaps["tab10"](i) if n <= 10 else colormaps["turbo"](0.05 + 0.9 * i / (n - 1))


def sensitivity(
    model: torch.nn.Module,
    evaluate: Callable[[torch.nn.Module], float],
    sparsities: Iterable[float] | None = SPARSITIES,
    bits: Iterable[int] | None = BITS,
    names: Names = None,
    exclude: Names = None,
) -> Sensitivity:
    """Scan how the score falls as one layer is pruned, or its weights are shared.

    One tensor at a time gets the values that `compress` would give it, all others stay as they
    are. The number of evaluations is that of the tensors times that of the settings, and one.

    Parameters
    ----------
    model : nn.Module
        On any device. It is changed in place for each evaluation. Afterwards, and also when
        `evaluate` raises, its parameters and buffers are what they were, bit for bit, and its
        training mode too: what `evaluate` changes, as the statistics of batch norm in training
        mode, lasts no longer than that evaluation.
    evaluate : callable
        Is called with `model` and returns its score, higher for a better model: the accuracy on
        data that were not used for training. It sets the mode (``model.eval()``) by itself.
    sparsities : iterable of float, or None
        In [0, 1). By default 0.1 to 0.9, 0.95, 0.98 and 0.99. None: no pruning.
    bits : iterable of int, or None
        1 to 8, by default all. None: no sharing.
    names : str or iterable of str, optional
        Names or patterns of the tensors to scan, as in `compress`; by default all weights.
    exclude : str or iterable of str, optional
        Names or patterns of those that are not scanned.

    Returns
    -------
    Sensitivity
        Its `rows` as a table (print it), ``to_csv(path)`` and ``plot(path)``.

    Raises
    ------
    TypeError
        If `model` is no module, or `evaluate` returns something else than a number.
    ValueError
        If the model has no weights, a pattern matches nothing, a setting is out of range, a
        tensor is not finite, or `evaluate` returns NaN.

    References
    ----------
    Han, Pool, Tran, Dally, "Learning both Weights and Connections for Efficient Neural
    Networks", NIPS 2015, sections 3 and 5 (the figure of sensitivity, by which thresholds are
    chosen). Han, Mao, Dally, "Deep Compression", ICLR 2016, section 5.

    Examples
    --------
    >>> import deepcomp, torch
    >>> _ = torch.manual_seed(0)
    >>> model, x = torch.nn.Linear(16, 4), torch.randn(100, 16)
    >>> labels = model(x).argmax(1)
    >>> def accuracy(model):
    ...     return (model(x).argmax(1) == labels).float().mean()
    >>> found = deepcomp.sensitivity(model, accuracy, sparsities=[0, 0.9], bits=[2])
    >>> [(row.name, row.what, row.setting) for row in found.rows]
    [('weight', 'sparsity', 0.0), ('weight', 'sparsity', 0.9), ('weight', 'bits', 2)]
    >>> found.rows[0].score == found.baseline > found.rows[1].score
    True
    """
    from tqdm import tqdm

    settings: list[tuple[str, Any]] = [("sparsity", s) for s in check_sparsities(sparsities)]
    settings += [("bits", b) for b in check_bits(bits)]
    if not settings:
        raise ValueError("neither sparsities nor bits were given: there is nothing to scan")
    trial = Trial(model, evaluate, names, exclude)
    total = 1 + len(trial.names) * len(settings)
    rows = []
    with tqdm(total=total, desc="sensitivity", unit="eval", delay=1, disable=None) as bar:
        baseline = trial.baseline()
        bar.update()
        for name in trial.names:
            for what, setting in settings:
                pair = (setting, None) if what == "sparsity" else (None, setting)
                value = trial.encode(name, *pair).to_torch()
                rows.append(Row(name, what, setting, trial.score({name: value}), baseline))
                bar.update()
    return Sensitivity(baseline, tuple(rows))
