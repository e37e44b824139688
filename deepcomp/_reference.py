# mypy: ignore-errors
"""The NumPy twin of every native kernel: same name, same signature, same result.

This is the meaning of the native code, written to be read. ``DEEPCOMP_KERNELS=reference``
makes the package use it. Kernels trust their callers: checks are in the modules that call.
"""

import numpy as np


def count_symbols_into(symbols, counts):
    counts += np.bincount(symbols, minlength=256)
    return 0


def package_merge_into(counts, order, limit, code_lengths):
    leaves = [(int(counts[s]), (int(s),)) for s in order]
    packages = []
    for _ in range(limit):
        merged = sorted(leaves + packages, key=lambda item: item[0])  # stable: leaves first
        packages = [
            (a[0] + b[0], a[1] + b[1]) for a, b in zip(merged[::2], merged[1::2], strict=False)
        ]
    code_lengths[:] = 0
    for _, symbols in merged[: 2 * len(leaves) - 2]:
        for s in symbols:
            code_lengths[s] += 1
    return 0


def _codewords(code_lengths):
    """Return {symbol: (codeword with its first bit lowest, length)}."""
    words = {}
    codeword = previous = 0
    for length, symbol in sorted((int(n), s) for s, n in enumerate(code_lengths) if n):
        codeword <<= length - previous
        words[symbol] = (int(f"{codeword:0{length}b}"[::-1], 2), length)
        codeword, previous = codeword + 1, length
    return words


def decode_table_into(code_lengths, table_bits, table):
    is_wide = table.size >> table_bits == 2
    index = np.arange(1 << table_bits)
    symbol, length = np.zeros_like(index), np.zeros_like(index)
    for s, (codeword, n) in _codewords(code_lengths).items():
        symbol[codeword :: 1 << n], length[codeword :: 1 << n] = s, n
    used, count, symbols = length.copy(), np.ones_like(index), symbol.copy()
    for k in range(1, 6 if is_wide else 3):
        rest = index >> used
        fits = (count == k) & (used + length[rest] <= table_bits)
        symbols += np.where(fits, symbol[rest] << (8 * k), 0)
        used += np.where(fits, length[rest], 0)
        count += fits
    if is_wide:
        table.view(np.uint64)[:] = used | symbols << 8 | count << 61
    else:
        table[:] = used | count << 6 | symbols << 8
    return 0


def encode_into(symbols, code_lengths, isa, out):
    words = _codewords(code_lengths)
    if not set(np.unique(symbols).tolist()) <= set(words):
        return -1
    codeword = np.array([words.get(s, (0, 0))[0] for s in range(len(code_lengths))])
    lengths = np.asarray(code_lengths)[symbols].astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    bits = np.zeros(int(lengths.sum()), np.uint8)
    for k in range(int(lengths.max())):
        has = lengths > k
        bits[starts[has] + k] = codeword[symbols[has]] >> k & 1
    packed = np.packbits(bits, bitorder="little")
    out[: packed.size] = packed
    return packed.size


