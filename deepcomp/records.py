"""What a file says about each tensor, and the constants of the format (``formats/dcz.md``)."""

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

ITEMSIZE = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "uint16": 2,
    "int16": 2,
    "float16": 2,
    "bfloat16": 2,
    "uint32": 4,
    "int32": 4,
    "float32": 4,
    "uint64": 8,
    "int64": 8,
    "float64": 8,
}
SHARED_DTYPES = ("float16", "bfloat16", "float32", "float64")  # those that can lose precision
SIGNED_DTYPES = tuple(name for name in ITEMSIZE if name.startswith(("float", "bfloat")))

MAX_CODE_LENGTH = 12  # bits; section 8
MIN_BLOCK_NUMEL = 1 << 12
MAX_BLOCK_NUMEL = 1 << 20
MAX_CODEBOOK = 256
MAX_CRC32 = (1 << 32) - 1
MAX_DIMENSIONS = 32
MAX_INTEGER = (1 << 63) - 1  # also of the bytes that an array can have
GAP_BITS = range(2, 9)
MAX_WHOLE_NUMEL = 1 << 24  # our own: up to so many entries a tensor is compressed in one piece
MAX_EMPTY_ROWS = 1 << 20  # our own: without entries they cost a file nothing
_FOUR_BITSTREAMS_FROM = 4096  # symbols; section 6.2


def n_bitstreams(n_symbols: int) -> int:
    """Return in how many bitstreams a block's symbols are written (section 6.2)."""
    if n_symbols == 0:
        return 0
    return 1 if n_symbols < _FOUR_BITSTREAMS_FROM else 4


@dataclass(frozen=True)
class TensorRecord:
    """One tensor as the index describes it (``formats/dcz.md``, section 4).

    Attributes
    ----------
    name : str
        The state_dict key.
    dtype : str
        A key of `ITEMSIZE`.
    shape : tuple of int
    layout : str
        ``"raw"``, ``"dense"`` or ``"sparse"``.
    section_nbytes : int
        Size of the tensor's section in bytes.
    nnz : int or None
        Number of kept entries; None for raw tensors.
    codebook : int or None
        Number of codebook entries; None when byte planes hold the values.
    gap_bits : int or None
        Width of a gap symbol; None unless sparse.
    block_numel : int or None
        Entries of a block; None when the tensor is one block.
    zero_signs : bool
        Whether the signs of zeros are stored.
    crc32 : int or None
        CRC-32 of the section, if the index has it.
    kept_rows : int or None
        Number of rows that are stored, if the others, all zero, are not (section 7.5).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    layout: str
    section_nbytes: int
    nnz: int | None = None
    codebook: int | None = None
    gap_bits: int | None = None
    block_numel: int | None = None
    zero_signs: bool = False
    crc32: int | None = None
    kept_rows: int | None = None

    @cached_property
    def numel(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of an entry."""
        return ITEMSIZE[self.dtype]

    @property
    def dense_nbytes(self) -> int:
        """Bytes of the tensor when it is not compressed."""
        return self.numel * self.itemsize

    @property
    def most_nbytes(self) -> int:
        """As `dense_nbytes`, with 1 for an extent of 0: a product with [n, 0] has n entries."""
        return (self.numel or prod(extent or 1 for extent in self.shape)) * self.itemsize

    @property
    def bits(self) -> int | None:
        """Width of a label before Huffman coding; None without a codebook."""
        return None if self.codebook is None else max(1, (self.codebook - 1).bit_length())

    @property
    def bitmap_nbytes(self) -> int:
        """Bytes of the bitmap of kept rows; 0 where all rows are stored."""
        return 0 if self.kept_rows is None else -(-self.shape[0] // 8)

    @cached_property
    def stored(self) -> "TensorRecord":
        """The tensor of the kept rows, whose section follows the bitmap; without one, itself."""
        if self.kept_rows is None:
            return self
        shape, nbytes = (self.kept_rows, *self.shape[1:]), self.section_nbytes - self.bitmap_nbytes
        return replace(self, shape=shape, section_nbytes=nbytes, crc32=None, kept_rows=None)

    @property
    def block_sizes(self) -> list[int]:
        """Number of stored entries of each block."""
        numel = self.stored.numel
        step = self.block_numel or numel
        return [min(step, numel - first) for first in range(0, numel, step)]

    @property
    def head_nbytes(self) -> int:
        """Bytes of the section that hold all that comes before its payload, and perhaps more."""
        if self.layout == "raw":
            return 0
        if self.kept_rows is not None:
            return self.bitmap_nbytes + self.stored.head_nbytes
        n_streams = len(self.stream_names)
        codes = n_streams * (2 + MAX_CODEBOOK // 2)
        # Varints: numbers of kept entries and of escapes, each at most MAX_BLOCK_NUMEL, and the
        # sizes of the bitstreams, of which none can be larger than the section.
        size = -(-self.section_nbytes.bit_length() // 7)
        entry = 2 * 3 + 4 * n_streams * size
        n_blocks = -(-self.numel // (self.block_numel or self.numel))
        head = (self.codebook or 0) * self.itemsize + codes + n_blocks * entry
        return min(head, self.section_nbytes)

    @property
    def stream_names(self) -> tuple[str, ...]:
        """The tensor's streams in the order of the file (section 7)."""
        names: list[str] = []
        if self.layout == "sparse":
            names.append("gaps")
        if self.zero_signs:
            names.append("signs")
        if self.codebook is not None:
            return (*names, "labels")
        return (*names, *(f"plane {i}" for i in range(self.itemsize)))
