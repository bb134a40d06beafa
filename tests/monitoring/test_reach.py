from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitoring.reach import reach_problem

pytestmark = pytest.mark.timeout(60)


class Answer(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Nothing to standard error."""


@pytest.fixture
def server() -> Iterator[http.server.HTTPServer]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("status", "problem"), [(200, ""), (401, ""), (500, "answers with 500 Internal Server Error")])
def test_reach_of_a_server_tells_how_it_answers(
    server: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch, status: int, problem: str
) -> None:
    monkeypatch.setattr(Answer, "status", status)
    assert reach_problem(f"http://127.0.0.1:{server.server_port}/") == problem


def test_reach_of_a_server_that_is_away_says_so(server: http.server.HTTPServer) -> None:
    port = server.server_port
    server.server_close()
    assert reach_problem(f"http://127.0.0.1:{port}").startswith("does not answer: ")


def test_reach_of_an_address_that_is_none_says_so() -> None:
    assert reach_problem("somewhere").startswith("does not answer: ")


def test_reach_of_a_database_looks_at_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reach_problem(f"sqlite:///{tmp_path}/not/yet/mlflow.db") == ""
    (tmp_path / "file").touch()
    assert reach_problem(f"sqlite:///{tmp_path}/file/mlflow.db") == f"{tmp_path}/file is not a folder"
    monkeypatch.setattr("monitoring.reach.os.access", lambda folder, mode: False)  # the superuser may write anywhere
    assert reach_problem(f"sqlite:///{tmp_path}/mlflow.db") == f"{tmp_path} is not writable"
