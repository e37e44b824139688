"""Products with a matrix in its compressed form. Twins: deepcomp/_reference_matmul.py.

Inputs, biases and outputs come as addresses: for a layer as small as 300 x 784 an array argument
costs a tenth of the product. Without a bias its address is 0. Rows ``first .. last - 1`` are
computed, so that threads can share a product.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uintptr_t

cdef extern from "sparse_block.h" nogil:
    ctypedef struct dc_code:
        const uint32_t *table
    dc_code dc_make_code(const uint32_t *, int64_t, int, const uint8_t *)
    enum:
        DC_BLOCK_NUMEL
        DC_BLOCK_KEPT
        DC_BLOCK_GAPS
    int dc_decode_block(const uint8_t *, const int64_t *, const dc_code *, const dc_code *,
                        uint8_t *, uint8_t *, int)

cdef extern from "windows_layout.h" nogil:
    ctypedef struct dc_entries:
        const int64_t *indptr
        const uint32_t *columns
        const uint8_t *labels
        int64_t n_rows
        int64_t n_columns
        int are_packed
    ctypedef struct dc_walk:
        const uint8_t *gaps
        uint8_t escape
        int64_t n_columns
        int64_t row
        int64_t column
        int64_t n
        int64_t n_before
        int64_t *row_counts
        const uint8_t *labels
    int dc_walk_gaps(dc_walk *, int, int64_t, int64_t, int64_t, uint32_t *)
    void dc_lay_out_windows(const dc_entries *, int, int, int64_t, uint32_t *, int64_t *,
                            int32_t *, uint32_t *)

cdef extern from "section_windows.h" nogil:
    ctypedef struct dc_section:
        const uint8_t *data
        const int64_t *blocks
        int64_t n_blocks
        int64_t n_rows
        int64_t n_columns
        dc_code gap_code
        dc_code label_code
        uint8_t escape
        uint8_t *gaps
        uint8_t *labels
        uint32_t *columns
        int64_t room
        int64_t *indptr
    ctypedef struct dc_windows_out:
        int kind
        int isa
        int64_t *starts
        int32_t *offsets
        uint32_t *words
    int64_t dc_section_to_windows(const dc_section *, const dc_windows_out *)

cdef extern from "windows_x86.h" nogil:
    ctypedef struct dc_windows:
        const int64_t *starts
        const int32_t *offsets
        const uint32_t *words
        const float *codebook
        int64_t n_rows
        int64_t n_columns
    void dc_windows_times_vector(const dc_windows *, int, const float *, const float *, int,
                                 int64_t, int64_t, uint16_t *, float *)

cdef extern from "blocks.h" nogil:
    ctypedef struct dc_blocks:
        const int64_t *starts
        const uint8_t *order
        int64_t group_rows
        const uint16_t *columns
        const uint32_t *offsets
        const uint8_t *labels
        const float *values
        int64_t n_values
        int64_t n_rows
        int64_t n_columns
        int64_t block_columns
    ctypedef struct dc_blocks_out:
        int64_t *starts
        uint8_t *order
        uint16_t *columns
        uint8_t *labels
        float *values
    void dc_lay_out_blocks(const dc_entries *, const float *, int64_t, int64_t, int64_t, int64_t *,
                           const dc_blocks_out *)
    void dc_blocks_times_vector(const dc_blocks *, const float *, const float *, int64_t, int64_t,
                                float *)
    void dc_blocks_times_vectors(const dc_blocks *, const float *, int64_t, int, int64_t,
                                 const float *, int, int64_t, int64_t, float *, float *, int64_t)



def walk_into(const uint8_t[::1] data, const int64_t[:, ::1] blocks, int gap_bits,
              const uint32_t[::1] gap_table, int gap_table_bits, const uint8_t[::1] gap_lengths,
              const uint32_t[::1] label_table, int label_table_bits,
              const uint8_t[::1] label_lengths, int64_t position, int64_t n_columns,
              uint8_t[::1] gaps, int isa, uint32_t[::1] columns, uint8_t[::1] labels,
              int64_t[::1] row_counts):
    """Walk the blocks of a sparse tensor with a codebook that begin at a position of a matrix.

    Fills `columns` and `labels`, one for each kept entry, and adds to `row_counts`, one for each
    row. `blocks` (n, 14) is described in sparse_block.h. A stream without bitstreams is constant:
    `gaps`, scratch for the largest block, and `labels` then hold its symbol already.

    Returns 0, or what is wrong, as decode_sparse_into does.
    """
    cdef Py_ssize_t b
    cdef int64_t first = 0, n_kept
    cdef dc_code gap_code = dc_make_code(&gap_table[0], gap_table.shape[0], gap_table_bits,
                                         &gap_lengths[0])
    cdef dc_code label_code = dc_make_code(&label_table[0], label_table.shape[0], label_table_bits,
                                           &label_lengths[0])
    cdef dc_walk walk
    cdef int64_t status = 0
    if columns.shape[0] == 0:
        return 0
    with nogil:
        for b in range(blocks.shape[0]):
            n_kept = blocks[b, DC_BLOCK_KEPT]
            if n_kept:
                status = dc_decode_block(&data[0], &blocks[b, 0], &gap_code, &label_code, &gaps[0],
                                         &labels[first], isa)
                if status == 0:
                    walk = dc_walk(&gaps[0], <uint8_t>((1 << gap_bits) - 1), n_columns,
                                   position // n_columns, position % n_columns, 0, 0,
                                   &row_counts[0], NULL)
                    status = dc_walk_gaps(&walk, isa, blocks[b, DC_BLOCK_GAPS], n_kept,
                                          blocks[b, DC_BLOCK_NUMEL], &columns[first])
                    status = status + 2 if status else 0
                if status:
                    status += 8 * b
                    break
            first += n_kept
            position += blocks[b, DC_BLOCK_NUMEL]
    return status


def labels_into(const uint8_t[::1] labels, int least, int64_t position, int64_t n_columns,
                uint32_t[::1] columns, uint8_t[::1] kept, int64_t[::1] row_counts):
    """Collect the entries of a dense block whose label is `least` or more.

    Fills `columns` and `kept`, the label less `least`, and adds to `row_counts`. Returns 0, or 1 if
    there are not as many entries as `columns` has room for.
    """
    cdef Py_ssize_t i, n = 0, room = columns.shape[0], n_labels = labels.shape[0]
    cdef int64_t row = position // n_columns, column = position % n_columns, before
    with nogil:
        before = n
        for i in range(n_labels):
            n += labels[i] >= least
        if n == room:
            n = 0
            for i in range(n_labels):
                if n < room:
                    columns[n] = <uint32_t>column  # overwritten unless the entry is kept
                    kept[n] = <uint8_t>(labels[i] - least)
                n += labels[i] >= least
                column += 1
                if column == n_columns:
                    row_counts[row] += n - before
                    before = n
                    row += 1
                    column = 0
            if n > before:
                row_counts[row] += n - before
        else:
            n = -1
    return 1 if n < 0 else 0


def windows_into(const int64_t[::1] indptr, const uint32_t[::1] columns,
                 const uint8_t[::1] labels, int64_t n_columns, int kind, int isa,
                 uint32_t[::1] packed, int64_t[::1] starts, int32_t[::1] offsets,
                 uint32_t[::1] words):
    """Lay rows out in windows (windows_layout.h).

    Fills `starts`, whose first is 0, and the beginning of `offsets` and `words`, which have room for
    the most steps that all groups can have; `packed` is scratch for the entries of 32 rows and eight
    more.
    """
    cdef dc_entries entries
    if columns.shape[0] == 0:
        starts[:] = 0
        return 0
    with nogil:
        entries = dc_entries(&indptr[0], &columns[0], &labels[0], indptr.shape[0] - 1, n_columns, 0)
        dc_lay_out_windows(&entries, kind, isa, 0, &packed[0], &starts[0], &offsets[0], &words[0])
    return 0


def section_windows_into(const uint8_t[::1] data, const int64_t[:, ::1] blocks, int gap_bits,
                         const uint32_t[::1] gap_table, int gap_table_bits,
                         const uint8_t[::1] gap_lengths, const uint32_t[::1] label_table,
                         int label_table_bits, const uint8_t[::1] label_lengths,
                         int64_t n_columns, int kind, int isa, uint8_t[::1] gaps,
                         uint8_t[::1] labels, uint32_t[::1] columns, int64_t[::1] indptr,
                         int64_t[::1] starts, int32_t[::1] offsets, uint32_t[::1] words):
    """Decode all blocks of a sparse tensor with a codebook, and lay it out in windows.

    As walk_into and windows_into together, without memory for all entries. `indptr` has n_rows + 1
    zeros. Scratch: `gaps` for the largest block; with n the most entries of 32 rows (all columns, or
    all entries), `labels` for the largest block and n + 16 more, and `columns` for n and 16400 more.
    `offsets` and `words` have room for the most steps of all groups; starts[0] is 0.

    Returns 0, or what is wrong, as decode_sparse_into does.
    """
    cdef dc_code gap_code = dc_make_code(&gap_table[0], gap_table.shape[0], gap_table_bits,
                                         &gap_lengths[0])
    cdef dc_code label_code = dc_make_code(&label_table[0], label_table.shape[0], label_table_bits,
                                           &label_lengths[0])
    cdef int64_t status = 0
    cdef dc_section section
    cdef dc_windows_out out
    if offsets.shape[0] == 0:
        return 0
    section = dc_section(
        &data[0], &blocks[0, 0], blocks.shape[0], indptr.shape[0] - 1, n_columns,
        gap_code, label_code, <uint8_t>((1 << gap_bits) - 1), &gaps[0], &labels[0], &columns[0],
        columns.shape[0], &indptr[0])
    out = dc_windows_out(kind, isa, &starts[0], &offsets[0], &words[0])
    with nogil:
        status = dc_section_to_windows(&section, &out)
    return status


def windows_times_vector_into(uintptr_t starts, uintptr_t offsets, uintptr_t words,
                              uintptr_t codebook, int kind, int64_t n_rows, int64_t n_columns,
                              uintptr_t x, uintptr_t bias, int isa, int64_t first_group,
                              int64_t last_group, uintptr_t scratch, uintptr_t out):
    """Multiply a matrix in windows by a vector, for a range of groups of rows.

    All arrays are given by their addresses: to look at four arrays takes as long as the product
    of a small layer. `starts` to `words` are as windows_into fills them; `codebook` has 64 values,
    zeros at the end. `x` (n_columns,), `bias` and `out` (n_rows,) are float32. `scratch` has room
    for 2 * (n_columns + 80) numbers of 16 bits if `kind` is 1.
    """
    cdef dc_windows matrix = dc_windows(<const int64_t *>starts, <const int32_t *>offsets,
                                        <const uint32_t *>words, <const float *>codebook,
                                        n_rows, n_columns)
    with nogil:
        dc_windows_times_vector(&matrix, kind, <const float *>x, <const float *>bias, isa,
                                first_group, last_group, <uint16_t *>scratch, <float *>out)
    return 0


def blocks_into(const int64_t[::1] indptr, const uint32_t[::1] columns,
                const uint8_t[::1] labels, const float[::1] values, int64_t block_columns,
                int64_t group_rows, int64_t[::1] scratch, int64_t[:, ::1] starts,
                uint8_t[:, ::1] order, uint16_t[::1] out_columns, uint8_t[::1] out_labels,
                float[::1] out_values):
    """Sort entries by block of columns, row and column; see blocks.h.

    Each entry has a label or else, if `labels` is empty, a value. `starts` has the shape
    (n_blocks, n_rows + 1). If `order` has the shape (n_blocks, n_rows), and not (0, 0), it is filled
    and the rows of a block are sorted by their number of entries, `group_rows` of them at a time.
    `scratch` has room for n_rows numbers.
    """
    cdef int64_t n_rows = indptr.shape[0] - 1
    cdef dc_entries entries = dc_entries(&indptr[0], NULL, NULL, n_rows, 0, 0)
    cdef dc_blocks_out out = dc_blocks_out(&starts[0, 0], NULL, NULL, NULL, NULL)
    cdef const float *own = NULL
    cdef int64_t *next_entry = &scratch[0] if n_rows else NULL
    if order.shape[0] and n_rows:
        out.order = &order[0, 0]
    if columns.shape[0]:
        entries.columns = &columns[0]
        out.columns = &out_columns[0]
        if labels.shape[0]:
            entries.labels = &labels[0]
            out.labels = &out_labels[0]
        else:
            own = &values[0]
            out.values = &out_values[0]
    with nogil:
        dc_lay_out_blocks(&entries, own, starts.shape[0], block_columns, group_rows, next_entry, &out)
    return 0


def blocks_times_vectors_into(const int64_t[:, ::1] starts, const uint8_t[:, ::1] order,
                              int64_t group_rows, const uint16_t[::1] columns,
                              const uint8_t[::1] labels, const float[::1] values,
                              int64_t n_columns, int64_t block_columns, uintptr_t x,
                              int64_t x_stride, bint are_rows, int64_t n_vectors,
                              uintptr_t bias, int isa, int64_t first, int64_t last,
                              float[::1] scratch, uintptr_t out, int64_t out_stride):
    """Multiply a matrix in blocks by vectors, for a range of rows: of whole groups.

    `x` and `out` are float32. With `are_rows` the vectors are their rows, (n_vectors, n_columns)
    and (n_vectors, n_rows), else their columns; the strides, in numbers, are from row to row.
    `scratch` has room for 64 * (block_columns + last - first) numbers if n_vectors is not 1.
    """
    cdef dc_blocks matrix = dc_blocks(&starts[0, 0], NULL, group_rows, NULL, NULL, NULL, NULL,
                                      values.shape[0], starts.shape[1] - 1, n_columns,
                                      block_columns)
    if order.shape[0] and order.shape[1]:
        matrix.order = &order[0, 0]
    if columns.shape[0]:
        matrix.columns = &columns[0]
        matrix.labels = &labels[0] if labels.shape[0] else NULL
        matrix.values = &values[0]
    with nogil:
        if n_vectors == 1 and are_rows:
            dc_blocks_times_vector(&matrix, <const float *>x, <const float *>bias, first, last,
                                   <float *>out)
        else:
            dc_blocks_times_vectors(&matrix, <const float *>x, x_stride, are_rows, n_vectors,
                                    <const float *>bias, isa, first, last, &scratch[0],
                                    <float *>out, out_stride)
    return 0
