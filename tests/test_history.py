"""Files of each released version of the format decode for ever, and are never changed."""

import hashlib
import json

import pytest
from independent import FORMATS, dcz_decoder

import deepcomp
from deepcomp.cli import inspect_main
from deepcomp.container import PAGE, VERSION, Reader

HISTORY = FORMATS / "vectors" / "history"

# SHA-256. A new version of the format adds a folder and its lines; no line is ever changed.
PUBLISHED = {
    "1.0/blocks.dcz": "49c02d7c3cc46e401853e8246ea5e3ea09fb0b2d4ed927cb4c4aff1aa836cf1c",
    "1.0/blocks.json": "f357bc2cfb1e868fad246835f9f9dfec5636a10409188d768702e7d523c36afa",
    "1.0/codes.dcz": "45337dbbd45ebba8ace3a2f2c07b634097b33f1de73ad7ed0a401f9c10c34f25",
    "1.0/codes.json": "569e1469d49c4399387f5ce25edf87963168febdec4ce4a0b06888abc180b6c5",
    "1.0/dtypes.dcz": "091f6a872111f0818eb29af3b83e0ad956e3258d2902ea85f0a0bcdcf9e0512d",
    "1.0/dtypes.json": "ba9013068c7aed9c65a9eab06dcfcf5eb32497c8b46f009a9a565ccae76ac2e0",
    "1.0/exact.dcz": "2e759b19188db9ebce73a116e386cd31eda4cddddf49dfe304c324b19a5a774e",
    "1.0/exact.json": "fe82714265e8351c5b4a604680187fc725f2fc7acfe152eea91b35e818541372",
    "1.0/network.dcz": "ca762805980498cb397cf7e0c05066174790b0f85559589d0ab0cabb4a58ed92",
    "1.0/network.json": "4a7fc01ddf1b7ee86b6914cb9b485639692864f58ff8c5f48cf507e507867b3f",
    "1.1/filters.dcz": "d6935162d6a0ca0d38693d360c1ed6086f3fe009b4718a85673e64012edcf7d0",
    "1.1/filters.json": "baf7a3238f3500b3cb6b68d0cd327d8eaca3c5f7813e2d4f03a77f0d2ad9122d",
    "1.1/network.dcz": "71eb7416065fc0fe2109f12ae51d534bc2d213829baa3194d1fbe81ccd412b6c",
    "1.1/network.json": "e6ea5de81438da6a591f6f78795dea04e9de4a7923ff6c17c8ad4e18c604fae8",
    "1.1/rows.dcz": "909b2dc88954b39cfe9d8ddf23b177fffaab56d2d48eaa6ad423df1795edc5ad",
    "1.1/rows.json": "42d1b4b873e79c1700471d950254cd8a1cdc2514017980c959bb31a2cab29377",
    "1.1/sections.dcz": "993c84325631ed51d7817c0d2ff45c184cf5cb1117b214884300c46bdbc48ec8",
    "1.1/sections.json": "aa6a7cb7c70b0c4477a4a4daee3d31f7f6a7a3cebf7309e93a525f2053c0c8b8",
}


def test_no_published_file_is_missing_or_changed():
    found = {
        path.relative_to(HISTORY).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in HISTORY.rglob("*")
        if path.is_file()
    }
    assert found == PUBLISHED


def test_the_version_that_is_written_has_published_files():
    assert any(name.startswith("{}.{}/".format(*VERSION)) for name in PUBLISHED)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.endswith(".dcz")])
def test_published_files_decode_to_what_they_did(name, tmp_path):
    path = HISTORY / name
    expected = json.loads(path.with_suffix(".json").read_text("utf-8"))
    packed, (metadata, tensors) = deepcomp.load(path), dcz_decoder.decode(path.read_bytes())
    assert "{}.{}".format(*Reader(path).version) == name.split("/")[0]
    assert packed.metadata == metadata == expected["metadata"]
    assert list(packed) == [t.name for t in tensors] == [t["name"] for t in expected["tensors"]]
    for tensor, item in zip(tensors, expected["tensors"], strict=True):
        own = packed[tensor.name]
        assert (own.dtype, list(own.shape)) == (item["dtype"], item["shape"])
        assert (tensor.dtype, list(tensor.shape)) == (item["dtype"], item["shape"])
        assert packed.aliases.get(tensor.name) == tensor.alias == item["alias"]
        for patterns in (own.decode_patterns().tobytes(), tensor.patterns):
            assert hashlib.sha256(patterns).hexdigest() == item["sha256"]
    deepcomp.save(packed, tmp_path / "again.dcz")
    assert dcz_decoder.decode((tmp_path / "again.dcz").read_bytes()) == (metadata, tensors)
    assert inspect_main([str(path), "--verify"]) == 0


def test_published_files_of_1_0_cover_the_format():
    records = [
        tensor.record
        for name in PUBLISHED
        if name.startswith("1.0/") and name.endswith(".dcz")
        for tensor in deepcomp.load(HISTORY / name).values()
    ]
    dtypes = set(dcz_decoder.ITEMSIZES)
    for layout in ("raw", "dense", "sparse"):
        assert {r.dtype for r in records if r.layout == layout} == dtypes
    for layout in ("dense", "sparse"):
        for planes in (False, True):
            kind = [r for r in records if r.layout == layout and (r.codebook is None) == planes]
            assert {r.dtype for r in kind} == dtypes
    signed = {r.dtype for r in records if r.zero_signs}
    assert signed == {dtype for dtype in dtypes if "float" in dtype}
    assert {r.gap_bits for r in records} >= {2, 3, 4, 5, 6, 7, 8}
    assert {r.layout for r in records if r.block_numel} == {"dense", "sparse"}


def test_published_files_of_1_1_have_checksums_of_sections_and_sections_without():
    records = [
        tensor.record
        for name in PUBLISHED
        if name.startswith("1.1/") and name.endswith(".dcz")
        for tensor in deepcomp.load(HISTORY / name).values()
    ]
    summed = [r for r in records if r.crc32 is not None]
    for layout in ("raw", "dense", "sparse"):
        assert {r.dtype for r in summed if r.layout == layout} == set(dcz_decoder.ITEMSIZES)
    assert 0 in {r.crc32 for r in summed} and max(r.section_nbytes for r in summed) > PAGE
    assert {r.section_nbytes > 0 for r in records if r.crc32 is None} == {True, False}


def test_published_files_of_1_1_have_tensors_of_which_not_all_rows_are_stored():
    records = [
        tensor.record
        for name in PUBLISHED
        if name.startswith("1.1/") and name.endswith(".dcz")
        for tensor in deepcomp.load(HISTORY / name).values()
    ]
    kept = [r for r in records if r.kept_rows is not None]
    for layout in ("dense", "sparse"):
        for planes in (False, True):
            kind = [r for r in kept if r.layout == layout and (r.codebook is None) == planes]
            assert {r.dtype for r in kind} == set(dcz_decoder.ITEMSIZES)
    assert {r.layout for r in kept if r.block_numel} == {"dense", "sparse"}
    assert {"float" in r.dtype for r in kept if r.zero_signs} == {True}
    assert {r.crc32 is None for r in kept} == {True, False}
