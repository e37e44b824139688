"""A compressed model: a mapping from names to compressed tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .losses import Loss, suffix, total
from .patterns import matches
from .tensor import CompressedTensor

if TYPE_CHECKING:
    import torch

    from .nn.model import Restored


class CompressedModel(Mapping[str, CompressedTensor]):
    """A read-only mapping from state_dict keys to compressed tensors.

    What `compress` and `load` return. Tied weights are one tensor under several names. One that
    was loaded may be used in a ``with`` statement, at the end of which it is closed.

    Attributes
    ----------
    metadata : dict of str to str
        The user's own, as given to `save`.
    aliases : dict of str to str
        For each name of a tied tensor but the first, the first.
    overhead : dict of str to int, or None
        Bytes of its file that are no tensor's, by what they are; None if it was not loaded.
    """

    def __init__(
        self,
        entries: Mapping[str, CompressedTensor | str],
        metadata: Mapping[str, str] | None = None,
        overhead: dict[str, int] | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        self._close = close
        self.metadata = dict(metadata or {})
        self.overhead = overhead
        self.aliases = {name: e for name, e in entries.items() if isinstance(e, str)}
        self._tensors: dict[str, CompressedTensor] = {}
        for name, entry in entries.items():
            self._tensors[name] = self._tensors[entry] if isinstance(entry, str) else entry

    def __getitem__(self, name: str) -> CompressedTensor:
        try:
            return self._tensors[name]
        except KeyError:
            from difflib import get_close_matches

            nearest = get_close_matches(str(name), self._tensors, 1)
            hint = f": the nearest name is {nearest[0]!r}" if nearest else ""
            raise KeyError(f"no tensor {name!r}{hint}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def get(self, name: str, default: Any = None) -> Any:
        """Return a tensor, or `default` if there is none of this name."""
        return self._tensors.get(name, default)  # that of Mapping would look for near names

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        own = [t.record for name, t in self.items() if name not in self.aliases]
        return (
            f"<CompressedModel of {len(self)} tensors, "
            f"{sum(r.section_nbytes for r in own)} of {sum(r.dense_nbytes for r in own)} bytes"
            f"{suffix(self.relative_error)}>"
        )

    @property
    def losses(self) -> dict[str, Loss | None]:
        """What each tensor lost when it was compressed, tied ones once; None where not known."""
        return {name: t.loss for name, t in self.items() if name not in self.aliases}

    @property
    def relative_error(self) -> float | None:
        """Norm of what compressing changed over that of the tensors in which it changed something.

        0 if nothing was lost. None if it is not known of a tensor, as of those that were loaded.
        """
        known = [loss for loss in self.losses.values() if loss is not None]
        return total(known) if len(known) == len(self.losses) else None

    def select(self, *patterns: str) -> CompressedModel:
        """Return the tensors that some pattern matches.

        Nothing is decoded or copied. Of a tied weight only the names that match are kept.

        Parameters
        ----------
        *patterns : str
            As in a shell (``*``, ``?``, ``[...]``), for the tensor's name or that of its module.

        Returns
        -------
        CompressedModel
            In the order of this one, with its metadata.

        Raises
        ------
        ValueError
            If a pattern matches no tensor, or none is given.
        TypeError
            If a pattern is no text.

        Examples
        --------
        >>> import deepcomp, numpy as np
        >>> eye = np.eye(4, dtype=np.float32)
        >>> packed = deepcomp.compress({"encoder.w": eye, "encoder.b": eye[0], "head.w": eye})
        >>> list(packed.select("encoder.*")), list(packed.select("*.b", "head"))
        (['encoder.w', 'encoder.b'], ['encoder.b', 'head.w'])
        """
        if not patterns:
            raise ValueError("expected a pattern")
        for pattern in patterns:
            if not isinstance(pattern, str):
                raise TypeError(f"a pattern is {pattern!r}: expected texts, one after the other")
        for pattern in patterns:
            if not any(matches(name, pattern) for name in self):
                raise ValueError(f"the pattern {pattern!r} matches no tensor")
        entries: dict[str, CompressedTensor | str] = {}
        new_names: dict[str, str] = {}
        for name, tensor in self.items():
            if any(matches(name, pattern) for pattern in patterns):
                first = new_names.setdefault(tensor.name, name)
                entries[name] = tensor.under(name) if first == name else first
        return CompressedModel(entries, self.metadata, close=self._close)

    def close(self) -> None:
        """Let go of the file that the model was loaded from.

        After that its tensors, those of `select` too, raise ValueError when they are used. What
        was decoded, models that were restored, and views that `CompressedTensor.section` returned
        stay valid. A model that is of no file stays as it is; to close twice does no harm.

        A model need not be closed: it holds no file open, but of a URL a connection, and lets go
        of what it has when nothing refers to it any more.

        Examples
        --------
        >>> import deepcomp, numpy as np, pathlib, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = pathlib.Path(folder.name, "model.dcz")
        >>> deepcomp.save({"w": np.eye(64)}, path)
        >>> with deepcomp.load(path) as packed:
        ...     dense = packed["w"].to_dense()
        >>> packed["w"].to_dense()
        Traceback (most recent call last):
        ValueError: ...model.dcz: tensor 'w': the file was closed: load it again
        >>> folder.cleanup()
        """
        if self._close is not None:
            self._close()
            for tensor in self._tensors.values():
                tensor.forget()

    def __enter__(self) -> CompressedModel:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_close": None}  # copies of the tensors need no file

    def _repr_html_(self) -> str:
        from .notebook import model_html

        return model_html(self)

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
        resize: bool = False,
    ) -> Restored:
        """Put weights into a module, in place.

        Names, shapes and checksums are checked before anything is written.

        Parameters
        ----------
        model : nn.Module
            On any device but meta, which has no memory: ``model.to_empty(device="cpu")`` gives it
            some, but nothing that buffers have to hold that are in no file. A module that is being
            pruned with ``torch.nn.utils.prune`` gets its ``_orig`` and ``_mask`` tensors from the
            folded weight.
        strict : bool, default True
            Whether the names must be the same on both sides; of tensors that the model ties, one
            is enough. Without it, one name at least must be.
        layers : {"dense", "sparse", "auto"}, default "dense"
            With "sparse", each ``nn.Linear`` and ``nn.Conv2d`` that can be is replaced by a layer
            that computes from the compressed weight (`deepcomp.nn.layers`), on the CPU; with
            "auto", each that is expected to be faster so. Their weights can no longer be trained.
            A layer that the model calls in another way than as its part stays dense, as one that
            ``torch.compile`` has wrapped by itself.
        batch : int, default 1
            With "auto", the number of vectors or images that will come at a time.
        verbose : bool, default False
            Whether to print what was chosen for each weight, and why.
        resize : bool, default False
            Whether layers take the shapes that are in the file, as after `deepcomp.shrink`: linear,
            convolutional, embedding, batch and layer norm ones. Their attributes follow, and their
            parameters are replaced where shapes differ. Of a grouped convolution the number of
            groups follows if the channels of a group stay as many.

        Returns
        -------
        Restored
            ``missing_keys`` and ``unexpected_keys``, as of ``nn.Module.load_state_dict``; and
            ``layers``, what was chosen and why: a `Choice` for each weight that becomes sparse or
            stays dense, in the order of the model; none if all layers were to be dense.

        Raises
        ------
        ValueError
            If `layers` or `batch` is none of these.
        RuntimeError
            If names (with `strict`) or shapes differ, no name is on both sides, tensors that the
            model ties differ in the file, a tensor is on the meta device, or, with `resize`, a
            shape is not possible in its layer; nothing is changed then.
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
        >>> model = torch.nn.Sequential(torch.nn.Linear(200, 100))
        >>> packed.restore(model, resize=True)
        Restored(missing_keys=[], unexpected_keys=[])
        >>> model
        Sequential(
          (0): Linear(in_features=90, out_features=30, bias=True)
        )
        """
        from .nn.model import restore

        return restore(self, model, strict, layers, batch, verbose, resize)
