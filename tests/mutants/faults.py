"""Deliberate faults, each with the tests that must notice it; run.py makes them.

Paths are from the root of the repository. In each file, what is replaced is there exactly once. The
tests are those where one would look for the fault, as names: `vectors` is tests/test_vectors.py.
"""

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Fault(NamedTuple):
    """One fault; `why` says why nothing can notice it, if it is equivalent."""

    path: str
    old: str
    new: str
    tests: str
    module: str = ""  # the native one to be built
    isa: str = "portable"  # that the machine must have
    why: str = ""


# path -> (old, new, tests)
PYTHON = {
    "deepcomp/sections.py": [
        ("if kraft != 1 << MAX_CODE_LENGTH:", "if kraft > 1 << MAX_CODE_LENGTH:", "vectors"),
        ("if shift == 63:", "if shift == 70:", "vectors"),
        ("if byte == 0 and shift > 7:", "if byte == 0 and shift > 14:", "encode"),
        ("if any(a >= b for", "if any(a > b for", "encode"),
        ("if n_escapes and not n_kept:", "if n_escapes > 1 and not n_kept:", "encode"),
        ("if nnz != record.nnz:", "if nnz < record.nnz:", "encode"),
        ("if n > 8 * sum(sizes[-1]):", "if n > 9 * sum(sizes[-1]):", "encode"),
        ("if bits >> record.shape[0]:", "if bits >> (record.shape[0] + 1):", "kept_rows"),
    ],
    "deepcomp/index.py": [
        ("if block_numel >= numel:", "if block_numel > numel:", "vectors"),
        ("(1, 1) if any(map", "(1, 1) if all(map", "vectors"),
        ('if "crc32" in item and numel == 0:', 'if "crc32" in item and numel < 0:', "vectors"),
        ('"kept_rows", 1, n_rows - 1)', '"kept_rows", 1, n_rows)', "vectors"),
        ("at character {position},", "at character {position + 1},", "container"),
    ],
    "deepcomp/container.py": [
        ("not inflate.eof or inflate.unused_data", "not inflate.eof", "vectors"),
        ("if size > min(MAX_INDEX_NBYTES", "if size > max(MAX_INDEX_NBYTES", "vectors"),
        ("if max(offset, start) < min(", "if max(offset, start) <= min(", "container"),
    ],
    "deepcomp/pages.py": [
        ("found = zlib.crc32(self._kept[last:end], found)", "pass", "checksums"),
        ("self.checked[:] = bytes(len(self.checked))", "pass", "container"),
        ("if found != expected:", "if found < expected:", "container"),
        ('at} to {at + len(piece)}"', 'at} to {at + PAGE}"', "container"),
    ],
    "deepcomp/blocks.py": [
        ("if n_kept != block.n_kept:", "if n_kept < block.n_kept:", "encode"),
        ("if bits[n_zeros:].any():", "if bits[n_zeros + 1 :].any():", "encode"),
        ("if codebook[0] != 0:", "if codebook[0] > 0 and False:", "encode"),
    ],
    "deepcomp/decode.py": [
        ("first += sum(blocks[i].n_kept for", "first = sum(blocks[i].n_kept for", "multiply"),
        ("itemsize].copy().view(self.dtype)", "itemsize].view(self.dtype)", "slices"),
        ("self.section.blocks[first_block + status // 8]", "self.section.blocks[0]", "encode"),
    ],
    "deepcomp/kept_rows.py": [
        ("if self.rows[last - 1] == last - 1:", "if self.rows[last - 1] == last:", "kept_rows"),
        ("matrix[~self._is_kept] = 0", "pass", "kept_rows"),
        ("(self.rows, (start, stop))", "(self.rows, (start + 1, stop))", "kept_rows"),
        ("self.rows[rows] * self.width", "(self.rows[rows] + 1) * self.width", "kept_rows"),
    ],
    "deepcomp/slices.py": [
        ("-(-last // step) if", "last // step + 1 if", "slices"),
        ("start = start or block.offset", "start = block.offset", "slices"),
    ],
    "deepcomp/entries.py": [
        ('int(record.layout == "dense" and decoder.codebook[0] == 0)',
         'int(record.layout == "dense")', "multiply"),
        ("if are_kept(codebook[n_zeros:]).all() and not record.zero_signs:",
         "if are_kept(codebook[n_zeros:]).all():", "multiply"),
        ("kept = are_kept(values)", "kept = values == values", "multiply"),
    ],
    "deepcomp/layouts.py": [
        ("n_values >= _CODEBOOK", "n_values > _CODEBOOK", "multiply"),
        ("if n_values > 32:", "if n_values > 33:", "multiply"),
    ],
    "deepcomp/multiply.py": [
        ("if np.may_share_memory(out, x):", "if out is x:", "multiply"),
        ("out + 4 * out_stride", "out + 4 * x_stride", "guard_pages"),
        ("if shape[1] > _MAX_COLUMNS:", "if shape[1] > 2 * _MAX_COLUMNS:", "multiply"),
    ],
    "deepcomp/convolution.py": [
        ("np.tile(group * n_inputs * plane,", "np.tile(group * plane,", "layers"),
    ],
    "deepcomp/encode.py": [
        ('plan.layout == "raw" or nbytes >= p.nbytes', 'plan.layout == "raw" or nbytes > p.nbytes',
         "encode"),
        ("prod(shape) > block_numel", "prod(shape) >= block_numel", "encode"),
    ],
    "deepcomp/plans.py": [
        ("counts.n_kept - n_negative, gap_bits", "counts.n_kept, gap_bits", "encode"),
    ],
    "deepcomp/counts.py": [
        ("if runs.max(initial=0) < 1 << 16:", "if runs.max(initial=0) <= 1 << 16:", "encode"),
        ("found[: counts.size] += counts", "pass", "encode"),
        ("(lengths, some)] += n", "(lengths, some)] = n", "parts"),
    ],
    "deepcomp/relindex.py": [
        ("if runs.min(initial=0) < 0:", "if runs.min(initial=0) < -1:", "relindex"),
        ("if np.diff(positions).min(initial=1) < 1:", "if np.diff(positions).min(initial=1) < 0:",
         "relindex"),
        ("@ np.arange(len(table))", "@ np.arange(1, 1 + len(table))", "relindex"),
    ],
    "deepcomp/huffman.py": [
        ("if min(sizes, default=1) < 1:", "if min(sizes, default=1) < 0:", "huffman"),
        ("if counts.min() < 0 or", "if", "native_arguments"),
        ("if n_bytes < 0:", "if n_bytes < -1:", "huffman"),
    ],
    "deepcomp/prune.py": [
        ("n_left -= ties.size", "n_left -= 0", "prune"),
        ("max(pattern, 1), out", "pattern, out", "prune"),
        ("if float(rounded) < threshold:", "if float(rounded) <= threshold:", "prune"),
        ("below[digit] - counts[digit]", "below[digit] - counts[digit] + 1", "prune"),
    ],
    "deepcomp/cut_passes.py": [
        ("zip(reversed(parts), reversed(digits), strict", "zip(parts, digits, strict", "parts"),
        ("v, -exponent) - mean) ** 2", "v, -exponent)) ** 2", "pipeline"),
    ],
    "deepcomp/sharing.py": [
        ("rounded > middles", "rounded < middles", "sharing"),
        ("{int(patterns[missing]):#x}", "{int(patterns[missing - 1]):#x}", "sharing"),
    ],
    "deepcomp/codebook_passes.py": [
        ("MAX_CODEBOOK - (n_kept < numel)", "MAX_CODEBOOK", "pipeline"),
        ("zero[0] -= patterns.size", "zero[0] -= 0 * patterns.size", "pipeline"),
    ],
    "deepcomp/checksums.py": [
        ("if data_end <= PAGE:", "if data_end < PAGE:", "checksums"),
    ],
    "deepcomp/writer.py": [
        ("if self._offset % PAGE == 0:", "if self._offset == PAGE:", "container"),
        ("if encode_index(reader.index) != encode_index(self._index):", "if False:", "saving"),
    ],
    "deepcomp/files.py": [
        ("os.fsync(self._file.fileno())", "pass", "saving"),
        ("fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_UN | fcntl.LOCK_NB", "saving"),
        ("if status.st_size < self.nbytes else",
         "if status.st_size + 4096 < self.nbytes else", "concurrency"),
        ("mode &= 0o707 | (mode & 0o007) << 3", "mode &= 0o777", "saving"),
    ],
    "deepcomp/arrays.py": [
        ("if (mask_patterns[~is_kept] != 0).any():", "if False:", "importers"),
        ("(pointer, dtype, array.shape, array.strides)", "(pointer, dtype, array.shape)", "model"),
    ],
    "deepcomp/nn/layers.py": [
        ("(bias.numel() == n_out and _is_simple(bias))", "(bias.numel() == n_out)", "layers"),
        ("return height // 2, height - height // 2,", "return height - height // 2, height // 2,",
         "layers"),
    ],
    "deepcomp/nn/pruner.py": [
        ("self.masks[name] & ~low", "~low", "pruner"),
        ("self._fraction = self._scheduled()", "pass", "pruner"),
    ],
    "deepcomp/nn/shared.py": [
        ("dense.flatten().double()", "dense.flatten().bfloat16().double()", "shared"),
        ("new.shape != own.shape or new.dtype != own.dtype", "new.shape != own.shape", "shared"),
    ],
    "deepcomp/nn/schedules.py": [
        ("// every * every / (end", "/ (end", "pruner"),
    ],
}  # fmt: skip