def decode_into(bitstreams, sizes, table, table_bits, code_lengths, isa, out):
    n, quarter, first = out.size, -(-out.size // len(sizes)), 0
    for k, size in enumerate(sizes.tolist()):
        part = out[k * quarter : min((k + 1) * quarter, n)]
        status = _decode_bitstream(
            bitstreams[first : first + size], table, table_bits, code_lengths, part
        )
        if status:
            return status
        first += size
    return 0


def _decode_bitstream(data, table, table_bits, code_lengths, out):
    n_bits = 8 * data.size
    bits = np.zeros(n_bits + table_bits, np.int64)
    bits[:n_bits] = np.unpackbits(data, bitorder="little")
    window = sum(bits[k : n_bits + k] << k for k in range(table_bits))
    entries = table.view(np.uint64) if table.size >> table_bits == 2 else table
    symbol_at = entries[window] >> 8 & 255  # the symbol that begins at each bit, if one does
    next_bit = (np.arange(n_bits) + code_lengths[symbol_at]).tolist()
    starts = []
    position = 0
    for _ in range(out.size):
        if position >= n_bits or next_bit[position] > n_bits:
            return 1
        starts.append(position)
        position = next_bit[position]
    out[:] = symbol_at[starts]
    return 2 if n_bits - position >= 8 or bits[position:n_bits].any() else 0


def count_digits_into(patterns, mask, shift, prefix, counts):
    digits = (patterns & patterns.dtype.type(mask)).astype(np.uint64) >> np.uint64(shift)
    if prefix >= 0:
        digits = digits[digits >> np.uint64(16) == prefix]
    counts += np.bincount((digits & np.uint64(0xFFFF)).astype(np.intp), minlength=1 << 16)
    return 0


def keep_at_least_into(patterns, mask, least, out):
    out[:] = np.where(patterns & patterns.dtype.type(mask) >= least, patterns, 0)
    return 0


def kept_into(patterns, mask, block_numel, runs, kept, block_counts):
    positions = np.flatnonzero(patterns & patterns.dtype.type(mask))
    block = positions // block_numel
    before = np.concatenate(([-1], positions[:-1]))
    first_of_block = np.concatenate(([-1], block[:-1])) != block
    runs[: positions.size] = positions - np.where(first_of_block, block * block_numel, before + 1)
    kept[: positions.size] = patterns[positions]
    block_counts[:] = np.bincount(block, minlength=block_counts.size)
    return positions.size


def gap_symbols_into(runs, gap_bits, symbols):
    escape = (1 << gap_bits) - 1
    n_escapes = runs.astype(np.int64) // escape
    ends = np.cumsum(n_escapes + 1)
    n = int(ends[-1]) if runs.size else 0
    symbols[:n] = escape
    symbols[ends - 1] = runs % escape
    return n


def _walk(gaps, gap_bits, n_kept, numel):
    """Return a status, and the positions of the kept entries when it is 0."""
    escape = (1 << gap_bits) - 1
    is_kept = gaps != escape
    ends = np.cumsum(gaps.astype(np.int64) + is_kept)
    if np.count_nonzero(is_kept) != n_kept:
        return 1, None
    if gaps.size and not is_kept[-1]:
        return 2, None
    if gaps.size and ends[-1] > numel:
        return 3, None
    return 0, ends[is_kept] - 1


def scatter_into(gaps, gap_bits, kept, out):
    status, positions = _walk(gaps, gap_bits, kept.size, out.size)
    if not status:
        out[:] = 0
        out[positions] = kept
    return status


def look_up_into(labels, codebook, out):
    out[: labels.size] = codebook[labels]
    return 0


def decode_sparse_into(
    data, blocks, gap_bits, gap_table, gap_table_bits, gap_lengths, label_table, label_table_bits,
    label_lengths, codebook, gaps, labels, kept, isa, out,
):  # fmt: skip
    gap_code = gap_table, gap_table_bits, gap_lengths
    label_code = label_table, label_table_bits, label_lengths
    first = 0
    for b, block in enumerate(blocks):
        numel, n_kept, n_gaps = block[1:4]
        found = gaps[:n_gaps], labels[:n_kept]
        status = decode_block(data, block, gap_code, label_code, *found, isa)
        if not status:
            look_up_into(found[1], codebook, kept)
            part = out[first : first + numel]
            status = scatter_into(found[0], gap_bits, kept[:n_kept], part)
            status += 2 if status else 0
        if status:
            return 8 * b + status
        first += numel
    return 0


def decode_block(data, block, gap_code, label_code, gaps, labels, isa):
    """Decode the bitstreams of a block; ``sparse_block.h`` describes its numbers."""
    position, _, _, _, n_gap_streams, n_label_streams, *sizes = block.tolist()
    streams = (
        (gap_code, sizes[:n_gap_streams], gaps),
        (label_code, sizes[4 : 4 + n_label_streams], labels),
    )
    for code, stream_sizes, symbols in streams:
        if stream_sizes:
            bitstreams = data[position : position + sum(stream_sizes)]
            status = decode_into(bitstreams, np.array(stream_sizes), *code, isa, symbols)
            if status:
                return status
        position += sum(stream_sizes)
    return 0


def squares_into(before, after, is_bfloat16, sums):
    if is_bfloat16:
        values, found = ((p.astype(np.uint32) << 16).view(np.float32) for p in (before, after))
    else:
        values, found = (p.view(f"f{p.itemsize}") for p in (before, after))
    with np.errstate(invalid="ignore"):  # not finite: not a number, as the kernel says
        values, differences = values.astype(np.float64), found.astype(np.float64)
        np.subtract(values, differences, out=differences)
    for i, terms in enumerate((differences, values)):
        squares = np.zeros(-(-terms.size // 8) * 8)
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(terms, terms, out=squares[: terms.size])
        for part in squares.reshape(-1, 8).sum(axis=0).tolist():  # as eight sums side by side
            sums[i] += part
    return 0
