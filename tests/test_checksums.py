"""Sections with a checksum of their own: which get one, and what they cost to read by ranges."""

import io
import json
import threading
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from independent import dcz_decoder, writer
from servers import serving

import deepcomp
from deepcomp import pages
from deepcomp.checksums import NBYTES_A_CHECKSUM, with_checksums
from deepcomp.cli import inspect_main
from deepcomp.container import HEAD, PAGE, Reader
from deepcomp.index import Index, encode_index, least_version
from deepcomp.ranges import TAIL_NBYTES
from deepcomp.records import TensorRecord
from deepcomp.report import make_report, report_model
from deepcomp.writer import Writer


def noise(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, n, np.uint8)


def raw(name, nbytes):
    return TensorRecord(name, "uint8", (nbytes,), "raw", nbytes)


def save_raw(tensors, path):
    with Writer(path, {}) as out:
        for name, array in tensors.items():
            out.add(raw(name, array.size), [array.data])
    return path


def summed(path):
    """Return the names of the tensors that have a checksum."""
    tensors = {t.name: t.record for t in deepcomp.load(path).values()}
    return [name for name, record in tensors.items() if record.crc32 is not None]


class Counting(io.BytesIO):
    """A file that counts the bytes that are read."""

    n_read = 0

    def read(self, n=-1):
        data = super().read(n)
        self.n_read += len(data)
        return data


# --- which tensors get one ---


