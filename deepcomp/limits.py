"""How large a file may be that is opened: ``max_dense_bytes`` of `storage.load`, and its default.

These are limits of this reader, not of the format, and no model meets the default that is worth a
file (``SECURITY.md``). Standard library only.
"""

from collections.abc import Iterable

from .errors import DczError
from .records import MAX_INTEGER, TensorRecord

ANY_SIZE = MAX_INTEGER  # as `max_dense_bytes`, of a file that was written here
_DENSE_NBYTES, _DENSE_RATIO = 1 << 34, 10_000  # the larger one; the ratio is to the file
_INDEX_NBYTES, _INDEX_RATIO = 1 << 18, 16  # their sum


def most_index_nbytes(file_nbytes: int) -> int:
    """Return how many bytes an index may have when it is inflated, unless the caller says more.

    With some hundred thousand tensors, of one number each, it is up to 10 times the file.
    """
    return _INDEX_NBYTES + _INDEX_RATIO * file_nbytes


def check_index_nbytes(
    name: str, file_nbytes: int, index_nbytes: int, max_dense_bytes: int | None
) -> None:
    """Raise DczError if an index would be too large.

    Parameters
    ----------
    name : str
        Of the file.
    file_nbytes, index_nbytes : int
        The latter when it is inflated.
    max_dense_bytes : int or None
        The index may have as many bytes, if that is more than 2**18; more than the default allows
        only if the tensors may as well.
    """
    most = most_index_nbytes(file_nbytes)
    if max_dense_bytes is not None:
        asked = max(_INDEX_NBYTES, max_dense_bytes)
        most = asked if max_dense_bytes > _most_dense_nbytes(file_nbytes) else min(most, asked)
    if index_nbytes > most:
        expected = _expected(most, max_dense_bytes)
        raise DczError(f"{name}: an index of {index_nbytes} bytes: too large: {expected}")


def check_dense_nbytes(
    name: str,
    file_nbytes: int,
    entries: Iterable[TensorRecord | str],
    max_dense_bytes: int | None,
) -> None:
    """Raise DczError if the tensors of a file are too large.

    Parameters
    ----------
    name : str
        Of the file.
    file_nbytes : int
    entries : iterable of (TensorRecord or str)
        Of its index.
    max_dense_bytes : int or None
        If it is given, empty tensors count by their other extents: so many entries has a product.
    """
    records = [entry for entry in entries if isinstance(entry, TensorRecord)]
    found, counted = sum(record.dense_nbytes for record in records), ""
    most = _most_dense_nbytes(file_nbytes) if max_dense_bytes is None else max_dense_bytes
    if max_dense_bytes is not None and any(not record.numel for record in records):
        found = sum(record.most_nbytes for record in records)
        counted = " (an extent of 0 is taken for 1)"
    if found > most:
        expected = _expected(most, max_dense_bytes)
        raise DczError(f"{name}: the tensors take {found} bytes when dense{counted}: {expected}")


def _most_dense_nbytes(file_nbytes: int) -> int:
    return max(_DENSE_NBYTES, _DENSE_RATIO * file_nbytes)


def _expected(most: int, max_dense_bytes: int | None) -> str:
    default = ", its default for such a file" if max_dense_bytes is None else ""
    return f"expected at most {most} (max_dense_bytes{default})"
