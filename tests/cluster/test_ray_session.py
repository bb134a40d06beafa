from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from cluster.errors import ClusterError
from cluster.ray_session import asks_for_token, check_address


@contextmanager
def head_node(refusal: grpc.StatusCode | None) -> Iterator[str]:
    """The address of a server that refuses whatever it is asked, or answers."""

    def answer(request: bytes, context: Any) -> bytes:
        if refusal is not None:
            context.abort(refusal, "InvalidAuthToken")
        return b""

    handlers = {"CheckAlive": grpc.unary_unary_rpc_method_handler(answer)}
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("ray.rpc.NodeInfoGcsService", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("refusal", "asks"),
    [(grpc.StatusCode.UNAUTHENTICATED, True), (grpc.StatusCode.UNIMPLEMENTED, False), (None, False)],
)
def test_cluster_asks_for_a_token_only_if_it_refuses_who_shows_none(
    refusal: grpc.StatusCode | None, asks: bool
) -> None:
    with head_node(refusal) as address:
        assert asks_for_token(address) is asks


@pytest.mark.parametrize("address", ["foo", "ray://host:1", "host:", ":1"])
def test_address_malformed_is_refused_with_its_form(address: str) -> None:
    with pytest.raises(ClusterError, match="must be HOST:PORT"):
        check_address(address)


def test_address_where_nothing_listens_is_refused_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can answer there
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ClusterError, match="nothing answers there"):
            check_address(address)
