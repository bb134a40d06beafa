"""What keepers say to each other: frames of JSON over TCP, and behind some of them the bytes of a snapshot.

A snapshot goes out of the sender's memory without being copied there (sendfile): what the receiver reads may be what
was written since. So the receiver says when it has read all of it, and only then does the sender look whether the slot
still stands, and say so, with the digest. A receiver believes nothing before that word.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from typing import Any

from xxhash import xxh3_64

from cluster.snapshot_keeper_memory import CHUNK_BYTES, KeptMemory, Picked, slot_spans
from trainer.checkpoint.memory_layout import NOTE_BYTES, Slot

Frame = dict[str, Any]

MAX_FRAME_BYTES = 1 << 24
STALL_SECONDS = 20.0
"""A peer that takes or gives nothing for so long is lost."""

_LENGTH = struct.Struct("<I")
_WORD = struct.Struct("<BQ")  # whether the slot stood; digest of its bytes
_TIMEVAL = struct.Struct("@ll")
_READ_ALL = b"r"
_STORED, _REFUSED = b"s", b"n"


def limit_stalls(sock: socket.socket, seconds: float = STALL_SECONDS) -> None:
    """Have every call on a blocking socket fail (BlockingIOError, an OSError) after so long without a byte."""
    sock.settimeout(None)
    value = _TIMEVAL.pack(int(seconds), int(seconds % 1 * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, value)


def send_frame(sock: socket.socket, frame: Frame) -> None:
    """Send one frame. OSError if the other side is gone."""
    text = json.dumps(frame).encode()
    sock.sendall(_LENGTH.pack(len(text)) + text)


def receive_frame(sock: socket.socket) -> Frame | None:
    """The next frame, None at the end of the stream. OSError if it breaks off or is none."""
    first = sock.recv(1)
    if not first:
        return None
    [length] = _LENGTH.unpack(first + _exactly(sock, _LENGTH.size - 1))
    if length > MAX_FRAME_BYTES:
        raise ConnectionError(f"a frame of {length} bytes")
    try:
        frame = json.loads(_exactly(sock, length))
    except ValueError as error:
        raise ConnectionError(f"a frame that is no JSON: {error}") from error
    if not isinstance(frame, dict):
        raise ConnectionError("a frame that is no object")
    return frame


def describe(picked: Picked) -> Frame:
    """What a frame says of the snapshot behind it."""
    slot = picked.slot
    numbers = {"step": slot.step, "note_bytes": slot.note_bytes, "version": slot.version}
    return {**numbers, "size": picked.size, "key": picked.key.hex()}


def send_snapshot(sock: socket.socket, picked: Picked) -> bool:
    """Send the bytes of a snapshot that the other side knows by `describe`; whether it has stored them.

    False too where the slot was written to meanwhile. OSError if the other side is gone.
    """
    digest = picked.digest()
    for start, length in picked.spans:
        _send_file(sock, picked.memory.fd, start, length)
    if _exactly(sock, 1) != _READ_ALL:
        raise ConnectionError("not the word that all was read")
    sock.sendall(_WORD.pack(picked.stands(), digest))
    return _exactly(sock, 1) == _STORED


def receive_snapshot(sock: socket.socket, memory: KeptMemory, described: Frame) -> bool:
    """Store what `send_snapshot` sends; False if it was written to meanwhile or came wrong, and is not believed.

    OSError if the stream breaks off, and nothing is believed either.
    """
    key, note_bytes = bytes.fromhex(described["key"]), described["note_bytes"]
    if not 0 <= note_bytes <= NOTE_BYTES:
        raise ConnectionError(f"a note of {note_bytes} bytes")
    index = memory.begin(described["size"], key, described["step"])
    state = xxh3_64()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    for start, length in slot_spans(described["size"], index, note_bytes):
        done = 0
        while done < length:
            got = sock.recv_into(buffer, min(CHUNK_BYTES, length - done))
            if not got:
                raise ConnectionError("the stream ended within a snapshot")
            state.update(buffer[:got])
            os.pwrite(memory.fd, buffer[:got], start + done)
            done += got
    sock.sendall(_READ_ALL)
    stood, digest = _WORD.unpack(_exactly(sock, _WORD.size))
    is_good = bool(stood) and digest == state.intdigest()
    if is_good:
        memory.finish(index, Slot(described["step"], note_bytes, described["version"]))
    sock.sendall(_STORED if is_good else _REFUSED)
    return is_good


def _send_file(sock: socket.socket, fd: int, start: int, length: int) -> None:
    done = 0
    while done < length:
        sent = os.sendfile(sock.fileno(), fd, start + done, length - done)
        if not sent:
            raise ConnectionError("the memory was cut within a snapshot")
        done += sent


def _exactly(sock: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        more = sock.recv(length - len(data))
        if not more:
            raise ConnectionError("the stream broke off")
        data += more
    return bytes(data)
