"""What the pictures show, as numbers: `page` and `plot` only draw it.

Each tensor is decoded on its own, block by block, so that no dense copy of it is made.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isqrt, prod

import numpy as np
from numpy.typing import NDArray

from .huffman import count_symbols
from .kept_rows import AnyDecoder
from .sections import STORED
from .tensor import CompressedTensor
from .values import numbers

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

# The parts of a report (`report.STREAMS`, and its overhead) by what is told apart in pictures.
KINDS = {
    "labels": ("labels",),
    "gaps": ("gaps", "rows"),
    "codebook": ("codebook",),
    "exact values": ("planes", "signs"),
    "raw": ("raw",),
    "overhead": ("codes", "directory", "head", "page checksums", "index", "trailer"),
}
N_BINS = 64
MAX_CELLS = 1 << 14


@dataclass(frozen=True)
class Histogram:
    """How often which weights occur; zeros, NaN and infinity are counted apart.

    Attributes
    ----------
    values : ndarray of float64, shape (n,)
        With a codebook its entries, rising, as the weights have no other values; else, the left
        edges of bins.
    width : float
        Of a bin; 0 with a codebook.
    counts : ndarray of int64, shape (n,)
    n_zeros, n_not_finite : int
    """

    values: Floats
    width: float
    counts: Counts
    n_zeros: int
    n_not_finite: int


@dataclass(frozen=True)
class ZeroMap:
    """Where a tensor has zeros: the density of the cells of a grid.

    Attributes
    ----------
    density : ndarray of float64, shape (n_rows, n_columns)
        Fraction of kept entries, 0 to 1.
    shape : (int, int)
        Of the matrix under the grid: ``shape[0]`` rows, all other dimensions flattened; one row
        for a vector.
    cell : int
        Height and width of a cell in entries; the last ones may be smaller.
    """

    density: Floats
    shape: tuple[int, int]
    cell: int

    @property
    def highest(self) -> float:
        """Highest density of a whole cell; a smaller one is often full by chance."""
        rows, columns = (n // self.cell for n in self.shape)
        whole = self.density[:rows, :columns]
        return float((whole if whole.any() else self.density).max(initial=0))


@dataclass(frozen=True)
class StreamCode:
    """The code of one stream beside the entropy of its symbols.

    Attributes
    ----------
    name : str
        ``"labels"``, ``"gaps"``, ``"signs"`` or ``"plane 0"`` and so on.
    counts : ndarray of int64, shape (n,)
        Of the symbols that occur, falling.
    code_lengths : ndarray of int64, shape (n,)
        In bits: 0 for the only symbol of a stream, 8 where bytes are stored as they are.
    """

    name: str
    counts: Counts
    code_lengths: NDArray[np.int64]

    @property
    def ideal(self) -> Floats:
        """Bits that a symbol carries, shape (n,): minus the logarithm of its frequency."""
        return np.log2(self.counts.sum() / self.counts)

    @property
    def mean_bits(self) -> float:
        """Bits a symbol takes on average."""
        return float(self.counts @ self.code_lengths / self.counts.sum())

    @property
    def entropy(self) -> float:
        """Bits a symbol would take with an ideal code of the same frequencies."""
        return float(self.counts @ self.ideal / self.counts.sum())


def by_kind(parts: Mapping[str, int]) -> dict[str, int]:
    """Sum up the parts of a report by what is told apart in pictures.

    Examples
    --------
    >>> by_kind({"labels": 300, "codebook": 64, "codes": 9, "directory": 2})["overhead"]
    11
    """
    return {kind: sum(parts.get(part, 0) for part in names) for kind, names in KINDS.items()}


def histogram(tensor: CompressedTensor) -> Histogram:
    """Count the weights of a tensor by their values.

    Parameters
    ----------
    tensor : CompressedTensor

    Returns
    -------
    Histogram

    Raises
    ------
    DczError
        If the tensor's section is damaged or breaks a rule.

    Examples
    --------
    >>> import deepcomp, numpy as np
    >>> packed = deepcomp.compress({"w": np.repeat([0.0, 0.5, -1.5], [70, 20, 10])})
    >>> found = histogram(packed["w"])
    >>> found.values, found.counts, found.n_zeros
    (array([-1.5,  0.5]), array([10, 20]), 70)
    """
    return tensor.decode_with(_binned if tensor.record.codebook is None else _by_codebook)


def _by_codebook(decoder: AnyDecoder) -> Histogram:
    record = decoder.record
    counts = _symbol_counts(decoder)[-1][: record.codebook]
    values = numbers(decoder.codebook, record.dtype).astype(np.float64)
    is_finite = np.isfinite(values)
    shown = np.flatnonzero(is_finite & (values != 0))
    shown = shown[np.argsort(values[shown], kind="stable")]
    n_not_finite = int(counts[~is_finite].sum())
    n_zeros = record.numel - int(counts[shown].sum()) - n_not_finite
    return Histogram(values[shown], 0.0, counts[shown], n_zeros, n_not_finite)


def _binned(decoder: AnyDecoder) -> Histogram:
    """Count values in `N_BINS` bins of one width; two passes, so that no pass keeps them all."""
    low, high, n_zeros, n_not_finite = np.inf, -np.inf, decoder.record.numel, 0
    for values in _kept_values(decoder):
        finite = values[np.isfinite(values)]
        low, high = finite.min(initial=low), finite.max(initial=high)
        n_zeros -= values.size
        n_not_finite += values.size - finite.size
    if low > high:
        return Histogram(np.empty(0), 0.0, np.empty(0, np.int64), n_zeros, n_not_finite)
    # one value gets a bin around it; float64 must hold the range, so its ends may be cut
    margin = 0.0 if low < high else abs(low) / 2
    low, high = (float(np.clip(x, -8e307, 8e307)) for x in (low - margin, high + margin))
    width = max((high - low) / N_BINS, 1e-300)
    counts = np.zeros(N_BINS, np.int64)
    for values in _kept_values(decoder):
        bins = (np.clip(values[np.isfinite(values)], low, high) - low) / width
        counts += np.bincount(np.minimum(bins.astype(np.int64), N_BINS - 1), minlength=N_BINS)
    return Histogram(low + width * np.arange(float(N_BINS)), width, counts, n_zeros, n_not_finite)


def zeros(tensor: CompressedTensor, max_cells: int = MAX_CELLS) -> ZeroMap:
    """Find the density of a tensor in the cells of a grid.

    Parameters
    ----------
    tensor : CompressedTensor
    max_cells : int
        The most cells of the grid.

    Returns
    -------
    ZeroMap

    Raises
    ------
    DczError
        If the tensor's section is damaged or breaks a rule.

    Examples
    --------
    >>> import deepcomp, numpy as np
    >>> zeros(deepcomp.compress({"w": np.eye(4)})["w"], max_cells=4).density
    array([[0.5, 0. ],
           [0. , 0.5]])
    """
    shape = tensor.shape
    rows = shape[0] if len(shape) > 1 else 1
    columns = prod(shape[1:]) if len(shape) > 1 else prod(shape)
    cell = max(1, isqrt(rows * columns // max_cells))
    while -(-rows // cell) * -(-columns // cell) > max_cells:
        cell += 1 + cell // 16
    n_rows, n_columns = -(-rows // cell), -(-columns // cell)
    if not tensor.record.numel:  # one extent may be as large as it likes
        return ZeroMap(np.zeros((n_rows, n_columns)), (rows, columns), cell)
    kept = np.zeros(n_rows * n_columns, np.int64)

    def count(decoder: AnyDecoder) -> None:
        for positions, _ in decoder.kept_blocks():
            row, column = np.divmod(positions, columns)
            cells = row // cell * n_columns + column // cell
            np.add(kept, np.bincount(cells, minlength=kept.size), out=kept)

    tensor.decode_with(count)
    heights = np.minimum(cell, rows - cell * np.arange(n_rows))
    widths = np.minimum(cell, columns - cell * np.arange(n_columns))
    density = kept.reshape(n_rows, n_columns) / np.outer(heights, widths)
    return ZeroMap(density, (rows, columns), cell)


def code_lengths(tensor: CompressedTensor) -> list[StreamCode]:
    """Put the code lengths of a tensor's streams beside the entropy of their symbols.

    Parameters
    ----------
    tensor : CompressedTensor

    Returns
    -------
    list of StreamCode
        In the order of the file; none for a raw tensor, nor for a stream without symbols.

    Raises
    ------
    DczError
        If the tensor's section is damaged or breaks a rule.

    Examples
    --------
    >>> import deepcomp, numpy as np
    >>> packed = deepcomp.compress({"w": np.repeat([1.0, 0.5, -1.5], [700, 200, 100])})
    >>> [labels] = code_lengths(packed["w"])
    >>> labels.name, labels.counts, labels.code_lengths
    ('labels', array([700, 200, 100]), array([1, 2, 2]))
    >>> round(labels.mean_bits, 2), round(labels.entropy, 2)
    (1.3, 1.16)
    """
    return tensor.decode_with(_stream_codes)


def _stream_codes(decoder: AnyDecoder) -> list[StreamCode]:
    found: list[StreamCode] = []
    if decoder.record.layout == "raw":
        return found
    for name, code, counts in zip(
        decoder.record.stream_names, decoder.section.codes, _symbol_counts(decoder), strict=True
    ):
        order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
        if order.size:
            lengths = np.zeros(256, np.int64)
            lengths[: len(code.code_lengths)] = list(code.code_lengths)
            if code.m == STORED:
                lengths[:] = 8
            found.append(StreamCode(name, counts[order], lengths[order]))
    return found


def _symbol_counts(decoder: AnyDecoder) -> Counts:
    """Count the symbols of each stream, shape (n_streams, 256)."""
    counts = np.zeros((len(decoder.record.stream_names), 256), np.int64)
    for streams in decoder.streams():
        for i, symbols in enumerate(streams):
            counts[i] += count_symbols(symbols)
    return counts


def _kept_values(decoder: AnyDecoder) -> Iterator[Floats]:
    for _, patterns in decoder.kept_blocks():
        yield numbers(patterns, decoder.record.dtype).astype(np.float64, copy=False)
