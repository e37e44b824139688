"""What is fuzzed. A target takes any bytes, and raises if deepcomp does not keep its promises:
a `DczError` is the only way to refuse, and what is accepted is decoded the same by all ways.

All arrays that native code sees have exactly the size that it may touch, so that
AddressSanitizer notices the first byte beyond.
"""

import importlib.util
import io
import os
import struct
import sys
import warnings
import zlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from deepcomp import _kernels, _reference, convolution, layouts, multiply
from deepcomp._native import cpu
from deepcomp.container import Reader
from deepcomp.entries import decode_entries, matrix_shape
from deepcomp.errors import DczError
from deepcomp.huffman import Decoder, fit_code_lengths
from deepcomp.kept_rows import decoder_of
from deepcomp.listing import to_text
from deepcomp.records import GAP_BITS, ITEMSIZE, SIGNED_DTYPES, TensorRecord, n_bitstreams
from deepcomp.report import make_report
from deepcomp.sections import read_section
from deepcomp.storage import model_of

FORMATS = Path(__file__).parents[1] / "formats"
MAX_DENSE = 1 << 18  # bytes of a file's tensors; larger ones would only be slow
MAX_PRODUCT = 1 << 14  # entries of a matrix that is multiplied
ORACLE_EVERY, TWIN_EVERY, REPORT_EVERY, RANGES_EVERY = 64, 64, 16, 16  # executions
HUFFMAN_TWIN_EVERY = 1024  # this twin takes a thousand times as long as the kernel
N_ISAS = cpu.best_isa() + 1
DTYPES = sorted(ITEMSIZE)
TOO_LARGE = "too large"
HEADER = struct.Struct("<BBBBHHH")  # of an input of `section`
BITSTREAMS = struct.Struct("<BBHHHH")  # of one of `huffman`
N_VECTORS = (1, 2, 5, 8, 9, 17, 33, 65)

_descriptor = os.memfd_create("fuzzed")
# No file is a reason for a warning, nor for one that NumPy gives in a module of its own.
warnings.filterwarnings("error", module=r"deepcomp\.")
warnings.filterwarnings("error", category=RuntimeWarning)

_spec = importlib.util.spec_from_file_location("dcz_decoder", FORMATS / "dcz_decoder.py")
dcz_decoder = importlib.util.module_from_spec(_spec)
sys.modules["dcz_decoder"] = dcz_decoder
_spec.loader.exec_module(dcz_decoder)


def _exactly(purpose, n, dtype=np.float32):
    return np.empty(n, dtype)


# memory that ends where it should, not what was used before
multiply.scratch = convolution.scratch = layouts.scratch = _exactly
layouts.aligned, layouts.shorten = np.empty, lambda array, n: array[:n].copy()


def _copy(data):
    """Return a copy that ends where its memory ends."""
    return np.frombuffer(data, np.uint8).copy()


def _seed(data):
    """Return a number that the input decides, and choose an instruction set by it."""
    seed = zlib.crc32(data)
    _kernels.ISA = seed % N_ISAS
    return seed // N_ISAS


# --- whole files ---


def file(data):
    """Load and decode everything; often also in other ways, and with the independent decoder."""
    seed = _seed(data)
    try:
        packed = _decode_file(data, seed)
    except DczError:
        packed = None
    if packed != TOO_LARGE and seed % ORACLE_EVERY == 0:
        _compare(packed, data)


def _compare(packed, data):
    try:
        expected = [tensor[:4] for tensor in dcz_decoder.decode(bytes(data))[1]]
    except dcz_decoder.InvalidFile:
        expected = None
    found = packed and [
        (name, t.dtype, t.shape, t.decode_patterns().tobytes()) for name, t in packed.items()
    ]
    assert found == expected or not (packed or expected), "the independent decoder disagrees"
    assert (packed is None) == (expected is None), "the independent decoder disagrees"


def open_file(data):
    os.ftruncate(_descriptor, 0)
    os.pwrite(_descriptor, data, 0)
    return Reader(f"/proc/self/fd/{_descriptor}")


def _decode_file(data, seed):
    reader = open_file(data)
    reader.check_all_pages()
    packed = model_of(reader)
    if sum(tensor.record.dense_nbytes for tensor in packed.values()) > MAX_DENSE:
        return TOO_LARGE
    if seed % REPORT_EVERY == 0:
        to_text(make_report(reader))
    for name, tensor in packed.items():
        if name not in packed.aliases:
            _check_crc32(tensor)
            fetch = tensor._fetch
            tensor._fetch = lambda *_, fetch=fetch: memoryview(_copy(fetch()))
            _decode_tensor(tensor, seed)
    if seed % RANGES_EVERY == 0:
        _read_by_ranges(data, packed, seed)
    return packed


def _check_crc32(tensor):
    """Refuse a wrong checksum of a section, as `verify` does; to decode it, its pages will do."""
    crc32 = tensor.record.crc32
    if crc32 is not None and zlib.crc32(tensor.section()) != crc32:
        tensor.verify()
        raise AssertionError("verify accepts a wrong checksum")


