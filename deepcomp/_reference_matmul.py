# mypy: ignore-errors
"""The NumPy twins of the kernels that compute from the compressed form; see ``_reference.py``.

Sums are rounded in another order than by the native kernels: the results are equal where no
rounding happens, and otherwise nearly so.
"""

import ctypes
from itertools import pairwise

import numpy as np

from ._reference import decode_block

_KINDS = {  # lanes, columns of a window, slots, bits of a column, bits of a label, shift of count
    0: (16, 32, 3, 5, 5, 30),
    1: (16, 64, 2, 6, 6, None),
    2: (8, 32, 2, 5, 5, 27),
}
_QUIET = np.errstate(all="ignore")  # as the native kernels are: NaN and infinity are numbers


def _floats_at(address, shape):
    return _array_at(address, shape, ctypes.c_float)


def _array_at(address, shape, ctype):
    n = int(np.prod(shape))
    if not n:
        return np.empty(shape, ctype)
    return np.ctypeslib.as_array((ctype * n).from_address(address)).reshape(shape)


def walk_into(
    data, blocks, gap_bits, gap_table, gap_table_bits, gap_lengths, label_table, label_table_bits,
    label_lengths, position, n_columns, gaps, isa, columns, labels, row_counts,
):  # fmt: skip
    gap_code = gap_table, gap_table_bits, gap_lengths
    label_code = label_table, label_table_bits, label_lengths
    first = 0
    for b, block in enumerate(blocks):
        numel, n_kept, n_gaps = block[1:4]
        last = first + n_kept
        found = gaps[:n_gaps], labels[first:last]
        status = decode_block(data, block, gap_code, label_code, *found, isa) if n_kept else 0
        status = status or _walk(found[0], gap_bits, position, numel, n_columns,
                                 columns[first:last], row_counts)  # fmt: skip
        if status:
            return 8 * b + status
        first, position = last, position + numel
    return 0


