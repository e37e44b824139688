"""One tensor to a section and back, bit for bit, whatever is in it."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import generators, weights

from deepcomp.counts import count_entries
from deepcomp.decode import TensorDecoder
from deepcomp.encode import Weight, encode_part, encode_tensor
from deepcomp.errors import DczError
from deepcomp.plans import make_plan
from deepcomp.records import ITEMSIZE, MAX_BLOCK_NUMEL, SIGNED_DTYPES, TensorRecord
from deepcomp.sections import encode_varint, read_section

DENSE_BLOCK = 1 << 18
NEGATIVE_ZERO = {name: 1 << (8 * ITEMSIZE[name] - 1) for name in SIGNED_DTYPES}


def make(dtype, patterns, shape=None):
    patterns = np.asarray(patterns, f"u{ITEMSIZE[dtype]}")
    return Weight("w", dtype, (patterns.size,) if shape is None else shape, patterns)


def decode(record, section, n_threads=1):
    out = np.full(record.numel, 0xA5, f"u{record.itemsize}")  # nothing may be left as it was
    TensorDecoder(record, memoryview(b"".join(section))).decode_into(out, n_threads)
    return out


def check_round_trip(weight):
    """Encode, decode, and check what the record says; return the record."""
    before = weight.patterns.copy()
    record, section = encode_tensor(weight)
    assert (decode(record, section) == before).all()
    assert (weight.patterns == before).all()
    assert (record.name, record.dtype, record.shape) == (weight.name, weight.dtype, weight.shape)
    assert record.section_nbytes == sum(map(len, section)) <= weight.patterns.nbytes
    if record.layout != "raw":
        is_kept = before != 0
        if record.zero_signs:
            is_kept &= before != NEGATIVE_ZERO[record.dtype]
        assert record.nnz == np.count_nonzero(is_kept)
    return record


# --- any dtype, any content ---


@pytest.mark.parametrize(
    ("dtype", "numel", "n_values"),
    [("uint8", 4, 1), ("uint8", 7, 2), ("uint8", 16, 5), ("float16", 29, 16), ("float32", 7, 5)],
)
def test_what_takes_as_many_bytes_as_the_entries_is_stored_as_it_is(dtype, numel, n_values):
    weight = make(dtype, np.arange(numel) % n_values + 1)
    plan = make_plan(count_entries(weight.patterns, dtype, MAX_BLOCK_NUMEL), ITEMSIZE[dtype])
    directory, payload = encode_part(weight.patterns, plan)
    parts = [plan.head(), directory, *payload]
    assert plan.layout != "raw" and sum(map(len, parts)) == weight.patterns.nbytes
    record, section = encode_tensor(weight)
    assert record.layout == "raw" and section == [weight.patterns.tobytes()]


@pytest.mark.parametrize("run", [(1 << 16) - 1, 1 << 16, (1 << 16) + 1])
def test_runs_of_as_many_zeros_as_are_counted_in_a_table_come_back(run):
    entries = np.zeros(3 * (run + 1), np.float32)
    entries[run :: run + 1] = 1, 2, 3
    assert check_round_trip(make("float32", entries.view(np.uint32))).layout == "sparse"


def test_a_long_run_in_a_later_block_leaves_the_counts_of_the_others():
    entries = np.zeros(MAX_BLOCK_NUMEL + 200_000, np.float32)
    entries[:MAX_BLOCK_NUMEL:50] = entries[-1] = 1
    assert check_round_trip(make("float32", entries.view(np.uint32))).layout == "sparse"


@pytest.mark.parametrize("broken", [0, 1])
def test_what_is_wrong_in_a_block_is_said_with_its_size(broken):
    fields = {**SPARSE, "numel": 5000, "block_numel": 4096}
    blocks = [[1, 0], [1, 0]]  # kept entries and escapes; each after a gap of two
    section = bytes.fromhex("07 0102 0100")
    size, blocks[broken][0] = (4096, 904)[broken], 800 + 600 * (1 - broken)
    directory = b"".join(encode_varint(n) for block in blocks for n in block)
    with pytest.raises(DczError, match=f"a block of {size} entries: its gaps lead out of the"):
        decode_by_hand(fields, 1 + blocks[broken][0], (section + directory).hex())


@pytest.mark.parametrize("dtype", ITEMSIZE)
@given(data=st.data())
def test_every_dtype_comes_back_bit_for_bit_and_never_larger(dtype, data):
    check_round_trip(data.draw(weights((dtype,))))


@given(weights(sizes=st.integers(4000, 9000)))
def test_tensors_with_four_bitstreams_come_back_and_are_never_larger(weight):
    check_round_trip(weight)


@pytest.mark.parametrize("dtype", ITEMSIZE)
@pytest.mark.parametrize("numel", [1, 2, 3, 7, 63, 64, 65, 5000])
@pytest.mark.parametrize("pattern", [0, 1, "all bits", "negative zero"])
def test_one_value_everywhere_comes_back_and_is_never_larger(dtype, numel, pattern):
    value = {"all bits": (1 << (8 * ITEMSIZE[dtype])) - 1, "negative zero": 1 << 7}.get(
        pattern, pattern
    )
    if pattern == "negative zero" and dtype in NEGATIVE_ZERO:
        value = NEGATIVE_ZERO[dtype]
    record = check_round_trip(
        make(dtype, np.full(numel, min(value, 1) if dtype == "bool" else value))
    )
    if numel == 5000:
        assert record.section_nbytes < 32


@pytest.mark.parametrize("dtype", ITEMSIZE)
def test_random_bits_come_back_and_are_never_larger(dtype):
    top = 2 if dtype == "bool" else 1 << (8 * ITEMSIZE[dtype])
    for numel in (63, 64, 100, 4096, 20_000):
        rng = np.random.default_rng(numel)
        check_round_trip(make(dtype, rng.integers(0, top, numel, f"u{ITEMSIZE[dtype]}")))


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)])
@pytest.mark.parametrize("dtype", ["float32", "bool", "int64"])
def test_an_empty_tensor_is_raw_and_has_no_bytes(dtype, shape):
    record, section = encode_tensor(make(dtype, [], shape))
    assert (record.layout, record.section_nbytes, record.shape) == ("raw", 0, shape)
    assert decode(record, section).size == 0


@pytest.mark.parametrize("value", [0, 1, 0x3F800000, 0x80000000, 0xFFFFFFFF])
def test_a_tensor_without_dimensions_comes_back(value):
    check_round_trip(make("float32", [value], ()))


@pytest.mark.parametrize(
    ("dtype", "nans"),
    [
        ("float16", [0x7E00, 0x7E01, 0xFE00, 0x7C01, 0xFFFF]),
        ("bfloat16", [0x7FC0, 0x7F81, 0xFFC0, 0xFFFF]),
        ("float32", [0x7FC00000, 0x7F800001, 0xFFC00000, 0xFFFFFFFF, 0x7FC0DEAD]),
        ("float64", [0x7FF8000000000000, 0x7FF0000000000001, 0xFFFFFFFFFFFFFFFF]),
    ],
)
def test_nan_payloads_infinities_and_signs_survive(dtype, nans):
    infinity = nans[0] & ~(nans[0] & -nans[0]) if dtype != "float16" else 0x7C00
    values = [*nans, infinity, infinity | NEGATIVE_ZERO[dtype], 0, NEGATIVE_ZERO[dtype]]
    patterns = np.random.default_rng(1).choice(np.array(values, np.uint64), 2000)
    assert check_round_trip(make(dtype, patterns)).codebook is not None


# --- the layout ---


def sparse_floats(numel, density, n_values=None, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(numel).astype(dtype)
    if n_values:
        values = rng.standard_normal(n_values).astype(dtype)[rng.integers(0, n_values, numel)]
    return np.where(rng.random(numel) < density, values, 0).view(f"u{values.itemsize}")


def test_few_values_and_many_zeros_are_sparse_with_a_codebook():
    record = check_round_trip(make("float32", sparse_floats(50_000, 0.05, 16)))
    assert (record.layout, record.codebook, record.zero_signs) == ("sparse", 16, False)
    assert record.section_nbytes < 50_000 * 0.05 * 1.3  # 4 bits a label and about 5 a gap


def test_few_values_and_no_zeros_are_dense_with_a_codebook():
    record = check_round_trip(make("float32", sparse_floats(50_000, 1, 16)))
    assert (record.layout, record.codebook, record.nnz) == ("dense", 16, 50_000)
    assert record.section_nbytes < 50_000 / 2 * 1.01


def test_few_values_and_few_zeros_are_dense_with_zero_in_the_codebook():
    record = check_round_trip(make("float32", sparse_floats(50_000, 0.9, 15)))
    assert (record.layout, record.codebook) == ("dense", 16)
    assert 0 < record.nnz < 50_000


def test_many_values_and_many_zeros_are_sparse_with_byte_planes():
    record = check_round_trip(make("float32", sparse_floats(50_000, 0.1)))
    assert (record.layout, record.codebook) == ("sparse", None)
    assert record.section_nbytes < 50_000 * 0.1 * 4.3


def test_random_bits_are_raw():
    patterns = np.random.default_rng(2).integers(0, 1 << 32, 5000, np.uint32)
    assert check_round_trip(make("float32", patterns)).layout == "raw"


@pytest.mark.parametrize("density", [1.0, 0.5, 0.99])
@pytest.mark.parametrize("n_values", [255, 256, 257])
def test_at_the_limit_of_the_codebook_it_comes_back(n_values, density):
    values = np.arange(1, n_values + 1, dtype=np.uint16) * 200
    rng = np.random.default_rng(4)
    patterns = np.concatenate((values, rng.choice(values, 20_000)))
    patterns[n_values:][rng.random(20_000) >= density] = 0
    record = check_round_trip(make("uint16", patterns))
    if n_values > 256:
        assert record.codebook is None
    elif density == 1:
        assert (record.layout, record.codebook) == ("dense", n_values)
    elif record.layout == "dense":
        assert record.codebook == n_values + 1 <= 256


# --- -0.0 ---


@pytest.mark.parametrize("dtype", SIGNED_DTYPES)
@pytest.mark.parametrize("n_values", [10, 120, None])
def test_many_negative_zeros_are_stored_as_signs(dtype, n_values):
    rng = np.random.default_rng(5)
    bits = 8 * ITEMSIZE[dtype]
    if n_values is None:
        n_values = min(5000, (1 << (bits - 1)) - 1)
    values = rng.choice(min(1 << (bits - 1), 1 << 31) - 1, n_values, replace=False) + 1
    patterns = np.where(rng.random(9000) < 0.03, rng.choice(values, 9000), 0).astype(
        f"u{bits // 8}"
    )
    patterns |= rng.integers(0, 2, 9000, patterns.dtype) << patterns.dtype.type(bits - 1)
    record = check_round_trip(make(dtype, patterns))
    assert (record.layout, record.zero_signs) == ("sparse", True)
    if record.codebook is not None:
        magnitudes = patterns & patterns.dtype.type((1 << (bits - 1)) - 1)
        assert record.codebook == np.unique(patterns[magnitudes > 0]).size


@pytest.mark.parametrize("dtype", ["int32", "uint8", "int64"])
def test_integers_have_no_zero_signs(dtype):
    patterns = np.zeros(9000, f"u{ITEMSIZE[dtype]}")
    patterns[::2] = 1 << (8 * ITEMSIZE[dtype] - 1)
    assert not check_round_trip(make(dtype, patterns)).zero_signs


def test_zeros_that_are_all_negative_take_next_to_nothing():
    patterns = sparse_floats(40_000, 0.05, 16)
    without = check_round_trip(make("float32", patterns)).section_nbytes
    patterns = np.where(patterns == 0, np.uint32(1 << 31), patterns)
    # eight signs are one bit, the more frequent of two symbols; 128 bytes are code lengths
    limit = without + 40_000 / 64 + 160
    assert check_round_trip(make("float32", patterns)).section_nbytes < limit


# --- blocks and threads ---


@pytest.mark.parametrize("zero_signs", [False, True])
@pytest.mark.parametrize("n_values", [4, None])
def test_sparse_tensors_of_several_blocks_come_back_with_any_number_of_threads(
    n_values, zero_signs
):
    patterns = sparse_floats(2 * MAX_BLOCK_NUMEL + 3, 0.01, n_values)
    patterns[100 : MAX_BLOCK_NUMEL // 2] = 0  # a long run
    patterns[MAX_BLOCK_NUMEL : 2 * MAX_BLOCK_NUMEL] = 0  # a block that keeps nothing
    patterns[-1] = 0x3F800000
    if zero_signs:
        is_negative = np.random.default_rng(8).random(MAX_BLOCK_NUMEL) < 0.3
        patterns[:MAX_BLOCK_NUMEL][is_negative] |= np.uint32(1 << 31)
    record, section = encode_tensor(make("float32", patterns))
    assert (record.layout, record.block_numel) == ("sparse", MAX_BLOCK_NUMEL)
    assert record.zero_signs == zero_signs
    blocks = read_section(record, memoryview(b"".join(section))).blocks
    assert [b.numel for b in blocks] == [MAX_BLOCK_NUMEL, MAX_BLOCK_NUMEL, 3]
    assert blocks[1].n_kept == 0
    for n_threads in (1, 2, 5):
        assert (decode(record, section, n_threads) == patterns).all()


@pytest.mark.parametrize("numel", [DENSE_BLOCK, DENSE_BLOCK + 1, 2 * DENSE_BLOCK + 5000])
@pytest.mark.parametrize(("n_values", "density"), [(1, 1), (3, 0.8)])
def test_dense_tensors_of_several_blocks_come_back_with_any_number_of_threads(
    numel, n_values, density
):
    patterns = sparse_floats(numel, density, n_values)
    record, section = encode_tensor(make("float32", patterns))
    assert record.layout == "dense"
    assert record.block_numel == (DENSE_BLOCK if numel > DENSE_BLOCK else None)
    for n_threads in (1, 2, 5):
        assert (decode(record, section, n_threads) == patterns).all()


def test_byte_planes_of_several_blocks_come_back_with_any_number_of_threads():
    rng = np.random.default_rng(6)
    patterns = rng.integers(0, 1 << 16, DENSE_BLOCK + 77, np.uint32) << np.uint32(8)  # 2 constant
    record, section = encode_tensor(make("uint32", patterns))
    assert (record.layout, record.codebook, len(record.block_sizes)) == ("dense", None, 2)
    for n_threads in (1, 3):
        assert (decode(record, section, n_threads) == patterns).all()


def test_a_tensor_of_more_than_one_block_may_be_all_zero():
    record = check_round_trip(make("float16", np.zeros(MAX_BLOCK_NUMEL + 1, np.uint16)))
    assert (record.layout, record.nnz) == ("sparse", 0)
    assert record.section_nbytes < 10


def test_kept_entries_in_the_corners_of_blocks_come_back():
    patterns = np.zeros(2 * MAX_BLOCK_NUMEL + 1, np.uint8)
    patterns[[0, MAX_BLOCK_NUMEL - 1, MAX_BLOCK_NUMEL, 2 * MAX_BLOCK_NUMEL - 1, -1]] = [
        1,
        2,
        3,
        4,
        5,
    ]
    assert check_round_trip(make("int8", patterns)).nnz == 5


# --- the same each time; other ways to decode ---


@given(weights(sizes=st.integers(0, 3000)))
def test_the_same_tensor_gives_the_same_bytes(weight):
    first_record, first_section = encode_tensor(weight)
    record, section = encode_tensor(dataclasses.replace(weight, patterns=weight.patterns.copy()))
    assert record == first_record
    assert b"".join(section) == b"".join(first_section)


@given(weights(sizes=st.integers(0, 3000)))
def test_kept_gives_positions_and_patterns_of_the_entries_that_are_not_zero(weight):
    record, section = encode_tensor(weight)
    positions, patterns = TensorDecoder(record, memoryview(b"".join(section))).kept()
    is_kept = weight.patterns != 0
    if weight.dtype in NEGATIVE_ZERO:
        is_kept &= weight.patterns != NEGATIVE_ZERO[weight.dtype]
    assert positions.tolist() == np.flatnonzero(is_kept).tolist()
    assert patterns.dtype == weight.patterns.dtype
    assert patterns.tolist() == weight.patterns[is_kept].tolist()


def test_kept_of_several_blocks_counts_positions_from_the_start():
    patterns = np.zeros(MAX_BLOCK_NUMEL + 10, np.uint16)
    patterns[[3, MAX_BLOCK_NUMEL + 4]] = 7, 0x8001
    record, section = encode_tensor(make("bfloat16", patterns))
    positions, kept = TensorDecoder(record, memoryview(b"".join(section))).kept()
    assert positions.tolist() == [3, MAX_BLOCK_NUMEL + 4]
    assert kept.tolist() == [7, 0x8001]


# --- damage ---


@given(weights(sizes=st.integers(1, 500)))
def test_verify_is_content_with_what_encode_writes(weight):
    record, section = encode_tensor(weight)
    TensorDecoder(record, memoryview(b"".join(section))).verify()


def decode_or_refuse(record, data):
    """Return the entries, or None if a DczError says what is wrong; anything else is a bug."""
    try:
        return decode(dataclasses.replace(record, section_nbytes=len(data)), [data])
    except DczError as error:
        assert str(error)
        return None


big_enough = st.one_of(st.integers(64, 500), st.integers(4096, 6000))


@given(weights(sizes=big_enough), generators())
def test_a_damaged_section_is_refused_or_decodes_to_something_else(weight, rng):
    record, section = encode_tensor(weight)
    if record.layout == "raw":
        return
    data = np.frombuffer(b"".join(section), np.uint8)
    for _ in range(20):
        damaged = data.copy()
        damaged[rng.integers(min(data.size, 40) if rng.random() < 0.5 else data.size)] ^= (
            1 << rng.integers(8)
        )
        decoded = decode_or_refuse(record, damaged.tobytes())
        assert decoded is None or (decoded != weight.patterns).any()


@given(weights(sizes=big_enough), generators())
def test_a_section_that_is_cut_or_continued_is_refused(weight, rng):
    record, section = encode_tensor(weight)
    if record.layout == "raw":
        return
    data = b"".join(section)
    for n in (0, 1, len(data) - 1, int(rng.integers(len(data)))):
        assert decode_or_refuse(record, data[:n]) is None
    assert decode_or_refuse(record, data + b"\0") is None


@given(weights(sizes=big_enough), st.data())
def test_a_record_that_does_not_fit_its_section_is_refused(weight, data):
    record, section = encode_tensor(weight)
    if record.layout == "raw":
        return
    raw = b"".join(section)
    assert decode_or_refuse(dataclasses.replace(record, nnz=record.nnz + 1), raw) is None
    changes = [{"nnz": 0}, {"codebook": data.draw(st.integers(0, 256))}, {"codebook": None}]
    changes += [{"dtype": "float64"}, {"dtype": "bool"}, {"shape": (record.numel + 1,)}]
    if record.layout == "sparse":
        changes += [{"gap_bits": data.draw(st.integers(2, 8))}, {"layout": "dense"}]
        changes += [{"zero_signs": not record.zero_signs}]
    else:
        changes += [{"layout": "sparse", "gap_bits": 4}]
    for change in changes:
        decode_or_refuse(dataclasses.replace(record, **change), raw)


@pytest.mark.parametrize("layout", ["raw", "dense", "sparse"])
def test_a_bool_other_than_0_and_1_is_refused(layout):
    patterns = np.ones(200, np.uint8)
    if layout == "raw":
        patterns = np.ones(1, np.uint8)
    if layout == "sparse":
        patterns[5:190] = 0
    patterns[-1] = 2
    record, section = encode_tensor(make("uint8", patterns))
    assert record.layout == layout
    with pytest.raises(DczError, match="bool"):
        decode(dataclasses.replace(record, dtype="bool"), section)


# --- sections written by hand, after section 7 ---

SPARSE = {"dtype": "uint8", "layout": "sparse", "numel": 10, "gap_bits": 2, "codebook": 1}
PLANES = {**SPARSE, "codebook": None}
SIGNS = {**SPARSE, "dtype": "float8_e5m2", "numel": 3, "codebook": 0, "zero_signs": True}
SIGNED_PLANES = {**SIGNS, "codebook": None}
DENSE = {"dtype": "uint8", "layout": "dense", "numel": 4, "codebook": 2}
DENSE_PLANES = {**DENSE, "codebook": None}


def decode_by_hand(fields, nnz, section):
    """Decode a section given in hexadecimal."""
    data = bytes.fromhex(section)
    fields = {**fields, "shape": (fields["numel"],)}
    del fields["numel"]
    record = TensorRecord(name="w", nnz=nnz, section_nbytes=len(data), **fields)
    return decode(record, [data]).tolist()


@pytest.mark.parametrize(
    ("fields", "nnz", "section", "expected"),
    [
        # codebook 7; gaps all 2; labels all 0; 3 kept, no escapes
        (SPARSE, 3, "07 0102 0100 0300", [0, 0, 7, 0, 0, 7, 0, 0, 7, 0]),
        # gaps 0 and 3, a bit each; labels all 0; 1 kept, 1 escape, 1 byte: 3 0
        (SPARSE, 1, "07 040110 0100 010101 01", [0, 0, 0, 7, 0, 0, 0, 0, 0, 0]),
        # no gaps, no labels
        (SPARSE | {"codebook": 0}, 0, "00 00 0000", [0] * 10),
        # gaps all 2; plane 0 stored
        (PLANES, 3, "0102 8102 0300 010203", [0, 0, 1, 0, 0, 2, 0, 0, 3, 0]),
        # no gaps; signs all 101; no labels
        (SIGNS, 0, "00 0105 00 0000", [0x80, 0, 0x80]),
        # labels 0 and 1, a bit each; 3 kept, 1 byte: 0 1 1 1
        (DENSE, 3, "0005 0211 0301 0e", [0, 5, 5, 5]),
        (DENSE_PLANES, 3, "8102 03 00010203", [0, 1, 2, 3]),
    ],
)
def test_a_section_written_by_hand_is_decoded(fields, nnz, section, expected):
    assert decode_by_hand(fields, nnz, section) == expected


@pytest.mark.parametrize(
    ("fields", "nnz", "section", "message"),
    [
        (SPARSE, 3, "07 0102 0100 0301", "not hold as many kept entries"),  # 4 gaps, no escape
        (SPARSE, 1, "07 0103 0100 0100", "not hold as many kept entries"),  # an escape
        (SPARSE, 1, "07 040110 0100 010101 02", "last gap is an escape"),
        (SPARSE, 4, "07 0102 0100 0400", "lead out of the block"),
        (SPARSE | {"codebook": 0}, 0, "0103 00 0001", "escapes in a block without kept"),
        (SPARSE, 11, "07 0100 0100 0b00", "11 kept entries and 0 escapes in a block of 10"),
        (SPARSE, 1, "07 0100 0100 0104", "1 kept entries and 4 escapes in a block of 10"),
        (SPARSE, 2, "07 0102 0100 0300", "keep 3 entries: expected 2"),
        (SPARSE, 3, "07 0102 0100 830000", "could be shorter"),
        (SPARSE, 3, "07 0102 0100 83808080808080808000 00", "more than nine bytes"),
        (SPARSE, 3, "07 0102 0100 0300 00", "has 8 bytes: expected 7"),
        (SPARSE, 3, "07 0102 0100 03", "ends inside its directory"),
        (SPARSE, 3, "", "ends inside its codebook"),
        (SPARSE, 3, "07 01", "ends inside its code of gaps"),
        (SPARSE, 3, "00 0102 0100 0300", "codebook of a sparse tensor holds a zero"),
        (SPARSE, 3, "07 0104 0100 0300", "symbol 4 of an alphabet of 4"),
        (SPARSE, 3, "07 0102 0101 0300", "symbol 1 of an alphabet of 1"),
        (SPARSE, 3, "07 8102 0100 0300 020202", "257 code lengths for an alphabet of 4"),
        (SPARSE, 3, "07 05111100 0100 0300", "5 code lengths for an alphabet of 4"),
        (SPARSE, 0, "07 0102 0100 0000", "0 symbols, but m is 1"),
        (SPARSE, 3, "07 00 0100 0300", "3 symbols, but m is 0"),
        (SPARSE, 1, "07 040101 0100 010101 01", "0 for the last symbol"),
        (SPARSE, 1, "07 032112 0100 010101 01", "padding after the code lengths"),
        (SPARSE, 1, "07 040120 0100 010101 01", "Kraft's sum is 3072/4096"),
        (SPARSE, 1, "07 0411d1 0100 010101 01", "a code length of 13"),
        (SPARSE, 1, "07 040110 0100 010100", "2 symbols in bitstreams of"),
        (SPARSE, 1, "07 040110 0100 010102 0100", "bits left over"),
        (SPARSE, 1, "07 040110 0100 010101 05", "bits left over"),
        (PLANES, 3, "0102 8102 0300 010003", "a kept entry is zero"),
        (SIGNS, 0, "00 010d 00 0000", "padding after the signs"),
        (SIGNS | {"codebook": 1}, 1, "80 0100 0100 0100 0100", "holds a zero"),
        (SIGNED_PLANES, 1, "0100 0100 0180 0100", "a kept entry is zero"),
        (DENSE, 2, "0005 0211 0201 0e", "keeps 3 entries: expected 2"),
        (DENSE, 3, "0405 0211 0301 0e", "keeps 4 entries: expected 3"),
        (DENSE, 3, "0505 0211 0301 0e", "codebook is not strictly increasing"),
        (DENSE, 3, "0500 0211 0301 0e", "codebook is not strictly increasing"),
        (DENSE | {"dtype": "bool"}, 3, "0005 0211 0301 0e", "codebook of a bool tensor holds 5"),
        (DENSE_PLANES, 2, "8102 02 00010203", "keeps 3 entries: expected 2"),
        # a codeword has a bit at least
        (DENSE | {"numel": 9}, 8, "0005 0211 0801 fe", r"9 symbols in bitstreams of \(1,\) bytes"),
        (DENSE | {"numel": 8}, 8, "0005 0211 0801 fe", "keeps 7 entries: expected 8"),
    ],
)
def test_a_section_that_breaks_a_rule_is_refused(fields, nnz, section, message):
    with pytest.raises(DczError, match=message):
        decode_by_hand(fields, nnz, section)
