"""Ray's job server, over HTTP: submitted runs, what they print, and the cluster's nodes."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import ray.exceptions
import requests
from ray.job_submission import JobDetails, JobSubmissionClient

from cluster.access import CONNECT_SECONDS, TOKEN_FILE, show_token
from cluster.errors import ClusterError
from cluster.jobs.job import Job
from cluster.jobs.ticket import Ticket, ticket_from_metadata
from cluster.ray_session import check_address

RETRY_SECONDS, RETRIES = 2.0, 15
POLL_SECONDS = 1.0
MOST_ENTRIES = 10_000

# They tell of each package that they send.
TALKATIVE = ("modules.job.sdk", "modules.dashboard_sdk")

# Ray's client takes these for its address, whatever address it is given.
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


def job_of(details: JobDetails) -> Job | None:
    """One of our submissions from what the server says of a job; None for another's."""
    ticket = ticket_from_metadata(details.metadata)
    if ticket is None or details.submission_id != ticket.job_id:
        return None
    return Job(
        ticket,
        status=details.status.value,
        submitted=(details.start_time or 0) / 1000,
        ended=details.end_time / 1000 if details.end_time else None,
        exit_status=details.driver_exit_code,
        driver_id=details.job_id,
        message=details.message or "",
    )


def server_url(address: str) -> str:
    """The job server's URL, from that or from HOST:PORT of it or of the cluster's head.

    Raises:
        ClusterError: it is malformed, or nothing answers there.
    """
    if "://" in address:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ClusterError(f"--address {address}: must be http://HOST:8265, the URL of Ray's dashboard.")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        _check_answers(address, parts.hostname, port)
        return address.rstrip("/")
    check_address(address)
    if address != "auto":
        with suppress(requests.RequestException):  # then it is not the job server's, but the head's
            requests.get(f"http://{address}/api/version", timeout=CONNECT_SECONDS)
            return f"http://{address}"
    from ray.dashboard.utils import ray_address_to_api_server_url

    url: str = ray_address_to_api_server_url(address)
    return url


def _check_answers(address: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"--address {address}: must be the address of a running Ray job server, but nothing answers there "
            f"({error}). It is the dashboard's, as `ray start --head` prints it, such as http://HOST:8265."
        ) from error


class JobServer:
    """A connection to a job server. Whatever goes wrong there is a ClusterError."""

    def __init__(self, address: str) -> None:
        for name in (*(f"ray.dashboard.{name}" for name in TALKATIVE), "ray._private.runtime_env.packaging"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self.address = server_url(address)
        with self._asking(), _without_variables(ADDRESS_VARIABLES):
            try:
                self._client = JobSubmissionClient(self.address)
            except ray.exceptions.AuthenticationError:
                if not TOKEN_FILE.exists():
                    raise
                show_token()
                self._client = JobSubmissionClient(self.address)

    def jobs(self) -> list[Job]:
        """All submitted runs that the server knows of."""
        with self._asking():
            jobs = map(job_of, self._client.list_jobs())
            return [job for job in jobs if job is not None]

    def job(self, job_id: str) -> Job:
        """One of them."""
        job = next((job for job in self.jobs() if job.id == job_id), None)
        if job is None:
            raise ClusterError(f"{job_id}: the job server at {self.address} does not know this job.")
        return job

    def submit(self, ticket: Ticket, entrypoint: str, runtime_env: Mapping[str, Any]) -> None:
        """Submit a run; its id is the ticket's."""
        self.submit_plain(ticket.job_id, entrypoint, runtime_env, ticket.to_metadata())

    def submit_plain(
        self, job_id: str, entrypoint: str, runtime_env: Mapping[str, Any], metadata: Mapping[str, str]
    ) -> None:
        """Submit any job."""
        with self._asking():
            self._client.submit_job(
                entrypoint=entrypoint, submission_id=job_id, runtime_env=dict(runtime_env), metadata=dict(metadata)
            )

    def end(self, job_id: str) -> None:
        """Have Ray end a job at once: SIGTERM to all of its processes, and SIGKILL three seconds later."""
        with self._asking():
            self._client.stop_job(job_id)

    def forget(self, job_id: str) -> None:
        """Take a job that is over off the server's list."""
        with self._asking():
            self._client.delete_job(job_id)

    def log(self, job_id: str) -> str:
        """What a job has printed."""
        with self._asking():
            text: str = self._client.get_job_logs(job_id)
        return text

    def wait(self, job_id: str, seconds: float | None = None) -> str | None:
        """Ray's word for how a job ended, waiting for it; None if it has not within the time."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while deadline is None or time.monotonic() < deadline:
            with self._asking():
                status = self._client.get_job_status(job_id)
            if status.is_terminal():
                return str(status.value)
            time.sleep(POLL_SECONDS)
        return None

    def follow(self, job_id: str, write: Callable[[str], None], pause: Callable[[float], None] = time.sleep) -> None:
        """Write what a job prints until it is over; a connection that breaks is made anew, and nothing told twice."""
        told = failures = 0

        async def tail() -> None:
            nonlocal told, failures
            skip = told  # the server begins anew with each connection
            async for text in self._client.tail_job_logs(job_id):
                failures = 0
                write(text[skip:])
                told += len(text[skip:])
                skip = max(0, skip - len(text))

        while True:
            try:
                asyncio.run(tail())
            except (RuntimeError, OSError, aiohttp.ClientError) as error:
                failures += 1
                if failures > RETRIES:
                    raise ClusterError(f"{job_id}: its log cannot be followed any more: {error}") from error
                pause(RETRY_SECONDS)
                continue
            if self.wait(job_id, RETRY_SECONDS) is not None:
                return

    def totals(self) -> list[dict[str, float]]:
        """Resources of each node that is alive, by Ray's names."""
        nodes = self._state("nodes")
        return [dict(node["resources_total"]) for node in nodes if node["state"] == "ALIVE"]

    def placed_drivers(self) -> frozenset[str]:
        """Ray's ids of the drivers that hold the resources of a gang."""
        groups = self._state("placement_groups")
        return frozenset(group["creator_job_id"] for group in groups if group["state"] == "CREATED")

    def _state(self, what: str) -> Sequence[Mapping[str, Any]]:
        with self._asking():
            answer = self._client._do_request("GET", f"/api/v0/{what}?detail=1&limit={MOST_ENTRIES}")
            answer.raise_for_status()
            found: Sequence[Mapping[str, Any]] = answer.json()["data"]["result"]["result"]
        return found

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except ray.exceptions.AuthenticationError as error:
            raise ClusterError(
                f"{self.address}: the cluster asks for a token. Put it into {TOKEN_FILE}, or into RAY_AUTH_TOKEN with "
                f"RAY_AUTH_MODE=token."
            ) from error
        except (RuntimeError, OSError) as error:  # the client's own words, and those of the connection
            raise ClusterError(f"{self.address}: the job server does not do what was asked: {error}") from error


@contextmanager
def _without_variables(names: Sequence[str]) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
