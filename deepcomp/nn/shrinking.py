"""Physically smaller layers: filters that are zero for good are removed."""

import copy
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from .constants import Constants, find_constants, hands_on_constants
from .coupling import (
    MIXING,
    Bundle,
    by_group,
    double_copy,
    find_bundles,
    n_channels,
    zero_filters,
)
from .cutting import cut
from .probes import Sample, difference, further_samples, outputs_of
from .trial import align


class Row(NamedTuple):
    """What became of the channels that a layer puts out.

    Attributes
    ----------
    layer : str
    n_before, n_after : int
    stays : str
        How many of its zero filters are still there, and why; empty if there are none.
    """

    layer: str
    n_before: int
    n_after: int
    stays: str


@dataclass(frozen=True)
class Shrunk:
    """What `shrink` returns. Printing it shows a table.

    Attributes
    ----------
    rows : tuple of Row
        Of each linear, convolutional and embedding layer, in the order of the model.
    """

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        lines = [[r.layer, str(r.n_before), str(r.n_after)] for r in self.rows]
        table = align(["layer", "before", "after"], lines).split("\n")
        notes = ["zero filters that stay", "", *(r.stays for r in self.rows)]
        if not any(notes[2:]):
            notes = [""] * len(notes)
        table = [f"{line}  {note}".rstrip() for line, note in zip(table, notes)]
        table[1] = "-" * max(map(len, table))
        if all(r.n_before == r.n_after and not r.stays for r in self.rows):
            table += ["", "nothing to remove: no filter is zero"]
        return "\n".join(table)


def shrink(model: nn.Module, example_inputs: Any) -> Shrunk:
    """Remove the filters that are zero for good, in place: layers become smaller.

    A channel is removed if, whatever the input, it is zero where it is read, or what reads it
    has zero weights for it; and so are all channels that must go with it: those that are added to
    it, its batch norm, its places in a concatenation and after a flatten, its depthwise filter or
    its whole group. A channel that is another constant is moved into the next bias where that is
    exact. What the model puts out is never removed, and one channel stays everywhere.

    First a copy is cut, in float64 and eval mode, and its outputs compared with the model's, for
    the example and for random inputs of its shape (integers: of its range). What the forward pass
    does not run without, or not with the same result, stays.

    Filters pruned by `deepcomp.Pruner` still have a bias and a batch norm:
    `deepcomp.nn.channels.silence` sets these to zero. Parameters are replaced, so make a new
    optimizer, and call ``pruner.remove()`` before.

    Parameters
    ----------
    model : nn.Module
        On any device that computes in float64, in any mode; the mode stays.
    example_inputs : Tensor, tuple or mapping
        What the model is called with: a tensor, positional or named arguments. Of a batch a
        single one is enough.

    Returns
    -------
    Shrunk
        For each layer the channels before and after, and why zero filters stay.

    Raises
    ------
    ImportError
        If torch-pruning is missing (the extra ``channels``).
    ValueError
        If a weight is no plain parameter, the forward pass fails or cannot be traced, takes numbers
        out of tensors that depend on the input (``item()``, ``if x.max() > 1``), its outputs are
        not finite or differ from call to call. Nothing is changed then.

    References
    ----------
    Fang, Ma, Song, Mi, Wang, "DepGraph: Towards Any Structural Pruning", CVPR 2023. Li, Kadav,
    Durdanovic, Samet, Graf, "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.

    Examples
    --------
    >>> import deepcomp, torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(9, 20), nn.ReLU(), nn.Linear(20, 4))
    >>> with torch.no_grad():
    ...     model[0].weight[5:] = model[0].bias[5:] = 0
    >>> print(deepcomp.shrink(model, torch.randn(1, 9)))
    layer  before  after
    --------------------
    0          20      5
    2           4      4
    >>> model
    Sequential(
      (0): Linear(in_features=9, out_features=5, bias=True)
      (1): ReLU()
      (2): Linear(in_features=5, out_features=4, bias=True)
    )
    """
    twin, inputs = double_copy(model, example_inputs)
    bundles = find_bundles(twin, inputs)
    expected = outputs_of(twin, inputs)
    samples = [(inputs, expected)]
    if not all(y.isfinite().all() for y in expected) or difference(twin, samples):
        raise ValueError(
            f"the outputs of {type(model).__name__} for these inputs are not finite, or differ "
            "from call to call in eval mode: what is removed could not be checked"
        )
    samples += further_samples(twin, inputs)
    constants = find_constants(twin, inputs, [values for values, _ in samples])
    zero = zero_filters(twin)
    reasons = _reasons(twin, bundles, constants, zero)
    removed = _keep_one(twin, reasons)
    removed = _try(twin, samples, removed, constants, reasons, zero)
    rows = _rows(twin, removed, reasons, zero)
    cut(model, removed, constants)
    return Shrunk(rows)


