"""An S3 server that can be switched to answer 503: a proxy before moto's."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import fsspec
import pytest

from tests.data_shards.s3 import S3Server

DROPPED = {"transfer-encoding", "connection", "content-length", "server", "date"}


class FlakyS3:
    """The proxy. While `is_down` is set it answers 503; `refused` counts how often."""

    def __init__(self, server: S3Server) -> None:
        self.is_down = threading.Event()
        self.refused = 0
        self._behind = urlsplit(server.endpoint).netloc
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        flaky = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if flaky.is_down.is_set():
                    flaky.refused += 1
                    self.send(503, {}, b"<Error><Code>SlowDown</Code><Message>later</Message></Error>")
                    return
                behind = http.client.HTTPConnection(flaky._behind, timeout=30)
                behind.request(self.command, self.path, body, dict(self.headers))
                response = behind.getresponse()
                content = response.read()
                headers = {key: value for key, value in response.getheaders() if key.lower() not in DROPPED}
                if self.command == "HEAD":
                    headers["Content-Length"] = response.getheader("Content-Length") or "0"
                self.send(response.status, headers, content)
                behind.close()

            def send(self, status: int, headers: dict[str, str], content: bytes) -> None:
                self.send_response(status)
                for key, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                return

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

        return Handler


@contextmanager
def flaky_s3(server: S3Server) -> Iterator[FlakyS3]:
    """The proxy, which `fsspec` finds with no option while the context lasts."""
    flaky = FlakyS3(server)
    system = fsspec.get_filesystem_class("s3")
    with pytest.MonkeyPatch.context() as environment:
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            environment.setenv(name, flaky.endpoint)
        system.clear_instance_cache()
        try:
            yield flaky
        finally:
            flaky.is_down.clear()
            system.clear_instance_cache()
            flaky.stop()
