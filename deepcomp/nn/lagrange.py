"""Which setting for each layer: Lagrangian choices, verified on the whole model.

Small errors of the layers add up at the output like independent noise. So each layer gets a scale:
the squared error at which that layer alone uses up the accuracy budget, found by bisection over
its settings. In these units the errors of all layers are one currency, and the smallest file for
an amount of it is a Lagrangian problem, solved exactly over the encoded sizes. How much can really
be spent, only evaluations of the whole model say.

Shoham, Gersho, "Efficient Bit Allocation for an Arbitrary Set of Quantizers", IEEE Transactions
on Acoustics, Speech, and Signal Processing 36 (9), 1988.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise, product
from math import prod
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch

from ..pipeline import to_values
from .trial import Trial

Setting = tuple[float | None, int | None]  # sparsity, bits
EXACT: Setting = (None, None)
_LEAST_SPENT = 1e-12  # by any change, so that the quotients of savings and spending are finite


class Option(NamedTuple):
    """A setting of a tensor: the bytes it takes, and what its errors spend of the budget."""

    setting: Setting
    nbytes: int
    pruned: float
    shared: float


Options = Mapping[str, list[Option]]
Choice = dict[str, Option]
Point = tuple[float, Option]  # with what it spends, at a price of pruning and one of sharing


class Search:
    """Spends evaluations on single layers, then on the whole model."""

    def __init__(
        self, trial: Trial, max_drop: float, max_evaluations: int, report: Callable[[], Any]
    ) -> None:
        self._trial, self._max_drop, self._report = trial, max_drop, report
        self._max_evaluations = max_evaluations
        self._dense: dict[str, tuple[Setting, torch.Tensor]] = {}  # the latest of each tensor
        self._tried: set[tuple[Setting, ...]] = set()
        self.baseline = self.best_score = trial.baseline()
        self.best: Choice = {}
        self.n_evaluations = 1
        report()

    def options(self, sparsities: list[float], bits: list[int]) -> Options:
        """Scan single layers as far as evaluations go; return what each can choose from."""
        names = self._trial.names
        largest_first = sorted(names, key=lambda n: -prod(self._trial.source(n).shape))
        scales: dict[str, tuple[float, float]] = {}
        enough = len(sparsities).bit_length() + len(bits).bit_length()
        for name in largest_first:
            if self.n_evaluations + enough > self._max_evaluations // 2:
                break
            by_sparsity = self._scan(name, [(s, None) for s in sparsities])
            scales[name] = by_sparsity, self._scan(name, [(None, b) for b in bits])
        columns = zip(*scales.values(), strict=True)
        usual = [median(column) for column in columns] or [1.0, 1.0]
        options: dict[str, list[Option]] = {}
        for name in names:
            by_sparsity, by_bits = scales.get(name, usual)
            options[name] = []
            for setting in product([None, *sparsities], [None, *bits]):
                nbytes, pruned, shared = self._encode(name, setting)
                spent = pruned / by_sparsity, shared / by_bits
                options[name].append(Option(setting, nbytes, *spent))
        self.best = {name: options[name][0] for name in names}
        return options

    def bisect(self, options: Options) -> None:
        """Find how far the budget goes, with the prices of the scan."""
        choices = _choices({name: _hull(o, 1.0, 1.0) for name, o in options.items()})
        fits, breaks = 0, len(choices)
        while breaks - fits > 1 and self._may_evaluate:
            middle = (fits + breaks) // 2
            if self._try(choices[middle]):
                fits = middle
            else:
                breaks = middle

    def refine(self, options: Options) -> None:
        """Correct the prices one by one, as long as that leads to smaller files."""
        prices = {name: [1.0, 1.0] for name in options}
        hulls = {name: _hull(o, 1.0, 1.0) for name, o in options.items()}
        factor = 4.0
        while factor > 1.1 and self._may_evaluate:
            before = self.best
            for name, which, times in product(options, (0, 1), (factor, 1 / factor)):
                price = prices[name].copy()
                price[which] *= times
                changed = {**hulls, name: _hull(options[name], *price)}
                if self._descend(_choices(changed)):
                    prices[name], hulls = price, changed
            if self.best is before:
                factor **= 0.5

    def polish(self, options: Options) -> None:
        """Spend what evaluations are left on changes of one layer, the most promising first."""
        while self._may_evaluate:
            before = self.best
            moves = [
                (_promise(before[name], o), name, o) for name in options for o in options[name]
            ]
            for promise, name, option in sorted(moves, key=lambda move: -move[0]):
                if promise <= 0 or not self._may_evaluate:
                    return
                if self._try({**before, name: option}):
                    break

    def _descend(self, choices: list[Choice]) -> bool:
        """Try smaller choices one after the other, up to the first that breaks the budget."""
        best = self.best
        for choice in choices:
            smaller = _nbytes(choice) < _nbytes(self.best)
            if smaller and not (self._may_evaluate and self._try(choice)):
                break
        return self.best is not best

    @property
    def _may_evaluate(self) -> bool:
        return self.n_evaluations < self._max_evaluations

    def _try(self, choice: Choice) -> bool:
        """Evaluate the whole model; keep the choice if it is within the budget."""
        settings = {name: option.setting for name, option in choice.items()}
        key = tuple(settings.values())
        if key in self._tried:
            return False
        self._tried.add(key)
        score = self._score({n: s for n, s in settings.items() if s != EXACT})
        if not self._fits(score):
            return False
        self.best, self.best_score = choice, score
        return True

    def _fits(self, score: float) -> bool:
        return score >= self.baseline - self._max_drop

    def _score(self, settings: Mapping[str, Setting]) -> float:
        for name, setting in settings.items():
            if self._dense.get(name, (None,))[0] != setting:
                self._dense[name] = setting, self._trial.encode(name, *setting).to_torch()
        score = self._trial.score({name: self._dense[name][1] for name in settings})
        self.n_evaluations += 1
        self._report()
        return score

    def _scan(self, name: str, settings: list[Setting]) -> float:
        """Return the error at which this layer alone uses up the budget."""
        fits, breaks = -1, len(settings)
        while breaks - fits > 1:
            middle = (fits + breaks) // 2
            if self._fits(self._score({name: settings[middle]})):
                fits = middle
            else:
                breaks = middle
        around = [max(fits, 0), min(breaks, len(settings) - 1)]
        errors = [sum(self._encode(name, settings[i])[1:]) for i in around if settings]
        if fits < 0 and settings:
            errors[0] = 0.0
        return sum(errors) / 2 or 1.0

    def _encode(self, name: str, setting: Setting) -> tuple[int, float, float]:
        """Return bytes, and the squared errors of removed and of kept entries, relative."""
        tensor = self._trial.encode(name, *setting)
        if setting == EXACT:
            return tensor.nbytes, 0.0, 0.0
        own = to_values(self._trial.source(name).fetch(), tensor.dtype)
        values = to_values(tensor.decode_patterns(), tensor.dtype)
        scale = np.abs(own).max() or 1.0  # so that squares stay in range
        squares = ((own - values) / scale) ** 2
        total = float(np.sum((own / scale) ** 2, dtype=np.float64)) or 1.0
        pruned = float(np.sum(squares[values == 0], dtype=np.float64))
        shared = float(np.sum(squares[values != 0], dtype=np.float64))
        return tensor.nbytes, pruned / total, shared / total


def _choices(hulls: Mapping[str, list[Point]]) -> list[Choice]:
    """Return the Lagrangian choices over all layers, from the exact model to the smallest."""
    choice = {name: hull[0][1] for name, hull in hulls.items()}
    steps = []
    for name, hull in hulls.items():
        steps += [(_gain(a, b), name, b[1]) for a, b in pairwise(hull)]
    choices = [choice]
    for _, name, option in sorted(steps, key=lambda step: -step[0]):
        choices.append({**choices[-1], name: option})
    return choices


def _hull(options: list[Option], pruned: float, shared: float) -> list[Point]:
    """Return what is spent and the options, along the lower convex hull from exact to small."""
    priced = [(max(pruned * o.pruned + shared * o.shared, _LEAST_SPENT), o) for o in options]
    priced[0] = 0.0, options[0]
    hull: list[Point] = []
    for point in sorted(priced, key=lambda p: (p[0], p[1].nbytes)):
        if hull and point[1].nbytes >= hull[-1][1].nbytes:
            continue
        while len(hull) > 1 and _gain(hull[-2], hull[-1]) <= _gain(hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _gain(before: Point, after: Point) -> float:
    return (before[1].nbytes - after[1].nbytes) / (after[0] - before[0])


def _promise(before: Option, after: Option) -> float:
    """Return the bytes that a change saves for what it spends; 0 if it saves none."""
    spent = after.pruned + after.shared - before.pruned - before.shared
    return max(before.nbytes - after.nbytes, 0) / max(spent, _LEAST_SPENT)


def _nbytes(choice: Choice) -> int:
    return sum(option.nbytes for option in choice.values())
