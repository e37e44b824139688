"""Arguments of the wrong kind end in a ValueError or TypeError, before native code sees them."""

import numpy as np
import pytest
from test_kernels_agree import NATIVE
from test_multiply import IS_NATIVE

import deepcomp
from deepcomp import huffman, prune, relindex, sharing, squares
from deepcomp.convolution import CompressedConvolution, Window
from deepcomp.decode import TensorDecoder
from deepcomp.encode import Weight, encode_tensor

LENGTHS = np.array([1, 2, 0, 2], np.uint8)
CODEBOOK = np.linspace(-1, 1, 9)
rng = np.random.default_rng(0)
PATTERNS = rng.integers(1, 1 << 32, 100, np.uint32)
VALUES = rng.normal(size=100).astype(np.float32)


def tensors():
    """Return tensors that are decoded by different kernels, all of 40 x 50 float32 entries."""
    few = rng.choice(np.array([0, 0, 0, 0, 0, 1, 2], np.float32), (40, 50))
    many = np.where(few > 0, rng.normal(size=(40, 50)), 0).astype(np.float32)
    dense = rng.choice(np.array([0, 1, 2], np.float32), (40, 50), p=(0.01, 0.5, 0.49))
    packed = deepcomp.compress({"few": few, "many": many, "dense": dense}, bits=None)
    layouts = [(t.record.layout, t.record.codebook is not None) for t in packed.values()]
    assert layouts == [("sparse", True), ("sparse", False), ("dense", True)]
    return packed


PACKED = tensors()


def wrong(right, sizes=(0, 1, 99, 101, 1000), is_out=False):
    """Return arrays like the right one, each with something else wrong; but lists are not tried."""
    arrays = [right.astype(t) for t in "bhfdOc" if np.dtype(t) != right.dtype]
    arrays += [right.astype(right.dtype.newbyteorder())] if right.itemsize > 1 else []
    arrays += [right.reshape(1, -1), right.reshape(-1, 1), np.repeat(right, 2)[::2], right[::-1]]
    arrays += [right.astype(np.dtype(f"u{right.itemsize}") if right.dtype.kind == "i" else "i4")]
    arrays += [np.resize(right, n) for n in sizes if n != right.size]
    if is_out:
        arrays.append(right.copy())
        arrays[-1].flags.writeable = False
    return arrays


def unaligned(array):
    """Return the same entries one byte away from where they should be."""
    room = np.empty(array.nbytes + 1, np.uint8)
    shifted = room[1:].view(array.dtype).reshape(array.shape)
    shifted[...] = array
    return shifted


def matrix():
    return PACKED["few"]


def decode(out, name="few"):
    tensor = PACKED[name]
    TensorDecoder(tensor.record, tensor.section()).decode_into(out)


def huffman_decode(bitstreams, sizes, out):
    return huffman.Decoder(LENGTHS, 1).decode(bitstreams, sizes, out)


X, OUT = np.ones(50, np.float32), np.ones(40, np.float32)
DENSE = np.zeros(2000, np.uint32)
BITS = np.zeros(10, np.uint8)
COUNTS = np.ones(256, np.int64)

