"""One-dimensional k-means and the patterns of a tensor. Twins: deepcomp/_reference.py.

The callers (deepcomp/sharing.py) check sizes and values; in the debug build a slip still ends
in an IndexError. Floating point uses + - * / and comparisons only, each rounded to float64, so
that every machine finds the same codebook.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from deepcomp._native.patterns cimport pattern_t


cdef extern from *:
    """
    /* Bit patterns of floats as integers that ascend with the values: a negative one with all
       of its bits flipped, any other with its sign flipped. */
    static inline uint32_t dc_ascending32(uint32_t bits)
    {
        return bits ^ ((0u - (bits >> 31)) | 0x80000000u);
    }
    static inline uint64_t dc_ascending64(uint64_t bits)
    {
        return bits ^ ((0u - (bits >> 63)) | 0x8000000000000000u);
    }
    """
    uint32_t dc_ascending32(uint32_t) noexcept nogil
    uint64_t dc_ascending64(uint64_t) noexcept nogil


ctypedef fused bits_t:
    uint32_t
    uint64_t

cdef enum:
    LEAF = 255
    HASH_BITS = 12  # 256 patterns seldom collide in 4096 slots, and those are 32 KiB
    SLOTS = 1 << HASH_BITS


cdef inline uint64_t slot_of(uint64_t pattern) noexcept nogil:
    # Knuth's multiplicative hash
    return (pattern * <uint64_t>0x9E3779B97F4A7C15) >> (64 - HASH_BITS)


def tally_into(const bits_t[::1] bits, const int64_t[::1] tree, int64_t[:, ::1] tallies):
    """Add each value to the leaf of the tree that it falls in: [count, sum of its low bits].

    `bits` are patterns of floats. Nodes 0 .. 65535 of the tree are the highest 16 bits of the
    ascending pattern, `low` is the 16 bits (float32) or 32 bits (float64) that follow. A node
    is base << 8 | shift, and its child base + (low >> shift); a shift of 255 makes it a leaf.
    """
    cdef Py_ssize_t i, at
    cdef uint64_t key, low
    cdef int64_t node
    with nogil:
        for i in range(bits.shape[0]):
            if bits_t is uint32_t:
                key = dc_ascending32(bits[i])
                at = <Py_ssize_t>(key >> 16)
                low = key & 0xFFFF
            else:
                key = dc_ascending64(bits[i])
                at = <Py_ssize_t>(key >> 48)
                low = (key >> 16) & <uint64_t>0xFFFFFFFF
            node = tree[at]
            while node & 0xFF != LEAF:
                at = <Py_ssize_t>(node >> 8) + <Py_ssize_t>(low >> (node & 0xFF))
                node = tree[at]
            tallies[at, 0] += 1
            tallies[at, 1] += <int64_t>low
    return 0


cdef inline double spread(double weight, double total, double squares) noexcept nogil:
    """Return the inertia of one cluster from the sums over its points."""
    cdef double inertia = squares - total * total / weight
    return inertia if inertia > 0.0 else 0.0


cdef int fill_row(const double[:, ::1] prefix, const double[::1] before, double[::1] after,
                  const int32_t[::1] lower, int32_t[::1] split, Py_ssize_t k, Py_ssize_t first,
                  Py_ssize_t last) except -1 nogil:
    """Fill after[j] and split[j], first <= j <= last, for k clusters of the points below j.

    The best split grows with j: the middle one bounds both halves (divide and conquer), and
    lower, the splits of k - 1 clusters, bounds all of them (Knuth's quadrangle inequality).
    """
    cdef Py_ssize_t n = last - first + 1, width = 1, start, j, i, lo, hi, at
    cdef double inertia, least, weight, total, squares
    while width < n:
        width *= 2
    # widths 2**m .. 1: the middles of all parts of one size, whose neighbours are known by then
    while width >= 1:
        start = width - 1
        while start < n:
            j = first + start
            lo = lower[j] if lower[j] > k - 1 else k - 1
            if start >= width and split[j - width] > lo:
                lo = split[j - width]
            hi = j - 1
            if start + width < n and split[j + width] < hi:
                hi = split[j + width]
            if lo > hi:  # rounding
                lo = hi
            weight, total, squares = prefix[j, 0], prefix[j, 1], prefix[j, 2]
            at = j - 1
            least = INFINITY if hi < at else before[at]  # one point has no inertia, not even eps
            for i in range(hi if hi < at else at - 1, lo - 1, -1):
                inertia = before[i] + spread(weight - prefix[i, 0], total - prefix[i, 1],
                                             squares - prefix[i, 2])
                if inertia < least:
                    least = inertia
                    at = i
            after[j] = least
            split[j] = <int32_t>at
            start += 2 * width
        width //= 2
    return 0


def partition_into(const double[:, ::1] prefix, double[:, ::1] inertia, int32_t[:, ::1] table,
                   int64_t[::1] splits):
    """Fill splits[0 .. k] of the k clusters with the least inertia, by dynamic programming.

    prefix[i] is [weight, sum, sum of squares] of the points below i. inertia (2, n + 1) and
    table (k, n + 1) are scratch; `table` comes as zeros.
    """
    cdef Py_ssize_t n = prefix.shape[0] - 1, n_clusters = splits.shape[0] - 1, k, j
    with nogil:
        inertia[0, 1] = 0.0
        for j in range(2, n + 1):
            inertia[0, j] = spread(prefix[j, 0] - prefix[0, 0], prefix[j, 1] - prefix[0, 1],
                                   prefix[j, 2] - prefix[0, 2])
        for k in range(2, n_clusters + 1):
            # the other clusters need a point each; only the end matters in the last row
            fill_row(prefix, inertia[k % 2], inertia[1 - k % 2], table[k - 2], table[k - 1], k,
                     n if k == n_clusters else k, n - (n_clusters - k))
        splits[n_clusters] = n
        for k in range(n_clusters, 0, -1):
            splits[k - 1] = table[k - 1, splits[k]]
    return 0


def polish_into(const double[:, ::1] prefix, const int64_t[::1] steps, double[:, ::1] inertia,
                uint8_t[:, ::1] table, int64_t[::1] splits):
    """Move all inner splits together, each by at most r of its steps; return whether any moved.

    inertia (2, 2 * r + 1) and table (k + 1, 2 * r + 1) are scratch. steps[0] and steps[k] are
    not used: the ends stay.
    """
    cdef Py_ssize_t n_clusters = splits.shape[0] - 1, width = table.shape[1], r = width // 2
    cdef Py_ssize_t k, a, b, i, j, at, moved = 0
    cdef double least, candidate
    with nogil:
        for a in range(width):
            inertia[0, a] = 0.0 if a == r else INFINITY
        for k in range(1, n_clusters + 1):
            for b in range(width):
                inertia[k % 2, b] = INFINITY
                table[k, b] = <uint8_t>r
                if k == n_clusters and b != r:
                    continue
                j = splits[k] + ((b - r) * steps[k] if k < n_clusters else 0)
                if j >= prefix.shape[0]:
                    continue
                least = INFINITY
                at = r
                for a in range(width):
                    i = splits[k - 1] + ((a - r) * steps[k - 1] if k > 1 else 0)
                    if i < 0 or i >= j or inertia[1 - k % 2, a] == INFINITY:
                        continue
                    candidate = inertia[1 - k % 2, a]
                    if j - i > 1:
                        candidate += spread(prefix[j, 0] - prefix[i, 0],
                                            prefix[j, 1] - prefix[i, 1],
                                            prefix[j, 2] - prefix[i, 2])
                    # a tie leaves the split where it is
                    if candidate < least or (candidate == least and a == r):
                        least = candidate
                        at = a
                inertia[k % 2, b] = least
                table[k, b] = <uint8_t>at
        at = r
        for k in range(n_clusters, 1, -1):
            at = table[k, at]
            if at != r:
                splits[k - 1] += (at - r) * steps[k - 1]
                moved = 1
    return moved


def means_into(const double[::1] points, const double[::1] weights, const int64_t[::1] splits,
               double[::1] means):
    """Fill the mean of each cluster. Relative to its first point, so nothing cancels."""
    cdef Py_ssize_t k, i
    cdef double total, weight
    with nogil:
        for k in range(means.shape[0]):
            total = weight = 0.0
            for i in range(splits[k], splits[k + 1]):
                total += weights[i] * (points[i] - points[splits[k]])
                weight += weights[i]
            means[k] = points[splits[k]] + total / weight
    return 0


def nearest_into(const bits_t[::1] bits, const bits_t[::1] thresholds, int n_thresholds,
                 uint8_t[::1] skipped, uint8_t[::1] labels):
    """Fill the number of thresholds below each value.

    `bits` are patterns of floats; `thresholds` ascending patterns in ascending order, then
    padding, the largest pattern, up to 511. skipped (65536) is scratch: the thresholds below
    all values with the same highest 16 bits. From there the search is short and branch-free.
    """
    cdef Py_ssize_t i, at, end, step, first = 1, cell = 0
    cdef int top = 8 * sizeof(bits_t) - 16
    cdef bits_t key
    with nogil:
        for i in range(n_thresholds + 1):
            end = <Py_ssize_t>(thresholds[i] >> top) + 1 if i < n_thresholds else 65536
            if end > cell:
                memset(&skipped[cell], <int>i, end - cell)
                cell = end
        for i in range(n_thresholds):  # the most thresholds in one cell
            at = skipped[<Py_ssize_t>(thresholds[i] >> top)]
            while i - at + 1 >= 2 * first:
                first *= 2
        for i in range(bits.shape[0]):
            if bits_t is uint32_t:
                key = dc_ascending32(bits[i])
            else:
                key = dc_ascending64(bits[i])
            at = skipped[<Py_ssize_t>(key >> top)]
            step = first
            while step:
                at += step & -<Py_ssize_t>(key > thresholds[at + step - 1])
                step >>= 1
            labels[i] = <uint8_t>at
    return 0


def distinct_into(const pattern_t[::1] patterns, pattern_t[::1] distinct):
    """Fill the distinct patterns but zero, in any order; return how many, -1 if out of room."""
    cdef uint64_t slots[SLOTS]
    cdef uint64_t slot, pattern
    cdef Py_ssize_t i, n = 0
    with nogil:
        memset(slots, 0, sizeof(slots))  # zero: empty, so zero is found wherever it looks
        for i in range(patterns.shape[0]):
            pattern = patterns[i]
            slot = slot_of(pattern)
            while slots[slot] != pattern:
                if slots[slot] == 0:
                    if n == distinct.shape[0]:
                        n = -1
                        break
                    slots[slot] = pattern
                    distinct[n] = <pattern_t>pattern
                    n += 1
                else:
                    slot = (slot + 1) % SLOTS
            if n < 0:
                break
    return n


def pattern_labels_into(const pattern_t[::1] patterns, const pattern_t[::1] distinct,
                        uint8_t[::1] labels):
    """Fill the index of each pattern in `distinct`; return the first place it is not in, or -1."""
    cdef uint64_t slots[SLOTS]
    cdef uint16_t label_of[SLOTS]
    cdef uint64_t slot, pattern
    cdef Py_ssize_t i, bad = -1
    with nogil:
        memset(label_of, 0, sizeof(label_of))  # zero: empty; else label + 1
        for i in range(SLOTS):
            slots[i] = distinct[0]  # found in a wrong slot it would still get its own label
        for i in range(distinct.shape[0]):
            pattern = distinct[i]
            slot = slot_of(pattern)
            while label_of[slot] != 0:
                slot = (slot + 1) % SLOTS
            slots[slot] = pattern
            label_of[slot] = <uint16_t>(i + 1)
        for i in range(patterns.shape[0]):
            pattern = patterns[i]
            slot = slot_of(pattern)
            while slots[slot] != pattern and label_of[slot] != 0:
                slot = (slot + 1) % SLOTS
            if slots[slot] != pattern:
                bad = i
                break
            labels[i] = <uint8_t>(label_of[slot] - 1 if label_of[slot] else 0)
    return bad
