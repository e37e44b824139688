"""Which entries, or filters, of some weights are pruned next."""

from collections.abc import Callable, Sequence
from math import ceil, prod

import torch
from torch import Tensor

from .criteria import Criterion


def lowest(scores: list[Tensor], numels: list[int], fraction: float) -> list[Tensor]:
    """Find the lowest scores of several weights taken together.

    Parameters
    ----------
    scores : list of Tensor
    numels : list of int
        Number of entries of each weight: a score stands for ``numel / scores.numel()`` of them.
    fraction : float
        Of equal scores, the last ones are taken first. If scores stand for different numbers of
        entries, as many are taken as stand for no more than the fraction of all entries.

    Returns
    -------
    list of Tensor of bool, shapes of `scores`
    """
    sizes = [numel // score.numel() for score, numel in zip(scores, numels, strict=True)]
    device = scores[0].device
    flat = torch.cat([score.to(device).flatten() for score in scores])
    is_low = torch.zeros_like(flat, dtype=torch.bool)
    if len(set(sizes)) == 1:
        k = round(fraction * flat.numel())
        if k > 0:
            cut = flat.kthvalue(k).values
            is_low = flat < cut
            ties = (flat == cut).nonzero().flatten()
            is_low[ties[ties.numel() - (k - int(is_low.sum())) :]] = True
    else:
        each = torch.cat([torch.full((s.numel(),), n) for s, n in zip(scores, sizes, strict=True)])
        order = flat.flip(0).argsort(stable=True).cpu()
        order = flat.numel() - 1 - order
        is_low[order[each[order].cumsum(0) <= round(fraction * sum(numels))]] = True
    parts = is_low.split([score.numel() for score in scores])
    return [p.view_as(s).to(s.device) for p, s in zip(parts, scores, strict=True)]


def least_kept(shape: Sequence[int], min_kept: float | None) -> int:
    """Return how many entries of a weight a cut over several keeps at least.

    Parameters
    ----------
    shape : sequence of int
    min_kept : float or None
        The fraction of the entries. None: 0.005, or one for each row (slice along the first
        dimension) if that is more.

    Examples
    --------
    >>> least_kept([300, 784], None), least_kept([10, 300], None), least_kept([10, 300], 0.001)
    (1176, 15, 3)
    """
    numel = prod(shape)
    n_rows = shape[0] if len(shape) > 1 and min_kept is None else 1
    return max(n_rows, ceil((0.005 if min_kept is None else min_kept) * numel))


def spare(
    cut: Callable[[list[Tensor]], list[Tensor]], scores: list[Tensor], least: list[int]
) -> tuple[list[Tensor], list[int]]:
    """Cut several weights, but leave each one its best scores.

    Parameters
    ----------
    cut : callable
        From scores to what is removed, masks of their shapes. What one weight keeps by this,
        others may lose.
    scores : list of Tensor
        As `score` returns them.
    least : list of int
        How many scores of each weight are kept at least, of equal ones the first.

    Returns
    -------
    removed : list of Tensor of bool, shapes of `scores`
    spared : list of int
        Those that the cut alone would have left with less.
    """
    best: dict[int, Tensor] = {}
    while True:
        raised = [
            s.masked_fill(best[i], torch.inf) if i in best else s for i, s in enumerate(scores)
        ]
        removed = [low & ~best[i] if i in best else low for i, low in enumerate(cut(raised))]
        short = [
            i
            for i, low in enumerate(removed)
            if i not in best and int((~low & (scores[i] > -torch.inf)).sum()) < least[i]
        ]
        if not short:
            return removed, sorted(best)
        for i in short:
            order = scores[i].flatten().argsort(descending=True, stable=True)
            is_best = torch.zeros_like(scores[i], dtype=torch.bool)
            is_best.view(-1)[order[: least[i]]] = True
            best[i] = is_best & (scores[i] > -torch.inf)


def score(name: str, criterion: Criterion, weight: Tensor, mask: Tensor) -> Tensor:
    """Return the scores of a weight by a criterion; what is pruned already scores least.

    Parameters
    ----------
    name : str
        For messages.
    criterion : callable
    weight : Tensor
    mask : Tensor of bool, shape of `weight`
        True where it is kept.

    Returns
    -------
    Tensor of float32 or float64
        Of a shape that broadcasts to that of the weight.

    Raises
    ------
    ValueError
        If the scores are of another shape or on another device, or NaN.
    """
    scores = criterion(weight)
    ok = isinstance(scores, Tensor) and scores.dim() == weight.dim()
    if not ok or any(n not in (1, m) for n, m in zip(scores.shape, weight.shape, strict=True)):
        found = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(
            f"the criterion scores {name!r} (shape {list(weight.shape)}) with {found}: expected "
            "as many dimensions, each of the same size or 1"
        )
    if scores.device != weight.device:
        raise ValueError(f"the scores of {name!r} are on {scores.device}: expected {weight.device}")
    if scores.isnan().any():
        raise ValueError(f"the scores of {name!r} are NaN: is the weight still finite?")
    dims = [i for i, n in enumerate(scores.shape) if n == 1 and weight.shape[i] != 1]
    is_alive = mask.any(dim=dims, keepdim=True) if dims else mask
    wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
    return scores.to(wide).masked_fill(~is_alive, -torch.inf)
