"""The file: head, pages, index, trailer; atomic writing."""

import os
import stat
import struct
import subprocess
import sys
import textwrap
from unittest import mock

import numpy as np
import pytest

import deepcomp
from deepcomp.container import MAGIC, PAGE, Reader
from deepcomp.index import decode_index
from deepcomp.records import TensorRecord
from deepcomp.writer import Writer


def save_pages(path, n_pages):
    """Save a file of so many pages: incompressible bytes, and a small tensor at the end."""
    noise = np.random.default_rng(0).integers(0, 256, (n_pages - 1) * PAGE, dtype=np.uint8)
    deepcomp.save({"noise": noise, "small": np.arange(8, dtype=np.int32)}, path)


def test_loading_reads_no_section_and_each_page_is_checked_once(tmp_path):
    save_pages(tmp_path / "m.dcz", 4)
    reader = Reader(tmp_path / "m.dcz")
    assert reader.n_pages == 4 and not any(reader.pages.checked)
    reader.section("small")
    assert list(reader.pages.checked) == [0, 0, 0, 1]
    reader.section("noise")
    with mock.patch("zlib.crc32") as crc32:
        reader.section("small"), reader.section("noise")
    assert not crc32.called


def test_a_damaged_page_is_named_with_its_tensor_and_others_still_open(tmp_path):
    path = tmp_path / "m.dcz"
    save_pages(path, 4)
    data = bytearray(path.read_bytes())
    data[PAGE + 5] ^= 4
    path.write_bytes(data)
    packed = deepcomp.load(path)
    assert packed["small"].to_dense().tolist() == list(range(8))
    where = r"m\.dcz: tensor 'noise': the page of bytes 65536 to 131072 is damaged"
    with pytest.raises(deepcomp.DczError, match=where):
        packed["noise"].to_dense()
    with pytest.raises(deepcomp.DczError, match=where):  # though one page was found right before
        Reader(path).check_all_pages()


def test_tensors_on_a_damaged_page_are_named_and_those_beside_it_are_not(tmp_path):
    path = tmp_path / "m.dcz"
    noise = np.random.default_rng(0).integers(0, 256, (5, PAGE), dtype=np.uint8)
    parts = {"a": noise[0, 12:], "b": noise[1, :9], "c": noise[1, 9:], "d": noise[2, :500]}
    deepcomp.save({name: part.copy() for name, part in parts.items()}, path)
    whole = path.read_bytes()
    for page, names in enumerate(("tensor 'a'", "tensor 'b': tensor 'c'", "tensor 'd'")):
        data = bytearray(whole)
        data[page * PAGE + 20] ^= 1
        path.write_bytes(data)
        end = min((page + 1) * PAGE, 2 * PAGE + 500)
        message = rf"m\.dcz: {names}: the page of bytes {page * PAGE} to {end} is damaged"
        with pytest.raises(deepcomp.DczError, match=message):
            Reader(path).check_all_pages()


def test_all_pages_are_checked_again_even_those_that_were_found_right(tmp_path):
    path = tmp_path / "m.dcz"
    save_pages(path, 2)
    reader = Reader(path)
    reader.check_all_pages()
    with open(path, "r+b") as file:
        file.seek(100)
        file.write(b"other bytes")
    with pytest.raises(deepcomp.DczError, match="'noise': the page of bytes 0 to 65536 is damaged"):
        reader.check_all_pages()


@pytest.mark.parametrize("n_pages", [1, 2, 3])
@pytest.mark.parametrize("rest", [0, 1])
def test_the_last_page_has_a_checksum_whether_it_is_full_or_not(tmp_path, n_pages, rest):
    noise = np.random.default_rng(0).integers(0, 256, n_pages * PAGE - 12 + rest, dtype=np.uint8)
    deepcomp.save({"noise": noise}, tmp_path / "m.dcz")
    reader = Reader(tmp_path / "m.dcz")
    reader.check_all_pages()
    assert len(reader.pages.checked) == n_pages + rest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"metadata" :{}', r'expected {"metadata": at character 0, found .{"metadata" .$'),
        ('{"metadata":{},"tensor":[]}', r'expected ,"tensors":\[ at character 14, found'),
        ('{"metadata":{},"tensors":[],', r"expected \]} at character 26, found .\],.$"),
    ],
)
def test_what_is_wrong_in_an_index_is_named_with_its_place(text, message):
    with pytest.raises(deepcomp.DczError, match=message):
        decode_index(text.encode())


