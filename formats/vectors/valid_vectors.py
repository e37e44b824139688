"""The files that a reader must accept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from writer import (
    PATTERNS,
    Parts,
    alias,
    canonical,
    choose,
    file_of,
    noise,
    packed,
    raw,
    sparse_values,
    spread,
    summed,
    zlib_stream,
    zlib_stream_with_match,
)

Valid = dict[str, tuple[bytes, dict[str, str], list[Parts]]]


def valid_vectors() -> Valid:
    """All valid vectors: the file, its metadata and its tensors."""
    vectors: Valid = {}

    def add(name: str, *tensors: Parts, metadata: dict[str, str] | None = None, **other: Any):
        assert name not in vectors, name
        vectors[name] = (file_of(tensors, metadata, **other), metadata or {}, list(tensors))

    add_dtypes(add)
    add_codes(add)
    add_shapes_and_blocks(add)
    add_gaps_and_signs(add)
    add_index(add)
    add_checksums(add)
    add_kept_rows(add)
    return vectors


def add_dtypes(add: Callable[..., None]) -> None:
    """Each dtype in each layout."""
    for dtype, patterns in PATTERNS.items():
        with_zero = [0, *patterns]
        values = choose(with_zero, 12)
        add(f"raw_{dtype}", raw("w", dtype, [3, 4], values))
        values = choose(with_zero, 60)
        add(f"dense_codebook_{dtype}", packed(dtype, values, shape=[5, 12], codebook=True))
        add(f"dense_planes_{dtype}", packed(dtype, values, shape=[4, 15]))
        values = sparse_values(patterns, 90)
        add(f"sparse_codebook_{dtype}", packed(dtype, values, codebook=True, gap_bits=3))
        add(f"sparse_planes_{dtype}", packed(dtype, values, shape=[9, 10], gap_bits=2))


def add_codes(add: Callable[..., None]) -> None:
    """Codebooks, codes and bitstreams (sections 6 and 7)."""
    for size in (1, 2, 3, 4, 8, 16, 32, 64, 128, 255, 256):
        codebook = [3 + 7 * i for i in range(size)]
        values = choose(codebook, 300) + codebook
        add(f"codebook_{size}_dense", packed("uint16", values, codebook=codebook))
    for size in (1, 2, 255, 256):
        codebook = [0x3F800000 + 5 * i for i in range(size)]
        values = [value for kept in codebook for value in (0, kept, 0)]
        add(f"codebook_{size}_sparse", packed("float32", values, codebook=codebook, gap_bits=2))
    add("codebook_0_sparse", packed("float32", [0] * 10, codebook=[], gap_bits=5))
    add("codebook_entry_not_used", packed("int8", [1, 2, 1, 9], codebook=[1, 2, 5, 9, 200]))
    add("codebook_larger_than_tensor", packed("int16", [7], codebook=[*range(256)]))

    add("code_one_symbol_labels", packed("float16", [0x3C00] * 20, codebook=True))
    values = [0, 0, 5, 0, 0, 6, 0, 0, 7]
    add("code_one_symbol_gaps", packed("uint8", values, codebook=True, gap_bits=2))
    add("code_one_symbol_255_plane", packed("uint8", [255] * 9))
    add("code_one_symbol_everywhere", packed("uint32", [0, 258] * 9, gap_bits=4))
    values = [0x3F800000 | n << 8 | i % 7 for i, n in enumerate(noise(80, 256))]
    planes = packed("float32", values, stored=("plane 1",))  # Huffman, stored, one, one
    add("code_mixed_planes", planes)
    values = noise(100, 65536)
    add("code_stored_planes_dense", packed("uint16", values, stored=("plane 0", "plane 1")))
    values = sparse_values([*range(1, 65536, 77)], 200)
    stored = ("plane 0", "plane 1")
    add("code_stored_planes_sparse", packed("uint16", values, gap_bits=3, stored=stored))
    values = noise(9000, 256)
    add("code_stored_blocks", packed("uint8", values, block_numel=4096, stored=("plane 0",)))
    add("code_stored_one_symbol", packed("uint8", [9] * 30, stored=("plane 0",)))
    add("code_stored_5000", packed("uint8", noise(5000, 256), stored=("plane 0",)))
    values = [
        symbol for symbol in range(13) for _ in range(2 ** (12 - symbol) if symbol < 12 else 1)
    ]
    lengths = [*range(1, 13), 12]
    add("code_length_12", packed("uint8", values, lengths={"plane 0": lengths}))
    values = [5, 250, 17, 3, 250, 5, 128, 5]
    add("code_m_251", packed("uint8", values))
    lengths = [8] * 256
    add("code_m_256_all_8_bits", packed("uint8", noise(50, 256), lengths={"plane 0": lengths}))
    add("code_two_symbols", packed("uint8", [0, 1, 1, 0, 1, 0, 0, 0, 1]))
    add("code_first_symbols_missing", packed("int8", [254, 255, 255, 254, 254, 255]))
    for count in (1, 7, 8, 9, 16):  # padding of 7, 1, 0, 7, 0 bits
        add(f"bitstream_{count}_bits", packed("uint8", ([6, 7] * 8)[:count], lengths=SIX_SEVEN))
    for count in (4095, 4096, 4097, 4098, 4099, 5000):
        values = choose([1, 2, 4, 8], count, seed=count)
        add(f"quarters_labels_{count}", packed("uint16", values, codebook=True))
    values = choose([1, 2], 4097)
    add("quarters_planes", packed("uint16", [value << 8 | 7 for value in values]))
    values = [value for n in noise(4096, 2) for value in [0] * n + [1]]
    add("quarters_gaps", packed("bool", values, codebook=True, gap_bits=2))
    values = [value for n in noise(4095, 2) for value in [0] * n + [1]]
    add("quarters_gaps_4095", packed("bool", values, codebook=True, gap_bits=2))
    values = choose([3, 4, 5], 9000)
    add("quarters_and_blocks", packed("int8", values, codebook=True, block_numel=4096))
    values = sparse_values([3, 4, 5], 40000, 5)
    blocks = packed("int8", values, codebook=True, block_numel=25000, gap_bits=4)
    add("quarters_and_one_bitstream", blocks)


SIX_SEVEN = {"plane 0": [0, 0, 0, 0, 0, 0, 1, 1]}


def add_shapes_and_blocks(add: Callable[..., None]) -> None:
    """Shapes, blocks and pages."""
    add("empty_model")
    add("empty_tensor", raw("e", "float32", [0], []), raw("f", "bool", [3, 0, 2], []))
    add("empty_tensor_huge_sizes", raw("e", "float64", [2**60 - 1, 0, 1], []))
    add("scalar_raw", raw("s", "float64", [], [0x400921FB54442D18]))
    add("scalar_dense_codebook", packed("float32", [0x3F800000], shape=[], codebook=True))
    add("scalar_dense_planes", packed("int64", [2**64 - 2], shape=[]))
    add("scalar_sparse", packed("float16", [0x3C00], shape=[], gap_bits=8))
    add("scalar_sparse_zero", packed("float16", [0], shape=[], gap_bits=8))
    ones = [1] * 26
    add("shape_32_dimensions", packed("uint8", [*range(60)], shape=[2, 3, *ones, 1, 5, 1, 2]))
    add("shape_32_dimensions_raw", raw("r", "bool", [1] * 32, [1]))
    add("dense_all_zero", packed("float32", [0] * 33, codebook=True))
    add("dense_all_zero_planes", packed("float32", [0] * 33))
    for name, options in [("planes", {}), ("codebook", {"codebook": True})]:
        for dtype, patterns in PATTERNS.items():
            values = sparse_values(patterns, 8200, 50)  # two blocks and a short one
            dense = packed(dtype, values, block_numel=4096, **options)
            add(f"blocks_dense_{name}_{dtype}", dense)
            sparse = packed(dtype, values, block_numel=4096, gap_bits=5, **options)
            add(f"blocks_sparse_{name}_{dtype}", sparse)
        add(f"sparse_all_zero_{name}", packed("float32", [0] * 33, gap_bits=4, **options))
        zero_blocks = packed("float32", [0] * 9000, gap_bits=4, block_numel=4100, **options)
        add(f"sparse_all_zero_{name}_blocks", zero_blocks)
        values = choose([1, 2, 3], 33)
        add(f"sparse_no_zero_{name}", packed("uint16", values, gap_bits=4, **options))
    none = [0] * 4096
    values = none * 2 + [*none[:4094], 5, 6] + none * 3 + [0, 7]
    blocks = packed("uint8", values, codebook=True, gap_bits=8, block_numel=4096)
    add("blocks_without_kept_entries", blocks)
    add("blocks_of_ones", packed("bool", [1] * 9000, codebook=True, block_numel=5000))
    values = choose([0, 3, 9], 4097)
    add("block_numel_one_less", packed("uint8", values, codebook=True, block_numel=4096))
    sparse = packed("uint8", values, codebook=True, block_numel=4096, gap_bits=2)
    add("block_numel_one_less_sparse", sparse)
    values = choose([0, 3, 9], 8192)
    add("block_numel_divisor", packed("uint8", values, codebook=True, block_numel=4096))
    add("block_numel_absent_4097", packed("uint8", values[:4097], codebook=True))
    million = 2**20
    add("block_of_2_20", packed("uint8", [7] * million, codebook=True))
    add("block_of_2_20_sparse", packed("bfloat16", [0] * million, gap_bits=8))
    two = packed("uint8", [0] * (million + 1), codebook=[0, 1], block_numel=million)
    add("block_numel_2_20", two)
    last = [0] * (million - 1) + [1]
    add("block_of_2_20_last_kept", packed("uint8", last, codebook=True, gap_bits=8))
    add("many_tensors", *[raw(f"t{i}", "uint8", [1], [i]) for i in range(40)])
    add("n_kept_of_3_bytes", packed("bool", [1] * 20000, codebook=True, gap_bits=2))
    layouts = [
        raw("a", "int16", [3], [1, 2, 65535]),
        packed("float32", choose(PATTERNS["float32"], 30), name="b", codebook=True),
        packed("uint16", sparse_values([9, 99], 50), name="c", gap_bits=3),
        raw("d", "float64", [0, 4], []),
        alias("e", "b"),
    ]
    add("all_layouts", *layouts)

    for name, count in [("65536", 65524), ("65537", 65525), ("65535", 65523)]:
        add(f"pages_data_end_{name}", raw("w", "uint8", [count], [n % 251 for n in range(count)]))
    filler = raw("filler", "uint8", [131060], [n * n % 253 for n in range(131060)])
    crossing = packed("uint16", choose([0, 3, 9, 700], 300), codebook=True)
    add("pages_section_crosses", filler, crossing)


def add_gaps_and_signs(add: Callable[..., None]) -> None:
    """Gaps, escapes and zero signs (sections 7.3 and 7.4)."""
    for bits in range(2, 9):
        values = sparse_values([11, 12, 13, 200], 700, 2**bits // 2 + 1, seed=bits)
        add(f"gap_bits_{bits}", packed("uint8", values, codebook=True, gap_bits=bits))
    for bits, zeros in [(2, 3), (2, 30), (3, 7), (3, 70), (8, 255), (8, 1020)]:
        values = [0] * zeros + [1] + [0] * (zeros - 1) + [2] + [0] * (zeros + 1) + [3, 0]
        tensor = packed("uint8", values, codebook=True, gap_bits=bits)
        add(f"gap_escapes_{bits}_bits_{zeros}_zeros", tensor)
    tensor = packed("uint8", [0, 0, 4, 0, 0, 0, 0, 5], codebook=True, gap_bits=2)
    add("gap_walk_ends_at_block_end", tensor)
    values = [0] * 4095 + [4] + [0] * 4095 + [5] + [0] * 9 + [6]
    tensor = packed("uint8", values, codebook=True, gap_bits=7, block_numel=4096)
    add("gap_walk_ends_at_each_block_end", tensor)
    tensor = packed("uint8", values, gap_bits=2, block_numel=4096)  # 1365 escapes, then 0
    add("gap_escapes_end_at_block_end", tensor)
    values = [4, *[0] * 8000, 5]  # no escapes for zeros that reach into the next block
    tensor = packed("uint8", values, codebook=True, gap_bits=2, block_numel=4096)
    add("gap_zeros_across_blocks", tensor)
    add("gap_first_and_last_kept", packed("uint8", [1, *[0] * 20, 2], gap_bits=4))
    add("gap_long_tail", packed("uint8", [1, *[0] * 5000], gap_bits=2))
    add(
        "gap_alphabet_full",
        packed("uint8", [v for n in range(8) for v in [0] * n + [9]], gap_bits=3),
    )

    minus_zero = {"float16": 0x8000, "bfloat16": 0x8000, "float32": 1 << 31, "float64": 1 << 63}
    minus_zero |= {"float8_e4m3fn": 0x80, "float8_e5m2": 0x80}
    for dtype, minus in minus_zero.items():
        patterns = [p for p in PATTERNS[dtype] if p != minus]
        values = sparse_values(patterns, 4199, 4)
        mask = noise(4199, 2, 5)
        values = [v or minus * bit for v, bit in zip(values, mask, strict=True)]
        tensor = packed(dtype, values[:101], codebook=True, gap_bits=3, signs=True)
        add(f"zero_signs_codebook_{dtype}", tensor)
        tensor = packed(dtype, values[:101], shape=[101, 1], gap_bits=2, signs=True)
        add(f"zero_signs_planes_{dtype}", tensor)
        tensor = packed(dtype, values, gap_bits=2, signs=True, block_numel=4100, codebook=True)
        add(f"zero_signs_blocks_{dtype}", tensor)
    minus, one = 0x8000, 0x3C00
    add(
        "zero_signs_stored",
        packed("float16", values16(), gap_bits=2, signs=True, stored=("signs",)),
    )
    add("zero_signs_none_set", packed("float16", [0, one, 0, 0], gap_bits=2, signs=True))
    add("zero_signs_all_set", packed("float16", [minus] * 16, gap_bits=2, signs=True))
    add("zero_signs_all_set_padding", packed("float16", [minus] * 3, gap_bits=2, signs=True))
    add("zero_signs_no_zero", packed("float16", [one] * 5, gap_bits=2, signs=True))
    for zeros in (7, 8, 9):
        values = [one, *[minus] * zeros]
        add(f"zero_signs_{zeros}_zeros", packed("float16", values, gap_bits=2, signs=True))
    bits = noise(33000, 40)
    values = [minus if bit == 0 else 0 for bit in bits] + [one]
    add("zero_signs_quarters", packed("float16", values, gap_bits=8, signs=True, codebook=True))
    values = [0, minus, one, 0, minus, minus]
    add("negative_zero_kept", packed("float16", values, codebook=True, gap_bits=2))
    add("negative_zero_kept_planes", packed("float16", values, gap_bits=2))
    add("negative_zero_dense", packed("float16", values, codebook=True))
    nans = [0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0xFF800001, 0xFFC12345, 0xFFFFFFFF]
    add("nan_payloads_raw", raw("n", "float32", [6], nans))
    add("nan_payloads_dense", packed("float32", nans * 3, codebook=True))
    add("nan_payloads_sparse_planes", packed("float32", [*nans, 0, 0], gap_bits=2))
    infinities = [0x7FF0000000000000, 0xFFF0000000000000, 0, 1 << 63]
    add("infinities", packed("float64", infinities * 5, codebook=True))


def values16() -> list[int]:
    """Kept entries, 0.0 and -0.0 of dtype float16."""
    return [(0, 0x8000, 0x3C00)[n] for n in noise(90, 3)]


# The zlib stream of the index of `index_deflated`, made once with zlib 1.2.13, level 9.
DEFLATED = (
    "78daadd2cd0a83301004e077d973107f5ab57915f1b0e052851a4bb22212f2ee8df75e8439ee2cf39d26d22aca"
    "132b938dc9908a0b9b0f648748939e5f214b8bd3aa25431f3eb75d73e0f9c8a7e3f5fae6547c5116872cef5973"
    "1e66be6a433d26730fa910488d401a04f240204f04d222900e81f408e405191b66b2ff373ba61f0c1d123f"
)


def add_index(add: Callable[..., None]) -> None:
    """The index (section 4): metadata, names, tied weights, zlib streams."""
    one = raw("w", "uint8", [1], [7])
    add("metadata", one, metadata={"": "", "a": "b", "format": "pt", "note": "two\nlines"})
    odd = {chr(c): chr(c) * 2 for c in [*range(0x20), 0x22, 0x2F, 0x5C, 0x7F, 0x80, 0x2028]}
    add("metadata_escapes", one, metadata=odd)
    # By code point U+FF5E comes before U+1F600; by UTF-16 code unit it comes after.
    add("metadata_code_point_order", one, metadata={"\uff5e": "1", "\U0001f600": "2"})
    add("metadata_empty_model", metadata={"key": "value"})
    add("metadata_looks_like_index", one, metadata={"tensors": "[]", "metadata": "{}"})
    add("metadata_70000_bytes", one, metadata={"long": "0123456789" * 7000})
    add("name_empty", raw("", "uint8", [1], [7]))
    names = [
        "gr\u00f6\u00dfe",
        "\u91cd\u307f",
        "\U0001f9e0",
        "e\u0301",
        "\u00e9",
        "\ufeff",
        "\uffff",
    ]
    add("name_not_ascii", *[raw(name, "uint8", [1], [i]) for i, name in enumerate(names)])
    names = ["\x00", "\x1f", "\n", 'quote"', "back\\slash", "\x7f", "a/b", " "]
    add("name_control_characters", *[raw(name, "uint8", [1], [i]) for i, name in enumerate(names)])
    add("name_not_sorted", raw("b", "uint8", [1], [1]), raw("a", "uint8", [1], [2]))
    add("name_long", raw("layer." * 500, "uint8", [1], [1]))

    tied = packed("float32", choose([0, 1 << 30], 20), name="embedding", codebook=True)
    add("tied_weights", tied, alias("head", "embedding"))
    add("tied_weights_twice", tied, alias("x", "embedding"), one, alias("y", "embedding"))
    add("tied_weights_raw", one, alias("", "w"))
    add("tied_weights_empty", raw("e", "float32", [2, 0], []), alias("f", "e"))
    add("tied_weights_sparse", packed("int8", [0, 0, 3], gap_bits=2), alias("z", "weight"))

    index = canonical({"metadata": {}, "tensors": [one.object()]})
    add("index_window_256", one, stream=zlib_stream(index, b"\x08\x1d"))
    twice = {"a": "0123456789" * 60, "b": "0123456789" * 60}
    index = canonical({"metadata": twice, "tensors": [one.object()]})
    far = zlib_stream_with_match(index, b"\x08\x1d", index.index(b'"b":"') + 5, 607)
    add("index_distance_above_window", one, metadata=twice, stream=far)
    index = canonical({"metadata": {}, "tensors": [one.object()]})
    add("index_many_zlib_blocks", one, stream=zlib_stream(index, block_nbytes=10))
    add("index_level_flag", one, stream=zlib_stream(index, b"\x78\xda"))
    add("index_deflated", *deflated_tensors(), stream=bytes.fromhex(DEFLATED))


def add_checksums(add: Callable[..., None]) -> None:
    """Checksums of sections (section 4, version 1.1)."""
    one = raw("w", "uint8", [1], [7])
    three, six = [0, 1 << 30, 7], choose([0, 1 << 30, 7], 30)
    add("crc32_raw", summed(raw("w", "float32", [3], three)))
    add("crc32_dense", summed(packed("float32", six, codebook=True)))
    add("crc32_dense_planes", summed(packed("float32", six)))
    add("crc32_sparse", summed(packed("float32", six, codebook=True, gap_bits=2)))
    add("crc32_sparse_planes", summed(packed("float32", six, gap_bits=2)))
    signs = packed("float16", values16(), gap_bits=3, signs=True)
    add("crc32_sparse_zero_signs", summed(signs))
    blocks = packed("uint8", sparse_values([4, 5], 9000), gap_bits=3, block_numel=4096)
    add("crc32_sparse_blocks", summed(blocks))
    add("crc32_tied_weights", summed(raw("w", "uint8", [1], [7])), alias("v", "w"))
    empty = raw("e", "float32", [2, 0], [])
    add("crc32_beside_empty_tensor", empty, summed(raw("w", "uint8", [1], [7])))
    add(
        "crc32_of_one_of_three",
        one,
        summed(raw("v", "uint8", [2], [8, 9])),
        raw("u", "bool", [], [1]),
    )
    add("crc32_0", summed(raw("w", "uint8", [4], [0x9D, 0x0A, 0xD9, 0x6D])))
    add("crc32_2_32_less_1", summed(raw("w", "uint8", [4], [255] * 4)))
    long = raw("w", "uint8", [70000], noise(70000, 256))
    last = raw("v", "uint8", [3000], noise(3000, 256, 2))
    add("crc32_of_two_pages", summed(long), summed(last))


def add_kept_rows(add: Callable[..., None]) -> None:
    """Tensors of which not all rows are stored (section 7.5, version 1.1)."""

    def dense(n_rows: int, *rest: int, **options: Any) -> Parts:
        count = n_rows
        for extent in rest:
            count *= extent
        dtype, codebook = options.pop("dtype", "float32"), options.pop("codebook", True)
        values = options.pop("values", None) or choose(PATTERNS[dtype], count)
        return packed(dtype, values, shape=[n_rows, *rest], codebook=codebook, **options)

    add("rows_dense_codebook", spread(dense(3, 4), [0, 1, 1, 0, 1]))
    add("rows_dense_planes", spread(dense(3, 4, codebook=None), [1, 0, 1, 0, 1]))
    zeros = [0, 1 << 30, 0, 7, 0, 0]
    add("rows_dense_with_zeros", spread(dense(2, 3, values=zeros), [0, 1, 1]))
    sparse = {"values": sparse_values([7, 1 << 30], 40), "gap_bits": 2}
    add("rows_sparse_codebook", spread(dense(4, 10, **sparse), [1, 1, 0, 1, 1]))
    sparse = {"values": sparse_values([7, 1 << 30], 40), "gap_bits": 2, "codebook": None}
    add("rows_sparse_planes", spread(dense(4, 10, **sparse), [0, 0, 0, 1, 1, 1, 1]))
    signs = {"values": values16()[:12], "gap_bits": 3, "signs": True, "dtype": "float16"}
    add("rows_zero_signs", spread(dense(3, 4, **signs), [1, 0, 1, 1]))
    add("rows_of_negative_zeros", spread(dense(2, 3, values=[1 << 31] * 6), [0, 1, 0, 1]))
    add("rows_all_zero", spread(dense(2, 3, values=[0, 0, 0, 7, 7, 7]), [1, 0, 1]))
    add("rows_without_kept_entries", spread(dense(2, 3, values=[0] * 6, gap_bits=2), [1, 0, 1]))
    for dtype in PATTERNS:
        add(f"rows_{dtype}", spread(dense(2, 5, dtype=dtype), [0, 1, 0, 1]))
    for n in (2, 7, 8, 9, 16, 17):
        add(f"rows_first_of_{n}", spread(dense(1, 3), [1] + [0] * (n - 1)))
        add(f"rows_last_of_{n}", spread(dense(1, 3), [0] * (n - 1) + [1]))
        add(
            f"rows_all_but_one_of_{n}",
            spread(dense(n - 1, 3), [1] * (n // 2) + [0] + [1] * ((n - 1) // 2)),
        )
    add("rows_of_one_dimension", spread(dense(5), [0, 1, 1, 0, 1, 0, 0, 0, 1, 1]))
    add("rows_of_four_dimensions", spread(dense(2, 2, 1, 3), [1, 0, 0, 1]))
    add("rows_of_width_1", spread(dense(4, 1), [1, 0, 1, 1, 1]))
    some = [0, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1]
    for name, options in {
        "dense": {"values": choose([3, 9], 10000), "dtype": "uint16"},
        "sparse": {"values": sparse_values([4, 5], 10000), "dtype": "uint8", "gap_bits": 3},
        "planes": {"values": noise(10000, 40), "dtype": "uint8", "codebook": None},
    }.items():
        parts = dense(10, 1000, block_numel=4096, **options)
        add(f"rows_blocks_{name}", spread(parts, some))
    quarters = dense(10, 1000, values=choose([3, 9, 8], 10000), dtype="uint8")
    add("rows_quarters", spread(quarters, some))
    least = dense(1, 2**20, values=[7] * 2**20, dtype="uint8")
    assert len(least.section()) == 6  # 7 with the bitmap, so there can be 7 * 2^20 entries
    add("rows_as_few_bytes_as_can_be", spread(least, [0, 0, 0, 0, 0, 0, 1]))
    add("rows_crc32", summed(spread(dense(3, 4), [0, 1, 1, 0, 1])))
    tied = spread(dense(2, 2), [1, 0, 1])
    add("rows_tied", tied, alias("v", "weight"), raw("w", "uint8", [2], [1, 2]))


def deflated_tensors() -> list[Parts]:
    """The tensors of `index_deflated`."""
    return [raw(f"layer.{i}.weight", "int16", [2], [i, 300 * i]) for i in range(12)]
