"""Compressed models as ``.safetensors`` files, written one tensor at a time.

The format: https://github.com/huggingface/safetensors#format. Its own library is not used: it wants
all tensors in memory at a time, dense.
"""

import json

from ..files import Replacement
from ..importers.safetensors import DTYPES
from ..model import CompressedModel

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def check(packed: CompressedModel) -> None:
    """Raise ValueError if the format cannot hold a model."""
    if "__metadata__" in packed:
        raise ValueError("tensor '__metadata__': a safetensors file has its metadata there")
    for name, first in packed.aliases.items():
        if packed.metadata.get(name, first) != first:
            raise ValueError(
                f"tensor {name!r} is tied to {first!r}, which a safetensors file says in its "
                f"metadata; but these have {name!r} for something else"
            )
    for key, value in packed.metadata.items():
        if key not in packed and value in packed:
            raise ValueError(
                f"the metadata {key!r}: {value!r} would say in a safetensors file that a tensor "
                f"{key!r} is tied to {value!r}"
            )


def write(packed: CompressedModel, file: Replacement) -> None:
    """Write all tensors and the metadata; see `write_checkpoint`."""
    own = [tensor for name, tensor in packed.items() if name not in packed.aliases]
    # the largest entries first: so each tensor starts at a multiple of the size of its entries
    in_file = sorted(own, key=lambda tensor: -tensor.record.itemsize)
    begin, offsets = 0, {}
    for tensor in in_file:
        offsets[tensor.name] = [begin, begin + tensor.record.dense_nbytes]
        begin += tensor.record.dense_nbytes
    header: dict[str, object] = {
        tensor.name: {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": offsets[tensor.name],
        }
        for tensor in own
    }
    metadata = packed.metadata | packed.aliases
    if metadata:
        header = {"__metadata__": metadata} | header
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in in_file:
        file.write(tensor.decode_patterns().view("u1").data)
