"""Files of at most 1 KiB that claim more than they can hold: refused in 50 ms and 32 MiB.

All checksums are right, and the lengths that the container gives too, so that the claim itself has
to be noticed.
"""

import json
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from independent import writer

MAX_SECONDS, MAX_NBYTES = 0.05, 32 << 20
MILLION, PETABYTE = 1_000_000, 1 << 50


TENSORS = b'{"metadata":{},"tensors":['


def file_of(*tensors, text=None, claim=None):
    """A file whose index is deflated; ``text`` is another one, ``claim`` another size of it."""
    index = {"metadata": {}, "tensors": [tensor.object() for tensor in tensors]}
    text = text or writer.canonical(index)
    sections = b"".join(tensor.section() for tensor in tensors)
    stream = zlib.compress(text, 9) if claim else deflate(text)
    version = (1, int(b'"kept_rows"' in text))
    return writer.build(sections, text, stream=stream, index_raw_nbytes=claim, version=version)


def deflate(text):
    """Deflate in parts, as many as it takes that the text is not more than 128 times as long."""
    for n in range(1, 100):
        deflater = zlib.compressobj(9)
        step = -(-len(text) // n)
        parts = [text[i : i + step] for i in range(0, len(text), step)]
        each = [deflater.compress(part) + deflater.flush(zlib.Z_FULL_FLUSH) for part in parts]
        stream = b"".join(each) + deflater.flush()
        if len(text) <= 128 * len(stream):
            return stream
    raise AssertionError("too regular a text")


def many_objects(count):
    """The objects of so many empty tensors."""
    item = b'{"dtype":"bool","layout":"raw","name":"%x","shape":[0]}'
    return b",".join(item % i for i in range(count))


def raw_claim(nbytes):
    """A raw tensor of 8 bytes, of which the index says that it has more."""
    parts = writer.raw("w", "uint8", [8], [0] * 8)
    parts.changes = {"shape": [nbytes]}
    return parts


def claims(layout, numel, **changes):
    """A tensor whose section has 8 bytes; its object in the index says something else."""
    item = {"name": "w", "dtype": "float64", "shape": [numel], "layout": layout, "nnz": 0}
    item |= {"codebook": 1, "block_numel": 1 << 20} | (
        {"gap_bits": 2} if layout == "sparse" else {}
    )
    parts = writer.Parts(item, raw=bytes(8))
    parts.changes = changes
    return parts


def section(layout, data, numel=5000, **other):
    """A tensor with this section."""
    item = {"name": "w", "dtype": "uint8", "shape": [numel], "layout": layout, "nnz": 0}
    return writer.Parts(item | other, raw=data)


HUGE = writer.varint((1 << 63) - 1)
# m of gaps, m of labels, and 350 blocks of 2^20 entries that keep nothing: three gigabytes.
ZEROS = b"\0\0" + b"\0\0" * 350
SPARSE = {"codebook": 0, "gap_bits": 2}
ROWS = {"dtype": "float64", "kept_rows": 1 << 22}
# Seven of eight rows of 43 times 2^20 zeros.
EIGHT_ROWS = SPARSE | {"shape": [8, 43 << 20], "kept_rows": 7, "block_numel": 1 << 20}
EIGHT_ROWS["dtype"] = "float64"
LARGE = SPARSE | {"numel": 350 << 20, "block_numel": 1 << 20, "dtype": "float64"}

NOT_OPENED = {
    "elements_2_63": file_of(claims("sparse", 1 << 63, nbytes=1 << 62)),
    "elements_2_63_less_1": file_of(claims("dense", (1 << 63) - 1, dtype="uint8")),
    "elements_2_63_less_1_with_nbytes": file_of(
        claims("dense", (1 << 63) - 1, dtype="uint8", nbytes=(1 << 63) - 1)
    ),
    "elements_2_63_less_1_raw": file_of(raw_claim((1 << 63) - 1)),
    "elements_2_63_in_three_dimensions": file_of(claims("sparse", 1, shape=[1 << 21] * 3)),
    "petabyte": file_of(claims("sparse", PETABYTE // 8)),
    "petabyte_with_nbytes": file_of(claims("sparse", PETABYTE // 8, nbytes=PETABYTE)),
    "petabyte_in_one_block": file_of(claims("dense", PETABYTE // 8, block_numel=writer.DROP)),
    "petabyte_in_small_blocks": file_of(claims("dense", PETABYTE // 8, block_numel=1)),
    "petabyte_raw": file_of(raw_claim(PETABYTE)),
    "million_tensors_by_size": file_of(claim=60 * MILLION),
    "million_tensors_deflated": file_of(text=TENSORS + b"{}," * 150_000, claim=60 * MILLION),
    "more_than_its_claim": file_of(text=b"[" * 500_000, claim=100),
    "as_many_tensors_as_fit": file_of(text=TENSORS + many_objects(200) + b",{}]}"),
    "as_much_nesting_as_fits": file_of(text=b'{"metadata":' + b"[" * 40_000),
    "as_many_arrays_as_fit": file_of(text=TENSORS + b"[]," * 20_000 + b"[]]}"),
    "a_number_of_40_000_digits": file_of(text=TENSORS + b"9" * 40_000 + b"]}"),
    "rows_2_59_of_which_few_are_kept": file_of(claims("sparse", 1 << 59, **ROWS)),
    "rows_2_59_with_nbytes": file_of(claims("sparse", 1 << 59, nbytes=1 << 57, **ROWS)),
    "rows_of_a_petabyte_each": file_of(claims("sparse", 1, shape=[4, 1 << 47], kept_rows=1)),
    "data_end_2_63": writer.build(b"", b"", data_end=1 << 63),
    "index_nbytes_2_32": writer.build(b"", b"", index_nbytes=(1 << 32) - 1),
}
NOT_DECODED = {
    "n_kept_2_63": file_of(section("dense", b"\1\0" + HUGE)),
    "n_escapes_2_63": file_of(section("sparse", b"\1\1\0\1" + HUGE, **SPARSE)),
    "m_2_63": file_of(section("sparse", HUGE + b"\0\0\0", **SPARSE)),
    "size_2_63": file_of(section("dense", b"\2\x11\0" + HUGE * 4)),
    "gigabytes_and_a_byte_over": file_of(section("sparse", ZEROS + b"\0", **LARGE)),
    "gigabytes_cut_off": file_of(section("sparse", ZEROS[:-1], **LARGE)),
    "gigabytes_with_one_kept_entry": file_of(section("sparse", ZEROS[:-2] + b"\1\0", **LARGE)),
    "gigabytes_of_rows_in_a_wrong_bitmap": file_of(
        section("sparse", b"\xff" + ZEROS[:604], **EIGHT_ROWS)
    ),
    "gigabytes_of_rows_cut_off": file_of(section("sparse", b"\x7f" + ZEROS[:603], **EIGHT_ROWS)),
    "gigabytes_of_kept_entries": file_of(section("sparse", ZEROS, **LARGE | {"nnz": 350 << 20})),
}
VALID = {
    "gigabytes_of_zeros": file_of(section("sparse", ZEROS, **LARGE)),
    "gigabytes_of_rows_of_zeros": file_of(section("sparse", b"\x7f" + ZEROS[:604], **EIGHT_ROWS)),
}
LOADS = ["load", "load max_dense_bytes", "inspect", "inspect --verify"]
DECODES = ["to_dense", "to_csr", "verify", "state_dict", "restore", "inspect", "inspect --verify"]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What comes of each file and action, in seconds and bytes, in a fresh process."""
    folder, tasks = tmp_path_factory.mktemp("claims"), []
    for files, actions in ((NOT_OPENED, LOADS), (NOT_DECODED, DECODES), (VALID, LOADS[1:2])):
        for name, data in files.items():
            assert len(data) <= 1024, (name, len(data))
            path = folder / f"{name}.dcz"
            path.write_bytes(data)
            tasks += [[str(path), action] for action in actions]
    command = [sys.executable, str(Path(__file__).with_name("measured.py"))]
    result = subprocess.run(command, input=json.dumps(tasks), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line[:2] for line in found] == tasks
    return found


def test_claims_beyond_the_file_are_refused_by_every_way_to_read_it(outcomes):
    for path, action, found, *_ in outcomes:
        if action.startswith("inspect"):
            assert found == (1 if Path(path).stem in NOT_DECODED else 2), (path, action)
        else:
            assert isinstance(found, str) and found.startswith(f"{path}: "), (path, action, found)


def test_claims_beyond_the_file_cost_little_time_and_memory(outcomes):
    seconds, nbytes = (max(line[i] for line in outcomes) for i in (3, 4))
    print(f"{len(outcomes)} readings: at most {1e3 * seconds:.1f} ms, {nbytes / 2**20:.2f} MiB")
    assert [line for line in outcomes if line[3] >= MAX_SECONDS or line[4] >= MAX_NBYTES] == []


def test_what_a_valid_file_may_claim_is_bounded_by_the_caller(outcomes):
    lines = [line for line in outcomes if Path(line[0]).stem in VALID]
    assert len(lines) == len(VALID)
    for _, action, found, *_ in lines:
        assert action == "load max_dense_bytes" and "(max_dense_bytes)" in found
