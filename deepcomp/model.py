"""A compressed model: compress, save, load, restore."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from .container import Reader, Writer
from .errors import DczError
from .readback import compare
from .records import TensorRecord
from .tensor import CompressedTensor, view

if TYPE_CHECKING:
    import torch

    from .arrays import Source
    from .nn.model import Restored
    from .pipeline import Encoded


class CompressedModel(Mapping[str, CompressedTensor]):
    """A read-only mapping from state_dict keys to compressed tensors.

    What `compress` and `load` return. Tied weights are one tensor under several names.

    Attributes
    ----------
    metadata : dict of str to str
        The user's own, as given to `save`.
    aliases : dict of str to str
        For each name of a tied tensor but the first, the first.
    """

    def __init__(
        self,
        entries: Mapping[str, CompressedTensor | str],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.metadata = dict(metadata or {})
        self.aliases = {name: e for name, e in entries.items() if isinstance(e, str)}
        self._tensors: dict[str, CompressedTensor] = {}
        for name, entry in entries.items():
            self._tensors[name] = self._tensors[entry] if isinstance(entry, str) else entry

    def __getitem__(self, name: str) -> CompressedTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        own = [t.record for name, t in self.items() if name not in self.aliases]
        return (
            f"<CompressedModel of {len(self)} tensors, "
            f"{sum(r.section_nbytes for r in own)} of {sum(r.dense_nbytes for r in own)} bytes>"
        )

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Decode all tensors for torch.

        Returns
        -------
        dict of str to torch.Tensor
            On the CPU; tied names hold the same tensor.

        Raises
        ------
        DczError
            If the file is damaged or breaks a rule of ``formats/dcz.md``.
        """
        dense = {n: t.to_torch() for n, t in self.items() if n not in self.aliases}
        return {name: dense[self.aliases.get(name, name)] for name in self}

    def restore(
        self,
        model: torch.nn.Module,
        strict: bool = True,
        layers: str = "dense",
        batch: int = 1,
        verbose: bool = False,
    ) -> Restored:
        """Put weights into a module, in place.

        Names, shapes and checksums are checked before anything is written.

        Parameters
        ----------
        model : nn.Module
            On any device. A module that is being pruned with ``torch.nn.utils.prune`` gets its
            ``_orig`` and ``_mask`` tensors from the folded weight.
        strict : bool, default True
            Whether the names must be the same on both sides.
        layers : {"dense", "sparse", "auto"}, default "dense"
            With "sparse", each ``nn.Linear`` and ``nn.Conv2d`` that can be is replaced by a layer
            that computes from the compressed weight (`deepcomp.nn.layers`), on the CPU; with
            "auto", each that is expected to be faster so. Their weights can no longer be trained.
        batch : int, default 1
            With "auto", the number of vectors or images that will come at a time.
        verbose : bool, default False
            Whether to print what was chosen for each layer, and why.

        Returns
        -------
        Restored
            ``missing_keys`` and ``unexpected_keys``, as of ``nn.Module.load_state_dict``; and
            ``layers``, what was chosen and why.

        Raises
        ------
        ValueError
            If `layers` or `batch` is none of these.
        RuntimeError
            If names (with `strict`) or shapes differ; nothing is changed then.
        DczError
            If the file is damaged or breaks a rule of ``formats/dcz.md``.

        Examples
        --------
        >>> import deepcomp, torch
        >>> model = torch.nn.Linear(4, 2)
        >>> deepcomp.compress(model, bits=2).restore(model)
        Restored(missing_keys=[], unexpected_keys=[])
        >>> model = torch.nn.Sequential(torch.nn.Linear(90, 30))
        >>> packed = deepcomp.compress(model, bits=2, sparsity=0.8)
        >>> packed.restore(model, layers="sparse").layers[0].is_sparse
        True
        """
        from .nn.model import restore

        return restore(self, model, strict, layers, batch, verbose)