# Kernels, a front, and calls of it that it must refuse.
REFUSED = [
    (
        "count_symbols_into",
        huffman.count_symbols,
        [(a,) for a in wrong(BITS, sizes=()) if a.ndim == 2 or a.dtype != np.uint8],
    ),
    (
        "package_merge_into",
        huffman.fit_code_lengths,
        [(a,) for a in wrong(COUNTS) if a.dtype != np.int64 or a.shape != (256,)]
        + [(COUNTS - 2,), (COUNTS << 50,), (COUNTS << 55,), (COUNTS << 62,)],
    ),
    (
        "encode_into",
        huffman.encode,
        [(BITS, np.array(lengths, np.uint8)) for lengths in ([], [1], [0], [1, 1, 1], [1, 2])]
        + [(BITS, np.array([1, 255], np.uint8)), (BITS, np.full(257, 8, np.uint8))]
        + [(BITS.reshape(2, 5), LENGTHS), (BITS.astype(np.int8), LENGTHS), (BITS + 2, LENGTHS)],
    ),
    (
        "decode_table_into",
        huffman.Decoder,
        [(bytes(lengths), 1) for lengths in ([], [1], [1, 1, 1], [13, 13], [255] * 2, [9] * 512)],
    ),
    (
        "decode_into",
        huffman_decode,
        [(a, [10], np.empty(80, np.uint8)) for a in wrong(BITS) if a.size != 10 or a.ndim == 2]
        + [(BITS, sizes, np.empty(80, np.uint8)) for sizes in ([9], [11], [-1], [5, 5], [])]
        + [(BITS, [5, 5, 5, -5], np.empty(5000, np.uint8)), (BITS, [10], np.empty(5000, np.uint8))]
        + [(BITS, [10], np.empty(0, np.uint8)), (BITS, [10], np.empty(80, np.int16))]
        + [(BITS, [10], np.empty((8, 10), np.uint8)), (BITS, [10], np.empty(160, np.uint8)[::2])],
    ),
    (
        "gap_symbols_into",
        relindex.runs_to_gaps,
        [(a, 3) for a in wrong(PATTERNS % 99, sizes=()) if a.dtype != np.uint32 or a.ndim == 2]
        + [(PATTERNS % 99, gap_bits) for gap_bits in (-1, 0, 1, 9, 64)],
    ),
    (
        "scatter_into look_up_into decode_sparse_into",
        decode,
        [
            (a, name)
            for a in [*wrong(DENSE, (0, 1, 1999, 2001), is_out=True), unaligned(DENSE)]
            for name in PACKED
        ],
    ),
    (
        "walk_into labels_into windows_into section_windows_into "
        "windows_times_vector_into blocks_into blocks_times_vectors_into",
        lambda x, out: deepcomp.matmul(matrix(), x, out=out),
        [(a, None) for a in wrong(X) if a.dtype not in ("f4", "f2") or a.shape[0] != 50]
        + [(X, a) for a in [*wrong(OUT, (0, 1, 39, 41), is_out=True), unaligned(OUT)]]
        + [(np.ones((50, 3), np.float32), OUT), (np.ones((2, 50), np.float32), OUT)],
    ),
    (
        "convolve_into",
        lambda *numbers: CompressedConvolution(lambda: None, (8, 2, 3, 3), Window(*numbers)),
        [
            ((0, 1), (0,) * 4, (1, 1), 1),
            ((1, -1), (0,) * 4, (1, 1), 1),
            ((1, 1), (0, -1, 0, 0), (1, 1), 1),
            ((1, 1), (0,) * 4, (1, 0), 1),
            ((1, 1), (0,) * 4, (1, 1), 0),
            ((1, 1), (0,) * 4, (1, 1), 3),
        ],
    ),
    (
        "count_digits_into",
        prune.kth_magnitude,
        [([a], 1) for a in wrong(PATTERNS, ()) if a.dtype.kind != "u" or a.ndim == 2]
        + [([PATTERNS], k) for k in (0, 101)],
    ),
    (
        "keep_at_least_into",
        prune.keep_at_least,
        [(a, 1) for a in wrong(PATTERNS, ()) if a.dtype.kind != "u" or a.ndim == 2],
    ),
    (
        "kept_into",
        lambda patterns: encode_tensor(Weight("w", "float32", (100,), patterns)),
        [(a,) for a in wrong(PATTERNS, ()) if a.dtype.kind not in "u" or a.ndim == 2],
    ),
    (
        "tally_into partition_into polish_into means_into",
        sharing.fit_codebook,
        [(a, 4) for a in wrong(VALUES, (0,)) if a.dtype not in ("f4", "f8") or a.size != 100]
        + [(VALUES, n) for n in (0, -1, 257)]
        + [(np.array([bad] * 5, np.float32), 4) for bad in (np.nan, np.inf)],
    ),
    (
        "nearest_into",
        lambda values, codebook, out: sharing.nearest_labels(values, codebook, out=out),
        [(a, CODEBOOK, None) for a in wrong(VALUES, ()) if a.dtype not in ("f4", "f8")]
        + [(VALUES, c, None) for c in (CODEBOOK[::-1], CODEBOOK[:0], np.arange(257.0), [[1.0]])]
        + [(VALUES, CODEBOOK, a) for a in wrong(np.zeros(100, np.uint8), is_out=True)],
    ),
    (
        "distinct_into",
        sharing.distinct_patterns,
        [(a, 4) for a in wrong(PATTERNS, ()) if a.dtype.kind != "u" or a.ndim == 2]
        + [(PATTERNS, n) for n in (0, 257)],
    ),
    (
        "pattern_labels_into",
        lambda patterns, distinct, out: sharing.pattern_labels(patterns, distinct, out=out),
        [(a, np.unique(PATTERNS), None) for a in wrong(PATTERNS, ()) if a.dtype.kind != "u"]
        + [(PATTERNS, a, None) for a in wrong(np.unique(PATTERNS)) if a.dtype != np.uint32]
        + [(PATTERNS, np.unique(PATTERNS)[::-1], None), (PATTERNS, PATTERNS[:0], None)]
        + [(PATTERNS, np.arange(257, dtype=np.uint32), None)]
        + [(PATTERNS, np.unique(PATTERNS), a) for a in wrong(BITS[:1].repeat(100), is_out=True)],
    ),
    (
        "squares_into",
        lambda before, after: squares.loss_of(before, after, "float32"),
        [(a, PATTERNS) for a in wrong(PATTERNS)] + [(PATTERNS, a) for a in wrong(PATTERNS)],
    ),
]


