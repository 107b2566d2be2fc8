"""A real server of files, as good or as bad as a test wants it."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest


@dataclass
class Files:
    """A server of one file.

    Attributes:
        url: Where it is.
        content: What is in it.
        ranges: Whether the server knows ranges.
        cuts: After how many bytes each of the next answers breaks off.
        failures: What the next answers fail with, before any succeeds.
        asked: The ranges asked for, None for all of the file.
    """

    url: str = ""
    content: bytes = b""
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    files: Files

    def do_GET(self) -> None:
        files = self.files
        given = self.headers.get("Range")
        files.asked.append(given)
        if files.failures:
            self.send_error(files.failures.pop(0))
            return
        start, end = 0, len(files.content)
        if given and files.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", given)[1])
            if start >= end:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{end}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        cut = files.cuts.pop(0) if files.cuts else end - start
        self.wfile.write(files.content[start : start + cut])
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def files() -> Iterator[Files]:
    found = Files()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Handler,), {"files": found}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}/models/net-00000000.pth"
    yield found
    server.shutdown()
    thread.join()
    server.server_close()
