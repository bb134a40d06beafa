"""JSON lines over a non-blocking TCP socket, with pings both ways."""

import socket

from cluster.messages import MAX_LINE_BYTES, MalformedMessageError, Message, Ping, decode, encode

SILENT_PINGS = 3
"""A connection without a word for so many pings is lost: a machine that vanishes sends nothing."""


class ConnectionLostError(Exception):
    """The other side is gone, silent, or does not speak the protocol; the text says which."""


class Connection:
    """One end of a connection. Times are monotonic seconds of this process."""

    def __init__(self, sock: socket.socket, ping_seconds: float, now: float) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._ping_seconds = ping_seconds
        self._heard_at = now
        self._next_ping = now + ping_seconds
        self._incoming = b""
        self._outgoing = b""

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether something waits for the socket to take more."""
        return bool(self._outgoing)

    def send(self, message: Message) -> None:
        """Send, or keep what the socket does not take now; `flush` sends the rest."""
        self._outgoing += encode(message)
        self.flush()

    def flush(self) -> None:
        """Send what waits; ConnectionLostError if the other side is gone."""
        try:
            while self._outgoing:
                self._outgoing = self._outgoing[self._socket.send(self._outgoing) :]
        except BlockingIOError:
            return
        except OSError as error:
            raise ConnectionLostError(f"connection broken: {error}") from error

    def receive(self, now: float) -> list[Message]:
        """Whole messages that have come (pings left out); ConnectionLostError at the end of the stream."""
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError as error:
            raise ConnectionLostError(f"connection broken: {error}") from error
        if not data:
            raise ConnectionLostError("connection closed")
        self._heard_at = now
        *lines, self._incoming = (self._incoming + data).split(b"\n")
        if len(self._incoming) > MAX_LINE_BYTES:
            raise ConnectionLostError("a line without end")
        try:
            messages = [decode(line) for line in lines]
        except MalformedMessageError as error:
            raise ConnectionLostError(str(error)) from error
        return [message for message in messages if not isinstance(message, Ping)]

    def tick(self, now: float) -> None:
        """Ping when it is time to; ConnectionLostError if the other side was silent for too long."""
        silence_seconds = now - self._heard_at
        if silence_seconds > SILENT_PINGS * self._ping_seconds:
            raise ConnectionLostError(f"silent for {silence_seconds:.1f} s")
        if now >= self._next_ping:
            self._next_ping = now + self._ping_seconds
            self.send(Ping())
        elif self._outgoing:
            self.flush()

    def finish_sending(self) -> None:
        """Close our direction; the other side reads what was sent, then the end of the stream."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise ConnectionLostError(f"connection broken: {error}") from error

    def close(self) -> None:
        self._socket.close()
