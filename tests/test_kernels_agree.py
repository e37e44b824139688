"""Each native kernel against its NumPy twin, for each instruction set that this machine has."""

import importlib
import inspect
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import densities, generators, pattern_arrays, streams

import deepcomp._native
from deepcomp import (
    _kernels,
    _reference,
    _reference_matmul,
    convolution,
    counts,
    encode,
    huffman,
    plans,
    relindex,
)
from deepcomp._native import cpu
from deepcomp.decode import TensorDecoder
from deepcomp.records import GAP_BITS, MAX_CODE_LENGTH

ROOT = Path(deepcomp.__file__).parents[1]
ISA_NAMES = _kernels.ISA_NAMES


def native_kernels():
    """Return {name: function} of all kernels, which is what is public in deepcomp._native."""
    kernels = {}
    for info in pkgutil.iter_modules(deepcomp._native.__path__):
        if info.name not in ("cpu", "mapping"):
            module = importlib.import_module(f"deepcomp._native.{info.name}")
            public = {n: f for n, f in vars(module).items() if n[0] != "_" and callable(f)}
            assert not kernels.keys() & public.keys()
            kernels |= public
    return kernels


def twin(name):
    """Return the NumPy twin of a kernel, None if there is none."""
    found = getattr(_reference, name, None)
    for other in ("kmeans", "matmul"):  # have a module of their own
        if found is None:
            module = importlib.import_module(f"deepcomp._reference_{other}")
            found = getattr(module, name, None)
    return found


NATIVE = native_kernels()


# Each strategy draws a function: call(kernel, isa) makes the outputs, calls the kernel and
# returns whatever its contract says about the result, as a list of arrays.
CASES = {}


def case(strategy):
    CASES[strategy.__name__] = strategy
    return strategy


sizes = st.integers(1, 300)
gap_widths = st.sampled_from(GAP_BITS)


@case
@st.composite
def count_symbols_into(draw):
    symbols, _ = draw(streams())
    symbols = symbols[:: draw(st.integers(1, 3))]

    def call(kernel, isa):
        counts = np.arange(256)  # the kernel adds to what is there
        kernel(symbols, counts)
        return [counts]

    return call


@case
@st.composite
def package_merge_into(draw):
    rng, n = draw(generators()), draw(st.integers(2, 256))
    spread = draw(st.sampled_from((0, 1, 3, 30)))  # 0: all are equal
    counts = np.zeros(256, np.int64)
    used = np.sort(rng.permutation(256)[:n])
    counts[used] = np.exp(spread * rng.random(n)).astype(np.int64)
    order = used[np.argsort(counts[used], kind="stable")].astype(np.uint8)
    limit = draw(st.integers((n - 1).bit_length(), MAX_CODE_LENGTH))

    def call(kernel, isa):
        lengths = np.full(256, 99, np.uint8)
        kernel(counts, order, limit, lengths)
        return [lengths]

    return call


def entry_sizes(table_bits):
    return st.integers(1, 2 if table_bits <= huffman.MAX_WIDE_BITS else 1)


@case
@st.composite
def decode_table_into(draw):
    _, lengths = draw(streams())
    table_bits = draw(st.integers(int(lengths.max()), MAX_CODE_LENGTH))
    entry_size = draw(entry_sizes(table_bits))

    def call(kernel, isa):
        table = np.zeros(entry_size << table_bits, np.uint32)
        kernel(lengths, table_bits, table)
        return [table]

    return call


