"""What the bytes of a ``.dcz`` file are: an open file -> numbers, also as JSON.

The columns are those of tables 2 to 5 of Han, Mao, Dally, "Deep Compression", ICLR 2016.
Standard library only.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from .container import Reader
from .errors import DczError
from .index import Index, least_version
from .records import ITEMSIZE, TensorRecord
from .sections import read_section
from .shards import Shards
from .writer import when_written

if TYPE_CHECKING:
    from .model import CompressedModel

STREAMS = ("labels", "gaps", "planes", "signs", "rows", "codebook", "codes", "directory", "raw")


@dataclass(frozen=True)
class Row:
    """One tensor. Sizes are bytes of the file.

    Attributes
    ----------
    name, dtype, layout : str
        An alias has the layout ``"alias"``.
    shape : tuple of int
    tied_to : str or None
    n_weights : int
    nnz : int or None
        Kept entries; None where the file does not say (raw).
    weight_bits, weight_bits_huffman : float or None
        Bits for each stored value before and after Huffman coding.
    index_bits, index_bits_huffman : float or None
        Bits of gaps and of the bitmap of rows for each kept entry, escapes included; None where
        there is neither.
    nbytes : int
        The whole section: bitmap of rows, codebook, code lengths, directory, streams.
    dense_nbytes : int
        At the tensor's own dtype.
    parts : dict of str to int
        `nbytes` by what it is; keys from `STREAMS`.
    relative_error : float or None
        As of `CompressedTensor`: no file says it.
    """

    name: str
    dtype: str
    layout: str
    shape: tuple[int, ...]
    tied_to: str | None
    n_weights: int
    nnz: int | None
    weight_bits: float | None
    weight_bits_huffman: float | None
    index_bits: float | None
    index_bits_huffman: float | None
    nbytes: int
    dense_nbytes: int
    parts: dict[str, int]
    relative_error: float | None = None

    @property
    def kept(self) -> float | None:
        """Fraction of kept entries."""
        return None if self.nnz is None else self.nnz / self.n_weights

    @property
    def ratio(self) -> float | None:
        """Dense bytes at the tensor's own dtype over bytes in the file."""
        return self.dense_nbytes / self.nbytes if self.nbytes else None

    @property
    def ratio_float32(self) -> float | None:
        """Four bytes an entry over bytes in the file."""
        return 4 * prod(self.shape) / self.nbytes if self.nbytes else None


@dataclass(frozen=True)
class Pair:
    """A layer of low rank, as `deepcomp.factorize` makes them.

    Attributes
    ----------
    layer : Row
        The layout is ``"low-rank"``; shape and dense bytes are those of the dense weight that the
        two stand for; weights and bytes are those of both.
    factors : tuple of two Rows
        They are among the rows of the report as well.
    """

    layer: Row
    factors: tuple[Row, Row]


@dataclass(frozen=True)
class Report:
    """A whole file; ``sum(row.nbytes) + sum(overhead.values()) == file_nbytes``.

    Attributes
    ----------
    file, format_version : str
    metadata : dict of str to str
    rows : list of Row
    overhead : dict of str to int
        Bytes of head, page checksums, index and trailer.
    file_nbytes, dense_nbytes, float32_nbytes : int
        Of the file; of its tensors at their own dtypes; of their entries at four bytes. Tied
        weights count once.
    relative_error : float or None
        As of `CompressedModel`.
    """

    file: str
    format_version: str
    metadata: dict[str, str]
    rows: list[Row]
    overhead: dict[str, int]
    file_nbytes: int
    dense_nbytes: int
    float32_nbytes: int
    relative_error: float | None = None

    def parts(self) -> dict[str, int]:
        """Return the bytes of the file by what they are."""
        sums = {part: sum(row.parts.get(part, 0) for row in self.rows) for part in STREAMS}
        return {part: n for part, n in (sums | self.overhead).items() if n}

    def pairs(self) -> list[Pair]:
        """Return the layers of low rank, in the order of their first factors."""
        rows = {row.name: row for row in self.rows}
        found = []
        for name, first in rows.items():
            layer = name.removesuffix(".factors.0.weight")
            second = rows.get(f"{layer}.factors.1.weight")
            if layer != name and second is not None and _is_pair(first, second):
                found.append(Pair(_layer_row(layer, first, second), (first, second)))
        return found


def make_report(reader: Reader | Shards) -> Report:
    """Read what each byte of a file is for, without decoding.

    Parameters
    ----------
    reader : Reader or Shards
        Of the shards, `Report.file` is the index; its bytes and the shards' own are the overhead.

    Returns
    -------
    Report

    Raises
    ------
    DczError
        If the file is damaged or breaks a rule of ``formats/dcz.md``.
    """
    version = ".".join(map(str, reader.version))
    index = Index(reader.index.metadata, reader.index.entries)
    return _report(reader.name, version, index, reader.section, reader.overhead)


def report_model(packed: "CompressedModel", name: str = "") -> Report:
    """Read what each byte of the file of a model is for, without decoding.

    Parameters
    ----------
    packed : CompressedModel
        One that was not loaded is reported as the file that `save` makes of it.
    name : str, optional
        Of the file, for the report and for errors.

    Returns
    -------
    Report

    Raises
    ------
    DczError
        If the file is damaged or breaks a rule of ``formats/dcz.md``.
    """
    entries = {n: packed.aliases.get(n, tensor.record) for n, tensor in packed.items()}
    index = Index(packed.metadata, entries)
    overhead = packed.overhead
    if overhead is None:
        index, overhead = when_written(index, lambda n: packed[n].section())
    version = ".".join(map(str, least_version(index.entries)))
    report = _report(name, version, index, lambda n: packed[n].section(), overhead)
    rows = [
        row if row.tied_to else replace(row, relative_error=packed[row.name].relative_error)
        for row in report.rows
    ]
    return replace(report, rows=rows, relative_error=packed.relative_error)