# path, module -> (old, new, tests) or (old, new, tests, instruction set)
NATIVE = {
    ("deepcomp/_native/huffman_decode.h", "huffman"): [
        ("(s->in_end - s->in - 8) / 7", "(s->in_end - s->in - 1) / 7", "guard_pages"),
        ("s->out - 2) / (6", "s->out + 4) / (6", "guard_pages"),
        ("s->out - 1) / (3", "s->out) / (3", "guard_pages"),
        ("k < 4 && k < left", "k < 4", "guard_pages"),
        ("in[0] >> used == 0", "1", "huffman"),
        ("in + 1 == s->in_end", "in + 1 <= s->in_end", "huffman"),
    ],
    ("deepcomp/_native/huffman_encode.h", "huffman"): [
        ("bits >>= used & 56u;", "bits >>= used & 48u;", "huffman"),
        ("leaf < n && c <= p;", "leaf < n && c < p;", "kernels_agree"),
        ("partial[i & 3][p[i * stride]]++", "partial[i & 3][p[i]]++", "huffman"),
        ("if (lengths[s] == 0)", "if (lengths[s] > 12)", "huffman"),
    ],
    ("deepcomp/_native/scatter.h", "relindex"): [
        ("if (n_gaps && gaps[n_gaps - 1] == escape)", "if (0)", "kernels_agree"),
        ("skipped + n_kept > numel ?", "skipped + n_kept > numel + 1 ?", "kernels_agree"),
        ("if (pos < numel)", "if (pos + 1 < numel)", "kernels_agree"),
    ],
    ("deepcomp/_native/relindex.pyx", "relindex"): [
        ("while run >= escape:", "while run > escape:", "relindex"),
        ("status = status + 2 if status else 0", "status = status + 1 if status else 0", "encode"),
        ("first += numel", "first = numel", "kernels_agree"),
    ],
    ("deepcomp/_native/entries.h", "matmul"): [
        ("w.column >= w.n_columns", "w.column > w.n_columns", "multiply"),
        ("((__mmask64)1 << (n_gaps - i)) - 1 :", "(((__mmask64)1 << (n_gaps - i)) - 1) >> 1 :",
         "multiply", "avx512"),
        ("_mm512_cmpge_epi32_mask(found, n_columns)", "_mm512_cmpgt_epi32_mask(found, n_columns)",
         "multiply", "avx512"),
        ("w.n + 16 <= room", "w.n <= room", "guard_pages", "avx512"),
    ],
    ("deepcomp/_native/windows_layout.h", "matmul"): [
        ("offset < last_offset ? offset : last_offset", "offset", "guard_pages"),
        ("_mm512_andnot_si512(_mm512_set1_epi32(0xFF), least), last_column)",
         "_mm512_andnot_si512(_mm512_set1_epi32(0xFF), least), _mm512_set1_epi32(-1))",
         "guard_pages", "avx512"),
        ("(column | (label + 1) <<", "(column | label <<", "kernels_agree"),
    ],
    ("deepcomp/_native/section_windows.h", "matmul"): [
        ("w->walk.n_before -= n_entries;", "", "kernels_agree"),
        ("w.walk.column = position % s->n_columns;", "w.walk.column = 0;", "kernels_agree"),
    ],
    ("deepcomp/_native/windows.h", "matmul"): [
        ("bits -= 1 << 6;", "", "kernels_agree"),
        ("if (in->n_columns >= window)", "if (in->n_columns + 1 >= window)", "guard_pages", "avx2"),
    ],
    ("deepcomp/_native/windows_x86.h", "matmul"): [
        ("_mm256_and_ps(weight, _mm256_castsi256_ps(used))", "weight", "multiply", "avx2"),
        ("_mm256_and_ps(input, _mm256_castsi256_ps(used))", "input", "multiply", "avx2"),
        ("8 * group + lane < in->n_rows; lane++", "lane < 8; lane++", "guard_pages", "avx2"),
        ("_mm512_cmpge_epu32_mask(word, least))", "_mm512_cmpgt_epu32_mask(word, least))",
         "multiply", "avx512"),
        ("used = _mm512_cmpge_epu16_mask(slots, least)", "used = ~(__mmask32)0", "multiply",
         "avx512"),
    ],
    ("deepcomp/_native/blocks.h", "matmul"): [
        ("in->columns[p] < bound", "in->columns[p] <= bound", "kernels_agree"),
        ("(place & -group_rows) + order[place]", "order[place]", "multiply"),
    ],
    ("deepcomp/_native/tiles.h", "matmul"): [
        ("block ? out[column + i] :", "0 ? out[column + i] :", "multiply"),
    ],
    ("deepcomp/_native/tiles_template.h", "matmul"): [
        ("DC_TILE_OP(set1_ps)(bias[row])", "DC_TILE_OP(set1_ps)(bias[place])", "guard_pages",
         "avx2"),
    ],
    ("deepcomp/_native/tiles_few_values.h", "matmul"): [
        ("(__mmask16)(n >= 16 ? 0xFFFF : (1 << n) - 1)", "(__mmask16)0xFFFF", "guard_pages",
         "avx512"),
    ],
    ("deepcomp/_native/turn.h", "matmul"): [
        ("x + (i + j < n ? i + j : n - 1) * stride", "x + (i + j) * stride", "guard_pages", "avx2"),
        ("n_rows = n - i < 8 ? n - i : 8", "n_rows = 8", "guard_pages", "avx2"),
    ],
    ("deepcomp/_native/matmul.pyx", "matmul"): [
        ("if n == room:", "if n >= room:", "multiply"),
        ("position % n_columns, before", "0, before", "kernels_agree"),
    ],
    ("deepcomp/_native/convolve.h", "convolve"): [
        ("n_pixels % 16 == 0", "n_pixels % 8 == 0", "guard_pages"),
        ("row >= 0 && row < g->height &&", "row >= 0 && row <= g->height &&", "guard_pages"),
    ],
    ("deepcomp/_native/kmeans.pyx", "kmeans"): [
        ("(candidate == least and a == r)", "(candidate == least and a > r)", "sharing"),
        ("key > thresholds[at + step - 1]", "key >= thresholds[at + step - 1]", "sharing"),
        ("if n == distinct.shape[0]:", "if n + 1 == distinct.shape[0]:", "sharing"),
        ("<uint64_t>0xFFFFFFFF", "<uint64_t>0x7FFFFFFF", "sharing"),
    ],
    ("deepcomp/_native/prune.pyx", "prune"): [
        ("(v & mask_t) >= least_t", "(v & mask_t) > least_t", "prune"),
        ("prefix < 0 or", "prefix <= 0 or", "prune"),
    ],
}  # fmt: skip

# What nothing can notice, and why.
EQUIVALENT = [
    Fault(
        "deepcomp/layouts.py", "_AVX512 and (n_values > 32", "_AVX512 and (n_values > 31",
        "multiply", why="32 values fit in windows of either kind, which differ in speed alone",
    ),
    Fault(
        "deepcomp/plans.py", "best.nbytes < raw.nbytes", "best.nbytes <= raw.nbytes", "encode",
        why="with its directory, a byte or more, what is as large is larger than the entries",
    ),
    Fault(
        "deepcomp/_native/convolve.h", "if (is_packed && plan.width > n_pixels - pixel)", "if (0)",
        "guard_pages", "convolve",
        why="of a multiple of 16 pixels, no tile is wider than what is left",
    ),
]  # fmt: skip

FAULTS = [
    *(Fault(path, *fault) for path, faults in PYTHON.items() for fault in faults),
    *(
        Fault(path, old, new, tests, module, *isa)
        for (path, module), faults in NATIVE.items()
        for old, new, tests, *isa in faults
    ),
    *EQUIVALENT,
]