def _read_by_ranges(data, packed, seed):
    """Read the sections in another order, and of some a part before; all were found right."""
    reader = Reader(io.BytesIO(data))
    names = [name for name in packed if name not in packed.aliases]
    for i in np.random.default_rng(seed).permutation(len(names)):
        section = packed[names[i]].section()
        start = (seed >> 4) % (len(section) + 1)
        assert reader.section(names[i], start)[start:] == section[start:], "another part"
        assert reader.section(names[i]) == section, "another section"


def _decode_tensor(tensor, seed):
    """Decode, and in some of the other ways that there are, which must all agree."""
    try:
        dense = tensor.to_dense()
    except DczError:
        if seed % 4 == 0:
            try:
                tensor.verify()
            except DczError:
                raise
            raise AssertionError("verify accepts what cannot be decoded") from None
        raise
    try:
        _decode_again(tensor, dense, seed)
    except DczError as error:
        raise AssertionError("what was decoded once is refused") from error


def _decode_again(tensor, dense, seed):
    way = seed % 8
    if way == 0:
        tensor.verify()
        if tensor.shape:
            _check_rows(tensor, dense, seed >> 3)
    elif way == 1:
        patterns = tensor.decode_patterns(n_threads=2)
        if tensor.dtype != "bfloat16":
            assert patterns.tobytes() == dense.tobytes()
        blocks = b"".join(entries.tobytes() for entries in tensor.decode_blocks())
        assert blocks == patterns.tobytes(), "blocks are others"
    elif way < 4 and dense.size:
        csr, patterns = tensor.to_csr(), tensor.decode_patterns()
        n_kept = np.count_nonzero(_without_sign(patterns, tensor.record))
        assert csr.indptr[-1] == csr.data.size == n_kept, "CSR has other entries"
    elif dense.size:
        _check_products(tensor, dense, seed >> 3)


def _check_rows(tensor, dense, seed):
    n_rows = tensor.shape[0]
    start = seed % (n_rows + 1)
    stop = start + (seed >> 8) % (n_rows + 1 - start)
    tensor._made = None  # so that only the head of the section is looked at
    assert tensor.rows(start, stop).tobytes() == dense[start:stop].tobytes(), "rows are others"


def _without_sign(patterns, record):
    bits = 8 * record.itemsize - (record.dtype in SIGNED_DTYPES)
    return patterns & patterns.dtype.type((1 << bits) - 1)


# --- the section of one tensor ---


class Whatever(int):
    """A number that equals every other one."""

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    __hash__ = int.__hash__


