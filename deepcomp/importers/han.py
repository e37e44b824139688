"""The networks that Song Han released with Deep Compression, as ``AlexNet_compressed.net``."""

import os
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..sparse import scatter

_GAP_BITS = 4


def read(
    path: str | os.PathLike[str],
    shapes: Mapping[str, tuple[int, ...]],
    bits: int | Mapping[str, int] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Read a ``.net`` file.

    The values are those of the codebooks, bit for bit. `deepcomp.save` keeps them exactly, and so
    does `deepcomp.compress` with the same `bits` (a zero loses its sign there).

    The file says neither names nor shapes, and is laid out as the published ``decode.py`` reads
    it: for each layer the number of its entries as uint32; then for each layer the codebook
    (``2**bits`` float32), the bias (float32, one for each output), a label for each entry (`bits`
    each) and a gap for each (four bits). Labels and gaps begin at a new byte, the first in the
    lowest bits. A gap counts the positions skipped in the row-major order of the weight; what is
    skipped has label 0. A run of zeros that is too long for a gap is broken up by an ordinary
    entry, of gap 15 and label 0, which is counted as one (the paper calls it a filler zero). The
    files are not Huffman coded, in contrast to the paper.

    Parameters
    ----------
    path : str or os.PathLike
    shapes : mapping of str to tuple of int
        The shapes of the weights, by the names of their layers, in the order of the network:
        ``{"conv1": (96, 3, 11, 11), ...}``. The first dimension is that of the bias.
    bits : int or mapping of str to int, optional
        4 or 8, for all layers or each. By default as published: 8 for layers with "conv" in their
        names, 4 for others.

    Returns
    -------
    dict of str to ndarray of float32
        ``conv1.weight``, ``conv1.bias``, and so on.

    Raises
    ------
    ValueError
        If the file does not fit the shapes.
    OSError
        If it cannot be read.

    References
    ----------
    ``decode.py`` in https://github.com/songhan/Deep-Compression-AlexNet, for the layout and the
    default of `bits`; Han, Mao, Dally, "Deep Compression", ICLR 2016, section 2, for the fillers.

    Examples
    --------
    One layer, of the weights 0.5 at position 1 and -2 at position 4, and the bias 1:

    >>> import numpy as np, pathlib, tempfile
    >>> codebook = np.zeros(16, np.float32)
    >>> codebook[1:3] = 0.5, -2
    >>> parts = [np.uint32([2]), codebook, np.float32([1]), np.uint8([0x21]), np.uint8([0x21])]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "small.net")
    ...     size = path.write_bytes(b"".join(part.tobytes() for part in parts))
    ...     read(path, {"fc": (1, 6)})
    {'fc.weight': array([[ 0. ,  0.5,  0. ,  0. , -2. ,  0. ]], dtype=float32),
     'fc.bias': array([1.], dtype=float32)}
    """
    name = os.fsdecode(path)
    with open(path, "rb") as file:
        data = np.frombuffer(file.read(), np.uint8)
    reader = _Reader(name, data)
    counts = reader.take("the numbers of entries", np.dtype("<u4"), len(shapes))
    tensors: dict[str, NDArray[np.float32]] = {}
    for (layer, shape), count in zip(shapes.items(), counts.tolist()):
        width = _bits(layer, bits)
        codebook = reader.take(f"{layer}: its codebook", np.dtype("<u4"), 1 << width)
        bias = reader.take(f"{layer}: its bias", np.dtype("<f4"), shape[0])
        labels = reader.take_packed(f"{layer}: its labels", width, count)
        gaps = reader.take_packed(f"{layer}: its gaps", _GAP_BITS, count)
        try:
            weight = _weight(codebook, labels, gaps, tuple(shape))
        except ValueError as error:
            raise ValueError(f"{name}: {layer}: {error} (shape {list(shape)})") from None
        tensors |= {f"{layer}.weight": weight, f"{layer}.bias": bias.astype(np.float32)}
    if reader.position != data.size:
        raise ValueError(
            f"{name}: these shapes and bits take {reader.position} bytes, found {data.size}"
        )
    return tensors


class _Reader:
    """Bytes, taken from the front."""

    def __init__(self, name: str, data: NDArray[np.uint8]) -> None:
        self.name = name
        self.position = 0
        self._data = data

    def take(self, what: str, dtype: np.dtype, n: int) -> NDArray:
        """Return the next n numbers."""
        end = self.position + n * dtype.itemsize
        if end > self._data.size:
            raise ValueError(
                f"{self.name}: {what} at {self.position}: expected {n * dtype.itemsize} bytes, "
                f"found {self._data.size - self.position}"
            )
        part = self._data[self.position : end]
        self.position = end
        return np.frombuffer(part.tobytes(), dtype)

    def take_packed(self, what: str, width: int, n: int) -> NDArray[np.uint8]:
        """Return the next n numbers of 4 or 8 bits; the last byte is a whole one."""
        packed = self.take(what, np.dtype("u1"), -(-n * width // 8))
        if width == 8:
            return packed
        return np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[:n]


def _weight(
    codebook: NDArray[np.uint32],
    labels: NDArray[np.uint8],
    gaps: NDArray[np.uint8],
    shape: tuple[int, ...],
) -> NDArray[np.float32]:
    positions = np.cumsum(gaps.astype(np.int64) + 1) - 1
    numel = int(np.prod(shape, dtype=np.int64))
    dense_labels = scatter(labels, [positions], (numel,))
    return codebook[dense_labels].view(np.float32).reshape(shape)


def _bits(layer: str, bits: int | Mapping[str, int] | None) -> int:
    if bits is None:
        return 8 if "conv" in layer else 4
    width = bits[layer] if isinstance(bits, Mapping) else bits
    if width not in (4, 8):
        raise ValueError(f"bits of {layer!r} is {width!r}: expected 4 or 8")
    return width
