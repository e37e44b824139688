"""``.npz`` files of NumPy, and those of ``scipy.sparse.save_npz``; pickled objects are refused."""

import contextlib
import os
import reprlib
import zipfile
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from math import prod

import numpy as np
from numpy.typing import NDArray

from ..arrays import Source, check_dtype, check_shape, patterns_of
from ..decode import Patterns
from ..sparse import expand_indptr, scatter

_INDEX_PARTS = {"csr": ("indices", "indptr"), "csc": ("indices", "indptr"), "coo": ("row", "col")}
_MAX_HEADER_NBYTES = 10_000  # as numpy.load


def looks_like_npz(names: list[str]) -> bool:
    """Whether a zip archive with these members may be an ``.npz`` file.

    Examples
    --------
    >>> looks_like_npz(["fc.weight.npy"])
    True
    """
    return bool(names) and all(name.endswith(".npy") for name in names)


def read_file(path: str) -> dict[str, Source]:
    """List the arrays of a file.

    Parameters
    ----------
    path : str

    Returns
    -------
    dict of str to Source
        In the order of the file; an array is read when it is fetched. A file of
        ``scipy.sparse.save_npz`` (CSR, CSC or COO) is one tensor, with the name of the file
        without ``.npz``.

    Raises
    ------
    ValueError
        If the file is damaged, or has a dtype that a ``.dcz`` file cannot hold.
    """
    tensors: dict[str, Source] = {}
    with _opened(path) as archive:
        members = archive.namelist()
        if {"format.npy", "shape.npy", "data.npy"} <= set(members):
            name = os.path.basename(path).removesuffix(".npz")
            return {name: _sparse(path, name, archive)}
        for member in members:
            name = member.removesuffix(".npy")
            if name in tensors or not member.endswith(".npy"):
                raise ValueError(f"member {member!r}: expected arrays of different names")
            shape, dtype, _ = _header(archive, member)
            check_dtype(name, dtype.name)
            check_shape(name, dtype.name, shape)
            fetch = partial(_fetch, path, member)
            tensors[name] = Source(name, dtype.name, shape, (path, name), fetch)
    return tensors


@contextlib.contextmanager
def _opened(path: str) -> Iterator[zipfile.ZipFile]:
    """Open an archive; what is wrong with it, or with an array, names the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except Exception as error:  # a damaged file can lead to any of zipfile's, zlib's and NumPy's
        raise ValueError(f"{path}: {str(error) or type(error).__name__}") from None


def _header(archive: zipfile.ZipFile, member: str) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Read the shape and dtype of an array, and whether its columns come first."""
    formats = np.lib.format
    with archive.open(member) as file:
        version = formats.read_magic(file)
        if version == (1, 0):
            shape, is_fortran, dtype = formats.read_array_header_1_0(file, _MAX_HEADER_NBYTES)
        elif version == (2, 0):
            shape, is_fortran, dtype = formats.read_array_header_2_0(file, _MAX_HEADER_NBYTES)
        else:
            raise ValueError(f"member {member!r}: .npy version {version}: expected 1.0 or 2.0")
        nbytes = archive.getinfo(member).file_size - file.tell()
    shape = tuple(map(int, shape))  # True is one, for NumPy
    if min(shape, default=0) < 0:
        raise ValueError(f"member {member!r}: shape is {reprlib.repr(shape)}: expected no minus")
    if not dtype.hasobject and prod(shape) * dtype.itemsize != nbytes:
        expected = reprlib.repr(prod(shape) * dtype.itemsize)
        raise ValueError(f"member {member!r}: expected {expected} bytes, found {nbytes}")
    return shape, dtype, is_fortran


def _read(archive: zipfile.ZipFile, member: str) -> NDArray:
    """Read an array; memory is taken for what is there, not for what the header claims."""
    shape, dtype, is_fortran = _header(archive, member)
    check_dtype(member, dtype.name)
    data = archive.read(member)  # which checks its CRC
    nbytes = prod(shape) * dtype.itemsize
    entries = np.frombuffer(data, dtype, offset=len(data) - nbytes)
    return entries.reshape(shape, order="F" if is_fortran else "C")


def _fetch(path: str, member: str) -> Patterns:
    with _opened(path) as archive:
        return patterns_of(_read(archive, member))


def _sparse(path: str, name: str, archive: zipfile.ZipFile) -> Source:
    """Present the parts of a sparse matrix as one tensor."""
    with archive.open("format.npy") as file:  # a string, which no tensor is
        format = _text(file.read(1000))
    if format not in _INDEX_PARTS:
        raise ValueError(f"format is {format!r}: expected one of {', '.join(_INDEX_PARTS)}")
    data_shape, dtype, _ = _header(archive, "data.npy")
    check_dtype(name, dtype.name)
    n_dimensions = prod(_header(archive, "shape.npy")[0])
    if n_dimensions != 2 or len(data_shape) != 1:  # before it is read: gigabytes inflate
        raise ValueError(
            f"{format} of {n_dimensions} dimensions with data of {data_shape}: expected a matrix"
        )
    rows, columns = (int(n) for n in _integers(archive, "shape.npy"))
    shape = rows, columns
    if min(shape) < 0:
        raise ValueError(f"{format} of shape {shape}: expected a matrix")
    check_shape(name, dtype.name, shape)
    return Source(name, dtype.name, shape, (path, name), partial(_scatter, path, format, shape))


def _scatter(path: str, format: str, shape: tuple[int, int]) -> Patterns:
    with _opened(path) as archive:
        patterns = patterns_of(_read(archive, "data.npy"))
        first, second = (_integers(archive, f"{part}.npy") for part in _INDEX_PARTS[format])
        if format == "csr":
            coordinates = [expand_indptr(second, shape[0], patterns.size), first]
        elif format == "csc":
            coordinates = [first, expand_indptr(second, shape[1], patterns.size)]
        else:
            coordinates = [first, second]
        return scatter(patterns, coordinates, shape)


def _integers(archive: zipfile.ZipFile, member: str) -> NDArray[np.int64]:
    array = _read(archive, member)
    if array.ndim != 1 or array.dtype.name not in ("int32", "int64"):
        raise ValueError(f"member {member!r} is {array.dtype} {list(array.shape)}: expected int64")
    return array.astype(np.int64)


def _text(data: bytes) -> str:
    array = np.load(BytesIO(data), allow_pickle=False)
    text = array.item() if array.shape == () else None
    return text.decode("ascii", "replace") if isinstance(text, bytes) else str(text)
