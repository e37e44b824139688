"""Checkpoints of compressed-tensors in its format ``sparse-bitmask``.

A weight is four tensors there: ``compressed``, the values that are not zero, in order; ``bitmask``,
where they are, eight columns a byte from the lowest bit, each row beginning with a new byte;
``row_offsets``, at which value each row begins; and ``shape``. Its variant for 2:4 sparsity has no
``row_offsets``. This is what the library's README and its ``sparse_bitmask.py`` say
(https://github.com/neuralmagic/compressed-tensors).
"""

import reprlib
from functools import partial
from math import prod

import numpy as np
from numpy.typing import NDArray

from ..arrays import Source, check_shape
from ..decode import Patterns

_PARTS = ("compressed", "bitmask", "shape")
_OPTIONAL = "row_offsets"


def unfold(tensors: dict[str, Source]) -> dict[str, Source]:
    """Replace the parts of each weight by the weight.

    Parameters
    ----------
    tensors : dict of str to Source

    Returns
    -------
    dict of str to Source
        Other tensors as they are, in the same order. The values are put at their places when a
        weight is fetched.

    Raises
    ------
    ValueError
        If a part is missing, or does not fit the others; the rest when a weight is fetched.
    """
    prefixes = [
        name.removesuffix(".bitmask")
        for name in tensors
        if name.endswith(".bitmask") and name.removesuffix("bitmask") + "compressed" in tensors
    ]
    # the first versions wrote `fc.weight.bitmask`, and had other parameters than weights so, too;
    # later ones write `fc.bitmask` of `fc.weight`
    is_whole_name = any(prefix.endswith(".weight") for prefix in prefixes)
    names = {prefix: prefix if is_whole_name else f"{prefix}.weight" for prefix in prefixes}
    result: dict[str, Source] = {}
    for name, tensor in tensors.items():
        prefix, _, part = name.rpartition(".")
        if prefix not in names or part not in (*_PARTS, _OPTIONAL):
            if name in names.values():
                raise ValueError(f"tensor {name!r} is there twice: as it is and as a bitmask")
            result[name] = tensor
        elif names[prefix] not in result:
            result[names[prefix]] = _weight(names[prefix], prefix, tensors)
    return result


def _weight(name: str, prefix: str, tensors: dict[str, Source]) -> Source:
    for part in _PARTS:
        if f"{prefix}.{part}" not in tensors:
            raise ValueError(f"tensor {name!r}: its part {prefix}.{part} is missing")
    compressed, bitmask, shape_tensor = (tensors[f"{prefix}.{part}"] for part in _PARTS)
    shape = tuple(int(n) for n in _integers(shape_tensor))
    if not shape or min(shape) < 0:
        raise ValueError(f"tensor {name!r}: {shape_tensor.name} is {reprlib.repr(list(shape))}")
    check_shape(name, compressed.dtype, shape)
    rows = prod(shape[:-1])
    nbytes = rows * -(-shape[-1] // 8)
    if bitmask.dtype != "uint8" or prod(bitmask.shape) != nbytes:
        raise ValueError(
            f"tensor {name!r}: {bitmask.name} is {bitmask.dtype} {list(bitmask.shape)}: "
            f"expected {nbytes} uint8 for shape {list(shape)}"
        )
    offsets = tensors.get(f"{prefix}.{_OPTIONAL}")
    fetch = partial(_fetch, name, shape, compressed, bitmask, offsets)
    identity = ("bitmask", shape, compressed.identity, bitmask.identity)
    return Source(name, compressed.dtype, shape, identity, fetch)


def _fetch(
    name: str, shape: tuple[int, ...], compressed: Source, bitmask: Source, offsets: Source | None
) -> Patterns:
    rows, columns = prod(shape[:-1]), shape[-1]
    if columns == 0 and (offsets is None or prod(offsets.shape) != rows):
        rows = 0  # so many that the file does not hold, and that have nothing
    packed = bitmask.fetch().view(np.uint8).reshape(rows, -(-columns // 8))
    bits = np.unpackbits(packed, axis=1, bitorder="little")
    mask = bits[:, :columns].view(bool)
    values = compressed.fetch()
    counts = np.count_nonzero(mask, axis=1)
    n_set = int(counts.sum())
    if bits[:, columns:].any():
        raise ValueError(f"tensor {name!r}: {bitmask.name} has bits beyond column {columns}")
    if n_set != values.size:
        raise ValueError(
            f"tensor {name!r}: {bitmask.name} has {n_set} bits set, "
            f"but {compressed.name} has {values.size} values"
        )
    if offsets is not None:
        _check_offsets(name, offsets, np.cumsum(counts) - counts, len(shape) <= 2)
    dense = np.zeros((rows, columns), values.dtype)
    dense[mask] = values
    return dense.reshape(-1)


def _check_offsets(
    name: str, offsets: Source, expected: NDArray[np.int64], is_matrix: bool
) -> None:
    found = _integers(offsets)
    # of tensors of more dimensions the library adds up other counts, and never uses them
    is_right = found.size == expected.size and found.min(initial=0) >= 0
    if not is_right or (is_matrix and (found != expected).any()):
        raise ValueError(
            f"tensor {name!r}: {offsets.name} are not those of the bitmask: expected "
            f"{_shown(expected)}, found {_shown(found)}"
        )


def _shown(numbers: NDArray[np.int64]) -> str:
    more = ", ..." if numbers.size > 5 else ""
    return f"[{', '.join(str(n) for n in numbers[:5])}{more}] ({numbers.size})"


def _integers(tensor: Source) -> NDArray[np.int64]:
    if tensor.dtype not in ("int32", "int64"):
        raise ValueError(f"tensor {tensor.name!r} is {tensor.dtype}: expected int64")
    return tensor.fetch().view(tensor.dtype).astype(np.int64)