def compress(
    model: torch.nn.Module | Mapping[str, Any],
    bits: int | Mapping[str, int] | None = 5,
    sparsity: float | Mapping[str, float] | None = None,
    threshold: float | Mapping[str, float] | None = None,
    std: float | Mapping[str, float] | None = None,
    scope: str = "layer",
) -> CompressedModel:
    """Prune and share the weights of a model, and encode them.

    Each setting is a number for all weights (float tensors of two or more dimensions), or a
    mapping from patterns of names to numbers: ``{"conv*": 8, "fc*": 5}``. A pattern is matched
    against the tensor's name and its module's, the first that matches decides, and tensors that
    none matches are left alone. A pattern stands for the weights it matches; if it matches
    none, for the other float tensors. All other tensors are stored exactly.

    Parameters
    ----------
    model : nn.Module, or mapping of str to torch.Tensor or ndarray
        Not changed. Entries that are zero stay zero; ``torch.nn.utils.prune`` models are folded.
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

    Returns
    -------
    CompressedModel

    Raises
    ------
    ValueError
        If a setting is out of range, a pattern matches nothing, more than one of `sparsity`,
        `threshold`, `std` is given, a tensor to be pruned or shared is not finite, or a tensor
        has a dtype that a file cannot hold. The message names the tensor.

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
    <CompressedModel of 1 tensors, 27606 of 940800 bytes>

    Prune a module in place, and change nothing else::

        compress(model, bits=None, sparsity=0.9).restore(model)
    """
    from .arrays import sources

    found = sources(model)
    encoded = _encode(found, "compress", bits, sparsity, threshold, std, scope)
    entries: dict[str, CompressedTensor | str] = {}
    for name, entry in encoded:
        if isinstance(entry, str):
            entries[name] = entry
        else:
            record, section = entry
            entries[name] = CompressedTensor(record, partial(view, b"".join(section)))
    return CompressedModel(entries)


def save(
    model: CompressedModel | torch.nn.Module | Mapping[str, Any],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    verify: bool = False,
) -> None:
    """Write a ``.dcz`` file.

    The bytes go to a temporary file beside the target, which is synced and then renamed: after
    a crash the old file is there, whole, or the new one. A temporary file that a killed process
    left is removed by the next save into its folder. Links are followed; the permissions of the
    old file are kept. The model must not change meanwhile.

    The same model gives the same bytes, at any time and on any machine; but another make of
    zlib may deflate the index, some per cent of a file, in another way.

    Parameters
    ----------
    model : CompressedModel, nn.Module, or mapping of str to torch.Tensor or ndarray
        A model that is not compressed is stored exactly, bit for bit: a model that was pruned
        elsewhere gets small, and loses nothing.
    path : str or os.PathLike
    metadata : mapping of str to str, optional
        Kept in the file; by default that of the compressed model.
    verify : bool, default False
        Whether to read the file back before it takes its place, from the disk as far as the
        system lets, to decode all tensors and to compare them with `model`, bit for bit. Takes
        about as long as to load and decode the file, and memory for one dense tensor.

    Raises
    ------
    DczError
        If what is read back with `verify` is not what was to be saved.
    ValueError
        If the metadata are not strings, or a tensor has a dtype that a file cannot hold.
    OSError
        If the file cannot be written, or `path` is no regular file.

    After any error an old file at `path` is untouched, and no temporary file stays.

    References
    ----------
    ``formats/dcz.md``.

    Examples
    --------
    >>> import deepcomp, numpy as np, tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.dcz")
    ...     deepcomp.save({"w": np.eye(64)}, path)
    ...     path.stat().st_size < 64 * 64 * 8 / 40
    True
    """
    if metadata is None:
        metadata = model.metadata if isinstance(model, CompressedModel) else {}
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ValueError(f"metadata must map strings to strings, not {key!r} to {value!r}")
    originals: Mapping[str, CompressedTensor | Source | str]
    encoded: Iterator[tuple[str, tuple[TensorRecord, Iterable[bytes | memoryview]] | str]]
    if isinstance(model, CompressedModel):
        tensors = {name: model.aliases.get(name, tensor) for name, tensor in model.items()}
        originals, encoded = tensors, _sections(tensors)
    else:
        from .arrays import sources

        found = sources(model)
        originals, encoded = found, _encode(found, "save", None, None, None, None, "layer")
    with Writer(path, dict(metadata)) as writer:
        for name, entry in encoded:
            if isinstance(entry, str):
                writer.add_alias(name, entry)
            else:
                writer.add(*entry)
        if verify:
            reader = writer.read_back()
            compare(model_of(reader), originals, reader.name)