def test_file_sizes_add_up_at_page_boundaries(tmp_path):
    for n in (PAGE - 13, PAGE - 12, PAGE - 11, 2 * PAGE - 12):
        noise = np.random.default_rng(n).integers(0, 256, n, dtype=np.uint8)
        deepcomp.save({"noise": noise}, tmp_path / "m.dcz")
        packed = deepcomp.load(tmp_path / "m.dcz")
        np.testing.assert_array_equal(packed["noise"].to_dense(), noise)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a .dcz file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a .dcz file"),
        (b"\xdcDCZ\r\n\x1a\n\x01\x00\x00\x00", "cut off"),
        (b"\xdcDCZ\r\n\x1a\n\x00\x00\x09\x00" + bytes(100), "version 0.9"),
        (b"\xdcDCZ\r\n\x1a\n\x01\x00\x0a\x00" + bytes(100), "version 1.10"),
        (b"\xdcDCZ\r\n\x1a\n\x01\x00\x00\x00" + bytes(100), "cut off"),
        (b"\xdcDCZ\n\x1a\n\x01\x00\x00\x00" + bytes(100), "not a .dcz file"),
    ],
)
def test_files_of_another_kind_are_refused_by_name(tmp_path, content, message):
    path = tmp_path / "other.bin"
    path.write_bytes(content)
    with pytest.raises(deepcomp.DczError, match=rf"other\.bin: .*{message}"):
        deepcomp.load(path)


@pytest.mark.parametrize("version", [(0, 9), (1, 2), (1, 65535), (2, 0), (256, 0), (65535, 65535)])
def test_unknown_versions_are_refused_by_number(tmp_path, version):
    """Even of a file that was cut off behind its head."""
    path = tmp_path / "new.dcz"
    versions = r"this deepcomp reads versions 1\.0 to 1\.1"
    message = r"new\.dcz: \.dcz version {}\.{}: {}".format(*version, versions)
    for rest in (b"", bytes(100), b"DCZ\n"):
        path.write_bytes(MAGIC + struct.pack("<HH", *version) + rest)
        with pytest.raises(deepcomp.UnsupportedVersionError, match=message):
            deepcomp.load(path)


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "m.dcz"
    deepcomp.save({"w": np.ones(3)}, path)
    before = path.read_bytes()
    record = TensorRecord("w", "uint8", (3,), "raw", 3)
    with pytest.raises(KeyError), Writer(path, {}) as writer:
        writer.add(record, [b"abc"])
        raise KeyError("in the middle")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.dcz"]


def test_unwritable_targets_give_an_os_error_before_work_is_done(tmp_path):
    with pytest.raises(IsADirectoryError):
        deepcomp.save({"w": np.ones(3)}, tmp_path)
    with pytest.raises(FileNotFoundError):
        deepcomp.save({"w": np.ones(3)}, tmp_path / "missing" / "m.dcz")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """A limit on the size of files stands in for a full disk: the write fails in the middle."""
    script = """
        import resource, signal, sys, numpy as np, deepcomp
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        noise = np.random.default_rng(0).integers(0, 256, 500_000, dtype=np.uint8)
        try:
            deepcomp.save({"noise": noise}, sys.argv[1])
        except OSError as error:
            print("OSError", error.errno)
    """
    path = tmp_path / "m.dcz"
    deepcomp.save({"w": np.ones(3)}, path)
    before = path.read_bytes()
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("OSError")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.dcz"]


def test_a_link_goes_on_pointing_to_the_file_it_names(tmp_path):
    (tmp_path / "store").mkdir()
    deepcomp.save({"w": np.ones(3)}, tmp_path / "store" / "m.dcz")
    (tmp_path / "link.dcz").symlink_to("store/m.dcz")
    deepcomp.save({"w": np.zeros(3)}, tmp_path / "link.dcz")
    assert (tmp_path / "link.dcz").is_symlink()
    assert deepcomp.load(tmp_path / "store" / "m.dcz")["w"].to_dense().tolist() == [0, 0, 0]


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path):
    deepcomp.save({}, tmp_path / "m.dcz")
    (tmp_path / "plain").write_bytes(b"")
    modes = [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("m.dcz", "plain")]
    assert modes[0] == modes[1]


def test_saving_over_a_file_that_is_loaded_keeps_the_old_content(tmp_path):
    path = tmp_path / "m.dcz"
    save_pages(path, 3)
    packed = deepcomp.load(path)
    deepcomp.save({"w": np.ones(3)}, path)
    assert packed["small"].to_dense().tolist() == list(range(8))
    deepcomp.save(packed, path)
    assert list(deepcomp.load(path)) == ["noise", "small"]
