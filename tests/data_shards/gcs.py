"""A small Google Cloud Storage server on loopback: the parts of its JSON API that gcsfs asks for."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import fsspec
import pytest
from fsspec.registry import _registry
from gcsfs.core import GCSFileSystem


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, tuple[bytes, str]] = {}  # content and time of change by name
        self.uploads: dict[str, tuple[str, bool, bytes]] = {}
        self.lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        url, query = self._asked()
        name = self._object_in(url)
        if name is None:
            prefix = query.get("prefix", "")
            names = [name for name in sorted(self.server.objects) if name.startswith(prefix)]
            return self._answer(200, {"items": [self._facts(name) for name in names]})
        if name not in self.server.objects:
            return self._answer(404, {"error": {"message": "No such object", "code": 404}})
        is_content = query.get("alt") == "media" or url.startswith("/download/")
        return self._answer(200, self.server.objects[name][0] if is_content else self._facts(name))

    def do_POST(self) -> None:
        path, query = self._asked()
        if path.startswith("/resume/"):
            return self._resume(path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        create = query.get("ifGenerationMatch") == "0"
        if query["uploadType"] == "resumable":
            number = f"{len(self.server.uploads)}"
            self.server.uploads[number] = (query.get("name") or json.loads(body)["name"], create, b"")
            self.send_response(200)
            self.send_header("Location", f"http://{self.headers['Host']}/resume/{number}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        _, meta, content, _ = body.split(b"--==0==")
        name = json.loads(meta.split(b"\n\n", 1)[1])["name"]
        return self._put(name, content.split(b"\n\n", 1)[1][:-1], create)

    def _resume(self, path: str) -> None:
        number = path.rpartition("/")[2]
        name, create, data = self.server.uploads[number]
        data += self.rfile.read(int(self.headers["Content-Length"]))
        self.server.uploads[number] = (name, create, data)
        _, end, total = map(int, re.findall(r"\d+", self.headers["Content-Range"]))
        if end + 1 == total:
            return self._put(name, data, create)
        self.send_response(308)
        self.send_header("Range", f"bytes=0-{end}")
        self.send_header("Content-Length", "0")
        return self.end_headers()

    def do_DELETE(self) -> None:
        name = self._object_in(self._asked()[0])
        found = self.server.objects.pop(str(name), None)
        self._answer(204 if found else 404, b"" if found else {"error": {"message": "No such object", "code": 404}})

    def _put(self, name: str, data: bytes, create: bool) -> None:
        with self.server.lock:
            if create and name in self.server.objects:
                return self._answer(412, {"error": {"message": "conditionNotMet", "code": 412}})
            self.server.objects[name] = (data, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
        return self._answer(200, self._facts(name))

    def _facts(self, name: str) -> dict[str, Any]:
        data, changed = self.server.objects[name]
        digest = base64.b64encode(hashlib.md5(data).digest()).decode()
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": "bucket",
            "size": str(len(data)),
            "md5Hash": digest,
            "updated": changed,
            "timeCreated": changed,
            "generation": "1",
        }

    def _asked(self) -> tuple[str, dict[str, str]]:
        url = urlsplit(self.path)
        return url.path, {key: values[0] for key, values in parse_qs(url.query).items()}

    @staticmethod
    def _object_in(path: str) -> str | None:
        match = re.search(r"/b/[^/]+/o/(.+)$", path)
        return unquote(match[1]) if match else None

    def _answer(self, status: int, body: dict[str, Any] | bytes) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def gcs_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty bucket that `fsspec` finds with no option."""
    server = _Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    # gcsfs would ask a second server, by gRPC, whether the bucket is of the zonal kind.
    monkeypatch.setitem(_registry, "gs", GCSFileSystem)
    monkeypatch.setitem(fsspec.config.conf, "gs", {"endpoint_url": endpoint, "token": "anon"})
    yield "gs://bucket"
    server.shutdown()
    server.server_close()