@pytest.mark.skipif(not IS_NATIVE, reason="the NumPy twins cannot leave their arrays")
@pytest.mark.parametrize(("kernels", "front", "calls"), REFUSED, ids=[r[0] for r in REFUSED])
def test_fronts_of_kernels_refuse_wrong_arguments(kernels, front, calls):
    assert calls
    for arguments in calls:
        with pytest.raises((ValueError, TypeError)):
            front(*arguments)
            raise AssertionError(
                f"accepted: {[(getattr(a, 'dtype', a), np.shape(a)) for a in arguments]}"
            )


def test_no_kernel_is_without_a_front():
    assert {name for kernels, *_ in REFUSED for name in kernels.split()} == NATIVE.keys()


def test_arrays_that_are_not_aligned_are_copied_or_refused():
    weights = np.where(rng.random((300, 70)) < 0.2, rng.normal(size=(300, 70)), 0)
    for dtype in (np.float16, np.float32, np.float64):
        right = weights.astype(dtype)
        packed = deepcomp.compress({"w": unaligned(right)}, bits=4, sparsity=0.9)
        expected = deepcomp.compress({"w": right}, bits=4, sparsity=0.9)
        assert bytes(packed["w"].section()) == bytes(expected["w"].section())
    x = rng.normal(size=(70, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        deepcomp.matmul(packed["w"], unaligned(x)), deepcomp.matmul(packed["w"], x)
    )
    runs = PATTERNS % 99
    np.testing.assert_array_equal(
        relindex.runs_to_gaps(unaligned(runs), 3), relindex.runs_to_gaps(runs, 3)
    )
    np.testing.assert_array_equal(
        huffman.fit_code_lengths(unaligned(COUNTS)), huffman.fit_code_lengths(COUNTS)
    )
    for check, argument in (
        (sharing.distinct_patterns, unaligned(PATTERNS)),
        (sharing.fit_codebook, unaligned(VALUES)),
        (prune.keep_at_least, unaligned(PATTERNS)),
        (prune.kth_magnitude, [PATTERNS, unaligned(PATTERNS)]),
    ):
        with pytest.raises(ValueError):
            check(argument, 4)
