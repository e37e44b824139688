"""The kernels touch no memory but their arrays: each ends at a page that cannot be read."""

import ctypes
import mmap
from unittest import mock

import numpy as np
import pytest
from test_multiply import IS_NATIVE, ISAS, compressed, matrix

from deepcomp import _kernels, convolution, huffman, layouts, multiply
from deepcomp.decode import TensorDecoder
from deepcomp.errors import DczError
from deepcomp.layouts import Blocks, Windows, to_blocks, to_windows

pytestmark = [
    pytest.mark.skipif(not IS_NATIVE, reason="the NumPy twins cannot leave their arrays"),
    pytest.mark.skipif(not hasattr(mmap, "MAP_ANONYMOUS"), reason="needs mprotect"),
]


def guarded(array):
    """Return a copy that ends where memory can neither be read nor written."""
    array = np.ascontiguousarray(array)
    n_pages = -(-max(array.nbytes, 1) // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (n_pages + 1) * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    page = ctypes.c_void_p(start + n_pages * mmap.PAGESIZE)
    assert libc.mprotect(page, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    first = n_pages * mmap.PAGESIZE - array.nbytes
    copy = np.frombuffer(memory, array.dtype, array.size, first).reshape(array.shape)
    copy[...] = array
    return copy


def guard(layout):
    """Return a layout whose arrays are guarded."""
    return layout._replace(
        **{n: guarded(a) for n, a in layout._asdict().items() if isinstance(a, np.ndarray)}
    )


SHAPES = [(1, 1), (16, 64), (17, 31), (33, 70), (50, 1030)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_values", [31, 63, 256, 0])
def test_products(isa, shape, n_values):
    rng = np.random.default_rng(0)
    weights = matrix(rng, shape, 0.3, n_values)
    product = compressed(weights)._matrix
    bias = guarded(rng.standard_normal(shape[0]).astype(np.float32))
    for n in (1, 2, 7, 8, 16, 31, 64, 65):
        for are_rows in (True, False):
            x = rng.standard_normal((n, shape[1])).astype(np.float32)
            x = guarded(x if are_rows else x.T)
            out = guarded(np.zeros((n, shape[0]) if are_rows else (shape[0], n), np.float32))
            scratch = mock.patch.object(
                multiply, "scratch", lambda what, n: guarded(np.full(n, np.nan, np.float32))
            )
            windows = mock.patch.object(multiply, "to_windows", lambda *a: guard(to_windows(*a)))
            blocks = mock.patch.object(multiply, "to_blocks", lambda *a: guard(to_blocks(*a)))
            with mock.patch.object(_kernels, "ISA", isa), scratch, windows, blocks:
                addresses = [a.ctypes.data for a in (x, bias, out)]
                product.multiply_into(
                    addresses[0], x.shape[1], are_rows, n, addresses[1], addresses[2],
                    out.shape[1], 1,
                )  # fmt: skip
            rows = x if are_rows else x.T
            expected = rows.astype(np.float64) @ weights.T + bias
            np.testing.assert_allclose(out if are_rows else out.T, expected, 1e-4, 1e-4)
    assert isinstance(product._windows, Windows | None)
    assert all(isinstance(blocks, Blocks) for blocks in product._blocks.values())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 5)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(5, 5), (16, 16), (7, 45), (2, 4), (4, 6), (8, 15), (3, 16)])
def test_convolutions(isa, kernel, stride, size):
    rng = np.random.default_rng(0)
    shape, padding = (6, 4, *kernel), (kernel[0] // 2, kernel[0] // 2, 0, kernel[1] // 2)
    tensor = compressed(matrix(rng, shape, 0.5))
    window = convolution.Window((stride, stride), padding, (1, 1), 1)
    layout = convolution.CompressedConvolution(tensor._entries, shape, window)
    x = guarded(rng.standard_normal((2, 4, *size)).astype(np.float32))
    out = guarded(np.zeros((2, 6, *layout.out_size(*size)), np.float32))
    layout._sizes[size] = guard(layout._offsets(size))
    scratch = mock.patch.object(
        convolution, "scratch", lambda what, n: guarded(np.full(n, np.nan, np.float32))
    )
    with mock.patch.object(_kernels, "ISA", isa), scratch:
        layout.convolve_into(x.ctypes.data, 2, size, 0, out.ctypes.data, 1)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n_symbols", [2, 3, 16, 100, 256])
@pytest.mark.parametrize("growth", [1, 2])
def test_bitstreams(isa, n_symbols, growth):
    """With codewords of one length, or nearly, and with one bit beside twelve."""
    counts = np.zeros(256, np.int64)
    counts[:n_symbols] = float(growth) ** np.minimum(np.arange(n_symbols), 40)
    lengths = guarded(huffman.fit_code_lengths(counts))
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 8, 9, 40, 300, 4095, 4096, 9001):
        rare = rng.integers(0, n_symbols, n).astype(np.uint8)
        for symbols in (rare, np.where(rng.random(n) < 0.9, n_symbols - 1, rare).astype(np.uint8)):
            with mock.patch.object(_kernels, "ISA", isa):
                bitstreams = huffman.encode(guarded(symbols), lengths)
                sizes = [len(bitstream) for bitstream in bitstreams]
                data = guarded(np.frombuffer(b"".join(bitstreams), np.uint8))
                longer = guarded(np.append(data, np.zeros(60, np.uint8)))
                for about in (1, 1 << 13, 1 << 16):  # tables of three sizes
                    decoder = huffman.Decoder(lengths, about)
                    decoder.table, out = guarded(decoder.table), guarded(np.zeros(n, np.uint8))
                    np.testing.assert_array_equal(decoder.decode(data, sizes, out), symbols)
                    with pytest.raises(DczError, match="bits left over"):  # far too long
                        decoder.decode(longer, [*sizes[:-1], sizes[-1] + 60], out)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n_columns", [1, 15, 64, 1000])
@pytest.mark.parametrize("n_values", [1, 15, 60])
@pytest.mark.parametrize("density", [0.02, 0.9])
def test_sections(isa, n_columns, n_values, density):
    rng = np.random.default_rng(0)
    for n_rows in (1, 16, 33):
        weights = matrix(rng, (n_rows, n_columns), density, n_values)
        weights[-1, -1] = weights[0, 0] = 1
        tensor = compressed(weights)
        if not TensorDecoder(tensor.record, tensor.section()).is_walked:
            continue
        with (
            mock.patch.object(_kernels, "ISA", isa),
            mock.patch.object(layouts, "scratch", lambda _, n, dtype: guarded(np.empty(n, dtype))),
        ):
            section = guarded(np.frombuffer(tensor.section(), np.uint8))
            decoder = TensorDecoder(tensor.record, memoryview(section))
            out, nnz = guarded(np.zeros(weights.size, np.uint32)), tensor.record.nnz
            decoder.decode_into(out)
            columns = guarded(np.zeros(nnz, np.uint32))
            labels, counts = guarded(np.zeros(nnz, np.uint8)), guarded(np.zeros(n_rows, np.int64))
            decoder.walk_into(n_columns, columns, labels, counts)
            windows = layouts.decode_windows(decoder)
        np.testing.assert_array_equal(out.view(np.float32), weights.reshape(-1))
        np.testing.assert_array_equal(columns, np.nonzero(weights)[1])
        np.testing.assert_array_equal(counts, np.count_nonzero(weights, axis=1))
        assert windows is None or windows.nnz == nnz