def section(data):
    """Decode a section; the first bytes of the input are its record."""
    seed = _seed(data)
    if len(data) < HEADER.size:
        return
    dtype, flags, codebook, gap_bits, numel, block_numel, columns = HEADER.unpack_from(data)
    dtype, numel, columns = DTYPES[dtype % len(DTYPES)], numel + 1, columns or 1
    is_sparse = flags & 1
    content = memoryview(_copy(data[HEADER.size :]))
    shape = (numel // columns, columns) if numel % columns == 0 else (numel,)
    n_zero_rows = flags >> 5
    record = TensorRecord(
        "fuzzed",
        dtype,
        (shape[0] + n_zero_rows, *shape[1:]),
        "sparse" if is_sparse else "dense",
        len(content),
        codebook=codebook + (not is_sparse) if flags & 2 else None,
        gap_bits=GAP_BITS[gap_bits % len(GAP_BITS)] if is_sparse else None,
        block_numel=1 + block_numel if flags & 4 and block_numel + 1 < numel else None,
        zero_signs=bool(flags & 8 and is_sparse and dtype in SIGNED_DTYPES),
        kept_rows=shape[0] if n_zero_rows else None,
    )
    try:
        record = with_nnz(record, content)
        _decode_section(record, content, seed)
    except DczError:
        pass


def with_nnz(record, content):
    """Return the record with the number of kept entries that its section's directory says."""
    parts = read_section(replace(record, nnz=Whatever()), content)
    return replace(record, nnz=sum(block.n_kept for block in parts.blocks))


def _decode_section(record, content, seed):
    decoder = decoder_of(record, content)
    out = np.empty(record.numel, decoder.dtype)
    decoder.decode_into(out)
    counted = _without_sign(out, record) if record.zero_signs else out
    assert np.count_nonzero(counted) == record.nnz, "the directory counts other entries"
    try:
        _decode_section_again(record, content, seed, decoder, out)
    except DczError as error:
        raise AssertionError("what was decoded once is refused") from error


def _decode_section_again(record, content, seed, decoder, out):
    positions, patterns = decoder.kept()
    assert np.array_equal(out[positions], patterns)
    if seed % TWIN_EVERY == 0:
        section = bytes(content)
        assert _with_twins(record, section) == out.tobytes(), "the NumPy twins disagree"
    if not record.dtype.startswith("float8"):
        entries = decode_entries(decoder)
        assert entries.indptr[-1] == entries.nnz <= positions.size


def _with_twins(record, content):
    """Decode with the NumPy twins of the kernels."""
    names = [n for n in dir(_reference) if n.endswith("_into") and hasattr(_kernels, n)]
    native = {name: getattr(_kernels, name) for name in names}
    try:
        for name in names:
            setattr(_kernels, name, getattr(_reference, name))
        decoder = decoder_of(record, memoryview(content))
        out = np.empty(record.numel, decoder.dtype)
        decoder.decode_into(out)
        return out.tobytes()
    finally:
        for name in names:
            setattr(_kernels, name, native[name])


# --- Huffman ---


def huffman(data):
    """Decode bitstreams; the first bytes of the input make the code and the sizes."""
    seed = _seed(data)
    if len(data) < BITSTREAMS.size:
        return
    n_lengths, is_long, n, a, b, c = BITSTREAMS.unpack_from(data)
    rest = data[BITSTREAMS.size :]
    n_lengths, n = 2 + n_lengths % 255, n & 0x1FFF
    weights, rest = rest[:n_lengths], rest[n_lengths:]
    if len(weights) < n_lengths or not n:
        return
    decoder = _decoder(bytes(weights), is_long & 1)
    sizes = [len(rest)]
    if n_bitstreams(n) == 4:
        a, b, c = (min(size, len(rest) // 3) for size in (a, b, c))
        sizes = [a, b, c, len(rest) - a - b - c]
    out = np.empty(n, np.uint8)
    try:
        decoder.decode(_copy(rest), sizes, out)
    except DczError:
        return
    assert decoder.code_lengths[out].all(), "a symbol without a codeword"
    if seed % HUFFMAN_TWIN_EVERY == 0:
        twin = np.empty_like(out)
        arguments = np.array(sizes), decoder.table, decoder.table_bits, decoder.code_lengths
        assert _reference.decode_into(_copy(rest), *arguments, _kernels.ISA, twin) == 0
        assert np.array_equal(out, twin), "the NumPy twin disagrees"


@lru_cache(1024)
def _decoder(weights, is_long):
    return Decoder(code_lengths(weights), 1 << 15 if is_long else 1)


def code_lengths(weights):
    counts = np.zeros(256, np.int64)
    symbols = np.arange(len(weights)) * 256 // len(weights)
    counts[symbols] = np.left_shift(1, np.frombuffer(weights, np.uint8) % 24, dtype=np.int64)
    return fit_code_lengths(counts)


# --- products ---


def _check_products(tensor, dense, seed):
    """Multiply by vectors and, if the weight has four dimensions, convolve images."""
    shape = matrix_shape(tensor.shape)
    if shape[0] * shape[1] > MAX_PRODUCT or tensor.dtype.startswith("float8"):
        return
    n, are_rows = N_VECTORS[seed % len(N_VECTORS)], bool(seed & 16)
    size = (n, shape[1]) if are_rows else (shape[1], n)
    x = ((np.arange(n * shape[1]) + seed) % 7 - 3).astype(np.float32).reshape(size)
    bias = np.ones(shape[0], np.float32)
    out = np.empty((n, shape[0]) if are_rows else (shape[0], n), np.float32)
    addresses = [a.__array_interface__["data"][0] for a in (x, bias, out)]
    tensor._matrix.multiply_into(
        addresses[0], size[1], are_rows, n, addresses[1], addresses[2], out.shape[1], 1
    )
    with np.errstate(all="ignore"):
        weights = dense.reshape(shape).astype(np.float64)
        if tensor.dtype.startswith("float8") or not np.abs(weights).max() < 1e6:
            return
        columns = x.T if are_rows else x
        expected = weights @ columns + 1
        error = np.abs((out.T if are_rows else out) - expected)
        assert (error <= 1e-5 * (np.abs(weights) @ np.abs(columns) + 1)).all(), "a wrong product"
    if len(tensor.shape) == 4 and max(tensor.shape[2:]) <= 7:
        _check_convolution(tensor, seed)


def _check_convolution(tensor, seed):
    stride, padding = 1 + (seed >> 5) % 2, (seed >> 6) % 3
    window = convolution.Window((stride, stride), (padding,) * 4, (1, 1), 1)
    layout = convolution.CompressedConvolution(tensor._entries, tensor.shape, window)
    size = tensor.shape[2] + (seed >> 8) % 9, tensor.shape[3] + (seed >> 12) % 9
    x = np.ones((1, tensor.shape[1], *size), np.float32)
    out = np.full((1, tensor.shape[0], *layout.out_size(*size)), np.nan, np.float32)
    layout.convolve_into(x.ctypes.data, 1, size, 0, out.ctypes.data, 1)


TARGETS = {"file": file, "structure": file, "section": section, "huffman": huffman}
