import socket
from collections.abc import Iterator

import pytest

from cluster.connection import Connection, ConnectionLostError
from cluster.messages import (
    Dead,
    Done,
    Down,
    Finish,
    Hello,
    MalformedMessageError,
    Message,
    Ping,
    Start,
    Stop,
    decode,
    encode,
)
from cluster.policy import Death, Diagnosis, GiveUp

DEATH = Death(1, "mill", "exception", "ValueError: bad", 5, 1, None, "ValueError", "bad", ("one", "two\n三"))


@pytest.mark.parametrize(
    "message",
    [
        Hello(1, "mill", "secret"),
        Ping(),
        Dead(2, DEATH),
        Down(2, 1, 7),
        Done(2, 1, 3, 7),
        Start(2, "here", 99),
        Start(3, "here", 99, DEATH, 12.25),
        Stop(2),
        Finish("finished", 2, 9, 1),
        GiveUp(Diagnosis("program", "it broke", 2, DEATH)),
        GiveUp(Diagnosis("infrastructure", "gone")),
    ],
)
def test_message_encoded_and_decoded_is_the_same(message: Message) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    assert decode(line) == message


@pytest.mark.parametrize(
    "line", [b"", b"GET / HTTP/1.1", b"[]", b"{}", b'{"type": "lunch"}', b'{"type": "down", "rank": 1}', b"\xff"]
)
def test_message_garbage_is_refused(line: bytes) -> None:
    with pytest.raises(MalformedMessageError, match="no message"):
        decode(line)


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    listener = socket.create_server(("127.0.0.1", 0))
    theirs = socket.create_connection(listener.getsockname())
    ours, _ = listener.accept()
    listener.close()
    connection = Connection(ours, ping_seconds=2.0, now=100.0)
    yield connection, theirs
    connection.close()
    theirs.close()


def test_receive_pieces_of_lines_gives_whole_messages(pair: tuple[Connection, socket.socket]) -> None:
    connection, theirs = pair
    stream = encode(Ping()) + encode(Stop(1)) + encode(Stop(2))
    theirs.sendall(stream[:-5])
    assert connection.receive(100.0) == [Stop(1)]
    assert connection.receive(100.0) == []
    theirs.sendall(stream[-5:])
    assert connection.receive(100.0) == [Stop(2)]


def test_receive_last_words_then_end(pair: tuple[Connection, socket.socket]) -> None:
    connection, theirs = pair
    theirs.sendall(encode(Stop(1)))
    theirs.close()
    assert connection.receive(100.0) == [Stop(1)]
    with pytest.raises(ConnectionLostError, match="connection closed"):
        connection.receive(100.0)


def test_receive_garbage_is_a_lost_connection(pair: tuple[Connection, socket.socket]) -> None:
    connection, theirs = pair
    theirs.sendall(b"GET / HTTP/1.1\r\n")
    with pytest.raises(ConnectionLostError, match="no message: b'GET"):
        connection.receive(100.0)


def test_tick_pings_in_time_and_three_silent_pings_are_a_loss(pair: tuple[Connection, socket.socket]) -> None:
    connection, theirs = pair
    connection.tick(101.9)
    connection.tick(102.0)
    connection.tick(102.1)
    assert theirs.recv(1000) == encode(Ping())
    connection.tick(106.0)
    with pytest.raises(ConnectionLostError, match=r"silent for 6\.1 s"):
        connection.tick(106.1)


def test_tick_word_from_the_other_side_counts(pair: tuple[Connection, socket.socket]) -> None:
    connection, theirs = pair
    theirs.sendall(encode(Ping()))
    assert connection.receive(105.0) == []
    connection.tick(110.0)


def test_send_more_than_the_socket_takes_is_kept_and_flushed(pair: tuple[Connection, socket.socket]) -> None:
    connection, theirs = pair
    big = Dead(1, Death(0, "mill", "exit", "x" * 900_000))
    for _ in range(12):
        connection.send(big)
    assert connection.wants_write
    expected, received = 12 * len(encode(big)), 0
    while received < expected:
        received += len(theirs.recv(1 << 20))
        connection.flush()
    assert not connection.wants_write
