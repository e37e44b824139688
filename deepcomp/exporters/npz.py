"""Compressed models as ``.npz`` files, written one tensor at a time."""

import reprlib
import zipfile

from ..files import Replacement
from ..model import CompressedModel

_UNKNOWN_TO_NUMPY = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
_LONGEST_NAME = (1 << 16) - 1  # bytes, of a member of a zip archive


def check(packed: CompressedModel) -> None:
    """Raise ValueError if the format cannot hold a model."""
    for name, tensor in packed.items():
        if tensor.dtype in _UNKNOWN_TO_NUMPY:
            raise ValueError(
                f"tensor {name!r} is {tensor.dtype}, which NumPy does not have: write a "
                ".safetensors or .pt file"
            )
        if "\0" in name:
            raise ValueError(f"tensor {name!r}: a name in an .npz file cannot have a null byte")
        if len(f"{name}.npy".encode()) > _LONGEST_NAME:
            raise ValueError(
                f"tensor {reprlib.repr(name)}: a name of {len(name)} characters is too long for "
                "an .npz file"
            )


def write(packed: CompressedModel, file: Replacement) -> None:
    """Write all tensors, tied ones each; see `write_checkpoint`."""
    import numpy as np

    with zipfile.ZipFile(file, "w") as archive:  # which needs write and flush only
        for name, tensor in packed.items():
            member = zipfile.ZipInfo(f"{name}.npy")  # of 1980: the same model, the same bytes
            with archive.open(member, "w", force_zip64=True) as output:
                np.lib.format.write_array(output, tensor.to_dense(), allow_pickle=False)
