"""Huffman coding against other people's code lengths, a bit-by-bit coder and broken input."""

from functools import cache
from itertools import product

import numpy as np
import pytest
from dahuffman import HuffmanCodec
from hypothesis import assume, example, given
from hypothesis import strategies as st
from strategies import complete_code_lengths, generators, skewed_symbols, streams

from deepcomp import huffman
from deepcomp.errors import DczError
from deepcomp.records import MAX_CODE_LENGTH, n_bitstreams

SIZES = (0, 1, 2, 3, 5, 4095, 4096, 4097, 4099, 8192)
FIBONACCI = [1, 1]
while len(FIBONACCI) < 60:
    FIBONACCI.append(FIBONACCI[-1] + FIBONACCI[-2])


def encode(symbols, code_lengths):
    return [bytes(b) for b in huffman.encode(symbols, code_lengths)]


HAND_LENGTHS = np.array([1, 2, 0, 0, 0, 2], np.uint8)  # 0: 0, 1: 10, 5: 11


def to_counts(values):
    counts = np.zeros(256, np.int64)
    counts[: len(values)] = values
    return counts


def n_bits(counts, lengths):
    return int(counts[: lengths.size] @ lengths.astype(np.int64))


def kraft(lengths):
    return sum(2.0 ** -int(n) for n in lengths if n)


def fewest_bits(values, limit):
    """Return the bits of the best code: level by level, how many symbols become leaves there."""
    values = sorted((v for v in values if v), reverse=True)
    below = [sum(values[i:]) for i in range(len(values) + 1)]

    @cache
    def rest(level, n_placed, n_free):  # bits that the symbols not yet placed still need
        n_left = len(values) - n_placed
        if n_left == 0:
            return 0
        if level == limit or n_free == 0:
            return np.inf
        n_free = min(2 * n_free, n_left)
        return below[n_placed] + min(
            rest(level + 1, n_placed + n_leaves, n_free - n_leaves)
            for n_leaves in range(n_free + 1)
        )

    return rest(0, 0, 1)


def spec_codewords(lengths):
    """Section 6.1, as strings: {symbol: codeword, first bit first}."""
    codewords, value, previous = {}, 0, None
    for length, symbol in sorted((int(n), s) for s, n in enumerate(lengths) if n):
        value = 0 if previous is None else (value + 1) << (length - previous)
        codewords[symbol] = f"{value:0{length}b}"
        previous = length
    return codewords


