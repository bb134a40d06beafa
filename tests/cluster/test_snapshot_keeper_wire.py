from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cluster.snapshot_keeper import Keeper
from cluster.snapshot_keeper_memory import KeptMemory
from cluster.snapshot_keeper_store import Key
from cluster.snapshot_keeper_wire import describe, limit_stalls, receive_frame, receive_snapshot, send_snapshot
from tests.cluster.gang_process import wait_until
from tests.cluster.snapshot_taker import memory_of, values, write

pytestmark = pytest.mark.timeout(60)

SMALL = 3000


def written(*steps: int, elements: int = SMALL) -> KeptMemory:
    torch.set_num_threads(1)
    kept = KeptMemory()
    memory = memory_of(kept.fd, 0, elements)
    for step in steps:
        write(memory, step, elements)
    return kept


def transfer(source: KeptMemory, target: KeptMemory) -> bool | None:
    """Send the newest snapshot; whether it was stored, None where there was none to send."""
    picked = source.find()
    if picked is None:
        return None
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor(1) as pool:
        limit_stalls(ours)
        limit_stalls(theirs)
        stored = pool.submit(receive_snapshot, theirs, target, describe(picked))
        assert send_snapshot(ours, picked) == stored.result()
        return stored.result()


def test_snapshot_sent_is_whole_at_the_receiver_beside_the_one_before() -> None:
    source, target = written(3), KeptMemory()
    assert transfer(source, target)
    write(memory_of(source.fd, 0, SMALL), 4, SMALL)
    assert transfer(source, target)
    memory = memory_of(target.fd, 0, SMALL)
    assert memory.steps() == [3, 4]
    assert [values(memory, step, SMALL) for step in (3, 4)] == [{3.0}, {4.0}]
    write(memory, 5, SMALL)  # a rank that takes it over goes on
    assert memory.steps() == [4, 5]


@pytest.mark.parametrize("cut", [0, 1, 4096, 36_874, 36_875])
def test_snapshot_torn_on_the_way_is_not_believed_and_the_one_before_is_kept(cut: int) -> None:
    source, target = written(3), KeptMemory()
    assert transfer(source, target)
    write(memory_of(source.fd, 0, SMALL), 4, SMALL)
    picked = source.find()
    assert picked is not None
    data = b"".join(chunk for _, chunk in picked.chunks())
    assert cut <= len(data) == 36_875  # all of it, and no word that it stood
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(data[:cut])
        ours.close()
        with pytest.raises(ConnectionError):
            receive_snapshot(theirs, target, describe(picked))
    assert target.steps() == [3]


@pytest.mark.parametrize(("stood", "flip"), [(True, True), (False, False)])
def test_snapshot_that_came_wrong_or_did_not_stand_is_not_believed(stood: bool, flip: bool) -> None:
    source, target = written(4), KeptMemory()
    picked = source.find()
    assert picked is not None
    data = bytearray(b"".join(chunk for _, chunk in picked.chunks()))
    data[len(data) // 2] ^= flip
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        ours.sendall(data)
        ours.sendall(struct.pack("<BQ", stood, picked.digest()))
        assert not receive_snapshot(theirs, target, describe(picked))
    assert target.steps() == []


def test_snapshot_with_an_impossible_size_or_note_is_refused() -> None:
    picked = written(4).find()
    assert picked is not None
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(ValueError, match="cannot have 12345 bytes"):
            receive_snapshot(theirs, KeptMemory(), {**describe(picked), "size": 12345})
        with pytest.raises(ConnectionError, match="note"):
            receive_snapshot(theirs, KeptMemory(), {**describe(picked), "note_bytes": 1 << 30})


def test_frame_too_long_or_no_json_is_refused() -> None:
    for data in (struct.pack("<I", 1 << 30), struct.pack("<I", 2) + b"{]", struct.pack("<I", 2) + b"[]"):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(data)
            with pytest.raises(ConnectionError):
                receive_frame(theirs)


def test_snapshot_sent_while_the_rank_writes_all_the_time_is_of_one_step_or_refused() -> None:
    token = os.urandom(16).hex()
    keeper = Keeper("a", token)
    keeper.meet({})
    command = [sys.executable, "-m", "tests.cluster.snapshot_taker", token, "a", "0"]
    outcomes: list[bool] = []
    with subprocess.Popen(command) as writer:
        try:
            wait_until(lambda: Key(0, 1) in keeper.store.owned())
            source, target = keeper.store.owned()[Key(0, 1)], KeptMemory()
            deadline = time.monotonic() + 20.0
            while time.monotonic() < deadline and not (outcomes.count(True) >= 5 and outcomes.count(False) >= 2):
                stored = transfer(source, target)
                if stored:
                    memory, step = memory_of(target.fd, 0), max(target.steps())
                    assert values(memory, step) == {float(step)}
                if stored is not None:
                    outcomes.append(stored)
        finally:
            writer.kill()
            keeper.close()
    assert outcomes.count(True) >= 5
    assert outcomes.count(False) >= 2
