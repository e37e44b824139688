"""Compressed weights as they are held for computing, and found again by a text."""

import hashlib
from dataclasses import replace
from functools import cached_property, partial
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from ..convolution import CompressedConvolution, Window
from ..decode import pattern_dtype
from ..entries import to_float32, transposed
from ..errors import DczError
from ..index import Index, decode_index, encode_index
from ..multiply import CompressedMatrix
from ..records import TensorRecord
from ..tensor import CompressedTensor, view

_NAME = "weight"


class StoredWeight:
    """A compressed weight, and what has been made of it for computing.

    Parameters
    ----------
    data : bytes
        The section. A tensor of these bytes would not do: others can write into its memory, swap it
        (`share_memory_`) and free it, and layouts for other batches are made from it later.
    record : TensorRecord
    """

    def __init__(self, data: bytes, record: TensorRecord) -> None:
        to_float32(np.empty(0, pattern_dtype(record.itemsize)), record.dtype)  # not of float8
        self.tensor = CompressedTensor(record, partial(view, data))
        self.shape = record.shape
        self.matrix: CompressedMatrix = self.tensor._matrix
        self._convolutions: dict[Window, CompressedConvolution] = {}

    @cached_property
    def transposed(self) -> CompressedMatrix:
        """The transposed matrix, for gradients."""
        entries = self.tensor._entries
        return CompressedMatrix(lambda: transposed(entries()), self.matrix.shape[::-1])

    def convolution(self, window: Window) -> CompressedConvolution:
        """Return the weight as that of a convolution."""
        found = self._convolutions.get(window)
        if found is None:
            found = CompressedConvolution(self.tensor._entries, self.shape, window)
            found = self._convolutions.setdefault(window, found)
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of the section and of what has been made of it."""
        matrices = [self.matrix]
        if "transposed" in self.__dict__:
            matrices.append(self.transposed)
        convolutions = list(self._convolutions.values())
        made = sum(m.nbytes for m in matrices) + sum(c.nbytes for c in convolutions)
        return self.tensor.nbytes + made


_stored: WeakValueDictionary[str, StoredWeight] = WeakValueDictionary()
_kept: dict[str, StoredWeight] = {}  # those of programs, which no module holds


def section_bytes(section: Any) -> bytes:
    """Copy the bytes of a section.

    Parameters
    ----------
    section : torch.Tensor of uint8, shape (section_nbytes,)
        Contiguous, on any device.

    Returns
    -------
    bytes

    Raises
    ------
    TypeError
        If it is anything else.
    """
    if type(section) is not Tensor:
        found = type(section).__name__
    elif section.is_nested or section.layout != torch.strided or section.is_meta:
        kind = "nested" if section.is_nested else section.layout
        found = f"tensor on {section.device}, {kind}"
    elif section.dtype != torch.uint8 or section.ndim != 1:
        found = f"tensor of {section.dtype}, shape {list(section.shape)}"
    elif not section.is_contiguous():
        found = f"tensor of strides {section.stride()}"
    else:
        return section.cpu().numpy().tobytes()
    raise TypeError(
        f"the section is a {found}: expected a contiguous tensor of torch.uint8 with one dimension"
    )


def describe(data: bytes, record: TensorRecord) -> str:
    """Return a text that says what a section holds, and which one it is.

    Parameters
    ----------
    data : bytes
        The section.
    record : TensorRecord

    Returns
    -------
    str
        The index of a file of this tensor alone, after the digest of the section.
    """
    named = replace(record, name=_NAME, crc32=None)  # whatever file it is from
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    return f"{digest} {encode_index(Index({}, {_NAME: named})).decode()}"


def record_of(description: str) -> TensorRecord:
    """Read the record in a description.

    Raises
    ------
    DczError
        If it is not as `describe` writes it.
    TypeError
        If it is no string.
    """
    if not isinstance(description, str):
        raise TypeError(f"the extra state is a {type(description).__name__}: expected a string")
    _, _, text = description.partition(" ")  # what is not UTF-8 is no description, even replaced
    record = decode_index(text.encode(errors="replace")).entries.get(_NAME)
    if not isinstance(record, TensorRecord):
        raise DczError("the description of a weight has no tensor of that name")
    return record


def stored_weight(section: Tensor, description: str) -> StoredWeight:
    """Find what has been made of a weight, or begin with it.

    Parameters
    ----------
    section : torch.Tensor of uint8, shape (section_nbytes,)
        Its bytes are copied.
    description : str

    Returns
    -------
    StoredWeight

    Raises
    ------
    DczError
        If the two do not belong together, or break a rule of ``formats/dcz.md``.
    TypeError
        If the section is another kind of tensor, or the description no string.
    """
    record, data = record_of(description), section_bytes(section)
    if len(data) != record.section_nbytes or describe(data, record) != description:
        raise DczError("a weight's section and its description do not belong together")
    found = _stored.get(description)
    if found is None:
        found = StoredWeight(data, record)
        found.tensor.check()
        found = _stored.setdefault(description, found)
    return found


def weight_of_program(section: Tensor, description: str) -> StoredWeight:
    """Find the weight of a traced program; what no layer holds is kept for good."""
    found = _stored.get(description)
    if found is None:
        found = _kept[description] = stored_weight(section, description)
    return found
