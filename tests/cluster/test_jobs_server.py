"""What is read off Ray's job server, and how its log is followed."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobDetails, JobStatus

import cluster.jobs.server
from cluster.errors import ClusterError
from cluster.jobs.server import RETRIES, JobServer, job_of, server_url
from tests.cluster.jobs_world import job, ticket


def details(**fields: Any) -> JobDetails:
    values = {
        "type": "SUBMISSION",
        "submission_id": "20260101-a-1",
        "status": JobStatus.FAILED,
        "entrypoint": "exec sh ./start.sh",
        "metadata": ticket().to_metadata(),
        "start_time": 1_000,
        "end_time": 3_500,
        "driver_exit_code": 3,
        "job_id": "02000000",
    }
    return JobDetails(**{**values, **fields})


def test_job_of_a_submission_has_the_server_s_times_and_the_driver_s_end() -> None:
    assert job_of(details()) == job(status="FAILED", submitted=1.0, ended=3.5, exit_status=3, driver_id="02000000")


def test_job_of_another_s_submission_or_of_a_driver_of_ours_is_none() -> None:
    assert job_of(details(metadata={})) is None
    assert job_of(details(submission_id=None)) is None


class Log:
    """A client whose connections to a job's log break as told; each begins anew."""

    def __init__(self, *connections: list[str | Exception]) -> None:
        self._connections = list(connections)

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        for piece in self._connections.pop(0):
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def get_job_status(self, job_id: str) -> Any:
        return JobStatus.SUCCEEDED if not self._connections else JobStatus.RUNNING


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> JobServer:
    monkeypatch.setattr(cluster.jobs.server, "server_url", lambda address: address)
    monkeypatch.setattr(cluster.jobs.server, "JobSubmissionClient", lambda address: SimpleNamespace())
    return JobServer("http://head:8265")


def followed(server: JobServer, *connections: list[str | Exception]) -> tuple[str, int]:
    server._client = Log(*connections)
    written: list[str] = []
    pauses: list[float] = []
    server.follow("a-1", written.append, pauses.append)
    return "".join(written), len(pauses)


def test_log_followed_through_broken_connections_is_told_once(server: JobServer) -> None:
    broken = RuntimeError("closed")
    connections = (["one\n", "two\nth", broken], ["one\ntwo\n", broken], [broken], ["one\n", "two\nthree\n", "four\n"])
    assert followed(server, *connections) == ("one\ntwo\nthree\nfour\n", 3)


def test_log_that_cannot_be_followed_any_more_is_an_error(server: JobServer) -> None:
    with pytest.raises(ClusterError, match="a-1: its log cannot be followed any more: away"):
        followed(server, *[[OSError("away")] for _ in range(RETRIES + 1)])


@pytest.fixture
def listener() -> Iterator[str]:
    """HOST:PORT of a server that answers as a job server's front page does."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words: Any) -> None:
            pass

    http = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield f"127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


def test_server_url_from_a_url_or_from_host_and_port(listener: str) -> None:
    assert server_url(f"http://{listener}/") == server_url(listener) == f"http://{listener}"


@pytest.mark.parametrize("address", ["ftp://head:1", "http://"])
def test_server_url_malformed_is_refused_with_its_form(address: str) -> None:
    with pytest.raises(ClusterError, match="must be http://HOST:8265"):
        server_url(address)


def test_server_url_where_nothing_listens_is_refused_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can answer there
        with pytest.raises(ClusterError, match=r"nothing answers there .* http://HOST:8265"):
            server_url(f"http://127.0.0.1:{taken.getsockname()[1]}")
