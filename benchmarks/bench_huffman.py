"""Huffman coding of ten million symbols beside zstd, and dahuffman."""

import numpy as np
import pytest
import zstandard
from dahuffman import HuffmanCodec
from pytest_benchmark.fixture import BenchmarkFixture

from deepcomp import huffman
from deepcomp.sections import Code

from .race import OURS, once, race
from .report import Results
from .shapes import Symbols, huffman_streams

ENCODE = "Huffman encode, 10 M symbols"
DECODE = "Huffman decode, 10 M symbols"
N_DAHUFFMAN = 500_000  # symbols: it is slow
STREAMS = {"a": "a (31 labels)", "b": "b (4-bit gaps)", "c": "c (255 labels)"}


@pytest.fixture(scope="module")
def streams() -> dict[str, Symbols]:
    return huffman_streams()


def encode(symbols: Symbols) -> tuple[bytes, list[bytes]]:
    """Encode from nothing but the symbols: count, fit a code, write."""
    lengths = huffman.fit_code_lengths(huffman.count_symbols(symbols))
    return lengths.tobytes(), huffman.encode(symbols, lengths)


def decode(lengths: bytes, bitstreams: list[bytes], out: Symbols) -> Symbols:
    """Decode from nothing but the bytes: the look-up table is made too."""
    joined = np.frombuffer(b"".join(bitstreams), np.uint8)
    return huffman.Decoder(lengths, out.size).decode(joined, [len(b) for b in bitstreams], out)


@pytest.mark.parametrize("key", STREAMS)
def test_encode(
    key: str, streams: dict[str, Symbols], benchmark: BenchmarkFixture, results: Results
) -> None:
    symbols = streams[key]
    lengths, bitstreams = encode(symbols)
    assert (decode(lengths, bitstreams, np.empty_like(symbols)) == symbols).all()

    zstd = zstandard.ZstdCompressor(level=1)
    seconds = race(benchmark, lambda: encode(symbols), {"zstd -1": lambda: zstd.compress(symbols)})
    rates = {name: symbols.size / s / 1e9 for name, s in seconds.items()}
    what = STREAMS[key]
    results.add(ENCODE, what, rates[OURS], "Gsymbols/s", ">= 0.8")
    results.add(ENCODE, what, rates[OURS], "Gsymbols/s", rival=("zstd -1", rates["zstd -1"]))
    nbytes = len(Code(len(lengths), lengths).to_bytes()) + sum(map(len, bitstreams))
    rival = ("zstd -1", len(zstd.compress(symbols)))
    results.add(ENCODE, f"{what}, size", nbytes, "bytes", "<= 1.001", rival)


@pytest.mark.parametrize("key", STREAMS)
def test_decode(
    key: str, streams: dict[str, Symbols], benchmark: BenchmarkFixture, results: Results
) -> None:
    symbols = streams[key]
    lengths, bitstreams = encode(symbols)
    out = np.zeros_like(symbols)
    assert (decode(lengths, bitstreams, out) == symbols).all()
    frame = zstandard.ZstdCompressor(level=1).compress(symbols)
    zstd = zstandard.ZstdDecompressor()
    assert zstd.decompress(frame) == symbols.tobytes()
    seconds_dahuffman = _dahuffman(symbols[:N_DAHUFFMAN])

    rivals = {"zstd -1": lambda: zstd.decompress(frame)}
    seconds = race(benchmark, lambda: decode(lengths, bitstreams, out), rivals, rounds=41)
    rates = {name: symbols.size / s / 1e9 for name, s in seconds.items()}
    what, unit = STREAMS[key], "Gsymbols/s"
    results.add(DECODE, what, rates[OURS], unit, "" if key == "c" else ">= 1.2")
    results.add(DECODE, what, rates[OURS], unit, ">= 0.55", ("zstd -1", rates["zstd -1"]))
    rival = ("dahuffman", N_DAHUFFMAN / seconds_dahuffman / 1e9)
    results.add(DECODE, what, rates[OURS], unit, ">= 400", rival)


def _dahuffman(symbols: Symbols) -> float:
    """Check dahuffman's answer on a slice; return the seconds that it decodes."""
    values = symbols.tolist()
    codec = HuffmanCodec.from_data(values)
    encoded = codec.encode(values)
    seconds, decoded = once(lambda: codec.decode(encoded))
    assert decoded == values
    return seconds
