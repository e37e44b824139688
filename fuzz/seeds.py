"""What the fuzzers begin with: the vectors of the format, and more of what they lack."""

import sys

import numpy as np
from targets import BITSTREAMS, DTYPES, FORMATS, HEADER, code_lengths, open_file

from deepcomp.entries import matrix_shape
from deepcomp.errors import DczError
from deepcomp.huffman import encode
from deepcomp.records import GAP_BITS
from deepcomp.storage import model_of


def seeds(target):
    """Return the inputs that a target begins with, mostly from the vectors of the format."""
    if target == "huffman":
        return list(_bitstreams())
    if target == "state_dict":
        import states

        return list(states.seeds())
    files = [p.read_bytes() for p in sorted(FORMATS.glob("vectors/*valid/*.dcz"))]
    files = [data for data in files if len(data) <= 4096]
    if target == "file":
        return files
    files = [data for data in files if _opened(data)] + list(_even_files())
    return files if target == "structure" else [s for data in files for s in _sections_of(data)]


def _bitstreams():
    """Yield inputs of `huffman` that can be decoded."""
    rng = np.random.default_rng(0)
    for n_weights in (2, 3, 16, 100, 256):
        for n in (5, 300, 4095, 4096, 5003):
            for spread in (1, 3, 24):
                weights = rng.integers(0, spread, n_weights, np.uint8).tobytes()
                lengths = code_lengths(weights)
                chances = np.where(lengths, 0.5**lengths, 0)
                symbols = rng.choice(lengths.size, n, p=chances).astype(np.uint8)
                streams = encode(symbols, lengths)
                sizes = [len(stream) for stream in streams[:3]] if len(streams) == 4 else [0] * 3
                head = BITSTREAMS.pack(n_weights - 2, n % 2, n, *sizes)
                yield b"".join([head, weights, *streams])


def _even_files():
    """Yield files with matrices whose codewords are all of one length: any bits are symbols."""
    sys.path.append(str(FORMATS / "vectors"))
    import writer

    for shape in ([20, 30], [7, 90], [40, 3], [64, 33], [8, 5, 3, 3], [6, 4, 1, 1], [5, 3, 2, 3]):
        for bits in (1, 3, 5, 6, 8):
            patterns = writer.noise(1 << bits, 1 << 30)
            patterns = sorted({0x3F000000 + (p >> 8) for p in patterns})
            if bits == 3:  # numbers that a processor complains of when it touches them
                patterns = [0x3F000000, 0x7F800001, 0x7FA00000, *range(0xFF800001, 0xFF800006)]
            even = {"gaps": [3] * 8, "labels": [bits] * (1 << bits)}
            if len(patterns) < 1 << bits:
                even.pop("labels")
            numel = int(np.prod(shape))
            sparse = writer.sparse_values(patterns, numel, 6)
            dense = writer.choose([0, *patterns[1:]], numel)
            for values, gap_bits in ((sparse, 3), (dense, 0)):
                codebook = sorted(set(patterns)) if gap_bits else [0, *patterns[1:]]
                tensor = writer.packed(
                    "float32", values, shape=shape, codebook=codebook, gap_bits=gap_bits,
                    lengths=even,
                )  # fmt: skip
                yield writer.file_of([tensor])


def _opened(data):
    try:
        return model_of(open_file(data))
    except DczError:
        return None


def _sections_of(data):
    packed = _opened(data)
    for tensor in packed.values():
        whole, r = tensor.record, tensor.record.stored
        n_zero_rows = whole.shape[0] - r.shape[0] if whole is not r else 0
        if r.layout == "raw" or r.numel > 1 << 16 or n_zero_rows > 7:
            continue
        flags = (r.layout == "sparse") | (r.codebook is not None) << 1
        flags |= bool(r.block_numel) << 2 | r.zero_signs << 3 | n_zero_rows << 5
        codebook = (r.codebook or 0) - (r.layout == "dense" and r.codebook is not None)
        numbers = codebook & 255, (r.gap_bits or GAP_BITS[0]) - GAP_BITS[0], r.numel - 1
        block_numel = min((r.block_numel or 1) - 1, 65535)
        header = HEADER.pack(
            DTYPES.index(r.dtype),
            flags,
            *numbers,
            block_numel,
            min(matrix_shape(r.shape)[1], 65535),
        )
        try:
            yield header + bytes(tensor.section())
        except DczError:
            continue
