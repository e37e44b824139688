"""Prune, share and encode the weights of a model."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from .losses import warn
from .model import CompressedModel
from .tensor import CompressedTensor, view

if TYPE_CHECKING:
    import torch

    from .arrays import Source
    from .pipeline import Encoded


def compress(
    model: torch.nn.Module | Mapping[str, Any],
    bits: int | Mapping[str, int] | None = 5,
    sparsity: float | Mapping[str, float] | None = None,
    threshold: float | Mapping[str, float] | None = None,
    std: float | Mapping[str, float] | None = None,
    scope: str = "layer",
    exclude: str | Iterable[str] | None = None,
) -> CompressedModel:
    """Prune and share the weights of a model, and encode them.

    **Weights** of a module are those of layers that are known to have some, of whatever size:
    linear and bilinear layers, convolutions, embeddings, recurrent layers, the projections of
    attention, their subclasses, and ``Conv1D`` of transformers. Of a mapping they are the float
    tensors with at least two dimensions larger than 1. All other tensors are stored exactly:
    buffers always; tokens, tables of positions, scales and other parameters unless a pattern
    names them.

    Each setting is a number for all weights, or a mapping from patterns of names to numbers:
    ``{"conv*": 8, "fc*": 5}``. A pattern is matched against the tensor's name and its module's,
    the first that matches decides, and tensors that none matches are left alone. A pattern stands
    for the weights it matches; if it matches none, for the other float tensors that are no buffers.

    Parameters
    ----------
    model : nn.Module, or mapping of str to torch.Tensor, ndarray or SciPy sparse array
        Not changed. Entries that are zero stay zero; ``torch.nn.utils.prune`` models are folded.
        Sparse tensors (CSR, CSC, COO) are made dense one at a time.
        A weight shared by `deepcomp.share_weights` keeps its codebook and labels, whatever `bits`.
    bits : int, mapping or None, default 5
        1 to 8: at most ``2**bits`` distinct values besides zero. A tensor that has so few already
        keeps exactly those. None: no sharing, every bit is kept.
    sparsity : float or mapping, optional
        Fraction of the entries to be zero afterwards, in [0, 1).
    threshold : float or mapping, optional
        Entries with a smaller absolute value become zero.
    std : float or mapping, optional
        The same in multiples of the standard deviation.
    scope : {"layer", "global"}, default "layer"
        Whether sparsity and std are counted in each tensor, or over all tensors of one number.
    exclude : str or iterable of str, optional
        Patterns of names of tensors or modules that are stored exactly, whatever the settings say.

    Returns
    -------
    CompressedModel

    Raises
    ------
    ValueError
        If a setting is out of range, a pattern matches nothing, more than one of `sparsity`,
        `threshold`, `std` is given, a tensor to be pruned or shared is not finite, or a tensor
        has a dtype that a file cannot hold. The message names the tensor.

    Warns
    -----
    UserWarning
        If a setting is a number, and most of a module's entries that might be weights stay exact,
        as they are in layers that are not known.
    LossWarning
        If the tensors that changed, taken together, have a relative error above 0.1: the norm of
        the differences over that of the weights before. Pruning without retraining has one.

    References
    ----------
    Han, Mao, Dally, "Deep Compression", ICLR 2016, sections 2 and 3.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> weights = {"fc.weight": rng.normal(size=(300, 784)).astype(np.float32)}
    >>> packed = compress(weights, bits=5, sparsity=0.9)
    >>> packed
    <CompressedModel of 1 tensors, 27606 of 940800 bytes, relative error 0.749>

    Prune a module in place, and change nothing else::

        compress(model, bits=None, sparsity=0.9).restore(model)
    """
    from .arrays import sources
    from .rules import listed

    found, exact = sources(model), listed(exclude)
    settings = (bits, sparsity, threshold, std)
    encoded = encode_found(found, "compress", *settings, scope, exact)
    if any(s is not None and not isinstance(s, Mapping) for s in settings):
        _warn_of_unknown(found, exact)
    entries: dict[str, CompressedTensor | str] = {}
    for name, entry in encoded:
        if isinstance(entry, str):
            entries[name] = entry
        else:
            fetch = partial(view, b"".join(entry.section))
            entries[name] = CompressedTensor(entry.record, fetch, loss=entry.loss)
    packed = CompressedModel(entries)
    warn(packed.losses)
    return packed


def _warn_of_unknown(found: dict[str, Source | str], exclude: list[str]) -> None:
    """Warn where most of a module is in layers that are not known, so that nothing gets small."""
    from .rules import excluded
    from .tables import counted

    own = [entry for entry in found.values() if not isinstance(entry, str)]
    exact = excluded("exclude", exclude, [e.name for e in own])
    unknown = [e for e in own if e.kind == "parameter" and e.is_matrix and e.name not in exact]
    n_unknown = sum(prod(e.shape) for e in unknown)
    if n_unknown > sum(prod(e.shape) for e in own if e.is_weight):
        largest = max(unknown, key=lambda e: prod(e.shape)).name
        warnings.warn(
            f"{n_unknown:,} entries in {counted(len(unknown), 'parameter')} of no known layer, the "
            f"largest being {largest!r}, stay exact, more than there are in weights: a pattern "
            f"compresses what it names, as bits={{{largest!r}: 5}}, and exclude= says that they "
            "are meant to stay",
            stacklevel=3,
        )


def encode_found(
    found: dict[str, Source | str], title: str, *settings: Any
) -> Iterator[tuple[str, Encoded | str]]:
    """Encode tensor by tensor; a progress bar appears if that takes longer than a second."""
    from .pipeline import encode_model

    tensors = [entry for entry in found.values() if not isinstance(entry, str)]
    encoded = encode_model(tensors, *settings)
    return _with_progress(found, encoded, title)


def _with_progress(
    found: dict[str, Source | str], encoded: Iterator[Encoded], title: str
) -> Iterator[tuple[str, Encoded | str]]:
    from tqdm import tqdm

    total = sum(prod(e.shape) for e in found.values() if not isinstance(e, str))
    with tqdm(total=total, desc=title, unit="w", unit_scale=True, delay=1, disable=None) as bar:
        for name, entry in found.items():
            if isinstance(entry, str):
                yield name, entry
                continue
            yield name, next(encoded)
            bar.update(prod(entry.shape))