def _walk(gaps, gap_bits, position, numel, n_columns, columns, row_counts):
    escape = (1 << gap_bits) - 1
    is_kept = gaps != escape
    ends = np.cumsum(gaps.astype(np.int64) + is_kept)
    if np.count_nonzero(is_kept) != columns.size:
        return 3
    if gaps.size and not is_kept[-1]:
        return 4
    if gaps.size and ends[-1] > numel:
        return 5
    positions = position + ends[is_kept] - 1
    columns[:] = positions % n_columns
    row_counts += np.bincount(positions // n_columns, minlength=row_counts.size)
    return 0


def labels_into(labels, least, position, n_columns, columns, kept, row_counts):
    where = np.flatnonzero(labels >= least)
    if where.size != columns.size:
        return 1
    kept[:] = labels[where] - np.uint8(least)
    columns[:] = (position + where) % n_columns
    row_counts += np.bincount((position + where) // n_columns, minlength=row_counts.size)
    return 0


def _steps(rows, n_columns, window, n_slots):
    """Yield (first column of the window, for each row the places of the entries it takes)."""
    rows = [list(row) for row in rows]
    while any(rows):
        offset = min(row[0][0] for row in rows if row)
        offset = min(offset, max(0, n_columns - window))
        taken = []
        for row in rows:
            n = sum(column < offset + window for column, _ in row[:n_slots])
            taken.append(row[:n])
            del row[:n]
        yield offset, taken


def _groups(indptr, columns, labels, n_columns, kind):
    lanes, window, n_slots = _KINDS[kind][:3]
    pairs = list(zip(columns.tolist(), labels.tolist()))
    for first in range(0, indptr.size - 1, lanes):
        bounds = indptr[first : first + lanes + 1].tolist()
        rows = [pairs[a:b] for a, b in pairwise(bounds)]
        yield list(_steps(rows, n_columns, window, n_slots))


def _half(lane, slot):
    return 8 * (lane // 4) + lane % 4 + 4 * slot


def windows_into(indptr, columns, labels, n_columns, kind, isa, packed, starts, offsets, words):
    lanes, _, _, column_bits, label_bits, count_shift = _KINDS[kind]
    halves, step = words.view(np.uint16), 0
    for group, steps in enumerate(_groups(indptr, columns, labels, n_columns, kind)):
        for offset, taken in steps:
            offsets[step] = offset
            words[step * lanes : (step + 1) * lanes] = 0
            for lane, entries in enumerate(taken):
                word = 0
                for slot, (column, label) in enumerate(entries):
                    if kind == 1:
                        half = 32 * step + _half(lane, slot)
                        halves[half] = (column - offset) | (label + 1) << column_bits
                    pair = (column - offset) | label << column_bits
                    word |= pair << slot * (column_bits + label_bits)
                if kind != 1:
                    words[step * lanes + lane] = word | len(entries) << count_shift
            step += 1
        starts[group + 1] = step
    return 0


def section_windows_into(
    data, blocks, gap_bits, gap_table, gap_table_bits, gap_lengths, label_table, label_table_bits,
    label_lengths, n_columns, kind, isa, gaps, labels, columns, indptr, starts, offsets, words,
):  # fmt: skip
    nnz = int(blocks[:, 2].sum())
    all_columns = np.empty(nnz, np.uint32)
    all_labels = np.full(nnz, labels[0])  # of a constant stream: its symbol
    status = walk_into(
        data, blocks, gap_bits, gap_table, gap_table_bits, gap_lengths, label_table,
        label_table_bits, label_lengths, 0, n_columns, gaps, isa, all_columns, all_labels,
        indptr[1:],
    )  # fmt: skip
    if status:
        return status
    np.cumsum(indptr, out=indptr)
    return windows_into(
        indptr, all_columns, all_labels, n_columns, kind, isa, columns, starts, offsets, words
    )


def _slots(words, kind):
    """Return columns in the window, labels, and what is in use, shape (slots, steps, lanes)."""
    lanes, _, n_slots, column_bits, label_bits, count_shift = _KINDS[kind]
    if kind == 1:
        order = [[_half(lane, slot) for lane in range(lanes)] for slot in range(n_slots)]
        halves = words.view(np.uint16).reshape(-1, 2 * lanes)[:, order].transpose(1, 0, 2)
        return halves & 63, np.maximum(halves >> 6, 1) - 1, halves != 0
    words = words.reshape(-1, lanes)
    shifts = np.arange(n_slots).reshape(-1, 1, 1)
    pairs = words >> (shifts * (column_bits + label_bits)).astype(np.uint32)
    columns, labels = pairs & ((1 << column_bits) - 1), pairs >> column_bits
    return columns, labels & ((1 << label_bits) - 1), (words >> count_shift) > shifts


@_QUIET
def windows_times_vector_into(
    starts, offsets, words, codebook, kind, n_rows, n_columns, x, bias, isa, first_group,
    last_group, scratch, out,
):  # fmt: skip
    lanes = _KINDS[kind][0]
    starts = _array_at(starts, -(-n_rows // lanes) + 1, ctypes.c_int64)
    offsets = _array_at(offsets, starts[-1], ctypes.c_int32)
    words = _array_at(words, starts[-1] * lanes, ctypes.c_uint32)
    codebook = _floats_at(codebook, 64)
    x, y = _floats_at(x, n_columns), _floats_at(out, n_rows)
    columns, labels, used = _slots(words, kind)
    products = np.zeros(used.shape)
    places = (columns + offsets.reshape(-1, 1))[used]
    products[used] = x[places].astype(np.float64) * codebook[labels[used]]
    for group in range(first_group, last_group):
        rows = slice(group * lanes, min((group + 1) * lanes, n_rows))
        steps = products[:, starts[group] : starts[group + 1]]
        y[rows] = steps.sum(axis=(0, 1))[: rows.stop - rows.start]
        if bias:
            y[rows] += _floats_at(bias, n_rows)[rows]
    return 0


def blocks_into(
    indptr, columns, labels, values, block_columns, group_rows, scratch, starts, order,
    out_columns, out_labels, out_values,
):  # fmt: skip
    n_blocks, n_rows = starts.shape[0], indptr.size - 1
    rows = np.repeat(np.arange(n_rows), np.diff(indptr))
    blocks = columns // block_columns
    counts = np.zeros((n_blocks, n_rows), np.int64)
    np.add.at(counts, (blocks, rows), 1)
    places = np.tile(np.arange(n_rows), (n_blocks, 1))  # of the rows
    if order.size:
        groups = np.broadcast_to(np.arange(n_rows) // group_rows, counts.shape)
        by_count = np.lexsort((counts, groups))
        order[:] = by_count % group_rows
        np.put_along_axis(places, by_count, np.arange(n_rows)[None], axis=1)
        counts = np.take_along_axis(counts, by_count, axis=1)
    ends = np.cumsum(np.pad(counts, ((0, 0), (1, 0))).reshape(-1))
    starts[:] = ends.reshape(starts.shape)
    entries = np.lexsort((columns, places[blocks, rows], blocks))
    out_columns[:] = (columns % block_columns)[entries]
    if labels.size:
        out_labels[:] = labels[entries]
    elif columns.size:
        out_values[:] = values[entries]
    return 0


@_QUIET
def blocks_times_vectors_into(
    starts, order, group_rows, columns, labels, values, n_columns, block_columns, x, x_stride,
    are_rows, n_vectors, bias, isa, first, last, scratch, out, out_stride,
):  # fmt: skip
    n_rows = starts.shape[1] - 1
    weights = values[labels] if labels.size else values[: columns.size]
    x = _strided_at(x, n_vectors, n_columns, x_stride, are_rows)
    y = _strided_at(out, n_vectors, n_rows, out_stride, are_rows)
    y[:, first:last] = _floats_at(bias, n_rows)[first:last] if bias else 0
    for block in range(starts.shape[0]):
        for place in range(first, last):
            row = place
            if order.size:
                row += int(order[block, place]) - place % group_rows
            these = slice(*starts[block, place : place + 2])
            inputs = x[:, columns[these].astype(np.int64) + block * block_columns]
            y[:, row] += (inputs.astype(np.float64) * weights[these]).sum(axis=1)
    return 0


def _strided_at(address, n_vectors, n, stride, are_rows):
    """Return the vectors at an address as the rows of a view."""
    shape = (n_vectors, n) if are_rows else (n, n_vectors)
    flat = _floats_at(address, ((shape[0] - 1) * stride + shape[1],))
    view = np.lib.stride_tricks.as_strided(flat, shape, (4 * stride, 4))
    return view if are_rows else view.T


@_QUIET
def convolve_into(
    starts, offsets, labels, values, geometry, x, bias, isa, first_row, last_row, first_image,
    last_image, scratch, image_numel, out,
):  # fmt: skip
    n_channels, height, width = geometry[:3].tolist()
    out_height, out_width = geometry[9:11].tolist()
    plane_width, n_rows = int(geometry[8]), starts.shape[1] - 1
    weights = values[labels] if labels.size else values
    images = _floats_at(x, (last_image, n_channels, height, width))
    y = _floats_at(out, (last_image, n_rows, out_height, out_width))
    pixels = np.add.outer(np.arange(out_height) * plane_width, np.arange(out_width))
    for image in range(first_image, last_image):
        planes = _planes(images[image], geometry.tolist())
        for row in range(first_row, last_row):
            total = np.zeros(pixels.shape)
            for first, last in starts[:, row : row + 2]:
                for p in range(first, last):
                    total += planes[pixels + int(offsets[p])] * float(weights[p])
            y[image, row] = total
            if bias:
                y[image, row] += _floats_at(bias, n_rows)[row]
    return 0


def _planes(image, geometry):
    """Return the planes of an image, flattened: (channels, row's remainder, column, h, w)."""
    top, left, stride_height, stride_width, plane_height, plane_width = geometry[3:9]
    n_apart, step = geometry[11:]
    rows = np.add.outer(np.arange(stride_height), np.arange(plane_height) * stride_height) - top
    columns = np.add.outer(np.arange(n_apart) * step, np.arange(plane_width) * stride_width) - left
    inside = ((rows >= 0) & (rows < image.shape[1]))[:, None, :, None]
    inside = inside & ((columns >= 0) & (columns < image.shape[2]))[None, :, None, :]
    rows, columns = rows.clip(0, image.shape[1] - 1), columns.clip(0, image.shape[2] - 1)
    planes = image[:, rows[:, None, :, None], columns[None, :, None, :]]
    return np.where(inside, planes, np.float32(0)).reshape(-1)
