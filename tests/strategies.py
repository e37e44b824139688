"""What the property tests draw: symbols, patterns, tensors."""

import numpy as np
from hypothesis import strategies as st

from deepcomp.encode import Weight
from deepcomp.huffman import fit_code_lengths
from deepcomp.records import ITEMSIZE, SIGNED_DTYPES

FLOAT_DTYPES = ("float16", "bfloat16", "float32", "float64")  # those that are pruned and shared
ITEMSIZES = (1, 2, 4, 8)

seeds = st.integers(0, 2**32 - 1)
few = st.integers(0, 300)  # entries
densities = st.sampled_from((0.0, 0.01, 0.1, 0.5, 0.9, 1.0))


def generators():
    """Draw a NumPy random generator."""
    return st.builds(np.random.default_rng, seeds)


def skewed_symbols(rng, n_symbols, n, skew):
    """Return n symbols below n_symbols, the smaller ones more frequent as skew grows."""
    chances = np.exp2(-skew * np.arange(n_symbols))
    return rng.choice(n_symbols, n, p=chances / chances.sum()).astype(np.uint8)


def complete_code_lengths(symbols, n_symbols):
    """Return code lengths for symbols in which each of 0 .. n_symbols - 1 gets one."""
    return fit_code_lengths(np.bincount(symbols, minlength=256) + (np.arange(256) < n_symbols))


@st.composite
def streams(draw, sizes=few, fewest_symbols=2):
    """Draw symbols and the lengths of a complete code for them."""
    rng = draw(generators())
    n_symbols = draw(st.sampled_from((2, 3, 5, 16, 17, 100, 255, 256)))
    n_symbols = max(n_symbols, fewest_symbols)
    symbols = skewed_symbols(rng, n_symbols, draw(sizes), draw(st.sampled_from((0, 0.05, 0.5, 2))))
    symbols = rng.permutation(n_symbols).astype(np.uint8)[symbols]
    return symbols, complete_code_lengths(symbols, n_symbols)


@st.composite
def pattern_arrays(draw, itemsizes=ITEMSIZES, sizes=few, density=densities):
    """Draw patterns of some itemsize: random bits, a few values or next to no bits, and zeros."""
    rng = draw(generators())
    itemsize, n = draw(st.sampled_from(itemsizes)), draw(sizes)
    top = 1 << (8 * itemsize)
    n_values = draw(st.sampled_from((1, 2, 16, 255, 256, 257, 0)))  # 0: any
    patterns = rng.integers(0, top, max(n, 1), f"u{itemsize}")
    if n_values:
        special = np.array([top - 1, top >> 1, 1, (top >> 1) - 1], f"u{itemsize}")
        values = np.concatenate((special, rng.integers(0, top, n_values, f"u{itemsize}")))
        patterns = values[: max(n_values, 1)][rng.integers(0, n_values, max(n, 1))]
    keep = rng.random(patterns.size) < draw(density)
    return np.ascontiguousarray(np.where(keep, patterns, 0).astype(patterns.dtype)[:n])


@st.composite
def weights(draw, dtypes=tuple(ITEMSIZE), sizes=few):
    """Draw a tensor of any dtype; some of its zeros may be -0.0."""
    dtype = draw(st.sampled_from(dtypes))
    patterns = draw(pattern_arrays((ITEMSIZE[dtype],), sizes))
    if dtype == "bool":
        patterns = (patterns & 1).astype(np.uint8)
    if dtype in SIGNED_DTYPES and draw(st.booleans()):
        rng = draw(generators())
        negative = patterns.dtype.type(1 << (8 * patterns.itemsize - 1))
        patterns[(patterns == 0) & (rng.random(patterns.size) < 0.5)] = negative
    return Weight("w", dtype, (patterns.size,), patterns)


def to_float64(patterns, dtype):
    """Return the values of float patterns, by means other than the package's own."""
    if dtype == "bfloat16":
        values = (patterns.astype(np.uint32) * np.uint32(1 << 16)).view(np.float32)
    else:
        values = patterns.view(dtype)
    with np.errstate(invalid="ignore"):  # signalling NaN
        return values.astype(np.float64)


def to_patterns(values, dtype):
    """Return the patterns of values; to bfloat16 they are cut, not rounded."""
    if dtype == "bfloat16":
        wide = np.asarray(values, np.float32).view(np.uint32)
        return (wide >> np.uint32(16)).astype(np.uint16)
    return np.asarray(values).astype(dtype).view(f"u{ITEMSIZE[dtype]}")
