"""A real S3 server on loopback, moto's, found through the environment as any S3 server would be."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import fsspec
import pytest
from moto.server import ThreadedMotoServer


@dataclass(frozen=True)
class S3Server:
    """Where the server listens."""

    endpoint: str  # http://127.0.0.1:PORT

    def new_bucket(self) -> str:
        """The address of a new, empty bucket: s3://NAME."""
        address = f"s3://headrace-{uuid.uuid4().hex}"
        fsspec.filesystem("s3").mkdir(address)
        return address


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One server for all tests; `fsspec` (and processes that tests start) find it with no option."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ENDPOINT_URL_S3": endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            environment.setenv(name, value)
        yield S3Server(endpoint)
    server.stop()


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    """The address of an empty bucket of the test's own."""
    return s3_server.new_bucket()
