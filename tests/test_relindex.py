"""Positions, gaps and CSR: exact pairs, escapes at their edges, errors."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from strategies import densities, generators

from deepcomp import relindex
from deepcomp.records import GAP_BITS

gap_widths = st.sampled_from(GAP_BITS)


@st.composite
def positions_arrays(draw):
    """Draw strictly increasing positions: none, all, few with long runs between."""
    rng, n = draw(generators()), draw(st.integers(0, 3000))
    return np.flatnonzero(rng.random(n) < draw(densities))


def walk(gaps, gap_bits):
    """Section 7.3, symbol by symbol."""
    positions, at = [], 0
    for gap in gaps.tolist():
        at += gap
        if gap < 2**gap_bits - 1:
            positions.append(at)
            at += 1
    return positions


@given(positions_arrays(), gap_widths)
def test_to_positions_undoes_to_gaps(positions, gap_bits):
    gaps = relindex.to_gaps(positions, gap_bits)
    assert gaps.dtype == np.uint8
    assert relindex.to_positions(gaps, gap_bits).tolist() == positions.tolist()


@given(positions_arrays(), gap_widths)
def test_gaps_mean_what_the_specification_says(positions, gap_bits):
    assert walk(relindex.to_gaps(positions, gap_bits), gap_bits) == positions.tolist()


@given(positions_arrays(), gap_widths)
def test_gaps_fit_their_width_and_never_end_with_an_escape(positions, gap_bits):
    gaps = relindex.to_gaps(positions, gap_bits)
    escape = 2**gap_bits - 1
    assert gaps.max(initial=0) <= escape
    assert np.count_nonzero(gaps != escape) == positions.size
    assert gaps.size == 0 or gaps[-1] != escape


@pytest.mark.parametrize("gap_bits", GAP_BITS)
def test_runs_around_multiples_of_the_escape_take_as_few_symbols_as_possible(gap_bits):
    escape = 2**gap_bits - 1
    for n_escapes in range(4):
        for rest in (0, 1, escape - 1):
            run = np.array([n_escapes * escape + rest], np.uint32)
            gaps = relindex.runs_to_gaps(run, gap_bits)
            assert gaps.tolist() == [escape] * n_escapes + [rest]


def test_the_longest_run_of_a_block_is_written_with_escapes():
    gaps = relindex.to_gaps(np.array([2**20 - 1]), 2)
    assert gaps.size == 2**20 // 3 + 1
    assert relindex.to_positions(gaps, 2).tolist() == [2**20 - 1]


@given(positions_arrays(), gap_widths)
def test_gap_counts_foretell_the_symbols(positions, gap_bits):
    runs = np.diff(positions, prepend=-1) - 1
    counts = relindex.gap_counts(np.bincount(runs, minlength=1), gap_bits)
    gaps = relindex.to_gaps(positions, gap_bits)
    assert counts.tolist() == np.bincount(gaps, minlength=256).tolist()


@pytest.mark.parametrize("positions", [[3, 3], [4, 2], [-1, 0], [-1], [0, 5, 4]])
def test_to_gaps_rejects_positions_that_do_not_increase_from_0(positions):
    with pytest.raises(ValueError, match="strictly increasing"):
        relindex.to_gaps(np.array(positions), 4)


@pytest.mark.parametrize("gap_bits", [0, 1, 9, -2])
def test_gap_bits_must_be_2_to_8(gap_bits):
    calls = [
        lambda: relindex.to_gaps(np.array([1]), gap_bits),
        lambda: relindex.runs_to_gaps(np.array([1], np.uint32), gap_bits),
        lambda: relindex.to_positions(np.array([1], np.uint8), gap_bits),
        lambda: relindex.gap_counts(np.array([1]), gap_bits),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="gap_bits"):
            call()


def test_to_positions_rejects_a_gap_above_the_escape():
    with pytest.raises(ValueError, match="gap 4 does not fit in 2 bits"):
        relindex.to_positions(np.array([0, 4], np.uint8), 2)


# --- CSR ---


@st.composite
def matrices(draw):
    """Draw a mask of any two-dimensional shape, empty ones too."""
    rng = draw(generators())
    shape = draw(st.tuples(st.integers(0, 20), st.integers(0, 20)))
    return rng.random(shape) < draw(densities)


@given(matrices())
def test_to_csr_gives_the_arrays_of_scipy(mask):
    indptr, indices = relindex.to_csr(np.flatnonzero(mask), mask.shape)
    expected = scipy.sparse.csr_array(mask)
    assert indptr.dtype == indices.dtype == np.int64
    assert indptr.tolist() == expected.indptr.tolist()
    assert indices.tolist() == expected.indices.tolist()


@given(matrices())
def test_from_csr_undoes_to_csr(mask):
    positions = np.flatnonzero(mask)
    indptr, indices = relindex.to_csr(positions, mask.shape)
    assert relindex.from_csr(indptr, indices, mask.shape).tolist() == positions.tolist()


@pytest.mark.parametrize(
    ("indptr", "indices", "message"),
    [
        ([0, 1], [0], "indptr must rise"),  # a row is missing
        ([0, 1, 1, 1], [0], "indptr must rise"),
        ([1, 1, 1], [0], "indptr must rise from 0"),
        ([0, 2, 1], [0], "indptr must rise"),
        ([], [], "indptr must rise"),
        ([0, 1, 2], [0], "indptr ends at 2"),
        ([0, 1, 1], [0, 1], "indptr ends at 1"),
        ([0, 1, 2], [0, 3], "indices must be in 0 .. 2"),
        ([0, 1, 2], [-1, 0], "indices must be in 0 .. 2"),
        ([0, 2, 2], [1, 1], "strictly increasing"),
        ([0, 2, 2], [2, 0], "strictly increasing"),
    ],
)
def test_from_csr_rejects_arrays_of_no_canonical_matrix(indptr, indices, message):
    with pytest.raises(ValueError, match=message):
        relindex.from_csr(np.array(indptr, np.int64), np.array(indices, np.int64), (2, 3))


def test_from_csr_takes_32_bit_indices_of_a_large_matrix():
    shape = (3, 2**31 - 1)
    indptr, indices = np.array([0, 0, 0, 1], np.int32), np.array([5], np.int32)
    assert relindex.from_csr(indptr, indices, shape).tolist() == [2 * shape[1] + 5]