def load(path: str | os.PathLike[str], max_dense_bytes: int | None = None) -> CompressedModel:
    """Open a ``.dcz`` file.

    The file is mapped into memory and its index is read; tensors are decoded when they are asked
    for, each page checked when it is first touched. No code in the file is run: there is none.
    Any number of threads may use a model at a time, and forked processes. Pickles and copies hold
    the encoded tensors, and do not need the file.

    The model keeps the file open. When another file takes its name (as `save` does it), or it is
    deleted, the tensors are those of the old one. When somebody cuts it off, the next use raises
    DczError; in the moment of a decode, the process would end by SIGBUS. Changes made in place
    are noticed only in pages that were not touched before.

    A valid file may be small and its tensors large: up to 2**20 entries a byte, if all are zero.
    Whoever does not trust a file sets `max_dense_bytes`.

    Parameters
    ----------
    path : str or os.PathLike
    max_dense_bytes : int, optional
        Refuse a file whose tensors take more bytes than this when they are all dense, which is
        known from its index. Decoding takes some more memory for one tensor at a time.

    Returns
    -------
    CompressedModel

    Raises
    ------
    DczError
        If the file is not a ``.dcz`` file, is cut off or damaged, or is too large.
    OSError
        If it cannot be read.

    References
    ----------
    ``formats/dcz.md``, sections 2 to 4.

    Examples
    --------
    >>> import deepcomp, numpy as np, os, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "zeros.dcz")
    >>> deepcomp.save({"w": np.zeros((10_000, 10_000), np.float32)}, path)
    >>> os.path.getsize(path) < 1000
    True
    >>> deepcomp.load(path)
    <CompressedModel of 1 tensors, ... of 400000000 bytes>
    >>> deepcomp.load(path, max_dense_bytes=100_000_000)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    deepcomp.errors.DczError: ...zeros.dcz: the tensors take 400000000 bytes when dense:
    expected at most 100000000 (max_dense_bytes)
    >>> folder.cleanup()
    """
    if max_dense_bytes is not None and (
        isinstance(max_dense_bytes, bool) or not isinstance(max_dense_bytes, int)
    ):
        raise ValueError(f"max_dense_bytes is {max_dense_bytes!r}: expected an integer or None")
    reader = Reader(path)
    records = [e for e in reader.index.entries.values() if isinstance(e, TensorRecord)]
    dense_nbytes = sum(r.dense_nbytes for r in records)
    if max_dense_bytes is not None and dense_nbytes > max_dense_bytes:
        raise DczError(
            f"{reader.name}: the tensors take {dense_nbytes} bytes when dense: "
            f"expected at most {max_dense_bytes} (max_dense_bytes)"
        )
    return model_of(reader)


def model_of(reader: Reader) -> CompressedModel:
    """Present an open file as a model."""
    entries: dict[str, CompressedTensor | str] = {}
    for name, entry in reader.index.entries.items():
        if isinstance(entry, TensorRecord):
            entries[name] = CompressedTensor(entry, partial(reader.section, name), reader.name)
        else:
            entries[name] = entry
    return CompressedModel(entries, reader.index.metadata)


def _sections(
    tensors: Mapping[str, CompressedTensor | str],
) -> Iterator[tuple[str, tuple[TensorRecord, Iterable[memoryview]] | str]]:
    for name, tensor in tensors.items():
        yield name, tensor if isinstance(tensor, str) else (tensor.record, [tensor.section()])


def _encode(
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
