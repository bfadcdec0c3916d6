"""A local HTTP server that serves files and misbehaves on demand."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = b"<!DOCTYPE html>\n<html><body>Please log in</body></html>\n"


class FaultyServer(ThreadingHTTPServer):
    """Serves `files` (name -> bytes); `faults` (name -> fault) says which ones it spoils.

    A fault is an HTTP status (404), or one of: page (a web page with status 200), cut (half of
    the announced bytes), short (half of the file, announced as all of it), flipped (one changed
    bit), silent (no answer), stalled (half of the file, then nothing), slow (small pieces with
    pauses), closed (no answer, connection closed), babble (an answer that is not HTTP), met (two
    clients must ask before either is answered), encoded (the archive's own compression declared as
    an encoding for the transport, as some servers do by the name of a file).
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.faults, self.requests = files, {}, []
        self.pause = 0.1  # seconds between the pieces of a slow answer
        self.waiting = threading.Event()  # set while a client waits in vain
        self.over = threading.Event()
        self.both = threading.Barrier(2, timeout=60)
        self.url = f"http://127.0.0.1:{self.server_port}/"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Say nothing about clients that gave up: that is what they are tested for."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        data, fault = self.server.files[name], self.server.faults.get(name)
        half = len(data) // 2
        self.server.requests.append(name)
        if isinstance(fault, int):
            self.send_error(fault)
        elif fault == "babble":
            self.wfile.write(b"220 another protocol\r\n")
        elif fault == "silent":
            self.hang()
        elif fault == "page":
            self.reply(PAGE)
        elif fault == "short":
            self.reply(data[:half])
        elif fault == "cut":
            self.reply(data, end=half)
        elif fault == "stalled":
            self.reply(data, end=half)
            self.hang()
        elif fault == "flipped":
            self.reply(data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :])
        elif fault == "slow":
            self.reply(data, end=0)
            for piece in range(15):
                self.server.over.wait(self.server.pause)
                self.wfile.write(data[piece * len(data) // 15 : (piece + 1) * len(data) // 15])
        elif fault == "met":
            self.server.both.wait()
            self.reply(data)
        elif fault == "encoded":
            self.reply(data, headers={"Content-Encoding": "gzip"})
        elif fault != "closed":
            self.reply(data)

    def reply(
        self, data: bytes, end: int | None = None, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[:end])

    def hang(self) -> None:
        self.server.waiting.set()
        self.server.over.wait()

    def log_message(self, *_: object) -> None:
        """Keep the output of the tests clean."""
