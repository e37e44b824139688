"""A server for files, on this machine: it counts the bytes that it sends, and can misbehave."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRETS = ("alice", "open-sesame", "s1gnature")  # parts of each URL below


class Server(ThreadingHTTPServer):
    """Serves `content` under any path, or `files`.

    Attributes
    ----------
    content : bytes
    files : dict of str to bytes
        By the last part of a path; when there are some, there is nothing else.
    answer : callable
        From the bytes of a range to what is sent in their place.
    send_ranges : bool
    status : int or None
        With which each request is refused.
    claimed_nbytes : int or None
        Size that is told, if it is not that of the content; zeros are sent behind it.
    ranges : list of (int, int)
        Start and end of each range that was asked for.
    n_sent : int
        Bytes of all bodies.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.claimed_nbytes, self.status = b"", None, None
        self.files = {}
        self.answer, self.send_ranges = bytes, True
        self.ranges, self.n_sent = [], 0

    @property
    def url(self):
        user, password, signature = SECRETS
        host = f"127.0.0.1:{self.server_port}"
        return f"http://{user}:{password}@{host}/m.dcz?signature={signature}"

    @property
    def shown_url(self):
        return f"http://127.0.0.1:{self.server_port}/m.dcz?..."

    def handle_error(self, request, client_address):
        """Say nothing when a client has seen enough."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each body waits for the client's acknowledgement

    def log_message(self, *args):
        pass

    @property
    def _content(self):
        name = self.path.partition("?")[0].rpartition("/")[2]
        return self.server.files.get(name, b"") if self.server.files else self.server.content

    @property
    def _status(self):
        name = self.path.partition("?")[0].rpartition("/")[2]
        is_missing = bool(self.server.files) and name not in self.server.files
        return self.server.status or (404 if is_missing else None)

    def do_HEAD(self):
        self._head(self._status or 200, self._nbytes)

    def do_GET(self):
        if self._status:
            return self._head(self._status, 0)
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not found or not self.server.send_ranges:
            self._head(200, self._nbytes)
            return self._send(self._content, self._nbytes)
        start, end = int(found[1]), int(found[2]) + 1
        self.server.ranges.append((start, end))
        data = self.server.answer(self._content[start:end])
        if start >= len(self._content):
            return self._head(416, 0)
        self._head(206, len(data), f"bytes {start}-{end - 1}/{self._nbytes}")
        self._send(data, len(data))

    @property
    def _nbytes(self):
        return self.server.claimed_nbytes or len(self._content)

    def _head(self, status, nbytes, content_range=None):
        self.send_response(status)
        self.send_header("Content-Length", str(nbytes))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()

    def _send(self, data, nbytes):
        self.server.n_sent += len(data)
        self.wfile.write(data)
        for _ in range(len(data), nbytes, 1 << 16):
            self.wfile.write(bytes(1 << 16))
            self.server.n_sent += 1 << 16


@contextmanager
def serving():
    """Run a `Server` in a thread."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
