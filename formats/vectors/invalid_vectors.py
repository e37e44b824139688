"""The files that a reader must refuse; each breaks one rule."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

from valid_vectors import SIX_SEVEN
from writer import (
    DROP,
    Parts,
    alias,
    bitstream,
    build,
    canonical,
    choose,
    file_of,
    huffman_code,
    noise,
    packed,
    raw,
    spread,
    stored_deflate,
    summed,
    varint,
    zlib_stream,
)

Invalid = dict[str, tuple[str, bytes]]


def invalid_vectors() -> Invalid:
    """All invalid vectors: the section of dcz.md that is broken, and the file."""
    vectors: Invalid = {}

    def add(name: str, section: str, data: bytes) -> None:
        assert name not in vectors, name
        vectors[name] = (section, data)

    break_container(add)
    break_zlib(add)
    break_json(add)
    break_objects(add)
    break_checksums(add)
    break_kept_rows(add)
    break_codes(add)
    break_sections(add)
    return vectors


def dense(**options: Any) -> Parts:
    """A dense tensor with a codebook of 3, to be broken."""
    values = options.pop("values", [3, 9, 3, 0, 3, 9, 3, 3, 0, 3, 9, 3])
    return packed(options.pop("dtype", "uint16"), values, codebook=True, **options)


def sparse(**options: Any) -> Parts:
    """A sparse tensor with a codebook of 3 and escapes, to be broken."""
    values = [0, 5, 0, 0, 0, 0, 6, 0, 5, 5, 0, 7, 5, 0, 0, 0, 0, 0, 5, 0]
    values = options.pop("values", values)
    options = {"codebook": True, "gap_bits": 2, **options}
    return packed(options.pop("dtype", "uint16"), values, **options)


def changed(parts: Parts, **changes: Any) -> Parts:
    """Change parts of the section; other names are keys of the object."""
    for name, value in changes.items():
        if name in ("bitmap", "raw", "codes", "directory", "payload"):
            setattr(parts, name, value)
        else:
            parts.changes[name] = value
    return parts


Add = Callable[[str, str, bytes], None]


def break_container(add: Add) -> None:
    """Sections 1 to 3: head, pages, trailer, lengths."""
    tensors = [raw("w", "uint8", [5], [1, 2, 3, 4, 5]), dense()]
    good = file_of(tensors)
    add("head_magic_wrong", "3", file_of(tensors, magic=b"\xdcDCX\r\n\x1a\n"))
    add("head_magic_first_byte_7_bits", "3", file_of(tensors, magic=b"\x5cDCZ\r\n\x1a\n"))
    add("head_magic_line_end_converted", "3", file_of(tensors, magic=b"\xdcDCZ\n\n\x1a\n"))
    for version in [(0, 0), (0, 9), (0, 10), (1, 2), (1, 256), (2, 0), (2, 1), (65535, 0)]:
        add("version_{}_{}".format(*version), "3", file_of(tensors, version=version))
    add("version_1_0_big_endian", "3", file_of(tensors, version=(256, 0)))
    add("version_1_65535_cut_off", "3", file_of(tensors, version=(1, 65535))[:40])
    add("end_magic_wrong", "3", file_of(tensors, end_magic=b"DCZ\r"))
    add("trailer_checksum_wrong", "3", file_of(tensors, crc_xor=1))
    add("trailer_checksum_complemented", "3", file_of(tensors, crc_xor=0xFFFFFFFF))
    add("data_end_below_12", "3", file_of([], data_end=11))
    add("data_end_0", "3", file_of([], data_end=0))
    add("data_end_larger_than_file", "2", file_of([], data_end=10000))
    add("data_end_2_64", "2", file_of([], data_end=2**64 - 1))
    add("index_nbytes_too_small", "2", file_of(tensors, index_nbytes=10))
    add("index_nbytes_too_large", "2", file_of(tensors, index_nbytes=2**32 - 1))
    too_large = raw("e", "float64", [2**60, 0], [])
    add("shape_without_its_zero_too_large", "4", file_of([too_large]))
    add("index_raw_nbytes_above_2_26", "3", file_of(tensors, index_raw_nbytes=2**26 + 1))
    add("page_checksum_wrong", "2", file_of(tensors, edit_checksums=lambda c: [c[0] ^ 1]))
    add("page_checksum_zero", "2", file_of(tensors, edit_checksums=lambda c: [0]))
    alone = [zlib.crc32(b"".join(tensor.section() for tensor in tensors))]
    add("page_checksum_of_sections_alone", "2", file_of(tensors, edit_checksums=lambda c: alone))
    add("page_checksum_missing", "2", file_of(tensors, edit_checksums=lambda c: []))
    add("page_checksum_left_over", "2", file_of(tensors, edit_checksums=lambda c: [*c, 0]))
    zeros = raw("w", "uint8", [65524], [0] * 65524)
    empty_page = file_of([zeros], edit_checksums=lambda c: [*c, zlib.crc32(b"")])
    add("page_checksum_of_empty_page", "2", empty_page)
    zeros = raw("w", "uint8", [65540], [0] * 65540)
    wrong = file_of([zeros], edit_checksums=lambda c: [c[0], c[1] ^ 0x80000000])
    add("page_checksum_wrong_last_page", "2", wrong)
    swapped = file_of([zeros], edit_checksums=lambda c: c[::-1])
    add("page_checksums_swapped", "2", swapped)
    head = good.replace(b"\xdcDCZ\r\n\x1a\n", b"\xdcDCZ\r\n\x1a\x0b")
    add("page_checksum_without_head", "3", head)
    add("bytes_after_the_trailer", "3", good + b"\0")
    add("bytes_before_the_head", "3", b"\0" + good)
    add("bytes_before_the_trailer", "2", good[:-24] + b"\0" + good[-24:])
    add("file_twice", "2", good + good)
    add("truncated_empty", "3", b"")
    for name, length in [("one_byte", 1), ("magic", 8), ("head", 12), ("sections", 30)]:
        add(f"truncated_to_{name}", "3", good[:length])
    add("truncated_half", "3", good[: len(good) // 2])
    add("truncated_trailer", "3", good[:-24])
    add("truncated_end_magic", "3", good[:-4])
    add("truncated_last_byte", "3", good[:-1])
    add("truncated_first_byte", "3", good[1:])
    add("truncated_middle", "2", good[:40] + good[41:])
    add("truncated_to_end_magic_only", "3", good[-4:])
    add("truncated_to_trailer_only", "3", good[-24:])
    add("truncated_to_35_bytes", "2", good[:12] + bytes(19) + good[-4:])


def break_zlib(add: Add) -> None:
    """Section 4: the zlib stream."""
    tensors = [raw("w", "uint8", [1], [7])]
    index = canonical({"metadata": {}, "tensors": [tensor.object() for tensor in tensors]})
    good = zlib_stream(index)

    def stream(name: str, data: bytes, **options: Any) -> None:
        add(name, "4", file_of(tensors, stream=data, **options))

    stream("index_bytes_left_over", good + b"\0")
    add(
        "bytes_behind_the_index", "2", file_of(tensors, stream=good + b"\0", index_nbytes=len(good))
    )
    stream("index_zlib_stream_twice", good + good)
    stream("index_zlib_cut_off", good[:-1])
    stream("index_zlib_without_checksum", good[:-4])
    stream("index_zlib_checksum_wrong", good[:-1] + bytes([good[-1] ^ 1]))
    stream("index_zlib_header_checksum_wrong", b"\x78\x02" + good[2:])
    stream("index_zlib_preset_dictionary", b"\x78\x20" + b"\0\0\0\1" + good[2:])
    stream("index_zlib_method_9", b"\x79\x16" + good[2:])
    stream("index_zlib_without_last_block", zlib_stream(index, block_nbytes=20)[:-35])
    stream("index_empty", b"", index_raw_nbytes=0)
    stream("index_inflates_to_nothing", zlib_stream(b""), index_raw_nbytes=0)
    long = canonical({"metadata": {"": "a" * 300_000}, "tensors": []})
    long_stream = zlib.compress(long, 9)
    assert len(long) > 128 * len(long_stream)
    too_long = build(b"", long, stream=long_stream)
    add("index_raw_nbytes_above_128_times_index_nbytes", "3", too_long)
    stream("index_not_compressed", index)
    stream("index_raw_deflate", stored_deflate(index))
    gzip = b"\x1f\x8b\x08" + b"\0" * 6 + b"\xff" + stored_deflate(index)
    stream("index_gzip", gzip + struct.pack("<II", zlib.crc32(index), len(index)))
    stream("index_raw_nbytes_one_too_small", good, index_raw_nbytes=len(index) - 1)
    stream("index_raw_nbytes_one_too_large", good, index_raw_nbytes=len(index) + 1)
    stream("index_raw_nbytes_zero", good, index_raw_nbytes=0)


def break_json(add: Add) -> None:
    """Section 4: canonical JSON and the two keys."""
    tensor = raw("w", "uint8", [1], [7])
    other = alias("v", "w")
    metadata = {"a": "x\ny", "b": "\u00e9\x01", "c": '/"\x7f\x1f'}
    index = {"metadata": metadata, "tensors": [tensor.object(), other.object()]}
    text = canonical(index).decode()
    section = tensor.section()

    def json_bytes(name: str, data: bytes) -> None:
        add(name, "4", build(section, data))

    def edit(name: str, old: str, new: str) -> None:
        assert text.count(old) == 1, (name, text.count(old))
        json_bytes(name, text.replace(old, new).encode("utf-8"))

    edit("index_white_space_after_colon", '"shape":[1]', '"shape": [1]')
    edit("index_white_space_after_comma", '},{"alias"', '}, {"alias"')
    json_bytes("index_line_end_after", text.encode() + b"\n")
    json_bytes("index_white_space_before", b" " + text.encode())
    json_bytes("index_nul_after", text.encode() + b"\0")
    json_bytes("index_two_values", text.encode() + b"{}")
    json_bytes("index_cut_off", text.encode()[:-1])
    json_bytes("index_byte_order_mark", b"\xef\xbb\xbf" + text.encode())
    json_bytes("index_utf_16", text.encode("utf-16-le"))
    json_bytes("index_latin_1", text.encode("latin-1"))
    json_bytes(
        "index_utf_8_surrogate", text.replace("\u00e9", "@").encode().replace(b"@", b"\xed\xa0\x80")
    )
    json_bytes(
        "index_utf_8_overlong", text.replace("\u00e9", "@").encode().replace(b"@", b"\xc0\xaf")
    )
    json_bytes("index_utf_8_cut_off", text.replace("\u00e9", "@").encode().replace(b"@", b"\xc3"))
    edit("index_comma_after_last_element", '"alias":"w","name":"v"}]', '"alias":"w","name":"v"},]')
    edit("index_single_quotes", '"name":"v"', "'name':'v'")
    edit("index_comment", '"name":"v"', '/**/"name":"v"')
    parts = '"dtype":"uint8","layout":"raw"', '"layout":"raw","dtype":"uint8"'
    edit("index_keys_unsorted", *parts)
    edit("index_keys_unsorted_metadata", '"a":"x\\ny","b"', '"b2":"x\\ny","b"')
    root = json.dumps({"tensors": index["tensors"], "metadata": {}}, separators=(",", ":"))
    json_bytes("index_keys_unsorted_root", root.encode())
    edit("index_key_twice", '"layout":"raw"', '"layout":"raw","layout":"raw"')
    edit("index_key_twice_metadata", '{"a":"x\\ny"', '{"a":"0","a":"x\\ny"')
    edit("index_key_twice_root", '{"metadata":', '{"metadata":{},"metadata":')
    pair = '"\U0001f600":"","\uff5e":""'
    json_bytes("index_keys_sorted_as_utf_16", f'{{"metadata":{{{pair}}},"tensors":[]}}'.encode())
    edit("index_integer_minus_zero", '"shape":[1]', '"shape":[1,-0]')
    edit("index_integer_plus", '"shape":[1]', '"shape":[+1]')
    edit("index_integer_leading_zero", '"shape":[1]', '"shape":[01]')
    edit("index_integer_fraction", '"shape":[1]', '"shape":[1.0]')
    edit("index_integer_exponent", '"shape":[1]', '"shape":[1e0]')
    edit("index_integer_hexadecimal", '"shape":[1]', '"shape":[0x1]')
    edit("index_integer_of_5000_digits", '"shape":[1]', f'"shape":[{"9" * 5000}]')
    edit("index_nan", '"shape":[1]', '"shape":[NaN]')
    edit("index_escape_of_letter", '"alias":"w"', '"alias":"\\u0077"')
    edit("index_escape_solidus", '/\\"', '\\/\\"')
    edit("index_escape_not_ascii", "\u00e9", "\\u00e9")
    edit("index_escape_delete", "\x7f", "\\u007f")
    edit("index_escape_upper_case", "\\u001f", "\\u001F")
    edit("index_escape_upper_case_u", "\\u001f", "\\U001f")
    edit("index_escape_long_line_feed", "x\\ny", "x\\u000ay")
    edit("index_escape_short_hexadecimal", "\\u001f", "\\x1f")
    edit("index_escape_lone_surrogate", "\\u001f", "\\ud800")
    edit("index_escape_surrogate_pair", "\\u001f", "\\ud83d\\ude00")
    edit("index_control_character_not_escaped", "\\u001f", "\x1f")
    edit("index_line_feed_not_escaped", "x\\ny", "x\ny")
    json_bytes("index_not_json", b"metadata")
    json_bytes("index_empty_text", b"")
    json_bytes("index_array", b"[]")
    json_bytes("index_null", b"null")
    json_bytes("index_number", b"0")
    json_bytes("index_nested_too_deep", b"[" * 20000 + b"]" * 20000)
    json_bytes("index_nested_too_deep_metadata", b'{"metadata":' + b"[" * 20000 + b"]" * 20000)
    deep = b'{"metadata":{},"tensors":[' + b"[" * 900 + b"]" * 900 + b"]}"
    json_bytes("index_nested_900", deep)
    for name, value in {
        "index_empty_object": {},
        "index_without_tensors": {"metadata": {}},
        "index_without_metadata": {"tensors": []},
        "index_third_key": {"metadata": {}, "tensors": [], "version": 1},
        "index_key_metadatb": {"metadatb": {}, "tensors": []},
        "index_key_tensort": {"metadata": {}, "tensort": []},
        "metadata_null": {"metadata": None, "tensors": []},
        "metadata_array": {"metadata": [], "tensors": []},
        "metadata_string": {"metadata": "", "tensors": []},
        "metadata_value_integer": {"metadata": {"a": 1}, "tensors": []},
        "metadata_value_null": {"metadata": {"a": None}, "tensors": []},
        "metadata_value_true": {"metadata": {"a": True}, "tensors": []},
        "metadata_value_object": {"metadata": {"a": {}}, "tensors": []},
        "tensors_object": {"metadata": {}, "tensors": {}},
        "tensors_null": {"metadata": {}, "tensors": None},
    }.items():
        add(name, "4", build(b"", canonical(value)))
    for name, item in [("string", "w"), ("null", None), ("array", []), ("object_empty", {})]:
        value = {"metadata": {}, "tensors": [item]}
        add(f"tensor_{name}", "4", build(b"", canonical(value)))


def break_objects(add: Add) -> None:
    """Section 4: the objects of the tensors."""

    def item(name: str, *tensors: Parts) -> None:
        add(name, "4", file_of(tensors))

    def raw_one(**changes: Any) -> Parts:
        return changed(raw("w", "uint8", [4], [1, 2, 3, 4]), **changes)

    for key in ("name", "dtype", "shape", "layout"):
        item(f"key_missing_{key}", raw_one(**{key: DROP}))
    for key in ("nbytes", "nnz"):
        item(f"key_missing_{key}_dense", changed(dense(), **{key: DROP}))
        item(f"key_missing_{key}_sparse", changed(sparse(), **{key: DROP}))
    item("key_missing_gap_bits", changed(sparse(), gap_bits=DROP))
    item("key_missing_name_of_alias", raw_one(), changed(alias("v", "w"), name=DROP))
    item("key_unknown", raw_one(comment="x"))
    item("key_unknown_dense", changed(dense(), offset=12))
    extra = {"nbytes": 4, "nnz": 4, "codebook": 4, "gap_bits": 4, "block_numel": 2}
    for key, value in extra.items():
        item(f"key_{key}_of_raw", raw_one(**{key: value}))
    item("key_zero_signs_of_raw", changed(raw("w", "float16", [1], [0]), zero_signs=True))
    item("key_gap_bits_of_dense", changed(dense(), gap_bits=2))
    floats = packed("float16", [0x3C00, 0x3C00])
    item("key_zero_signs_of_dense", changed(floats, zero_signs=True))
    for key, value in [("dtype", "uint8"), ("shape", [4]), ("layout", "raw"), ("nbytes", 0)]:
        item(f"key_{key}_of_alias", raw_one(), changed(alias("v", "w"), **{key: value}))
    item("key_alias_null_of_raw", raw_one(alias=None))

    for name, value in [("null", None), ("integer", 1), ("array", ["w"])]:
        item(f"name_{name}", raw_one(name=value))
        item(f"alias_{name}", raw_one(), alias("v", value))
        item(f"dtype_{name}", raw_one(dtype=value))
        item(f"layout_{name}", raw_one(layout=value))
    item("name_twice", raw_one(), raw_one())
    item("name_twice_in_alias", raw_one(), alias("w", "w"))
    item("name_twice_in_aliases", raw_one(), alias("v", "w"), alias("v", "w"))
    item("name_of_earlier_alias", raw_one(), alias("v", "w"), raw("v", "uint8", [1], [0]))
    item("alias_to_later_tensor", alias("v", "w"), raw_one())
    item("alias_to_itself", alias("v", "v"))
    item("alias_to_alias", raw_one(), alias("v", "w"), alias("u", "v"))
    item("alias_to_no_tensor", raw_one(), alias("v", "x"))
    item("alias_to_normalized_name", raw("e\u0301", "uint8", [0], []), alias("v", "\u00e9"))
    for dtype in ("complex64", "float", "Float32", "torch.float32", "uint4", ""):
        name = dtype.replace(".", "_").lower() or "empty"
        item(f"dtype_unknown_{name}", raw_one(dtype=dtype))
    for layout in ("coo", "RAW", "alias", ""):
        item(f"layout_unknown_{layout.lower() or 'empty'}", raw_one(layout=layout))
    item("layout_unknown_of_dense", changed(dense(), layout="Dense"))
    for name, shape in {
        "shape_integer": 4,
        "shape_null": None,
        "shape_string": "4",
        "shape_object": {},
        "shape_of_strings": ["4"],
        "shape_of_true": [True, 4],
        "shape_of_null": [None],
        "shape_of_fraction": [4.5],
        "shape_nested": [[4]],
        "shape_negative": [-2, -2],
        "shape_33_dimensions": [1] * 32 + [4],
        "shape_size_2_63": [0, 2**63],
        "shape_does_not_fit_section": [5],
        "shape_smaller_than_section": [3],
    }.items():
        item(name, raw_one(shape=shape))
    item("numel_nbytes_2_63", raw_one(shape=[2**32, 2**31]))
    item("numel_nbytes_2_63_of_8", changed(raw("w", "int64", [0], []), shape=[2**60]))
    item("numel_nbytes_2_66", changed(raw("w", "int64", [0], []), shape=[2**63 - 1]))
    empty = packed("uint8", [7], codebook=True)
    changed(empty, codes=[b"\0"], directory=[], shape=[0], nnz=0)
    item("shape_empty_dense_section_too", empty)
    empty = packed("uint8", [7], codebook=True, gap_bits=2)
    changed(empty, codes=[b"\0\0"], directory=[], shape=[0], nnz=0)
    item("shape_empty_sparse_section_too", empty)
    many = changed(raw("w", "uint8", [0], []), shape=[2**62] * 32)
    item("numel_nbytes_overflows_64_bits", many)
    for layout, parts in [("dense", dense), ("sparse", sparse)]:
        for key in ("nbytes", "nnz", "codebook"):
            values = {"negative": -1, "true": True, "string": "1", "null": None, "2_70": 2**70}
            values["fraction"] = 1.5
            for name, value in values.items():
                item(f"{key}_{name}_{layout}", changed(parts(), **{key: value}))
        item(f"nnz_above_numel_{layout}", changed(parts(), nnz=21))
        item(f"codebook_257_{layout}", changed(parts(), codebook=257))
        item(f"nbytes_larger_than_sections_{layout}", changed(parts(), nbytes=1000))
        item(f"shape_empty_{layout}", changed(parts(), shape=[0]))
    for name, value in {
        "1": 1,
        "9": 9,
        "0": 0,
        "true": True,
        "null": None,
        "fraction": 2.5,
    }.items():
        item(f"gap_bits_{name}", changed(sparse(), gap_bits=value))
    values = choose([0, 3, 9], 5000)
    blocks = {"0": 0, "1": 1, "below_2_12": 4095, "numel": 5000, "numel_and_1": 5001}
    blocks |= {"negative": -4096, "true": True, "null": None, "string": "4096", "2_70": 2**70}
    blocks["fraction"] = 4096.5
    for name, value in blocks.items():
        item(f"block_numel_{name}", changed(dense(values=values), block_numel=value))
    for name, value in [("1", 1), ("below_2_12", 4095)]:  # as a writer would cut them
        item(f"block_numel_{name}_cut_so", dense(values=values, block_numel=value))
        item(f"block_numel_{name}_sparse", sparse(values=values, block_numel=value))
    item("block_numel_of_12_entries", changed(dense(), block_numel=4096))
    least = packed("uint8", [0] * 9000, codebook=[0], block_numel=4096)
    least.codebook, least.codes, least.directory, least.raw = [], [], [], b"\0\1"
    item("nbytes_less_than_directory_dense", least)
    least = packed("uint8", [0] * 9000, codebook=[], gap_bits=2, block_numel=4096)
    least.codes, least.directory, least.raw = [], [], b"\0\0\0\0\0"
    item("nbytes_less_than_directory_sparse", least)
    zeros = packed("uint8", [0] * (2**21), gap_bits=2, block_numel=2**20 + 1)
    item("block_numel_above_2_20", zeros)
    item("block_numel_missing_above_2_20", packed("uint8", [0] * (2**20 + 1), gap_bits=2))
    missing = packed("uint8", [7] * (2**20 + 1), codebook=True)
    item("block_numel_missing_above_2_20_dense", missing)
    signed = {"dtype": "float16", "values": [0x3C00, 0, 0x8000], "signs": True}
    for name, value in {"false": False, "1": 1, "null": None, "string": "true"}.items():
        item(f"zero_signs_{name}", changed(sparse(**signed), zero_signs=value))
    for dtype in ("int16", "uint16"):
        item(f"zero_signs_of_{dtype}", sparse(**{**signed, "dtype": dtype}))
    item("zero_signs_of_bool", packed("bool", [0, 1, 0], gap_bits=2, signs=True))

    one, two = raw_one(), raw("v", "uint8", [1], [9])
    index = canonical({"metadata": {}, "tensors": [one.object(), two.object()]})
    flags = raw("f", "bool", [1], [1])
    both = canonical({"metadata": {}, "tensors": [flags.object(), two.object()]})
    add("sections_in_other_order", "5", build(two.section() + flags.section(), both))
    add("sections_with_hole", "4", build(one.section() + b"\0" + two.section(), index))
    add("sections_end_before_data_end", "4", build(one.section() + two.section() + b"\0", index))
    add("sections_end_after_data_end", "4", build(one.section(), index))
    add("sections_without_tensors", "4", build(b"\0", canonical({"metadata": {}, "tensors": []})))


def break_checksums(add: Add) -> None:
    """Checksums of sections (section 4), and the version that they need (section 10)."""

    def one() -> Parts:
        return raw("w", "uint8", [4], [1, 2, 3, 4])

    def item(name: str, *tensors: Parts, **options: Any) -> None:
        add(name, "4", file_of(tensors, **options))

    for name, parts in [("raw", one()), ("dense", dense()), ("sparse", sparse())]:
        item(f"crc32_wrong_{name}", summed(parts, 1))
    item("crc32_complemented", summed(one(), 0xFFFFFFFF))
    item("crc32_of_the_page", changed(one(), crc32=zlib.crc32(file_of([summed(one())])[:16])))
    big_endian = int.from_bytes(zlib.crc32(one().section()).to_bytes(4, "little"), "big")
    item("crc32_big_endian", changed(one(), crc32=big_endian))
    first, second = one(), raw("v", "uint8", [1], [9])
    first.changes["crc32"] = summed(raw("v", "uint8", [1], [9])).changes["crc32"]
    item("crc32_of_another_section", first, second)
    two_pages = raw("w", "uint8", [70000], noise(70000, 256))
    item(
        "crc32_of_the_first_page_alone", changed(two_pages, crc32=zlib.crc32(two_pages.raw[:65524]))
    )
    values = {"negative": -1, "2_32": 2**32, "true": True, "null": None, "string": "0"}
    for name, value in {**values, "fraction": 0.5, "array": []}.items():
        item(f"crc32_{name}", changed(one(), crc32=value))
    item("crc32_of_empty_section", changed(raw("w", "uint8", [0], []), crc32=0))
    tied = changed(alias("v", "w"), crc32=zlib.crc32(one().section()))
    item("key_crc32_of_alias", summed(one()), tied)
    other_page = {"edit_checksums": lambda c: [c[0] ^ 1]}
    add("page_checksum_wrong_beside_crc32", "2", file_of([summed(one())], **other_page))

    add(
        "version_1_1",
        "10",
        file_of([raw("w", "uint8", [5], [1, 2, 3, 4, 5]), dense()], version=(1, 1)),
    )
    add("version_1_0_with_crc32", "10", file_of([one(), summed(dense())], version=(1, 0)))
    add("version_1_0_with_crc32_of_raw", "10", file_of([summed(one())], version=(1, 0)))
    add("version_1_2_with_crc32", "3", file_of([summed(one())], version=(1, 2)))
    add("version_1_1_without_tensors", "10", file_of([], version=(1, 1)))


def break_kept_rows(add: Add) -> None:
    """Rows that are not stored (sections 4 and 7.5), and the version that they need."""

    def item(name: str, *tensors: Parts, section: str = "4", **options: Any) -> None:
        add(name, section, file_of(tensors, **options))

    def rows(**changes: Any) -> Parts:
        """A dense tensor of 3 rows of 4 entries, which are rows 1, 2 and 4 of 5."""
        return changed(spread(dense(shape=[3, 4]), [0, 1, 1, 0, 1]), **changes)

    def sparse_rows(**changes: Any) -> Parts:
        return changed(spread(sparse(shape=[4, 5]), [1, 1, 0, 1, 1]), **changes)

    values = {"0": 0, "negative": -3, "of_all": 5, "above_all": 6, "2_70": 2**70, "true": True}
    values |= {"null": None, "string": "3", "fraction": 3.5, "array": [3]}
    for name, value in values.items():
        item(f"kept_rows_{name}", rows(kept_rows=value))
    item("kept_rows_without_dimensions", rows(shape=[]))
    item("kept_rows_of_one_row", rows(shape=[1, 20], kept_rows=1))
    item("kept_rows_of_no_rows", rows(shape=[0, 4]))
    item("kept_rows_of_empty_rows", rows(shape=[5, 0]))
    one = raw("w", "uint8", [4], [1, 2, 3, 4])
    item("key_kept_rows_of_raw", changed(one, kept_rows=3))
    item("key_kept_rows_of_alias", rows(), changed(alias("v", "weight"), kept_rows=3))
    item("kept_rows_nnz_above_theirs", rows(nnz=13))
    item("kept_rows_nnz_above_theirs_sparse", sparse_rows(nnz=21))
    item("kept_rows_nbytes_less_than_bitmap", rows(shape=[10**6, 4], nbytes=20))
    item("kept_rows_nbytes_is_bitmap", rows(nbytes=1))
    item("kept_rows_nbytes_less_than_directory_sparse", sparse_rows(nbytes=2))
    item("kept_rows_nbytes_null", rows(nbytes=None))
    many = dense(values=choose([0, 3, 9], 5000), shape=[50, 100])
    item("kept_rows_block_numel_of_theirs", changed(spread(many, [1] * 50 + [0]), block_numel=5000))
    long = packed("uint8", [7] * (2**20 + 2), shape=[2, 2**19 + 1], codebook=True)
    item("kept_rows_in_one_block_above_2_20", spread(long, [1, 0, 1]))
    wide = packed("uint8", [0] * 2**20, shape=[1, 2**20], gap_bits=2)
    assert len(wide.section()) == 4
    item("kept_rows_more_than_2_20_entries_a_byte", spread(wide, [1] + [0] * 7))

    def broken(name: str, parts: Parts, section: str = "7.5") -> None:
        item(f"bitmap_{name}", parts, section=section)

    broken("keeps_one_more", rows(bitmap=b"\x17"))
    broken("keeps_one_less", rows(bitmap=b"\x06"))
    broken("keeps_none", rows(bitmap=b"\0"))
    broken("keeps_all", rows(bitmap=b"\x1f"))
    broken("most_significant_first", rows(bitmap=b"\x68"))
    broken("padding_not_zero", rows(bitmap=b"\x96"))
    broken("padding_in_place_of_a_row", rows(bitmap=b"\x26"))
    broken("keeps_one_less_sparse", sparse_rows(bitmap=b"\x0b"))
    nine = spread(dense(shape=[3, 4]), [0, 1, 0, 0, 0, 1, 0, 0, 1])
    broken("bytes_swapped", changed(nine, bitmap=nine.bitmap[::-1]))
    broken("padding_of_last_byte", changed(nine, bitmap=b"\x22\x02"))
    broken("at_the_end", rows(bitmap=b"", payload=[*dense().payload, [b"\x16"]]), "7.5")
    broken("missing", rows(bitmap=b""), "7.5")
    item("version_1_0_with_kept_rows", rows(), section="10", version=(1, 0))
    both = [summed(raw("v", "uint8", [1], [9])), sparse_rows()]
    item("version_1_0_with_kept_rows_and_crc32", *both, section="10", version=(1, 0))
    item("version_1_2_with_kept_rows", rows(), section="3", version=(1, 2))
    item("crc32_without_bitmap", changed(rows(), crc32=zlib.crc32(dense().section())))


def break_codes(add: Add) -> None:
    """Sections 1 and 6: varints, codes and bitstreams."""

    def tensor(name: str, section: str, parts: Parts) -> None:
        add(name, section, file_of([parts]))

    def code(parts: Parts, number: int, data: bytes) -> Parts:
        parts.codes[number] = data
        return parts

    def number(parts: Parts, position: int, value: int | bytes, block: int = 0) -> Parts:
        parts.directory[block][position] = value
        return parts

    tensor("varint_overlong", "1", code(dense(), 0, b"\x83\x00" + dense().codes[0][1:]))
    tensor("varint_overlong_n_kept", "1", number(dense(), 0, b"\x8a\x00"))
    tensor("varint_overlong_zero", "1", number(dense(values=[0] * 5), 0, b"\x80\x00"))
    nine = b"\x8a" + b"\x80" * 7 + b"\x00"
    tensor("varint_overlong_nine_bytes", "1", number(dense(), 0, nine))
    tensor("varint_ten_bytes", "1", number(dense(), 0, b"\x80" * 9 + b"\x01"))
    tensor("varint_without_end", "1", number(dense(), 0, b"\xff" * 20))
    tensor("varint_cut_off", "7", changed(dense(), directory=[[b"\x8a"]], payload=[]))

    planes = {"values": [1, 2, 1, 3, 1, 2, 1, 1], "dtype": "uint8"}

    def plane(lengths: list[int], values: list[int] | None = None) -> Parts:
        return packed("uint8", values or planes["values"], lengths={"plane 0": lengths})

    tensor("code_m_258", "6.1", code(plane([0, 1, 2, 2]), 0, varint(258)))
    tensor("code_m_2_62", "6.1", code(plane([0, 1, 2, 2]), 0, varint(2**62)))
    tensor("code_m_above_labels", "6.1", dense(lengths={"labels": [2, 1, 3, 3]}))
    tensor("code_m_above_gaps", "6.1", sparse(lengths={"gaps": [1, 2, 3, 4, 4]}))
    tensor("code_m_256_of_gaps", "6.1", sparse(lengths={"gaps": [8] * 256}))
    ones = {"values": [9] * 6}
    tensor("code_one_symbol_is_no_label", "6.1", code(dense(**ones), 0, b"\x01\x01"))
    gaps = {"values": [0, 0, 0, 5]}
    tensor("code_one_symbol_is_no_gap", "6.1", code(sparse(**gaps), 0, b"\x01\x04"))
    tensor("code_one_symbol_missing", "7", changed(dense(**ones), codes=[b"\x01"], directory=[]))
    stored = packed("uint16", dense().values, codebook=True, stored=("labels",))
    tensor("code_stored_labels", "6.1", stored)
    tensor("code_stored_gaps", "6.1", sparse(stored=("gaps",)))
    tensor("code_m_0_with_symbols", "6.1", code(dense(**ones), 0, b"\0"))
    tensor("code_m_0_with_symbols_gaps", "6.1", code(sparse(values=[5, 5]), 0, b"\0"))
    tensor("code_m_0_with_symbols_planes", "6.1", code(packed("uint8", [4] * 4), 0, b"\0"))
    zeros = {"values": [0] * 20}
    zero = packed("uint16", zeros["values"], codebook=[5], gap_bits=2)
    tensor("code_one_symbol_without_symbols", "6.1", code(zero, 1, b"\x01\x00"))
    zero = packed("uint16", zeros["values"], codebook=[5], gap_bits=2)
    tensor("code_one_symbol_without_gaps", "6.1", code(zero, 0, b"\x01\x00"))
    zero = packed("uint16", zeros["values"], codebook=[5, 6], gap_bits=2)
    tensor("code_huffman_without_symbols", "6.1", code(zero, 1, huffman_code([1, 1])))
    zero = packed("uint8", zeros["values"], gap_bits=2)
    tensor("code_stored_without_symbols", "6.1", code(zero, 1, varint(257)))
    kept = packed("float16", [0x3C00] * 3, gap_bits=2, signs=True)
    tensor("code_stored_without_signs", "6.1", code(kept, 1, varint(257)))
    lengths = [*range(1, 13), 13, 13]
    tensor("code_length_13", "6.1", plane(lengths))
    tensor("code_length_13_used", "6.1", plane(lengths, [1, 12, 13]))
    tensor("code_length_15", "6.1", plane([*range(1, 15), 15, 15]))
    tensor("code_last_length_zero", "6.1", plane([0, 1, 2, 2, 0]))
    tensor("code_last_lengths_zero", "6.1", plane([0, 1, 2, 2, 0, 0, 0, 0]))
    odd = plane([1, 2, 2], [0, 1, 2, 0])
    tensor("code_lengths_padding_not_zero", "6.1", code(odd, 0, b"\x03\x21\x12"))
    tensor("code_lengths_halves_swapped", "6.1", code(odd, 0, b"\x03\x12\x20"))
    tensor("code_lengths_all_zero", "6.1", code(plane([1, 1], [0, 1]), 0, b"\x02\x00"))
    cut = plane([0, 1, 2, 2])
    tensor("code_lengths_cut_off", "7", changed(cut, codes=[b"\x04\x10"], directory=[], payload=[]))
    tensor("kraft_sum_below_one", "6.1", plane([0, 2, 2, 2]))
    tensor("kraft_sum_below_one_by_2_12", "6.1", plane([*range(1, 13)], [0, 1, 2]))
    tensor("kraft_sum_one_symbol", "6.1", plane([0, 0, 0, 1], [3, 3, 3]))
    above = plane([0, 1, 2, 2])
    tensor("kraft_sum_above_one", "6.1", code(above, 0, huffman_code([1, 1, 2, 2])))
    above = plane([*range(1, 13), 12], [0, 1, 2])
    tensor(
        "kraft_sum_above_one_by_2_12", "6.1", code(above, 0, huffman_code([*range(1, 13), 12, 12]))
    )
    labels = dense()
    tensor("kraft_sum_below_one_labels", "6.1", code(labels, 0, huffman_code([2, 1, 3])))
    tensor("kraft_sum_below_one_gaps", "6.1", code(sparse(), 0, huffman_code([2, 2, 2])))

    def bits(parts: Parts, data: bytes, piece: int = 0) -> Parts:
        """Another bitstream, with its size: the last but ``piece`` of the first block."""
        parts.payload[0][-1 - piece] = data
        parts.directory[0][-1 - piece] = len(data)
        return parts

    values = [6, 7, 7]
    three = packed("uint8", values, lengths=SIX_SEVEN)
    assert three.payload == [[b"\x06"]]
    tensor("bitstream_padding_not_zero", "6.2", bits(three, b"\x86"))
    three = packed("uint8", values, lengths=SIX_SEVEN)
    tensor("bitstream_padding_not_zero_first_bit", "6.2", bits(three, b"\x0e"))
    three = packed("uint8", values, lengths=SIX_SEVEN)
    tensor("bitstream_one_byte_longer", "6.2", bits(three, b"\x06\x00"))
    three = packed("uint8", values, lengths=SIX_SEVEN)
    tensor("bitstream_empty", "6.2", bits(three, b""))
    eight = packed("uint8", [6, 7] * 4, lengths=SIX_SEVEN)
    tensor("bitstream_byte_of_padding", "6.2", bits(eight, eight.payload[0][0] + b"\0"))
    nine = packed("uint8", [6, 7] * 4 + [6], lengths=SIX_SEVEN)
    tensor("bitstream_one_byte_shorter", "6.2", bits(nine, nine.payload[0][0][:1]))
    labels = sparse()
    tensor("bitstream_padding_not_zero_gaps", "6.2", with_last_bit(sparse(), 0))
    tensor("bitstream_padding_not_zero_labels", "6.2", with_last_bit(labels, 1))

    def quarters(count: int, cuts: list[int]) -> Parts:
        """A tensor of ``count`` entries cut at other places."""
        chosen = choose([0, 1, 2, 3], count)
        parts = packed("uint8", chosen, lengths={"plane 0": [1, 2, 3, 3]})
        places = zip([0, *cuts], [*cuts, count], strict=True)
        pieces = [bitstream(chosen[start:stop], [1, 2, 3, 3]) for start, stop in places]
        parts.directory[0][1:] = [len(piece) for piece in pieces]
        return changed(parts, payload=[pieces])

    tensor("quarters_of_4095_symbols", "6.2", quarters(4095, [1024, 2048, 3072]))
    tensor("quarters_missing_at_4096", "7", quarters(4096, []))  # three sizes are missing
    tensor("quarters_all_in_the_first", "6.2", quarters(4096, [4096, 4096, 4096]))
    tensor("quarters_rounded_down", "6.2", quarters(4099, [1024, 2048, 3072]))
    tensor("quarters_of_whole_bytes", "6.2", quarters(4102, [1032, 2064, 3096]))
    four = quarters(4097, [1025, 2050, 3075])
    tensor("quarters_padding_not_zero", "6.2", with_last_bit(four, 1))
    four = quarters(4097, [1025, 2050, 3075])
    first, second = four.payload[0][:2]
    four.payload[0][:2] = [first + second[:1], second[1:]]
    four.directory[0][1:3] = [len(first) + 1, len(second) - 1]
    tensor("quarters_sizes_shifted", "6.2", four)


def with_last_bit(parts: Parts, piece: int) -> Parts:
    """Set the top bit of a bitstream of the first block."""
    data = parts.payload[0][piece]
    assert data[-1] < 128, "no padding there"
    parts.payload[0][piece] = data[:-1] + bytes([data[-1] | 128])
    return parts


def break_sections(add: Add) -> None:
    """Sections 5 and 7: raw, codebook, directory, values, gaps, signs."""

    def tensor(name: str, section: str, parts: Parts) -> None:
        add(name, section, file_of([parts]))

    def directory(parts: Parts, *blocks: list[int], **changes: Any) -> Parts:
        return changed(parts, directory=list(blocks), **changes)

    tensor("raw_bool_2", "5", raw("w", "bool", [3], [0, 1, 2]))
    tensor("raw_bool_255", "5", raw("w", "bool", [3], [255, 1, 0]))

    def codebook(name: str, section: str, entries: list[int], parts: Parts) -> None:
        parts.codebook = entries
        tensor(name, section, parts)

    codebook("codebook_not_increasing", "7", [0, 9, 3], dense())
    codebook("codebook_decreasing", "7", [9, 3, 0], dense())
    codebook("codebook_entry_twice", "7", [0, 3, 3], dense())
    codebook("codebook_not_increasing_sparse", "7", [6, 5, 7], sparse())
    codebook("codebook_sorted_by_first_byte", "7", [0, 0x0300, 0x0203], dense())
    signed = packed("int8", [1, 255, 255, 1], codebook=True)
    codebook("codebook_sorted_as_signed", "7", [255, 1], signed)
    floats = packed("float32", [0x3F800000, 0xBF800000], codebook=True)
    codebook("codebook_sorted_as_floats", "7", [0xBF800000, 0x3F800000], floats)
    codebook("codebook_with_zero_sparse", "7", [0, 6, 7], sparse())
    unused = packed("uint16", [5, 0, 6], codebook=[0, 5, 6], gap_bits=2)
    tensor("codebook_with_unused_zero_sparse", "7", unused)
    empty = changed(packed("uint8", [7] * 4, codebook=True), codebook=0)
    codebook("codebook_empty_dense", "4", [], empty)
    cut = changed(dense(), codes=[], directory=[], payload=[])
    codebook("codebook_cut_off", "7", [0, 3], cut)

    over = dense()
    over.payload[-1].append(b"\0")
    tensor("section_bytes_left_over", "7", over)
    over = sparse()
    over.payload[-1].append(b"\0")
    tensor("section_bytes_left_over_sparse", "7", over)
    over = packed("uint8", [7] * 4, codebook=True)
    over.payload[-1].append(b"\xff" * 30)
    tensor("section_bytes_left_over_30", "7", over)
    short = dense()
    short.payload[0][-1] = short.payload[0][-1][:-1]
    tensor("section_one_byte_short", "7", short)
    short = packed("uint8", noise(20, 256), stored=("plane 0",))
    short.payload[0][0] = short.payload[0][0][:-1]
    tensor("section_one_byte_short_stored", "7", short)
    over = packed("uint8", noise(20, 256), stored=("plane 0",))
    over.payload[0][0] += b"\0"
    tensor("section_one_byte_over_stored", "7", over)
    values = choose([0, 3, 9], 5000)
    missing = dense(values=values, block_numel=4096)
    tensor("directory_cut_off", "7", changed(missing, directory=missing.directory[:1], payload=[]))
    size = dense()
    size.directory[0][-1] = 2**62
    tensor("directory_size_larger_than_section", "7", size)
    extra = packed("uint8", [7] * 8192, codebook=True, block_numel=4096)
    extra.directory.append([0])
    tensor("directory_of_one_block_more", "7", extra)

    tensor("n_kept_sum_is_not_nnz", "7.1", changed(dense(), nnz=9))
    tensor("n_kept_sum_is_not_nnz_sparse", "7.1", changed(sparse(), nnz=6))
    blocks = sparse(values=values, block_numel=4096)
    changed(blocks, nnz=blocks.item["nnz"] + 1)
    tensor("n_kept_sum_is_not_nnz_blocks", "7.1", blocks)
    zeros = packed("uint8", [0] * 20, codebook=[], gap_bits=2)
    tensor("n_kept_zero_but_nnz_is_not", "7.1", changed(zeros, nnz=1))
    constant = packed("uint8", [7] * 4, codebook=True)
    tensor("n_kept_above_block", "7.1", directory(constant, [5]))
    constant = packed("uint8", [7] * 4, codebook=True, gap_bits=2)
    tensor("n_kept_above_block_sparse", "7.1", directory(constant, [5, 0]))
    constant = packed("uint8", [7] * 8192, codebook=True, block_numel=4096)
    tensor("n_kept_above_block_sum_right", "7.1", directory(constant, [4097], [4095]))
    constant = packed("uint8", [7] * 6, codebook=True, gap_bits=2)
    tensor("n_kept_2_62", "7.1", directory(constant, [2**62, 0]))
    escapes = packed("uint8", [0] * 20, codebook=[5], gap_bits=2)
    escapes.codes = [b"\x01\x03", b"\0"]
    tensor("n_escapes_without_kept", "7.1", directory(escapes, [0, 3]))
    escapes = packed("uint8", [0, 0, 7, *[0] * 4997], gap_bits=2, block_numel=4096)
    tensor("n_escapes_without_kept_last_block", "7.1", directory(escapes, [1, 0], [0, 1]))

    codebook("bool_codebook_2", "7.2", [0, 2], packed("bool", [0, 1, 1, 0], codebook=True))
    unused = packed("bool", [1, 0, 1], codebook=[0, 1, 2])
    tensor("bool_codebook_unused_2", "7.2", unused)
    ones = packed("bool", [0, 1, 1], codebook=True, gap_bits=2)
    codebook("bool_codebook_2_sparse", "7.2", [2], ones)
    tensor("bool_plane_2", "7.2", packed("bool", [0, 1, 2, 1]))
    tensor("bool_plane_all_2", "7.2", packed("bool", [2, 2, 2]))
    tensor("bool_plane_2_sparse", "7.2", packed("bool", [0, 1, 0, 2, 1], gap_bits=2))
    kept = packed("uint16", [0, 0x0105, 0, 0x0005, 0x0100], gap_bits=2)
    kept.payload[0][1:2] = [bitstream([5, 0, 0], [1, 0, 0, 0, 0, 1])]
    tensor("kept_entry_zero", "7.2", kept)
    kept = packed("uint8", [7, 0, 7], gap_bits=2)
    kept.codes[1] = b"\x01\x00"
    tensor("kept_entries_all_zero", "7.2", kept)
    wrong = dense()
    wrong.directory[0][0] += 1
    tensor("n_kept_too_large_dense", "7.2", changed(wrong, nnz=wrong.item["nnz"] + 1))
    wrong = dense()
    wrong.directory[0][0] -= 1
    tensor("n_kept_too_small_dense", "7.2", changed(wrong, nnz=wrong.item["nnz"] - 1))
    moved = dense(values=values, block_numel=4096)
    moved.directory[0][0] -= 1
    moved.directory[1][0] += 1
    tensor("n_kept_moved_between_blocks", "7.2", moved)
    moved = packed("uint16", [0, 3, 256, 0, 3, 3])
    moved.directory[0][0] = 6
    tensor("n_kept_wrong_planes", "7.2", changed(moved, nnz=6))

    def gaps(symbols: list[int], numel: int, n_escapes: int, bits: int = 2) -> Parts:
        """A tensor of dtype uint8, all kept entries 7, with these gap symbols."""
        n_kept = len(symbols) - n_escapes
        parts = packed("uint8", [0] * numel, codebook=[7], gap_bits=bits)
        lengths = [bits] * 2**bits
        parts.codes = [huffman_code(lengths), b"\x01\x00"]
        data = bitstream(symbols, lengths)
        return directory(parts, [n_kept, n_escapes, len(data)], payload=[[data]], nnz=n_kept)

    assert file_of([gaps([0, 3, 2, 1], 10, 1)]), "0 kept, 5 zeros, kept, 1 zero, kept: 9 of 10"
    tensor("gap_escapes_more_than_n_escapes", "7.3", gaps([0, 3, 2, 3, 1], 20, 1))
    tensor("gap_escapes_less_than_n_escapes", "7.3", gaps([0, 3, 2, 1], 20, 2))
    tensor("gap_escapes_not_counted", "7.3", gaps([3, 2], 20, 0))
    tensor("gap_last_symbol_escape", "7.3", gaps([0, 1, 3], 20, 1))
    constant = directory(packed("uint8", [7, 0, 0, 0], gap_bits=2), [1, 0])
    constant.codes[0] = b"\x01\x03"
    tensor("gap_one_symbol_escape", "7.3", constant)
    tensor("gap_all_symbols_escapes_but_one", "7.3", gaps([2, 3, 3, 3], 20, 3))
    tensor("gap_walk_leaves_block", "7.3", gaps([0, 2, 2], 6, 0))
    tensor("gap_walk_leaves_block_by_escape", "7.3", gaps([1, 3, 3, 0], 8, 2))
    tensor("gap_walk_leaves_block_far", "7.3", gaps([6, 6, 6, 7, 6], 12, 1, bits=3))
    every = [0] * 254 + [7]  # 16 times in a block, 3 times in the last one
    for name, kept in [("leaves_last", (15, 4)), ("enters_next", (17, 2))]:
        block = packed("uint8", [*every * 16, *[0] * 16, *every * 3], gap_bits=8, block_numel=4096)
        assert block.codes == [b"\x01\xfe", b"\x01\x07"] and block.directory == [[16, 0], [3, 0]]
        tensor(f"gap_walk_{name}_block", "7.3", directory(block, *[[n, 0] for n in kept]))
    tensor("n_escapes_larger_than_block", "7.3", directory(gaps([1], 6, 0), [1, 2, 1]))
    tensor("n_escapes_2_62", "7.3", directory(gaps([1], 6, 0), [1, 2**62, 1]))

    minus, one = 0x8000, 0x3C00
    signs = packed("float16", [one, minus, 0, minus], gap_bits=2, signs=True)
    assert signs.codes[1] == b"\x01\x05"
    signs.codes[1] = b"\x01\x0d"
    tensor("signs_padding_not_zero", "7.4", signs)
    signs = packed("float16", [one, minus, 0, minus], gap_bits=2, signs=True, stored=("signs",))
    signs.payload[0][0] = b"\x85"
    tensor("signs_padding_not_zero_stored", "7.4", signs)
    values = [minus] * 8 + [one] + [0] * 5000  # 4095 zeros in the first block
    signs = packed("float16", values, gap_bits=2, signs=True, block_numel=4096, stored=("signs",))
    assert signs.payload[0][1] == b"\xff" + bytes(511)
    signs.payload[0][1] = b"\xff" + bytes(510) + b"\x80"
    tensor("signs_padding_not_zero_first_block", "7.4", signs)
    book = packed("float16", [one, 0, minus], codebook=[one, minus], gap_bits=2, signs=True)
    tensor("codebook_with_negative_zero", "7.4", book)
    book = packed("float16", [one, 0, minus], codebook=[0, one], gap_bits=2, signs=True)
    tensor("codebook_with_zero_and_zero_signs", "7.4", book)
    kept = packed("float16", [one, 0, minus], gap_bits=2, signs=True)
    kept.codes[2:] = [b"\x01\x00", b"\x01\x80"]
    tensor("kept_entry_negative_zero", "7.4", kept)
    kept = packed("float16", [one, 0, minus], gap_bits=2, signs=True)
    kept.codes[2:] = [b"\x01\x00", b"\x01\x00"]
    tensor("kept_entry_zero_and_zero_signs", "7.4", kept)
    short = packed("float16", [one, minus, 0] * 5, gap_bits=2, signs=True, stored=("signs",))
    short.payload[0][-1] = short.payload[0][-1][:-1]
    tensor("signs_one_byte_short", "7", short)