@case
@st.composite
def encode_into(draw):
    symbols, lengths = draw(streams(sizes=sizes))

    def call(kernel, isa):
        out = np.zeros(symbols.size * MAX_CODE_LENGTH // 8 + 9, np.uint8)
        n = kernel(symbols, lengths, isa, out)
        return [np.array(n), out[:n]]

    return call


@case
@st.composite
def decode_into(draw):
    n_bitstreams = draw(st.sampled_from((1, 4)))
    many = st.integers(64, 6000) if n_bitstreams == 4 else sizes
    symbols, lengths = draw(streams(sizes=many))
    quarter = -(-symbols.size // n_bitstreams)
    parts = [symbols[i : i + quarter] for i in range(0, symbols.size, quarter)]
    bitstreams = [bytearray(b"".join(huffman.encode(part, lengths))) for part in parts]
    damage = draw(st.sampled_from(("none", "cut", "longer", "a bit", "bytes")))
    one = bitstreams[draw(st.integers(0, n_bitstreams - 1))]
    rng = draw(generators())
    if damage == "cut" and len(one) > 1:
        del one[int(rng.integers(1, len(one))) :]
    elif damage == "longer":
        one += rng.integers(0, 256, rng.integers(1, 20), np.uint8).tobytes()
    elif damage == "a bit":
        one[rng.integers(len(one))] ^= 1 << int(rng.integers(8))
    elif damage == "bytes":
        first = int(rng.integers(len(one)))
        one[first:] = rng.integers(0, 256, len(one) - first, np.uint8).tobytes()
    data = np.frombuffer(b"".join(bitstreams), np.uint8)
    table_bits = draw(st.integers(max(8, int(lengths.max())), MAX_CODE_LENGTH))
    table = np.empty(draw(entry_sizes(table_bits)) << table_bits, np.uint32)
    _reference.decode_table_into(lengths, table_bits, table)

    def call(kernel, isa):
        out = np.zeros(symbols.size, np.uint8)
        nbytes = np.array([len(b) for b in bitstreams])
        status = kernel(data, nbytes, table, table_bits, lengths, isa, out)
        return [np.array(status)] if status else [np.array(status), out]

    return call


@case
@st.composite
def count_digits_into(draw):
    patterns = draw(pattern_arrays(itemsizes=(2, 4, 8)))
    bits = 8 * patterns.itemsize
    mask = (1 << (bits - draw(st.integers(0, 1)))) - 1
    shift = draw(st.integers(0, bits // 16 - 1)) * 16
    prefix = -1
    if patterns.size and shift + 16 < bits and draw(st.booleans()):
        some = int(patterns[draw(st.integers(0, patterns.size - 1))])
        # it is a signed number: the kernel is never asked for the highest of 64 bits
        prefix = (some & mask & (1 << 63) - 1) >> shift >> 16

    def call(kernel, isa):
        counts = np.arange(1 << 16)  # the kernel adds to what is there
        kernel(patterns, mask, shift, prefix, counts)
        return [counts]

    return call


@case
@st.composite
def keep_at_least_into(draw):
    patterns = draw(pattern_arrays(sizes=sizes))
    mask = (1 << (8 * patterns.itemsize - draw(st.integers(0, 1)))) - 1
    least = draw(st.sampled_from([1, mask, *patterns.tolist()])) & mask

    def call(kernel, isa):
        out = np.empty_like(patterns)
        kernel(patterns, mask, least, out)
        return [out]

    return call


@case
@st.composite
def squares_into(draw):
    rng, n = draw(generators()), draw(st.integers(0, 300))
    is_bfloat16 = draw(st.booleans())
    dtype = "float32" if is_bfloat16 else draw(st.sampled_from(("float16", "float32", "float64")))
    scale = draw(st.sampled_from((1e-7, 1.0, 1e4)))  # 1e-7: float16 without its first bit
    arrays = [(scale * rng.standard_normal(n)).astype(dtype) for _ in range(2)]
    before, after = (array.view(f"u{array.itemsize}") for array in arrays)
    if is_bfloat16:
        before, after = ((p >> 16).astype(np.uint16) for p in (before, after))

    def call(kernel, isa):
        sums = np.ones(2)  # the kernel adds to what is there
        kernel(before, after, is_bfloat16, sums)
        return [sums]

    return call


@case
@st.composite
def kept_into(draw):
    patterns = draw(pattern_arrays(sizes=sizes))
    mask = (1 << (8 * patterns.itemsize - draw(st.integers(0, 1)))) - 1
    block_numel = draw(st.integers(1, patterns.size + 3))

    def call(kernel, isa):
        runs, kept = np.empty(patterns.size, np.uint32), np.empty_like(patterns)
        counts = np.zeros(-(-patterns.size // block_numel), np.int64)
        n = kernel(patterns, mask, block_numel, runs, kept, counts)
        return [np.array(n), runs[:n], kept[:n], counts]

    return call


@case
@st.composite
def gap_symbols_into(draw):
    rng, gap_bits = draw(generators()), draw(gap_widths)
    longest = draw(st.sampled_from((1, 10, 3000)))
    runs = rng.integers(0, longest, draw(st.integers(0, 300))).astype(np.uint32)
    n_symbols = runs.size + int((runs // ((1 << gap_bits) - 1)).sum())

    def call(kernel, isa):
        symbols = np.zeros(n_symbols, np.uint8)
        n = kernel(runs, gap_bits, symbols)
        return [np.array(n), symbols]

    return call


@case
@st.composite
def scatter_into(draw):
    rng, gap_bits, numel = draw(generators()), draw(gap_widths), draw(st.integers(1, 5000))
    positions = np.flatnonzero(rng.random(numel) < draw(densities))
    gaps = relindex.to_gaps(positions, gap_bits)
    damage = draw(st.sampled_from(("none", "one gap", "escape", "shorter block", "a kept one")))
    if damage == "one gap" and gaps.size:
        gaps[rng.integers(gaps.size)] = rng.integers(1 << gap_bits)
    elif damage == "escape":
        gaps = np.append(gaps, np.uint8((1 << gap_bits) - 1))
    elif damage == "shorter block":
        numel = int(rng.integers(0, numel))
    n_kept = positions.size + (damage == "a kept one")
    itemsize = draw(st.sampled_from((1, 2, 4, 8)))
    kept = rng.integers(1, 1 << (8 * itemsize), n_kept, f"u{itemsize}")

    def call(kernel, isa):
        out = np.full(numel, 0xA5, kept.dtype)
        status = kernel(gaps, gap_bits, kept, out)
        return [np.array(status)] if status else [np.array(status), out]

    return call


def sparse_sections(draw, shape, dtype="float32"):
    """Draw a tensor of small blocks with a codebook; return its decoder and its patterns."""
    rng, block_numel = draw(generators()), draw(st.integers(200, 9000))
    size, itemsize = int(np.prod(shape)), np.dtype(dtype).itemsize
    codebook = np.unique(rng.integers(1, 256, draw(st.integers(1, 40)), f"u{itemsize}"))
    patterns = np.zeros(size, codebook.dtype)
    where = rng.random(size) < draw(densities)
    patterns[where] = rng.choice(codebook, np.count_nonzero(where))
    with mock.patch.object(encode, "MAX_BLOCK_NUMEL", block_numel):
        plan = plans._sparse(counts.count_entries(patterns, dtype, block_numel))
        directory, payload = encode.encode_part(patterns, plan)
        section = b"".join([plan.head(), directory, *payload])
        record = encode.record_of("w", dtype, shape, plan, len(section))
    return TensorDecoder(record, memoryview(section)), patterns


def arguments_of(name, action):
    """Return the arguments with which an action calls a kernel, which does nothing."""
    arguments = []
    with mock.patch.object(_kernels, name, lambda *a: arguments.extend(a)):
        action()
    return arguments


def damaged(draw, data):
    """Return a copy, in which perhaps a bit is another."""
    data = data.copy()
    if draw(st.booleans()):
        rng = draw(generators())
        data[rng.integers(data.size)] ^= 1 << int(rng.integers(8))
    return data


@case
@st.composite
def decode_sparse_into(draw):
    dtype = draw(st.sampled_from(("uint8", "float16", "float32", "int64")))
    decoder, patterns = sparse_sections(draw, (draw(st.integers(1, 20_000)),), dtype)
    arguments = arguments_of(
        "decode_sparse_into", lambda: decoder.decode_into(np.empty_like(patterns))
    )
    data = damaged(draw, arguments[0])

    def call(kernel, isa):
        gaps, labels, kept = (a.copy() for a in arguments[-5:-2])
        out = np.full(patterns.size, 0xA5, patterns.dtype)
        status = kernel(data, *arguments[1:-5], gaps, labels, kept, isa, out)
        return [np.array(status)] if status else [np.array(status), out]

    return call


@case
@st.composite
def walk_into(draw):
    n_columns = draw(st.sampled_from((1, 2, 7, 300, 5000)))
    n_rows = draw(st.integers(1, -(-9000 // n_columns)))
    decoder, _ = sparse_sections(draw, (n_rows, n_columns))
    nnz = decoder.record.nnz
    outputs = np.zeros(nnz, np.uint32), np.zeros(nnz, np.uint8), np.ones(n_rows, np.int64)
    arguments = arguments_of("walk_into", lambda: decoder.walk_into(n_columns, *outputs))
    data = damaged(draw, arguments[0])
    gaps, _, *filled = arguments[-5:]

    def call(kernel, isa):
        found = [a.copy() for a in filled]
        status = kernel(data, *arguments[1:-5], gaps.copy(), isa, *found)
        return [np.array(status)] if status else [np.array(status), *found]

    return call


@case
@st.composite
def look_up_into(draw):
    codebook = draw(pattern_arrays(sizes=st.integers(1, 256)))
    labels = draw(generators()).integers(0, codebook.size, draw(st.integers(0, 300)), np.uint8)

    def call(kernel, isa):
        out = np.zeros(labels.size, codebook.dtype)
        kernel(labels, codebook, out)
        return [out]

    return call


# --- k-means ---


@case
@st.composite
def tally_into(draw):
    rng, itemsize = draw(generators()), draw(st.sampled_from((4, 8)))
    low_bits = 16 if itemsize == 4 else 32
    roots = rng.integers(0, 1 << 16, draw(st.integers(1, 5)))
    bits = np.concatenate([rng.integers(0, 1 << 62, 60) for _ in roots]).astype(f"u{itemsize}")
    top = bits.dtype.type(8 * itemsize - 16)
    for part, root in zip(np.split(bits, roots.size), roots, strict=True):
        part[:] = (part & bits.dtype.type((1 << int(top)) - 1)) | (part.dtype.type(root) << top)
    tree = [0xFF] * (1 << 16)  # leaves
    for root in {int(r) for r in roots}:
        # the ascending pattern of what begins with the bits of root
        node = root ^ (0xFFFF if root >> 15 else 0x8000)
        depth = int(rng.integers(0, 5))
        if depth == 0:
            continue
        shift, first = low_bits - depth, len(tree)
        tree[node] = first << 8 | shift
        tree += [0xFF] * (1 << depth)
        child, deeper = int(rng.integers(1 << depth)), int(rng.integers(0, 4))
        if deeper:
            # its children are found by all of the low bits, those above it too
            tree[first + child] = (len(tree) - (child << deeper)) << 8 | (shift - deeper)
            tree += [0xFF] * (1 << deeper)

    def call(kernel, isa):
        tallies = np.ones((len(tree), 2), np.int64)  # the kernel adds to what is there
        kernel(bits, np.array(tree), tallies)
        assert tallies[:, 0].sum() == len(tree) + bits.size
        return [tallies]

    return call


@st.composite
def weighted_points(draw, fewest=1):
    """Draw ascending points, their weights (whole numbers) and a number of clusters."""
    rng, n = draw(generators()), draw(st.integers(fewest, 120))
    values = rng.standard_normal(n)
    if draw(st.booleans()):
        values = np.round(4 * values) + 0.0  # equal points and equal gaps: ties
    weights = rng.integers(1, draw(st.sampled_from((2, 1000))), n).astype(np.float64)
    return np.sort(values), weights, draw(st.integers(1, min(n, 20)))


def running_sums(points, weights):
    terms = np.stack((weights, weights * points, weights * points * points), axis=1)
    return np.concatenate((np.zeros((1, 3)), np.cumsum(terms, axis=0)))


def some_splits(rng, n, n_clusters):
    inner = np.sort(rng.permutation(np.arange(1, n))[: n_clusters - 1])
    return np.concatenate(([0], inner, [n]))


@case
@st.composite
def partition_into(draw):
    points, weights, n_clusters = draw(weighted_points())
    prefix = running_sums(points, weights)

    def call(kernel, isa):
        splits = np.full(n_clusters + 1, -1)
        table = np.zeros((n_clusters, points.size + 1), np.int32)
        kernel(prefix, np.zeros((2, points.size + 1)), table, splits)
        return [splits]

    return call


@case
@st.composite
def polish_into(draw):
    points, weights, n_clusters = draw(weighted_points())
    prefix, rng = running_sums(points, weights), draw(generators())
    before = some_splits(rng, points.size, n_clusters)
    steps = rng.integers(1, draw(st.sampled_from((2, 8))), n_clusters + 1)
    width = 2 * draw(st.integers(1, 4)) + 1

    def call(kernel, isa):
        splits = before.copy()
        scratch = np.zeros((2, width)), np.zeros((n_clusters + 1, width), np.uint8)
        moved = kernel(prefix, steps, *scratch, splits)
        assert bool(moved) == (splits != before).any()
        return [np.array(bool(moved)), splits]

    return call


@case
@st.composite
def means_into(draw):
    points, weights, n_clusters = draw(weighted_points())
    splits = some_splits(draw(generators()), points.size, n_clusters)

    def call(kernel, isa):
        means = np.zeros(n_clusters)
        kernel(points, weights, splits, means)
        return [means]

    return call


@case
@st.composite
def nearest_into(draw):
    rng, itemsize = draw(generators()), draw(st.sampled_from((4, 8)))
    dtype = np.dtype(f"u{itemsize}")
    n_thresholds, n = draw(st.integers(0, 255)), draw(st.integers(0, 300))
    largest = int(np.iinfo(dtype).max)
    thresholds = np.full(511, largest, dtype)
    if draw(st.booleans()):  # crowded in few of the cells, some of them equal
        cells = rng.integers(0, 1 << 16, 3).astype(dtype) << dtype.type(8 * itemsize - 16)
        drawn = rng.choice(cells, n_thresholds) + rng.integers(0, 200, n_thresholds, dtype)
    else:
        drawn = rng.integers(0, largest, n_thresholds, dtype)
    thresholds[:n_thresholds] = np.sort(drawn)
    near = thresholds[rng.integers(0, max(n_thresholds, 1), n)] + rng.integers(0, 3, n, dtype)
    keys = np.where(rng.random(n) < 0.5, near - dtype.type(1), rng.integers(0, largest, n, dtype))
    sign = dtype.type(1 << (8 * itemsize - 1))
    bits = np.where(keys & sign, keys ^ sign, ~keys)

    def call(kernel, isa):
        labels = np.full(n, 99, np.uint8)
        kernel(bits, thresholds, n_thresholds, np.zeros(1 << 16, np.uint8), labels)
        return [labels]

    return call


@case
@st.composite
def distinct_into(draw):
    patterns = draw(pattern_arrays(sizes=st.integers(0, 1000)))
    limit = draw(st.sampled_from((1, 2, 16, 255, 256)))

    def call(kernel, isa):
        distinct = np.zeros(limit, patterns.dtype)
        n = kernel(patterns, distinct)
        return [np.array(n), np.sort(distinct[: max(n, 0)])]  # in any order

    return call


@case
@st.composite
def pattern_labels_into(draw):
    patterns = draw(pattern_arrays(sizes=sizes))
    distinct = np.unique(patterns)[:256]
    if distinct.size > 1 and draw(st.booleans()):  # so that one is missing
        distinct = np.delete(distinct, draw(st.integers(0, distinct.size - 1)))

    def call(kernel, isa):
        labels = np.zeros(patterns.size, np.uint8)
        missing = kernel(patterns, distinct, labels)
        return [np.array(missing), labels[: missing if missing >= 0 else None]]

    return call


# --- products from the compressed form ---


@st.composite
def matrices(draw, most_values=256):
    """Draw the entries of a matrix and small whole numbers, whose sums are exact in any order."""
    rng = draw(generators())
    n_rows, n_columns = draw(st.integers(1, 40)), draw(st.sampled_from((1, 3, 15, 16, 65, 300)))
    kept = rng.random((n_rows, n_columns)) < draw(densities)
    if draw(st.booleans()):
        kept[rng.random(n_rows) < 0.5] = False
    n_values = draw(st.sampled_from([n for n in (1, 31, 32, 63, 256) if n <= most_values]))
    rows, columns = np.nonzero(kept)
    indptr = np.searchsorted(rows, np.arange(n_rows + 1))
    labels = rng.integers(0, n_values, columns.size).astype(np.uint8)
    codebook = np.arange(-n_values // 2, n_values - n_values // 2 + 1, dtype=np.float32)
    codebook = codebook[codebook != 0][:n_values]
    return indptr, columns.astype(np.uint32), labels, codebook, n_columns, rng


def address(array):
    return array.ctypes.data


@case
@st.composite
def labels_into(draw):
    rng, n_columns = draw(generators()), draw(st.sampled_from((1, 2, 7, 300, 5000)))
    n_before, least = draw(st.integers(0, 9000)), draw(st.integers(0, 1))
    labels = rng.integers(
        0, draw(st.sampled_from((2, 3, 256))), draw(st.integers(1, 900)), np.uint8
    )
    n_kept = np.count_nonzero(labels >= least) + draw(st.sampled_from((0, 0, 1)))
    n_rows = -(-(n_before + labels.size) // n_columns)

    def call(kernel, isa):
        columns, counts = np.zeros(n_kept, np.uint32), np.ones(n_rows, np.int64)
        kept = np.zeros(n_kept, np.uint8)
        status = kernel(labels, least, n_before, n_columns, columns, kept, counts)
        return [np.array(status)] if status else [np.array(status), columns, kept, counts]

    return call


@st.composite
def window_matrices(draw):
    kind = draw(st.sampled_from((0, 1, 2)))
    return kind, 8 if kind == 2 else 16, draw(matrices(most_values=63 if kind == 1 else 32))


def windows_of(kernel, isa, kind, lanes, csr, n_columns):
    starts = np.zeros(-(-(csr[0].size - 1) // lanes) + 1, np.int64)
    offsets, words = np.zeros(csr[1].size, np.int32), np.zeros(csr[1].size * lanes, np.uint32)
    packed = np.zeros(csr[1].size + 8, np.uint32)
    kernel(*csr, n_columns, kind, isa, packed, starts, offsets, words)
    n_steps = starts[-1]  # what is after them may hold anything
    return starts, offsets[:n_steps], words[: n_steps * lanes]


@case
@st.composite
def windows_into(draw):
    kind, lanes, (*csr, _, n_columns, _) = draw(window_matrices())
    return lambda kernel, isa: windows_of(kernel, isa, kind, lanes, csr, n_columns)


@case
@st.composite
def section_windows_into(draw):
    n_columns = draw(st.sampled_from((1, 2, 7, 300, 5000)))
    n_rows = draw(st.integers(1, -(-12_000 // n_columns)))
    decoder, _ = sparse_sections(draw, (n_rows, n_columns))
    kind = draw(st.sampled_from((0, 1, 2) if decoder.codebook.size <= 32 else (1,)))
    lanes, nnz = 8 if kind == 2 else 16, decoder.record.nnz
    blocks = decoder.section.blocks
    waiting = min(nnz, 2 * lanes * n_columns)
    gaps = np.zeros(max(1, *(block.n_symbols[0] for block in blocks)), np.uint8)
    labels = np.zeros(waiting + max(block.n_kept for block in blocks) + 16, np.uint8)
    arguments = decoder.sparse_arguments(range(len(blocks)), [gaps, labels])
    data = damaged(draw, arguments[0])

    def call(kernel, isa):
        columns = np.zeros(waiting + 16_400, np.uint32)
        starts, indptr = np.zeros(-(-n_rows // lanes) + 1, np.int64), np.zeros(n_rows + 1, np.int64)
        offsets, words = np.zeros(nnz, np.int32), np.zeros(nnz * lanes, np.uint32)
        status = kernel(
            data, *arguments[1:], n_columns, kind, isa, gaps.copy(), labels.copy(), columns, indptr,
            starts, offsets, words,
        )  # fmt: skip
        n_steps = starts[-1]
        found = [np.array(status), starts, offsets[:n_steps], words[: n_steps * lanes]]
        return found[:1] if status else found

    return call


@case
@st.composite
def windows_times_vector_into(draw):
    kind, lanes, (*csr, codebook, n_columns, rng) = draw(window_matrices())
    layout = windows_of(_reference_matmul.windows_into, 0, kind, lanes, csr, n_columns)
    places, n_rows = np.zeros(64, np.float32), csr[0].size - 1
    places[: codebook.size] = codebook
    x = rng.integers(-9, 9, n_columns).astype(np.float32)
    x[rng.random(x.size) < draw(st.sampled_from((0, 0.1)))] = np.nan
    bias = rng.integers(-9, 9, n_rows).astype(np.float32) if draw(st.booleans()) else None
    n_groups = layout[0].size - 1
    first, last = sorted(rng.integers(0, n_groups + 1, 2))

    def call(kernel, isa):
        out = np.full(n_rows, 77, np.float32)
        scratch = np.full(2 * (n_columns + 80), 0x7FC0, np.uint16)
        kernel(
            *map(address, (*layout, places)), kind, n_rows, n_columns, address(x),
            0 if bias is None else address(bias), isa, first, last, address(scratch), address(out),
        )  # fmt: skip
        return [out]

    return call


def blocks_of(kernel, csr, values, block_columns, n_columns, group_rows):
    n_rows, n_blocks = csr[0].size - 1, -(-n_columns // block_columns)
    starts = np.zeros((n_blocks, n_rows + 1), np.int64)
    order = np.zeros((n_blocks, n_rows) if group_rows else (0, 0), np.uint8)
    columns, labels = np.zeros(csr[1].size, np.uint16), np.zeros_like(csr[2])
    out_values = values if labels.size else np.zeros_like(values)
    kernel(
        *csr, values, block_columns, group_rows, np.zeros(n_rows, np.int64), starts, order,
        columns, labels, out_values,
    )  # fmt: skip
    return starts, order, columns, labels, out_values


@st.composite
def matrices_with_blocks(draw):
    *csr, codebook, n_columns, rng = draw(matrices())
    if draw(st.booleans()):
        codebook, csr[2] = codebook[csr[2]], csr[2][:0]
    block_columns, group_rows = (
        draw(st.sampled_from((1, 2, 64, 300))),
        draw(st.sampled_from((0, 4, 256))),
    )
    return csr, codebook, block_columns, n_columns, group_rows, rng


@case
@st.composite
def blocks_into(draw):
    *arguments, _ = draw(matrices_with_blocks())
    return lambda kernel, isa: blocks_of(kernel, *arguments)


@case
@st.composite
def blocks_times_vectors_into(draw):
    *arguments, rng = draw(matrices_with_blocks())
    starts, order, *entries = blocks_of(_reference_matmul.blocks_into, *arguments)
    csr, _, block_columns, n_columns, group_rows = arguments
    n_rows, n_vectors = csr[0].size - 1, draw(st.sampled_from((1, 2, 8, 9, 21, 33, 64, 70)))
    are_rows, spare = draw(st.booleans()), draw(st.integers(0, 3))
    shape = (n_vectors, n_columns) if are_rows else (n_columns, n_vectors)
    x = rng.integers(-9, 9, (shape[0], shape[1] + spare)).astype(np.float32)
    x[rng.random(x.shape) < draw(st.sampled_from((0, 0.02)))] = np.nan
    bias = rng.integers(-9, 9, n_rows).astype(np.float32) if draw(st.booleans()) else None
    bounds = np.unique([*range(0, n_rows, group_rows or 1), n_rows])
    first, last = sorted(rng.choice(bounds, 2))

    def call(kernel, isa):
        out_shape = (n_vectors, n_rows) if are_rows else (n_rows, n_vectors)
        out = np.full((out_shape[0], out_shape[1] + spare), 77, np.float32)
        scratch = np.full(64 * (block_columns + n_rows), np.nan, np.float32)
        kernel(
            starts, order, group_rows, *entries, n_columns, block_columns, address(x), x.shape[1],
            are_rows, n_vectors, 0 if bias is None else address(bias), isa, first, last, scratch,
            address(out), out.shape[1],
        )  # fmt: skip
        return [out]

    return call


@case
@st.composite
def convolve_into(draw):
    rng, extents = draw(generators()), st.integers(1, 6)
    groups, n_inputs, kernel = (
        draw(st.integers(1, 2)),
        draw(extents),
        (draw(extents), draw(extents)),
    )
    shape = groups * draw(st.integers(1, 9)), n_inputs, *kernel
    stride = draw(st.sampled_from(((1, 1), (2, 2), (1, 3), (2, 1))))
    dilation = draw(st.sampled_from(((1, 1), (2, 1), (1, 3))))
    padding = draw(st.sampled_from(((0, 0, 0, 0), (1, 1, 1, 1), (2, 0, 0, 1))))
    more = st.sampled_from((0, 3, 15, 40))
    size = tuple(d * (k - 1) + 1 + draw(more) for d, k in zip(dilation, kernel, strict=True))
    weight = rng.integers(-3, 4, shape).astype(np.float32)
    weight[rng.random(shape) >= draw(densities)] = 0
    if draw(st.booleans()):
        weight *= rng.permutation(np.arange(1, weight.size + 1)).reshape(shape) % 97
    tensor = deepcomp.compress({"w": weight}, bits=None)["w"]
    window = convolution.Window(stride, padding, dilation, groups)
    small_cache = mock.patch.object(
        convolution, "_CACHE_NBYTES", draw(st.sampled_from((1 << 15, 200)))
    )
    with small_cache, mock.patch.object(convolution, "_LEAST_ENTRIES", 1):
        layout = convolution.CompressedConvolution(tensor._entries, shape, window)
        offsets = layout._offsets(size)
    g = offsets.geometry
    n_images = draw(st.integers(1, 2))
    x = rng.integers(-9, 9, (n_images, g[0], *size)).astype(np.float32)
    bias = rng.integers(-9, 9, shape[0]).astype(np.float32) if draw(st.booleans()) else None
    rows, images = (
        sorted(rng.integers(0, shape[0] + 1, 2)),
        sorted(rng.integers(0, n_images + 1, 2)),
    )
    csr = offsets.starts, offsets.offsets, offsets.labels, offsets.values

    def call(kernel, isa):
        out = np.full((n_images, shape[0], g[9], g[10]), 77, np.float32)
        planes_numel = g[0] * g[5] * g[7] * g[8] * g[11]
        scratch = np.full(planes_numel + 128 * (1 + shape[0]), np.nan, np.float32)
        kernel(
            *csr, g, address(x), 0 if bias is None else address(bias), isa, *rows, *images,
            scratch, x[0].size, address(out),
        )  # fmt: skip
        return [out]

    return call


# --- the tests ---


def test_there_are_kernels_of_every_stage():
    assert {"decode_into", "scatter_into", "nearest_into"} <= NATIVE.keys()


@pytest.mark.parametrize("name", sorted(NATIVE))
def test_every_native_kernel_has_a_twin_with_the_same_parameters(name):
    assert twin(name) is not None, f"deepcomp/_reference.py has no {name}"
    native = list(inspect.signature(NATIVE[name]).parameters)
    assert native == list(inspect.signature(twin(name)).parameters)


@pytest.mark.parametrize("name", sorted(NATIVE))
def test_every_native_kernel_can_be_reached_through_kernels(name):
    expected = NATIVE[name] if _kernels.build_info()["kernels"] == "native" else twin(name)
    assert getattr(_kernels, name) is expected


def test_every_native_kernel_is_compared_here():
    assert CASES.keys() == NATIVE.keys()


@pytest.mark.parametrize("name", sorted(NATIVE))
@given(data=st.data())
def test_native_kernel_and_twin_agree_for_each_instruction_set(name, data):
    call = data.draw(CASES[name]())
    expected = call(twin(name), 0)
    has_isa = "isa" in inspect.signature(twin(name)).parameters
    for isa in range(cpu.best_isa() + 1 if has_isa else 1):
        found = call(NATIVE[name], isa)
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=f"isa {ISA_NAMES[isa]}", strict=True)


@pytest.mark.parametrize("kernels", ["native", "twin"])
@pytest.mark.parametrize(
    ("gaps", "n_kept", "numel", "status"),
    [
        ([0, 2], 2, 4, 0),
        ([3, 3, 0], 1, 7, 0),
        ([], 0, 4, 0),
        ([0, 2], 1, 4, 1),
        ([0, 2], 3, 9, 1),
        ([0, 3], 1, 9, 2),
        ([0, 2], 2, 3, 3),
        ([3, 3, 0], 1, 6, 3),
    ],
)
def test_scatter_tells_what_is_wrong_with_a_walk(kernels, gaps, n_kept, numel, status):
    scatter = NATIVE["scatter_into"] if kernels == "native" else twin("scatter_into")
    kept, out = np.full(n_kept, 7, np.uint32), np.full(numel, 5, np.uint32)
    assert scatter(np.array(gaps, np.uint8), 2, kept, out) == status
    if status == 0:
        assert np.count_nonzero(out == 7) == n_kept
        assert np.count_nonzero(out == 0) == numel - n_kept


# --- which kernels are used ---

TELL = """
import json, deepcomp._kernels as k
print(json.dumps([k.build_info(), k.ISA, k.decode_into.__module__, k.nearest_into.__module__]))
"""


def run_python(source, **variables):
    """Run Python with the package of this checkout and only these deepcomp variables set."""
    env = {n: v for n, v in os.environ.items() if not n.startswith("DEEPCOMP_")}
    return subprocess.run(
        [sys.executable, "-c", source],
        cwd=ROOT,
        env={**env, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


def tell(**variables):
    result = run_python(TELL, **variables)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_by_default_the_native_kernels_and_the_best_instruction_set_are_used():
    info, isa, *modules = tell()
    assert info["kernels"] == "native"
    assert info["isa"] == ISA_NAMES[cpu.best_isa()]
    assert isa == cpu.best_isa()
    assert info["debug"] == cpu.is_debug_build()
    assert modules == ["deepcomp._native.huffman", "deepcomp._native.kmeans"]


@pytest.mark.parametrize("isa", range(cpu.best_isa() + 1))
def test_deepcomp_isa_is_honoured(isa):
    info, number, *_ = tell(DEEPCOMP_ISA=ISA_NAMES[isa])
    assert (info["isa"], number) == (ISA_NAMES[isa], isa)
    assert info["kernels"] == "native"


def test_deepcomp_kernels_reference_is_honoured():
    info, _, *modules = tell(DEEPCOMP_KERNELS="reference", DEEPCOMP_ISA="portable")
    assert info["kernels"] == "reference"
    assert all(module.startswith("deepcomp._reference") for module in modules)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"DEEPCOMP_ISA": "sse9"},
            "DEEPCOMP_ISA must be one of portable, avx2, avx512, not 'sse9'",
        ),
        (
            {"DEEPCOMP_ISA": "AVX2"},
            "DEEPCOMP_ISA must be one of portable, avx2, avx512, not 'AVX2'",
        ),
        (
            {"DEEPCOMP_KERNELS": "fast"},
            "DEEPCOMP_KERNELS must be 'native' or 'reference', not 'fast'",
        ),
    ],
)
def test_an_unknown_choice_is_an_import_error_that_says_what_is_possible(variables, message):
    result = run_python("import deepcomp._kernels", **variables)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == f"ImportError: {message}"


POOR_MACHINE = """
import types, deepcomp._native
deepcomp._native.cpu = types.SimpleNamespace(best_isa=lambda: BEST, is_debug_build=lambda: False)
"""


@pytest.mark.parametrize(("best", "asked"), [(0, "avx2"), (0, "avx512"), (1, "avx512")])
def test_an_instruction_set_that_the_machine_lacks_is_an_import_error(best, asked):
    poor_machine = POOR_MACHINE.replace("BEST", str(best))
    result = run_python(poor_machine + "import deepcomp._kernels", DEEPCOMP_ISA=asked)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        f"ImportError: DEEPCOMP_ISA={asked} is not possible: "
        f"this machine has {ISA_NAMES[best]} at most"
    )


def test_missing_native_modules_are_an_import_error_that_says_how_to_build_them():
    hide = "import sys; sys.modules['deepcomp._native.cpu'] = None; import deepcomp._kernels"
    result = run_python(hide)
    assert result.returncode == 1
    assert "native modules are missing" in result.stderr
    assert "build_ext --inplace" in result.stderr
    assert "outside the checkout" in result.stderr
