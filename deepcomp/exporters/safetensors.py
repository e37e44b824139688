"""Compressed models as ``.safetensors`` files, written one tensor at a time.

The format: https://github.com/huggingface/safetensors#format.
"""

import json
import os

from ..files import Replacement
from ..importers.safetensors import DTYPES
from ..model import CompressedModel

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_file(packed: CompressedModel, path: str | os.PathLike[str]) -> None:
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
    metadata = packed.aliases | packed.metadata
    if metadata:
        header = {"__metadata__": metadata} | header
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    replacement = Replacement(path)
    try:
        replacement.write(len(text).to_bytes(8, "little") + text)
        for tensor in in_file:
            replacement.write(tensor.decode_patterns().view("u1").data)
        replacement.sync()
        replacement.commit()
    finally:
        replacement.close()