def _reasons(
    model: nn.Module, bundles: list[Bundle], constants: Constants, zero: dict[str, Tensor]
) -> dict[Bundle, str]:
    """Find for each bundle why it cannot be removed; empty if it can."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, MIXING)}
    unread = {  # of grouped convolutions the inputs go with the outputs
        name: ~by_group(module)[0].any(2).any(0)
        for name, module in layers.items()
        if getattr(module, "groups", 1) == 1
    }
    values = {name: found.tolist() for name, found in constants.inputs.items()}

    def reason(bundle: Bundle) -> str:
        if bundle.obstacles:
            return bundle.obstacles[0]
        readers = sorted(s for s in bundle.slots if s.side == "in" and s.layer in unread)
        if not readers:
            return "no layer reads it"
        for layer, _, channel in readers:
            module: Any = layers[layer]
            value = values[layer][channel]
            if value == 0 or unread[layer][channel]:
                continue
            if value != value:
                outs = [s for s in bundle.slots if s.side == "out" and s.layer in zero]
                alive = sorted(s.layer for s in outs if not zero[s.layer][s.channel])
                if alive:
                    return f"coupled to filters of {alive[0]} that are not zero"
                return f"not zero where {layer} reads it"
            if module.bias is None or not hands_on_constants(module):
                return f"{layer} reads a constant, of its bias or batch norm: see silence"
        return ""

    return {bundle: reason(bundle) for bundle in bundles}


def _keep_one(model: nn.Module, reasons: dict[Bundle, str]) -> list[Bundle]:
    """Return the bundles that can be removed, but for those that take the last of some layer."""
    left: dict[tuple[str, str], int] = {}
    removed = []
    for bundle in [bundle for bundle, reason in reasons.items() if not reason]:
        counts = Counter((slot.layer, slot.side) for slot in bundle.slots)
        for layer, side in counts:
            left.setdefault((layer, side), n_channels(model.get_submodule(layer), side))
        if any(left[place] <= count for place, count in counts.items()):
            reasons[bundle] = "one channel has to stay"
            continue
        for place, count in counts.items():
            left[place] -= count
        removed.append(bundle)
    return removed


def _try(
    twin: nn.Module,
    samples: list[Sample],
    bundles: list[Bundle],
    constants: Constants,
    reasons: dict[Bundle, str],
    zero: dict[str, Tensor],
) -> list[Bundle]:
    """Return the bundles without which a copy of the model still does the same.

    What is coupled was found by a trace, which cannot see sizes that the forward pass has as
    numbers in it, nor follow every function. So if they cannot go all at once, those that touch
    the same layers are tried one after the other, and then those of them that are zero filters.
    """

    def failure(some: list[Bundle]) -> str:
        trial = copy.deepcopy(twin)
        try:
            cut(trial, some, constants)
            return difference(trial, samples)
        except Exception as error:  # of the user's own forward
            return f"{type(error).__name__}: {error}".split("\n")[0]

    if not failure(bundles):
        return bundles
    units: dict[frozenset[tuple[str, str]], list[Bundle]] = {}
    for bundle in bundles:
        units.setdefault(bundle.sides, []).append(bundle)
    accepted: list[Bundle] = []
    for unit in units.values():
        if not failure(accepted + unit):
            accepted += unit
            continue
        zeros = [bundle for bundle in unit if _has_zeros_alone(bundle, zero)]
        for part in (zeros, [bundle for bundle in unit if bundle not in zeros]):
            problem = failure(accepted + part)
            if not problem:
                accepted += part
            for bundle in part if problem else ():
                reasons[bundle] = f"the model does not do the same without it: {problem}"
    return accepted


def _has_zeros_alone(bundle: Bundle, zero: dict[str, Tensor]) -> bool:
    slots = [slot for slot in bundle.slots if slot.side == "out" and slot.layer in zero]
    return all(zero[slot.layer][slot.channel] for slot in slots)


def _rows(
    model: nn.Module,
    removed: list[Bundle],
    reasons: dict[Bundle, str],
    zero: dict[str, Tensor],
) -> tuple[Row, ...]:
    n_removed = Counter(s.layer for bundle in removed for s in bundle.slots if s.side == "out")
    notes: dict[str, Counter[str]] = {name: Counter() for name in zero}
    for bundle, reason in reasons.items():
        for slot in bundle.slots if reason else ():
            if slot.side == "out" and slot.layer in zero and zero[slot.layer][slot.channel]:
                notes[slot.layer][reason] += 1
    reached = {s.layer for bundle in reasons for s in bundle.slots if s.side == "out"}
    for name in zero.keys() - reached:  # under no_grad in the forward pass, or not called
        if zero[name].any():
            notes[name]["the trace does not reach it"] = int(zero[name].sum())
    rows = []
    for name in zero:
        n_before = n_channels(model.get_submodule(name), "out")
        stays = "; ".join(f"{n}: {reason}" for reason, n in notes[name].items())
        rows.append(Row(name, n_before, n_before - n_removed[name], stays))
    return tuple(rows)
