"""Files behind URLs, and open files: read by ranges, no more than needed, and checked as others.

The servers run on this machine.
"""

import copy
import io
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
import traceback

import numpy as np
import pytest
from independent import FORMATS, writer
from servers import SECRETS, serving

import deepcomp
from deepcomp.container import PAGE, Reader
from deepcomp.pages import unused_memory
from deepcomp.ranges import TAIL_NBYTES
from deepcomp.records import TensorRecord
from deepcomp.urls import is_url, text_without_credentials, without_credentials
from deepcomp.writer import Writer


def noise(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, n, np.uint8)


TENSORS = {f"layer{i}.weight": noise(20_000, i) for i in range(200)}
TENSORS["layer120.weight"] = noise(8_000_000)
LARGE = "layer120.weight"


def save_raw(tensors, path, metadata=None):
    """Save arrays of uint8 as they are, without looking for something smaller."""
    with Writer(path, metadata or {}) as writer:
        for name, array in tensors.items():
            record = TensorRecord(name, "uint8", array.shape, "raw", array.size)
            writer.add(record, [array.data])
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Save a model of 200 tensors, one of them large."""
    path = tmp_path_factory.mktemp("remote") / "m.dcz"
    return save_raw(TENSORS, path, {"of": "the test"})


@pytest.fixture(scope="module")
def running():
    with serving() as server:
        yield server


@pytest.fixture
def server(running, path):
    """Serve the model, well-behaved at first."""
    running.__dict__.update(
        content=path.read_bytes(), claimed_nbytes=None, status=None, answer=bytes,
        send_ranges=True, ranges=[], n_sent=0,
    )  # fmt: skip
    return running


def index_nbytes(path):
    """Return the bytes of a file that are no tensor's."""
    reader = Reader(path)
    return reader.nbytes - reader.data_end + 12


# --- how much is read ---


def test_one_tensor_of_200_costs_the_index_and_less_than_2_percent_more_than_its_own(server, path):
    tensor = deepcomp.load(server.url)[LARGE]
    np.testing.assert_array_equal(tensor.to_dense(), TENSORS[LARGE])
    assert server.n_sent < index_nbytes(path) + 1.02 * tensor.nbytes
    assert len(server.ranges) == 3  # the tail, the head, the tensor


def test_loading_reads_12_bytes_and_the_tail_or_all_of_an_index_that_is_larger(server, tmp_path):
    assert len(deepcomp.load(server.url)) == 200
    assert server.n_sent == TAIL_NBYTES + 12
    names = {f"a name that nothing compresses {noise(8, i)}": noise(9) for i in range(999)}
    save_raw(names, tmp_path / "m.dcz")
    server.content, server.n_sent = (tmp_path / "m.dcz").read_bytes(), 0
    reader = Reader(server.url)
    assert list(reader.index.entries) == list(names)
    assert server.n_sent == index_nbytes(tmp_path / "m.dcz") > TAIL_NBYTES


def test_nothing_is_fetched_twice(server):
    packed = deepcomp.load(server.url)
    for _ in range(2):
        for name, array in TENSORS.items():
            np.testing.assert_array_equal(packed[name].to_dense(), array)
    starts, ends = zip(*sorted(server.ranges[2:]), strict=True)
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
    assert server.n_sent < len(server.content) + TAIL_NBYTES