def _report(
    file: str,
    version: str,
    index: Index,
    section: Callable[[str], memoryview],
    overhead: dict[str, int],
) -> Report:
    rows = []
    records = {n: e for n, e in index.entries.items() if isinstance(e, TensorRecord)}
    for name, entry in index.entries.items():
        if isinstance(entry, str):
            rows.append(_alias_row(name, records[entry]))
            continue
        try:
            rows.append(_row(entry, section(name)))
        except DczError as error:
            if repr(name) in str(error):
                raise
            where = f"{file}: " if file else ""
            raise DczError(f"{where}tensor {name!r}: {error}") from None
    return Report(
        file,
        version,
        index.metadata,
        rows,
        overhead,
        sum(row.nbytes for row in rows) + sum(overhead.values()),
        sum(r.dense_nbytes for r in records.values()),
        4 * sum(r.numel for r in records.values()),
    )


def _alias_row(name: str, record: TensorRecord) -> Row:
    nothing = (None,) * 4
    return Row(
        name, record.dtype, "alias", record.shape, record.name, record.numel, record.nnz,
        *nothing, nbytes=0, dense_nbytes=0, parts={},
    )  # fmt: skip


def _is_pair(first: Row, second: Row) -> bool:
    fits = len(first.shape) >= 2 and second.shape[1:] == (
        first.shape[0],
        *(1,) * len(first.shape[2:]),
    )
    is_own = first.tied_to is None and second.tied_to is None
    return fits and is_own and first.dtype == second.dtype


def _layer_row(name: str, first: Row, second: Row) -> Row:
    shape = (second.shape[0], *first.shape[1:])
    nnz = None if first.nnz is None or second.nnz is None else first.nnz + second.nnz
    parts = {part: first.parts.get(part, 0) + second.parts.get(part, 0) for part in STREAMS}
    return Row(
        name, first.dtype, "low-rank", shape, None, first.n_weights + second.n_weights, nnz,
        *(None,) * 4, nbytes=first.nbytes + second.nbytes,
        dense_nbytes=prod(shape) * ITEMSIZE[first.dtype], parts=parts,
    )  # fmt: skip


def _row(record: TensorRecord, data: memoryview) -> Row:
    bits: dict[str, float | None] = dict.fromkeys(
        ("weight_bits", "weight_bits_huffman", "index_bits", "index_bits_huffman")
    )
    if record.layout == "raw":
        parts = {"raw": record.section_nbytes}
    else:
        section = read_section(record, data)
        parts = dict.fromkeys(STREAMS[:4], 0)
        for i, name in enumerate(record.stream_names):
            parts["planes" if name.startswith("plane") else name] += section.stream_nbytes(i)
        n_values = section.stream_n_symbols(len(record.stream_names) - 1)
        if n_values:
            bits["weight_bits"] = record.bits or 8 * record.itemsize
            bits["weight_bits_huffman"] = 8 * (parts["labels"] + parts["planes"]) / n_values
        parts |= {"rows": section.bitmap_nbytes} if section.bitmap_nbytes else {}
        if record.nnz and (record.gap_bits or section.bitmap_nbytes):
            n_gaps = section.stream_n_symbols(0) if record.gap_bits else 0
            n_bits = (record.gap_bits or 0) * n_gaps + 8 * section.bitmap_nbytes
            bits["index_bits"] = n_bits / record.nnz
            bits["index_bits_huffman"] = 8 * (parts["gaps"] + section.bitmap_nbytes) / record.nnz
        parts["codebook"] = section.codebook_nbytes
        parts["codes"] = section.codes_nbytes
        parts["directory"] = section.directory_nbytes
    return Row(
        record.name, record.dtype, record.layout, record.shape, None, record.numel, record.nnz,
        **bits, nbytes=record.section_nbytes, dense_nbytes=record.dense_nbytes, parts=parts,
    )  # fmt: skip


def _with_computed(row: Row) -> dict[str, Any]:
    computed = {name: getattr(row, name) for name in ("kept", "ratio", "ratio_float32")}
    values = asdict(row) | {"shape": list(row.shape)} | computed
    del values["relative_error"]  # which no file says
    return values


def to_json(report: Report) -> dict[str, Any]:
    """Return a report as JSON values; the schema is stable within a ``schema`` number."""
    return {
        "schema": 1,
        "file": report.file,
        "format_version": report.format_version,
        "metadata": report.metadata,
        "tensors": [_with_computed(row) for row in report.rows],
        "low_rank": [
            _with_computed(pair.layer) | {"factors": [factor.name for factor in pair.factors]}
            for pair in report.pairs()
        ],
        "overhead": report.overhead,
        "parts": report.parts(),
        "file_nbytes": report.file_nbytes,
        "dense_nbytes": report.dense_nbytes,
        "float32_nbytes": report.float32_nbytes,
        "compression_ratio": report.dense_nbytes / report.file_nbytes,
        "compression_ratio_float32": report.float32_nbytes / report.file_nbytes,
    }