def spec_encode(symbols, lengths):
    """Section 6.2, bit by bit."""
    codewords = spec_codewords(lengths)
    n = len(symbols)
    step = max(1, n if n < 4096 else (n + 3) // 4)
    parts = []
    for first in range(0, n, step):
        bits = "".join(codewords[int(s)] for s in symbols[first : first + step])
        padded = bits + "0" * (-len(bits) % 8)
        parts.append(bytes(int(padded[i : i + 8][::-1], 2) for i in range(0, len(padded), 8)))
    return parts


def decode(bitstreams, lengths, n, n_expected=None):
    decoder = huffman.Decoder(lengths, n if n_expected is None else n_expected)
    data = np.frombuffer(b"".join(bitstreams), np.uint8)
    return decoder.decode(data, [len(b) for b in bitstreams], np.empty(n, np.uint8))


# --- counts ---


@given(streams(), st.integers(1, 3))
def test_count_symbols_counts_each_byte_value(stream, step):
    symbols = stream[0][::step]  # not contiguous for step > 1
    counts = huffman.count_symbols(symbols)
    assert counts.dtype == np.int64
    assert counts.tolist() == [symbols.tolist().count(s) for s in range(256)]


# --- code lengths ---


@given(st.lists(st.integers(0, 50), min_size=2, max_size=5))
def test_code_lengths_are_the_best_of_all_on_tiny_alphabets(values):
    assume(np.count_nonzero(values) >= 2)
    counts = to_counts(values)
    used = [v for v in values if v]
    best = min(
        sum(c * n for c, n in zip(used, lengths, strict=True))
        for lengths in product(range(1, 5), repeat=len(used))
        if kraft(lengths) <= 1
    )
    assert n_bits(counts, huffman.fit_code_lengths(counts)) == best


@given(generators(), st.integers(2, 256), st.sampled_from((1, 3, 10)))
def test_code_lengths_take_as_many_bits_as_unlimited_huffman(rng, n_symbols, spread):
    counts = to_counts(np.ceil(10 * np.exp(spread * rng.random(n_symbols))))
    codec = HuffmanCodec.from_frequencies({s: int(counts[s]) for s in range(n_symbols)}, eof=0)
    unlimited = np.zeros(256, np.uint8)
    for symbol, (length, _) in codec.get_code_table().items():
        unlimited[symbol] = length
    assume(unlimited.max() <= MAX_CODE_LENGTH)
    assert n_bits(counts, huffman.fit_code_lengths(counts)) == n_bits(counts, unlimited)


@given(
    st.integers(13, 20),
    generators(),
    st.sampled_from((1.3, 1.618, 2.0, 3.0)),
)
def test_code_lengths_are_optimal_under_the_limit(n_symbols, rng, growth):
    values = np.floor(growth ** np.arange(n_symbols) * rng.uniform(1, 1.2, n_symbols))
    counts = to_counts(rng.permutation(values))
    lengths = huffman.fit_code_lengths(counts)
    assert n_bits(counts, lengths) == fewest_bits(counts.tolist(), MAX_CODE_LENGTH)


@pytest.mark.parametrize("n_symbols", [13, 14, 20, 24])
def test_code_lengths_are_optimal_for_fibonacci_counts(n_symbols):
    counts = to_counts(FIBONACCI[:n_symbols])
    lengths = huffman.fit_code_lengths(counts)
    assert lengths.max() == MAX_CODE_LENGTH
    assert n_bits(counts, lengths) == fewest_bits(counts.tolist(), MAX_CODE_LENGTH)


@given(
    st.lists(
        st.one_of(st.just(0), st.integers(1, 9), st.sampled_from(FIBONACCI)),
        min_size=2,
        max_size=256,
    )
)
@example(FIBONACCI)
@example([1] * 256)
@example([1] * 255 + [1 << 40])
@example([0] * 254 + [1, 1])
def test_code_lengths_are_a_complete_code_of_at_most_12_bits(values):
    assume(np.count_nonzero(values) >= 2)
    counts = to_counts(values)
    lengths = huffman.fit_code_lengths(counts)
    assert lengths.dtype == np.uint8
    assert kraft(lengths) == 1
    assert lengths.max() <= MAX_CODE_LENGTH
    assert lengths.size == np.flatnonzero(counts)[-1] + 1
    assert ((lengths > 0) == (counts[: lengths.size] > 0)).all()


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=256))
def test_a_more_frequent_symbol_has_no_longer_codeword(values):
    lengths = huffman.fit_code_lengths(to_counts(values))
    by_count = lengths[np.argsort(values, kind="stable")].astype(int)
    of_equals = np.diff(np.sort(values)) == 0
    assert (np.diff(by_count)[~of_equals] <= 0).all()


@pytest.mark.parametrize("values", [[], [5], [0, 0, 7]])
def test_code_lengths_need_two_symbols(values):
    with pytest.raises(ValueError, match="two symbols or more"):
        huffman.fit_code_lengths(to_counts(values))


# --- encoding ---


@pytest.mark.parametrize(
    ("symbols", "expected"),
    [
        ([], []),
        ([0], [b"\x00"]),
        ([0, 5, 1], [b"\x0e"]),  # 0 11 10, the first bit lowest: 01110
        ([5, 5, 5, 5], [b"\xff"]),
        ([5, 5, 5, 0, 1, 0], [b"\xbf\x00"]),  # 11 11 11 0 1|0 0: a codeword across two bytes
        ([0] * 8 + [5], [b"\x00\x03"]),
    ],
)
def test_bit_order_is_that_of_the_specification(symbols, expected):
    symbols = np.array(symbols, np.uint8)
    assert encode(symbols, HAND_LENGTHS) == expected
    assert (decode(expected, HAND_LENGTHS, symbols.size) == symbols).all()


@given(streams(sizes=st.one_of(st.integers(0, 300), st.sampled_from((4095, 4096, 4097, 4098)))))
def test_encode_writes_what_the_specification_says_bit_by_bit(stream):
    symbols, lengths = stream
    assert encode(symbols, lengths) == spec_encode(symbols, lengths)


def test_longest_codewords_are_written_whole():
    lengths = huffman.fit_code_lengths(to_counts(FIBONACCI[:30]))
    symbols = np.repeat(np.flatnonzero(lengths == MAX_CODE_LENGTH), 9).astype(np.uint8)
    assert symbols.size > 9
    assert encode(symbols, lengths) == spec_encode(symbols, lengths)


def test_encode_takes_symbols_that_are_not_contiguous():
    symbols = np.array([0, 9, 5, 9, 1, 9], np.uint8)[::2]
    assert encode(symbols, HAND_LENGTHS) == [b"\x0e"]


def test_encode_rejects_a_symbol_beyond_the_code_lengths():
    with pytest.raises(ValueError, match="a symbol has no codeword"):
        encode(np.array([0, 6], np.uint8), HAND_LENGTHS)


def test_encode_rejects_a_symbol_whose_code_length_is_0():
    with pytest.raises(ValueError, match="a symbol has no codeword"):
        encode(np.array([0, 3, 1], np.uint8), HAND_LENGTHS)


