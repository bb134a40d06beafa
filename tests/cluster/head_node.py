"""A stand-in for a cluster's head."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc


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