@given(st.lists(st.integers(0, 200_000), max_size=12), st.integers(0, 10**9))
def test_those_get_one_whose_pages_cost_2_percent_more(sizes, crc):
    records = {f"t{i}": raw(f"t{i}", n) for i, n in enumerate(sizes)}
    chosen = with_checksums(Index({}, records), HEAD.size, lambda name: crc)
    data_end, start = HEAD.size + sum(sizes), HEAD.size
    for (name, record), n in zip(records.items(), sizes, strict=True):
        touched = {b // PAGE for b in (start, start + n - 1)} if n else set()
        first, last = min(touched, default=0) * PAGE, (max(touched, default=-1) + 1) * PAGE
        cost = min(last, data_end) - first
        has_one = data_end > PAGE and n > 0 and cost >= 1.02 * n
        assert chosen.entries[name] == replace(record, crc32=crc if has_one else None)
        start += n
    assert with_checksums(chosen, HEAD.size, lambda name: crc) == chosen


@pytest.mark.parametrize(("n", "nbytes"), [(20, 2560), (400, 2560), (1000, 100), (700, 1000)])
def test_no_file_grows_by_0_3_percent_and_the_smallest_sections_get_none(n, nbytes, tmp_path):
    tensors = {f"layer{i // 6}.conv{i % 6}.weight": noise(nbytes + i % 7, i) for i in range(n)}
    size = save_raw(tensors, tmp_path / "m.dcz").stat().st_size
    names = summed(tmp_path / "m.dcz")
    most = Reader(tmp_path / "m.dcz").data_end // NBYTES_A_CHECKSUM
    assert len(names) == (min(n, most) if n > 25 else 0)  # else it has one page
    others = [array.size for name, array in tensors.items() if name not in names]
    assert max(others, default=0) <= min((tensors[name].size for name in names), default=1 << 30)
    index = Index({}, {name: raw(name, array.size) for name, array in tensors.items()})
    plain = len(zlib.compress(encode_index(index), 9))
    overhead = Reader(tmp_path / "m.dcz").overhead
    assert overhead["index"] - plain < 0.003 * (size - overhead["index"] + plain)


MODELS = {
    "one page": {"w": noise(60_000), "b": noise(10)},
    "large": {"w": noise(7_000_000), "v": noise(7_000_000, 1)},
}


@pytest.mark.parametrize("model", MODELS)
def test_a_file_that_needs_none_is_of_version_1_0(model, tmp_path):
    save_raw(MODELS[model], tmp_path / "m.dcz")
    assert Reader(tmp_path / "m.dcz").version == (1, 0) and summed(tmp_path / "m.dcz") == []


@pytest.mark.parametrize(("more", "n_with"), [(-1, 0), (0, 0), (1, 2)])
def test_a_file_of_exactly_one_page_needs_none(more, n_with):
    sizes = {"a": PAGE // 2, "b": PAGE // 2 - HEAD.size + more}
    records = {name: raw(name, n) for name, n in sizes.items()}
    chosen = with_checksums(Index({}, records), HEAD.size, lambda name: 7)
    assert [record.crc32 for record in chosen.entries.values()].count(7) == n_with


def test_the_bytes_of_a_section_on_pages_found_right_before_are_in_its_checksum(tmp_path):
    tensors = {"before": noise(5000), "w": noise(3 * PAGE, 1), "after": noise(5000, 2)}
    file = Counting(save_raw(tensors, tmp_path / "m.dcz").read_bytes())
    for first, last in (("before",), ()), ((), ("after",)), (("before",), ("after",)):
        reader = Reader(file)
        assert reader.index.entries["w"].crc32 is not None
        begin, end = HEAD.size + 5000, HEAD.size + 5000 + 3 * PAGE
        for page in [begin // PAGE for _ in first] + [end // PAGE for _ in last]:
            reader.pages.check(page * PAGE, page * PAGE + 1, "a page")
        file.n_read = 0
        assert reader.section("w") == tensors["w"].tobytes()
        assert file.n_read < 3 * PAGE


@pytest.fixture(scope="module")
def weights():
    """Weights that are stored as each layout, tied, empty and tiny, on some pages."""
    rng = np.random.default_rng(0)
    model = {f"sparse{i}": rng.normal(size=(300, 90 * i)).astype(np.float32) for i in range(1, 5)}
    model["exact"] = rng.normal(size=(90, 90)).astype(np.float32)
    model |= {"dense": noise(30_000) % 5, "raw": noise(50_000), "bias": noise(99)}
    return model | {"tied": model["raw"], "empty": np.zeros((0, 3))}


@pytest.fixture(scope="module")
def path(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("checksums") / "m.dcz"
    bits, sparsity = {"sparse*": 4}, {"sparse[1-3]": 0.7}
    deepcomp.save(deepcomp.compress(weights, bits, sparsity=sparsity), path)
    return path


def test_a_file_with_checksums_is_of_version_1_1_and_both_readers_check_them(path, capsys):
    assert Reader(path).version == (1, 1)
    names = summed(path)
    assert {"raw", "dense", "sparse"} == {deepcomp.load(path)[n].record.layout for n in names}
    assert "bias" in names and not {"tied", "empty"} & {*names}
    for name, tensor in deepcomp.load(path).items():
        if name in names:
            assert tensor.record.crc32 == zlib.crc32(tensor.section())
    assert len(dcz_decoder.decode(path.read_bytes())[1]) == len(deepcomp.load(path))
    assert inspect_main([str(path), "--verify"]) == 0
    assert "whole" in capsys.readouterr().out


def test_the_first_page_is_right_whatever_its_length_when_the_version_is_written_last(tmp_path):
    for n in (PAGE - 13, PAGE - 12, PAGE - 11, 3000):
        save_raw({"a": noise(n), "b": noise(5000), "c": noise(70_000)}, tmp_path / "m.dcz")
        assert Reader(tmp_path / "m.dcz").version == (1, 1)
        Reader(tmp_path / "m.dcz").check_all_pages()


def test_saving_again_gives_the_same_bytes_and_other_files_get_checksums_of_their_own(
    weights, path, tmp_path
):
    packed = deepcomp.load(path)
    deepcomp.save(packed, tmp_path / "again.dcz", verify=True)
    assert (tmp_path / "again.dcz").read_bytes() == path.read_bytes()
    deepcomp.save(packed.select("raw", "bias"), tmp_path / "part.dcz")
    assert Reader(tmp_path / "part.dcz").version == (1, 0) and summed(tmp_path / "part.dcz") == []
    deepcomp.save(deepcomp.load(tmp_path / "part.dcz"), tmp_path / "again.dcz")
    assert (tmp_path / "again.dcz").read_bytes() == (tmp_path / "part.dcz").read_bytes()


def test_sizes_add_up_before_and_after_saving(path, tmp_path):
    nbytes = path.stat().st_size
    for part in ("*", "sparse*", "raw"):
        chosen = deepcomp.load(path).select(part)
        deepcomp.save(chosen, tmp_path / "m.dcz")
        before, after = report_model(chosen), make_report(Reader(tmp_path / "m.dcz"))
        assert before.file_nbytes == after.file_nbytes == (tmp_path / "m.dcz").stat().st_size
        assert sum(after.parts().values()) == after.file_nbytes
        assert before.format_version == after.format_version == "1.{}".format(int(part != "raw"))
    assert make_report(Reader(path)).file_nbytes == nbytes


def test_an_index_that_would_be_too_large_with_checksums_is_written_without(tmp_path, monkeypatch):
    tensors = {f"t{i}": noise(3000, i) for i in range(30)}
    plain = encode_index(Index({}, {name: raw(name, 3000) for name in tensors}))
    monkeypatch.setattr("deepcomp.writer.MAX_INDEX_NBYTES", len(plain) + 100)
    save_raw(tensors, tmp_path / "m.dcz")
    assert Reader(tmp_path / "m.dcz").version == (1, 0) and summed(tmp_path / "m.dcz") == []
    Reader(tmp_path / "m.dcz").check_all_pages()


def test_the_least_version_of_nothing_and_of_aliases_is_1_0():
    assert least_version({}) == least_version({"a": raw("a", 1), "b": "a"}) == (1, 0)
    assert least_version({"a": replace(raw("a", 1), crc32=0)}) == (1, 1)


# --- what is read ---


@pytest.fixture(scope="module")
def running():
    with serving() as server:
        yield server


@pytest.fixture
def server(running):
    running.answer, running.ranges, running.n_sent = bytes, [], 0
    return running


def test_each_of_200_tensors_costs_the_index_and_less_than_2_percent_more_than_its_own(
    server, tmp_path
):
    sizes = np.geomspace(50, 400_000, 200).astype(int)
    np.random.default_rng(0).shuffle(sizes)
    tensors = {f"layer{i}.weight": noise(n, i) for i, n in enumerate(sizes)}
    server.content = save_raw(tensors, tmp_path / "m.dcz").read_bytes()
    for i, (name, array) in enumerate(tensors.items()):
        tensor = deepcomp.load(file := Counting(server.content))[name]
        index_nbytes, file.n_read = file.n_read, 0
        assert tensor.section() == array.tobytes() and file.n_read <= 1.02 * array.size
        assert index_nbytes <= TAIL_NBYTES + HEAD.size
        if i % 10 == 0:  # which takes longer
            server.n_sent, server.ranges = 0, []
            np.testing.assert_array_equal(deepcomp.load(server.url)[name].to_dense(), array)
            assert server.n_sent <= index_nbytes + 1.02 * array.size
            assert len(server.ranges) <= 3  # the tail, the head, the section


def test_a_tensor_that_is_tiny_costs_its_own_bytes_and_a_second_one_the_page_for_all(
    server, tmp_path
):
    tensors = {f"b{i}": noise(100, i) for i in range(500)} | {"w": noise(2_000_000)}
    server.content = save_raw(tensors, tmp_path / "m.dcz").read_bytes()
    packed = deepcomp.load(server.url)
    server.n_sent = 0
    for i, expected in ((7, 100), (3, 100 + PAGE), (0, 100 + PAGE), (400, 100 + PAGE)):
        np.testing.assert_array_equal(packed[f"b{i}"].to_dense(), tensors[f"b{i}"])
        packed[f"b{i}"].verify()
        assert server.n_sent == expected


@pytest.mark.parametrize("step", [1, -1])
def test_a_model_that_is_read_in_its_order_or_backwards_is_fetched_once(server, tmp_path, step):
    """But for the first small tensor on a page, which comes again with its page."""
    tensors = {}
    for i in range(40):
        tensors |= {f"{i}.weight": noise(3000 * i + 2000, i), f"{i}.bias": noise(64, i)}
    server.content = save_raw(tensors, tmp_path / "m.dcz").read_bytes()
    packed = deepcomp.load(server.url)
    server.ranges = []
    for name, array in [*tensors.items()][::step]:
        np.testing.assert_array_equal(packed[name].to_dense(), array)
    n_fetched = sum(end - start for start, end in server.ranges)
    nbytes = sum(array.size for array in tensors.values())
    assert n_fetched <= nbytes + 40 * 64
    assert len(server.ranges) <= len(tensors)


def test_rows_cost_the_section_or_the_pages_of_their_blocks_whichever_is_less(tmp_path):
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 64, (3500, 1000)).astype(np.uint16)
    small = rng.integers(0, 64, (50, 400)).astype(np.uint16)
    model = {"first": noise(100_000), "wide": wide, "small": small, "last": noise(100_000)}
    deepcomp.save(deepcomp.compress(model, bits=None), tmp_path / "m.dcz")
    for name, array in (("wide", wide), ("small", small)):
        file = Counting((tmp_path / "m.dcz").read_bytes())
        tensor = deepcomp.load(file)[name]
        assert tensor.record.crc32 is not None and tensor.record.layout == "dense"
        file.n_read = 0
        np.testing.assert_array_equal(tensor.rows(20, 22), array[20:22])
        assert file.n_read <= (tensor.nbytes if name == "small" else tensor.nbytes / 2)
        np.testing.assert_array_equal(tensor.to_dense(), array)


def test_a_section_that_is_too_large_to_be_held_twice_is_read_by_pages(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "_RUN", 2)
    tensors = {"a": noise(10_000), "w": noise(2 * PAGE + 1), "v": noise(2 * PAGE)}
    file = Counting(save_raw(tensors, tmp_path / "m.dcz").read_bytes())
    reader = Reader(file)
    assert summed(tmp_path / "m.dcz") == ["a", "w", "v"]
    for name, pages_checked in (("v", 0), ("w", 3)):
        assert bytes(reader.section(name)) == tensors[name].tobytes()
        assert reader.pages.checked.count(1) == pages_checked


ACCESSES = st.lists(st.tuples(st.integers(0, 99), st.floats(0, 1), st.floats(0, 1)), max_size=30)


@settings(deadline=None)
@given(st.lists(st.integers(0, 150_000), min_size=1, max_size=8), ACCESSES, st.integers(0, 3))
def test_any_accesses_give_the_bytes_and_cost_no_more_than_their_pages(sizes, accesses, seed):
    content = [noise(n, i).tobytes() for i, n in enumerate(sizes)]
    parts = [writer.raw(f"t{i}", "uint8", [n], content[i]) for i, n in enumerate(sizes)]
    parts = [writer.summed(p) if p.raw and (i + seed) % 3 else p for i, p in enumerate(parts)]
    file = Counting(writer.file_of(parts))
    reader = Reader(file)
    for k, a, b in accesses:
        i = k % len(sizes)
        start, end = sorted((round(a * sizes[i]), round(b * sizes[i])))
        start, end = (0, sizes[i]) if k % 2 else (start, end)
        first = HEAD.size + sum(sizes[:i])
        touched = -(-(first + end) // PAGE) - (first + start) // PAGE if end > start else 0
        for most in (touched * PAGE, 0):  # the second time, nothing
            file.n_read = 0
            assert reader.section(f"t{i}", start, end)[start:end] == content[i][start:end]
            assert file.n_read <= most
    reader.check_all_pages()


def test_threads_that_fetch_one_section_get_it(path):
    expected = {name: bytes(t.section()) for name, t in deepcomp.load(path).items()}
    for _ in range(10):
        reader, found, start = Reader(io.BytesIO(path.read_bytes())), [], threading.Barrier(6)

        def read(i, reader=reader, found=found, start=start):
            start.wait()
            names = [n for n in expected if n != "tied"]
            found.extend(bytes(reader.section(n)) == expected[n] for n in names[i:] + names[:i])

        threads = [threading.Thread(target=read, args=(i % 2,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [True] * 6 * 9


# --- what is refused ---


@pytest.mark.parametrize("name", ["sparse2", "raw", "bias"])
def test_a_changed_byte_is_noticed_and_its_tensor_named(path, name):
    """With a checksum of its own, only the tensor that is damaged is refused."""
    whole = path.read_bytes()
    offset = Reader(path)._offsets[name]
    data = whole[: offset + 9] + bytes([whole[offset + 9] ^ 8]) + whole[offset + 10 :]
    for file, others in ((path.parent / "bad.dcz", ()), (io.BytesIO(data), summed(path))):
        if not isinstance(file, io.BytesIO):
            file.write_bytes(data)
        packed = deepcomp.load(file)
        for use in (packed[name].to_dense, packed[name].verify, packed[name].check):
            with pytest.raises(deepcomp.DczError, match=f": tensor '{name}': the .* is damaged: "):
                use()
        for other in {*others} - {name}:
            packed[other].verify()


def wrong_crc32(path):
    """Return the file with right pages, and a wrong checksum of `raw` in its index."""
    reader = Reader(path)
    items = json.loads(encode_index(reader.index))["tensors"]
    for item in items:
        if item["name"] == "raw":
            item["crc32"] ^= 1
    content = path.read_bytes()[HEAD.size : reader.data_end]
    index = writer.canonical({"metadata": {}, "tensors": items})
    return writer.build(content, index, version=(1, 1))


def test_a_wrong_checksum_in_the_index_is_refused_by_ranges_and_by_whoever_verifies(path, capsys):
    data = wrong_crc32(path)
    packed = deepcomp.load(io.BytesIO(data))
    for use in (packed["raw"].to_dense, packed["raw"].verify, packed["tied"].section):
        with pytest.raises(deepcomp.DczError, match="tensor 'raw': the section is damaged: expec"):
            use()
    packed["sparse1"].verify()
    (path.parent / "bad.dcz").write_bytes(data)
    mapped = deepcomp.load(path.parent / "bad.dcz")
    assert mapped["raw"].to_dense().size == 50_000  # its pages are right
    with pytest.raises(deepcomp.DczError, match="tensor 'raw': the section is damaged: expected"):
        mapped["raw"].verify()
    assert inspect_main([str(path.parent / "bad.dcz"), "--verify"]) == 1
    assert "tensor 'raw': the section is damaged" in capsys.readouterr().err


def test_a_wrong_checksum_is_refused_after_all_pages_were_checked(path):
    reader = Reader(io.BytesIO(wrong_crc32(path)))
    reader.check_all_pages()
    with pytest.raises(deepcomp.DczError, match="tensor 'raw': the section is damaged: expected"):
        reader.section("raw")


@pytest.mark.parametrize("nbytes", [0, 4999, 5001, 60_000])
def test_answers_of_another_length_are_refused_and_nothing_of_them_is_kept(
    server, tmp_path, nbytes
):
    tensors = {"a": noise(100_000), "w": noise(5000), "b": noise(100_000)}
    server.content = save_raw(tensors, tmp_path / "m.dcz").read_bytes()
    packed = deepcomp.load(server.url)
    server.answer = lambda data: (data + bytes(nbytes))[:nbytes]
    with pytest.raises(deepcomp.DczError, match=r"tensor 'w': cut off, .* found \d+ bytes"):
        packed["w"].to_dense()
    server.answer = bytes
    np.testing.assert_array_equal(packed["w"].to_dense(), tensors["w"])