# --- there and back ---


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("n_symbols", [2, 3, 16, 255, 256])
@pytest.mark.parametrize("skew", [0, 0.1, 1])
def test_decode_undoes_encode_for_any_number_of_symbols(n, n_symbols, skew):
    rng = np.random.default_rng((n, n_symbols))
    symbols = skewed_symbols(rng, n_symbols, n, skew)
    lengths = complete_code_lengths(symbols, n_symbols)
    bitstreams = encode(symbols, lengths)
    assert len(bitstreams) == n_bitstreams(n) == (0 if n == 0 else 1 if n < 4096 else 4)
    assert (decode(bitstreams, lengths, n) == symbols).all()


@given(streams(sizes=st.one_of(st.integers(1, 300), st.integers(4000, 4200))))
def test_decode_undoes_encode_with_a_small_and_a_large_table(stream):
    symbols, lengths = stream
    bitstreams = encode(symbols, lengths)
    for n_expected in (0, 1 << 13, 1 << 17):
        assert (decode(bitstreams, lengths, symbols.size, n_expected) == symbols).all()


@pytest.mark.parametrize("skew", [0, 0.02, 0.3, 3])
def test_decode_undoes_encode_for_a_hundred_thousand_symbols(skew):
    symbols = skewed_symbols(np.random.default_rng(7), 256, 100_000, skew)
    lengths = complete_code_lengths(symbols, 256)
    bitstreams = encode(symbols, lengths)
    parts = np.split(symbols, [25_000, 50_000, 75_000])
    bits = [int(lengths[part].astype(np.int64).sum()) for part in parts]
    assert [len(b) for b in bitstreams] == [-(-n // 8) for n in bits]
    assert (decode(bitstreams, lengths, symbols.size) == symbols).all()


@given(streams(sizes=st.integers(1, 300)), generators())
def test_whatever_decodes_is_what_encode_writes(stream, rng):
    symbols, lengths = stream
    bitstream = encode(symbols, lengths)[0]
    # a good start, then anything: a decoder that stops early or late would take it
    cut = int(rng.integers(0, len(bitstream)))
    data = bitstream[:cut] + rng.integers(0, 256, len(bitstream) - cut, np.uint8).tobytes()
    for n in {symbols.size, max(symbols.size - 1, 1), symbols.size + 1}:
        try:
            decoded = decode([data], lengths, n)
        except DczError:
            continue
        assert encode(decoded, lengths) == [data]


# --- broken bitstreams ---

block_sizes = st.one_of(st.integers(1, 300), st.integers(4096, 4200))


@given(streams(sizes=block_sizes), st.data())
def test_decode_rejects_bitstream_without_its_last_byte(stream, data):
    symbols, lengths = stream
    bitstreams = encode(symbols, lengths)
    k = data.draw(st.integers(0, len(bitstreams) - 1))
    bitstreams[k] = bitstreams[k][:-1]
    with pytest.raises(DczError, match=r"ends too early|empty bitstream"):
        decode(bitstreams, lengths, symbols.size)


@given(streams(sizes=block_sizes), st.data())
def test_decode_rejects_bitstream_with_a_byte_too_many(stream, data):
    symbols, lengths = stream
    bitstreams = encode(symbols, lengths)
    k = data.draw(st.integers(0, len(bitstreams) - 1))
    bitstreams[k] += bytes([data.draw(st.integers(0, 255))])
    with pytest.raises(DczError, match="has bits left over"):
        decode(bitstreams, lengths, symbols.size)


@given(streams(sizes=block_sizes))
def test_decode_rejects_a_symbol_more_or_less_than_was_encoded(stream):
    symbols, lengths = stream
    assume(symbols.size not in (1, 4096))
    bitstreams = encode(symbols, lengths)
    if lengths[symbols[-1]] >= 8:  # else the symbol may hide in what looks like padding
        with pytest.raises(DczError):
            decode(bitstreams, lengths, symbols.size - 1)
    padding = 8 * len(bitstreams[0]) - int(lengths[symbols].astype(np.int64).sum())
    if len(bitstreams) == 1 and padding < min(n for n in lengths if n):
        with pytest.raises(DczError):
            decode(bitstreams, lengths, symbols.size + 1)


@given(streams(sizes=block_sizes), st.data())
def test_decode_rejects_padding_bits_that_are_set(stream, data):
    symbols, lengths = stream
    bitstreams = encode(symbols, lengths)
    k = data.draw(st.integers(0, len(bitstreams) - 1))
    step = -(-symbols.size // len(bitstreams))
    used = int(lengths[symbols[k * step : (k + 1) * step]].astype(np.int64).sum()) % 8
    assume(used)
    last = bitstreams[k][-1] | 1 << data.draw(st.integers(used, 7))
    bitstreams[k] = bitstreams[k][:-1] + bytes([last])
    with pytest.raises(DczError, match="has bits left over"):
        decode(bitstreams, lengths, symbols.size)


@given(streams(sizes=block_sizes), st.data())
def test_one_bit_flipped_gives_an_error_or_other_symbols(stream, data):
    symbols, lengths = stream
    bitstreams = encode(symbols, lengths)
    flipped = np.frombuffer(b"".join(bitstreams), np.uint8).copy()
    bit = data.draw(st.integers(0, 8 * flipped.size - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    decoder = huffman.Decoder(lengths, symbols.size)
    out = np.empty(symbols.size, np.uint8)
    try:
        decoder.decode(flipped, [len(b) for b in bitstreams], out)
    except DczError:
        return
    assert (out != symbols).any()


@given(streams(sizes=st.integers(4096, 4200)), st.data())
def test_decode_rejects_a_byte_moved_from_one_bitstream_to_the_next(stream, data):
    symbols, lengths = stream
    sizes = [len(b) for b in encode(symbols, lengths)]
    joined = np.frombuffer(b"".join(encode(symbols, lengths)), np.uint8)
    k, step = data.draw(st.integers(0, 2)), data.draw(st.sampled_from((-1, 1)))
    sizes[k] += step
    sizes[k + 1] -= step
    with pytest.raises(DczError):
        huffman.Decoder(lengths, 0).decode(joined, sizes, np.empty(symbols.size, np.uint8))


@pytest.mark.parametrize("n", [1, 2, 7, 100, 300, 4095, 4096, 5000])
@pytest.mark.parametrize("lengths", [[1, 1], [1, 2, 2], [8] * 256, [*range(1, 13), 12]])
def test_a_bitstream_far_too_long_writes_nothing_beyond_the_symbols(n, lengths):
    around = np.full(n + 8192, 0xA5, np.uint8)
    size = 2 * n + 100
    data = np.random.default_rng(n).integers(0, 256, size * n_bitstreams(n), np.uint8)
    for fill in (data, np.zeros_like(data)):  # zeros: three of the shortest codewords a look-up
        with pytest.raises(DczError, match="has bits left over"):
            huffman.Decoder(bytes(lengths), n).decode(
                fill, [size] * n_bitstreams(n), around[4096 : 4096 + n]
            )
        assert (around[:4096] == 0xA5).all()
        assert (around[4096 + n :] == 0xA5).all()


@pytest.mark.parametrize(
    ("n", "sizes"),
    [(3, []), (3, [1, 1]), (4096, [600]), (4096, [150, 150, 150]), (3, [2]), (3, [0]), (0, [1])],
)
def test_decode_rejects_sizes_that_do_not_fit_the_bitstreams(n, sizes):
    data = np.zeros(1 if n == 3 else sum(sizes), np.uint8)
    with pytest.raises(DczError):
        huffman.Decoder(HAND_LENGTHS, n).decode(data, sizes, np.empty(n, np.uint8))


def test_decode_rejects_an_empty_bitstream_beside_full_ones():
    symbols = np.zeros(4096, np.uint8)
    whole = np.frombuffer(b"".join(encode(symbols, HAND_LENGTHS)), np.uint8)
    with pytest.raises(DczError, match="empty bitstream"):
        huffman.Decoder(HAND_LENGTHS, 0).decode(whole, [0, 256, 128, 128], symbols)


# --- broken code lengths ---


@pytest.mark.parametrize(
    "lengths",
    [
        [],
        [0, 0],
        [1],
        [0, 1],
        [1, 2],  # incomplete
        [2, 2, 2],
        [1, 1, 1],  # over-full
        [1, 1, 12],
        [1, 2, 2, 12],
        [*range(1, 14), 13],  # complete, but a bit too long
        [1, 255],
        [2] * 256,
    ],
)
def test_decoder_rejects_code_lengths(lengths):
    with pytest.raises(DczError, match="complete code"):
        huffman.Decoder(bytes(lengths), 10)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8))
def test_decoder_takes_exactly_the_complete_codes(lengths):
    if kraft(lengths) == 1:
        decoder = huffman.Decoder(bytes(lengths), 10)
        assert decoder.code_lengths.tolist() == lengths
    else:
        with pytest.raises(DczError):
            huffman.Decoder(bytes(lengths), 10)


def test_decoder_takes_the_longest_code():
    lengths = bytes([*range(1, 13), 12])
    symbols = np.array([12, 0, 11, 12], np.uint8)
    bitstreams = encode(symbols, np.frombuffer(lengths, np.uint8))
    assert (decode(bitstreams, lengths, 4) == symbols).all()