def test_rows_fetch_the_pages_of_their_blocks_only(server, tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.integers(1, 1 << 16, (4000, 1000), np.uint16) * (rng.random((4000, 1000)) < 0.5)
    model = {"first": noise(100_000), "w": weight.astype(np.uint16), "last": noise(100_000)}
    deepcomp.save(model, tmp_path / "m.dcz")
    server.content = (tmp_path / "m.dcz").read_bytes()
    tensor = deepcomp.load(server.url)["w"]
    assert tensor.record.block_numel in (1 << 18, 1 << 20)
    server.n_sent = 0
    np.testing.assert_array_equal(tensor.rows(3990, 3995), weight[3990:3995])
    block_nbytes = tensor.nbytes * tensor.record.block_numel / tensor.record.numel
    assert server.n_sent < 1.1 * block_nbytes + 5 * PAGE < tensor.nbytes / 2
    np.testing.assert_array_equal(tensor.to_dense(), weight)


def test_a_small_file_is_read_at_once_even_from_a_server_without_ranges(server):
    server.content = (FORMATS / "vectors" / "valid" / "all_layouts.dcz").read_bytes()
    for server.send_ranges in (True, False):
        server.n_sent = 0
        everything(deepcomp.load(server.url))
        assert server.n_sent == len(server.content) < TAIL_NBYTES


def test_all_pages_are_fetched_once_when_all_are_checked(server):
    reader = Reader(server.url)
    for _ in range(2):
        reader.check_all_pages()
        assert bytes(reader.section("layer5.weight")) == TENSORS["layer5.weight"].tobytes()
    assert server.n_sent < len(server.content) + TAIL_NBYTES
    assert len(server.ranges) == 3
    server.content = server.content[: 5 * PAGE] + b"!" + server.content[5 * PAGE + 1 :]
    with pytest.raises(deepcomp.DczError, match=r"tensors 'layer16.weight' to 'layer19.weight' "):
        Reader(server.url).check_all_pages()


# --- servers that are broken, or worse ---


def message_of(kind, action):
    """Return the message of an error, which tells no secret in any way that it may be printed."""
    with pytest.raises(kind) as caught:
        action()
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert caught.value.__context__ is None
    assert not any(secret in told for secret in SECRETS)
    return str(caught.value)


def test_a_server_without_ranges_gives_a_clear_error_and_no_download(server):
    server.send_ranges, server.claimed_nbytes = False, 1 << 30
    message = message_of(OSError, lambda: deepcomp.load(server.url))
    assert message.startswith(f"{server.shown_url}: the server does not send ranges of the file")
    assert server.n_sent < 1 << 27  # what was under way


def test_a_server_without_ranges_serves_a_copy_as_its_message_proposes(server):
    server.send_ranges = False
    assert "simplecache::URL" in message_of(OSError, lambda: deepcomp.load(server.url))
    weight = deepcomp.load(f"simplecache::{server.url}")["layer5.weight"].to_dense()
    assert weight.tobytes() == TENSORS["layer5.weight"].tobytes()


@pytest.mark.parametrize(
    "answer", [lambda data: data[:-1], lambda data: data[:0], lambda data: data + b"!"]
)
def test_answers_of_another_length_are_refused_with_the_url_and_the_tensor(server, answer):
    packed = deepcomp.load(server.url)
    server.answer = answer
    message = message_of(deepcomp.DczError, packed["layer5.weight"].to_dense)
    where = f"{server.shown_url}: tensor 'layer5.weight': "
    assert message.startswith(f"{where}cut off, or not sent as asked: found ")
    message_of(deepcomp.DczError, lambda: deepcomp.load(server.url))


def test_bytes_that_change_on_the_way_are_refused_and_fetched_again_the_next_time(server):
    packed = deepcomp.load(server.url)
    server.answer = lambda data: bytes([data[0] ^ 1]) + data[1:]
    message = message_of(deepcomp.DczError, packed["layer9.weight"].to_dense)
    assert message.startswith(f"{server.shown_url}: tensor 'layer9.weight': the ")
    server.answer = bytes
    np.testing.assert_array_equal(packed["layer9.weight"].to_dense(), TENSORS["layer9.weight"])


@pytest.mark.parametrize("n_bytes", [0, -5, 1000])
def test_a_file_that_changes_between_two_requests_is_noticed(server, tmp_path, n_bytes):
    packed = deepcomp.load(server.url)
    before = packed["layer0.weight"].to_dense()
    other = {name: noise(20_000 + n_bytes, 1000 + i) for i, name in enumerate(TENSORS)}
    other[LARGE] = noise(8_000_000 + 100 * n_bytes)
    server.content = save_raw(other, tmp_path / "m.dcz").read_bytes()
    message = message_of(deepcomp.DczError, packed["layer199.weight"].to_dense)
    where = f"{server.shown_url}: tensor 'layer199.weight': "
    assert message == f"{where}the file has changed since it was opened"
    np.testing.assert_array_equal(packed["layer0.weight"].to_dense(), before)  # is kept


def test_a_file_that_is_cut_or_gone_between_two_requests_is_noticed(server):
    packed = deepcomp.load(server.url)
    server.content = server.content[:1_000_000]
    message = message_of(deepcomp.DczError, packed["layer199.weight"].to_dense)
    assert message.startswith(f"{server.shown_url}: tensor 'layer199.weight': cut off")
    server.status = 404
    message = message_of(FileNotFoundError, packed["layer199.weight"].to_dense)
    assert server.shown_url in message


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
def test_a_refusal_by_the_server_is_an_os_error_with_its_number(server, status):
    server.status = status
    kind = FileNotFoundError if status == 404 else OSError
    message = message_of(kind, lambda: deepcomp.load(server.url))
    assert server.shown_url in message and (str(status) in message or status == 404)


def test_a_server_that_is_not_there_is_an_os_error(server):
    url = server.url.replace(f":{server.server_port}", ":1")
    message = message_of(ConnectionRefusedError, lambda: deepcomp.load(url))
    assert "http://127.0.0.1:1/m.dcz?...: cannot be read" in message


@pytest.mark.parametrize("password", ["open-sesame", "x open-sesame s1gnature", "open-sesame/'@"])
@pytest.mark.parametrize("reason", ["no answer from {!r}", "{}: \x1b[31m\n", "InvalidURL({})"])
def test_what_a_library_says_of_a_url_is_told_in_one_line_and_without_secrets(
    monkeypatch, password, reason
):
    import fsspec

    def fail(url):
        raise RuntimeError(reason.format(url))

    monkeypatch.setattr(fsspec, "url_to_fs", fail)
    url = f"http://{SECRETS[0]}:{password}@host:port/m.dcz"
    message = message_of(OSError, lambda: deepcomp.load(url))
    assert message.startswith("http://host:port/m.dcz: cannot be read: RuntimeError: ")
    assert message.isprintable()


def test_a_size_that_is_not_there_is_refused(server):
    server.claimed_nbytes = 1 << 50
    message_of(deepcomp.DczError, lambda: deepcomp.load(server.url))


@pytest.mark.parametrize("nbytes", [1 << 60, 1 << 70])
def test_a_size_that_cannot_be_addressed_is_refused(nbytes):
    with pytest.raises(deepcomp.DczError, match="more than can be addressed"):
        unused_memory(nbytes, "m.dcz")


# --- URLs ---


@pytest.mark.parametrize("url", ["memory://deepcomp/m.dcz", "file://{}", "simplecache::file://{}"])
def test_urls_of_other_kinds_are_read_through_fsspec(path, url):
    import fsspec

    fsspec.filesystem("memory").pipe("/deepcomp/m.dcz", path.read_bytes())
    packed = deepcomp.load(url.format(path))
    np.testing.assert_array_equal(packed["layer7.weight"].to_dense(), TENSORS["layer7.weight"])
    assert packed.metadata == {"of": "the test"}


@pytest.mark.parametrize("url", ["memory://deepcomp/none.dcz", "file:///none.dcz"])
def test_a_url_of_nothing_gives_file_not_found(url):
    with pytest.raises(FileNotFoundError, match=url):
        deepcomp.load(url)


def test_an_unknown_protocol_is_named():
    with pytest.raises(OSError, match=r"nonsense://a/b: cannot be read: .*nonsense"):
        deepcomp.load("nonsense://a/b")


def test_a_missing_package_that_is_not_of_the_extra_does_not_name_it():
    name = "of-another-store"
    fsspec = pytest.importorskip("fsspec")
    fsspec.register_implementation(
        name, "not_there.Files", errtxt="Install not-there", clobber=True
    )
    with pytest.raises(
        ImportError, match=r"^of-another-store://a: ImportError: Install not-there$"
    ):
        deepcomp.load(f"{name}://a")


@pytest.mark.parametrize("missing", ["fsspec", "aiohttp"])
def test_a_missing_package_is_an_error_that_names_the_extra(missing):
    script = """
        import sys, deepcomp
        sys.modules[sys.argv[1]] = None
        try:
            deepcomp.load("http://alice:open-sesame@host/m.dcz")
        except ImportError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), missing]
    message = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert message.startswith("http://host/m.dcz: ")
    assert missing in message and "pip install 'deepcomp[remote]'" in message


@pytest.mark.parametrize("url", ["s3://alice:open-sesame@bucket/m.dcz", "simplecache::http://h/a"])
def test_a_url_cannot_be_saved_to_and_the_message_tells_no_secret(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = message_of(ValueError, lambda: deepcomp.save({"w": noise(3)}, url))
    assert "cannot save to a URL" in message
    assert os.listdir(tmp_path) == []


def test_a_path_object_is_never_a_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "memory:").mkdir()
    deepcomp.save({"w": noise(3)}, tmp_path / "memory:" / "m.dcz")
    assert list(deepcomp.load(type(tmp_path)("memory://m.dcz"))) == ["w"]
    assert list(deepcomp.load("./memory://m.dcz")) == ["w"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/a/m.dcz", "https://host/a/m.dcz"),
        ("https://host:8080/model@v1.dcz", "https://host:8080/model@v1.dcz"),
        ("https://me@host/m.dcz", "https://host/m.dcz"),
        ("https://me:se@cret@host/m.dcz", "https://host/m.dcz"),
        ("s3://key:se/cr?t@bucket/m.dcz", "s3://bucket/m.dcz"),
        ("http://[::1]:80/m.dcz", "http://[::1]:80/m.dcz"),
        ("https://host/m.dcz?X-Amz-Signature=a/b", "https://host/m.dcz?..."),
        ("https://host/m.dcz#token=a", "https://host/m.dcz#..."),
        ("zip://m.dcz::https://me:secret@host/a.zip", "zip://m.dcz::https://host/a.zip"),
        ("simplecache::s3://me:secret@host/a", "simplecache::s3://host/a"),
    ],
)
def test_credentials_are_left_out_of_urls(url, shown):
    assert is_url(url) and without_credentials(url) == shown
    if "?t@" not in url:
        assert text_without_credentials(f"no answer from '{url}'.") == f"no answer from '{shown}'."


@pytest.mark.parametrize(
    "path", ["m.dcz", "/a/m.dcz", "./s3://b", "a:b", "//host/a", "1://a", b"s3://"]
)
def test_paths_are_no_urls(path):
    assert not is_url(path)


# --- open files ---


class Pieces(io.RawIOBase):
    """A raw file that gives at most 1000 bytes at a time, as the system may."""

    def __init__(self, data):
        self._file = io.BytesIO(data)

    def seek(self, offset, whence=0):
        return self._file.seek(offset, whence)

    def read(self, n=-1):
        return self._file.read(min(n, 1000))


OPENERS = {
    "file": lambda path: path.open("rb"),
    "raw": lambda path: path.open("rb", buffering=0),
    "bytes": lambda path: io.BytesIO(path.read_bytes()),
    "pieces": lambda path: Pieces(path.read_bytes()),
}


@pytest.mark.parametrize("kind", OPENERS)
def test_open_files_are_read_and_stay_open(path, kind):
    file = OPENERS[kind](path)
    packed = deepcomp.load(file)
    file.seek(77)
    for name in (LARGE, "layer3.weight", "layer199.weight"):
        np.testing.assert_array_equal(packed[name].to_dense(), TENSORS[name])
    del packed
    assert not file.closed
    file.close()


def test_a_tensor_of_an_open_file_is_read_once_and_then_kept(path):
    with open(path, "rb") as file:
        packed = deepcomp.load(file)
        packed["layer3.weight"].check()
    np.testing.assert_array_equal(packed["layer3.weight"].to_dense(), TENSORS["layer3.weight"])
    with pytest.raises(OSError, match=r"m\.dcz: tensor 'layer150.weight': .* closed"):
        packed["layer150.weight"].to_dense()


@pytest.mark.parametrize("file", [io.StringIO("text"), 3, None, ["m.dcz"]])
def test_what_is_no_path_and_no_binary_file_is_a_type_error(file):
    with pytest.raises(TypeError, match="binary file"):
        deepcomp.load(file)


def test_a_file_that_cannot_seek_is_an_os_error_that_names_it():
    readable, writable = os.pipe()
    os.close(writable)
    with open(readable, "rb") as pipe, pytest.raises(OSError, match="cannot be read"):
        deepcomp.load(pipe)


@pytest.mark.parametrize("kind", ["valid", "invalid"])
def test_open_files_are_accepted_and_refused_as_paths_are(kind):
    for path in sorted((FORMATS / "vectors" / kind).glob("*.dcz")):
        data = io.BytesIO(path.read_bytes())
        if kind == "valid":
            for name, tensor in deepcomp.load(data).items():
                expected = deepcomp.load(path)[name].decode_patterns()
                np.testing.assert_array_equal(tensor.decode_patterns(), expected)
            continue
        with pytest.raises(deepcomp.DczError) as by_path:
            verify(deepcomp.load(path))
        with pytest.raises(deepcomp.DczError) as by_file:
            if path.stem == "page_checksum_wrong_beside_crc32":  # where the section is right
                verify(deepcomp.load(data))
                Reader(data).check_all_pages()
            verify(deepcomp.load(data))
        assert str(by_file.value).replace("<BytesIO>", str(path)) == str(by_path.value)


def verify(packed):
    for tensor in packed.values():
        tensor.verify()


def everything(packed):
    return [tensor.decode_patterns() for tensor in packed.values()]


def test_every_truncation_and_every_changed_byte_of_an_open_file_is_refused():
    values = [5 * (i % 97 == 0) + (i % 1234 == 0) for i in range(9000)]
    tensors = [
        writer.packed("int8", values, name="s", codebook=True, gap_bits=6, block_numel=4096),
        writer.packed("bfloat16", [1, 0, 3] * 40, name="d"),
    ]
    whole = writer.file_of(tensors)
    assert len(everything(deepcomp.load(io.BytesIO(whole)))) == 2
    damaged = [whole[:n] for n in range(len(whole))]
    damaged += [whole[:i] + bytes([whole[i] ^ 0x10]) + whole[i + 1 :] for i in range(len(whole))]
    for data in damaged:
        with pytest.raises(deepcomp.DczError, match=r"^<BytesIO>: "):
            everything(deepcomp.load(io.BytesIO(data)))


# --- copies, threads, processes ---


def test_copies_and_pickles_need_neither_file_nor_server(server, path):
    names = ["layer1.weight", "layer2.weight"]
    with open(path, "rb") as file:
        for source in (file, server.url):
            packed = deepcomp.load(source).select(*names)
            copies = [pickle.loads(pickle.dumps(packed)), copy.deepcopy(packed)]
            server.status = 404 if source != file else None
            for made in copies:
                for name in names:
                    np.testing.assert_array_equal(made[name].to_dense(), TENSORS[name])


class OneAtATime(io.BytesIO):
    """A file that notices when another thread reads between a seek and its read."""

    def seek(self, offset, whence=0):
        self._thread = threading.get_ident()
        time.sleep(1e-4)  # others may come
        return super().seek(offset, whence)

    def read(self, n=-1):
        assert self._thread == threading.get_ident()
        return super().read(n)


@pytest.mark.parametrize("kind", ["url", "file"])
def test_reads_in_threads_are_those_of_a_serial_run(server, path, kind):
    with OneAtATime(path.read_bytes()) as file:
        packed = deepcomp.load(server.url if kind == "url" else file)
        right, start = [], threading.Barrier(6)

        def read(seed):
            start.wait()
            names = [f"layer{i}.weight" for i in np.random.default_rng(seed % 2).permutation(200)]
            found = {name: packed[name].to_dense() for name in names[:60]}
            right.extend(np.array_equal(array, TENSORS[name]) for name, array in found.items())

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert right == [True] * 6 * 60


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_reads_on_from_the_server(server):
    script = """
        import os, sys, deepcomp
        packed = deepcomp.load(sys.argv[1])
        first = packed["layer0.weight"].to_dense().tobytes()
        child = os.fork()
        if not child:
            assert packed["layer0.weight"].to_dense().tobytes() == first
            os._exit(0 if packed["layer90.weight"].to_dense().size == 20_000 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert packed["layer91.weight"].to_dense().size == 20_000
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), server.url]
    subprocess.run(command, check=True, timeout=100)


def test_a_file_behind_a_url_is_closed_when_nothing_uses_it(path):
    folder = "/proc/self/fd" if os.path.exists("/proc/self/fd") else "/dev/fd"
    before = len(os.listdir(folder))
    packed = deepcomp.load(f"file://{path}")
    tensor = packed["layer0.weight"]
    del packed
    assert len(os.listdir(folder)) > before
    assert tensor.to_dense().size == 20_000
    del tensor
    assert len(os.listdir(folder)) == before
