import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cluster.connection import Connection, ConnectionLostError
from cluster.coordinator_server import CoordinatorServer
from cluster.messages import Done, Finish, Hello, Message, Ping, Start
from cluster.policy import GiveUp
from tests.cluster.gang_process import DEADLINE_SECONDS, make_spec

Serve = Callable[..., CoordinatorServer]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    servers = []

    def start(world_size: int, take: Callable[[], int] = lambda: 7, ping_seconds: float = 5.0) -> CoordinatorServer:
        spec = make_spec(tmp_path, 1, ping_seconds=ping_seconds)
        server = CoordinatorServer(spec, world_size, "127.0.0.1", take)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.close()


def connect(server: CoordinatorServer) -> Connection:
    return Connection(socket.create_connection(server.address), 60.0, time.monotonic())


def hear(connection: Connection, ping: bool = False) -> Message:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if ping:
            connection.send(Ping())
        if messages := connection.receive(time.monotonic()):
            return messages[0]
    raise AssertionError("nothing was said")


def test_server_start_gives_a_store_that_listens(serve: Serve) -> None:
    server = serve(1)
    connection = connect(server)
    connection.send(Hello(0, "mill", "secret"))
    start = hear(connection)
    assert isinstance(start, Start)
    with server.take_store(7) as store:
        assert store.getsockname() == (start.store_host, start.store_port)
        socket.create_connection((start.store_host, start.store_port)).close()
    connection.close()


@pytest.mark.parametrize("hello", [Hello(0, "mill", "guess"), Hello(5, "mill", "secret"), Done(1, 0, 0, 0)])
def test_server_stranger_is_dropped_and_the_gang_goes_on(serve: Serve, hello: Message) -> None:
    server = serve(1)
    stranger, friend = connect(server), connect(server)
    stranger.send(hello)
    with pytest.raises(ConnectionLostError):
        hear(stranger)
    friend.send(Hello(0, "mill", "secret"))
    assert isinstance(hear(friend), Start)
    friend.send(Done(7, 0, 0, 3))
    assert hear(friend) == Finish("finished", 7, 3, 0)
    friend.close()
    stranger.close()


@pytest.mark.parametrize(
    "line",
    [
        b'{"type": "hello", "rank": 0, "node": "n", "token": 5}',
        '{"type": "hello", "rank": 0, "node": "n", "token": "é"}'.encode(),
        b"[" * 100_000,
    ],
)
def test_server_malformed_hello_is_dropped_and_the_gang_goes_on(serve: Serve, line: bytes) -> None:
    server = serve(1)
    with socket.create_connection(server.address, timeout=DEADLINE_SECONDS) as stranger:
        stranger.sendall(line + b"\n")
        with suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
    friend = connect(server)
    friend.send(Hello(0, "mill", "secret"))
    assert isinstance(hear(friend), Start)
    friend.close()


def test_server_silent_supervisor_is_lost(serve: Serve) -> None:
    server = serve(2, ping_seconds=0.05)
    silent, talker = connect(server), connect(server)
    silent.send(Hello(1, "far", "secret"))
    talker.send(Hello(0, "mill", "secret"))
    assert isinstance(hear(talker), Start)
    message = hear(talker, ping=True)
    assert isinstance(message, GiveUp)
    assert message.diagnosis.reason.startswith("lost the supervisor of rank 1 on far: silent for 0.")
    silent.close()
    talker.close()


def test_server_attempt_that_cannot_be_taken_gives_up(serve: Serve) -> None:
    def refuse() -> int:
        raise OSError("disk full")

    server = serve(1, take=refuse)
    connection = connect(server)
    connection.send(Hello(0, "mill", "secret"))
    message = hear(connection)
    assert isinstance(message, GiveUp)
    assert message.diagnosis.reason == "no new attempt: disk full"
    connection.close()
