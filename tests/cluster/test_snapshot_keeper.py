from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from cluster.snapshot_keeper import Keeper
from cluster.snapshot_keeper_client import socket_name, take_snapshot_memory
from cluster.snapshot_keeper_peers import Peers
from cluster.snapshot_keeper_store import Key
from cluster.snapshot_keeper_wire import receive_frame, send_frame
from tests.cluster.gang_process import wait_until
from tests.cluster.snapshot_taker import memory_of, values, write
from trainer.checkpoint.memory import SnapshotMemory

pytestmark = pytest.mark.timeout(60)

SMALL = 3000

Start = Callable[..., dict[str, Keeper]]


@pytest.fixture
def token() -> str:
    """A secret of this test's own, so that its keepers' names are."""
    return os.urandom(16).hex()


@pytest.fixture
def start(token: str) -> Iterator[Start]:
    """Starts keepers that know each other, one per node named."""
    torch.set_num_threads(1)
    started: dict[str, Keeper] = {}

    def run(*nodes: str) -> dict[str, Keeper]:
        started.update({node: Keeper(node, token) for node in nodes})
        for keeper in started.values():
            keeper.meet({node: other.address for node, other in started.items()})
        return started

    yield run
    for keeper in started.values():
        keeper.close()


@contextmanager
def taken(token: str, node: str, rank: int, world_size: int) -> Iterator[SnapshotMemory]:
    taken = take_snapshot_memory(token, node, rank, world_size, 5.0)
    assert taken is not None and taken[1] == []
    memory = memory_of(taken[0], rank, SMALL)
    os.close(taken[0])  # it stays mapped
    yield memory


@contextmanager
def taker(token: str, node: str, steps: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.cluster.snapshot_taker", token, node, str(steps)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def keep(memory: SnapshotMemory, *steps: int) -> None:
    """Write snapshots as a rank does: each once the one before has got to the other node."""
    for step in steps:
        write(memory, step, SMALL)
        wait_until(lambda: not memory.awaits_copy)


def test_keeper_memory_outlives_its_killed_taker(token: str, start: Start) -> None:
    start("a")
    with taker(token, "a", steps=4) as process:
        assert process.stdout is not None and process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
        process.wait(10.0)
    taken = take_snapshot_memory(token, "a", 0, 1, 0.0)
    assert taken is not None
    memory = memory_of(taken[0], 0)
    os.close(taken[0])
    assert memory.steps() == [3, 4]
    assert values(memory, 3) == {3.0}
    assert values(memory, 4) == {4.0}


def test_keeper_hands_out_new_memory_so_that_an_old_rank_come_back_disturbs_nothing(token: str, start: Start) -> None:
    start("a")
    with taken(token, "a", 0, 1) as old:
        write(old, 7, SMALL)
        with taken(token, "a", 0, 1) as new:
            assert new.steps() == [7]
            write(old, 9, SMALL)
            write(old, 10, SMALL)
            assert new.steps() == [7]
            assert values(new, 7, SMALL) == {7.0}
            write(new, 8, SMALL)
            assert new.steps() == [7, 8]


def test_keeper_lost_with_its_node_leaves_the_newest_snapshots_on_another(token: str, start: Start) -> None:
    keepers = start("a", "b", "spare")
    with taken(token, "a", 0, 2) as first, taken(token, "b", 1, 2) as second:
        for step in (1, 2, 3):
            write(first, step, SMALL)
            write(second, step, SMALL)
            wait_until(lambda: not first.awaits_copy and not second.awaits_copy)
    keepers.pop("a").close()
    with taken(token, "spare", 0, 2) as moved, taken(token, "b", 1, 2) as stayed:
        assert moved.steps() == stayed.steps() == [2, 3]
        for step in (2, 3):
            assert values(moved, step, SMALL) == values(stayed, step, SMALL) == {float(step)}
        # and both go on, with copies on the nodes that are left
        keep(moved, 4)
        keep(stayed, 4)
    keepers.pop("spare").close()
    assert keepers["b"].store.held().get(2, {}) == {0: [3, 4], 1: [3, 4]}


def test_keeper_gives_the_steps_that_all_ranks_can_go_back_to(token: str, start: Start) -> None:
    start("a", "b")
    with taken(token, "a", 0, 2) as first, taken(token, "b", 1, 2) as second:
        for step in (1, 2):
            write(first, step, SMALL)
            write(second, step, SMALL)
            wait_until(lambda: not first.awaits_copy and not second.awaits_copy)
        write(first, 3, SMALL)
        with taken(token, "a", 0, 2) as again, taken(token, "b", 1, 2) as other:
            assert again.steps() == other.steps()
            assert again.steps() in ([1, 2], [2])  # as far as the third had got on its way


def test_keeper_forgets_on_all_nodes_what_a_rank_forgot(token: str, start: Start) -> None:
    keepers = start("a", "b")
    key = Key(0, 1)
    with taken(token, "a", 0, 1) as memory:
        keep(memory, 5, 6)
        assert keepers["b"].store.held().get(1, {}) == {0: [5, 6]}
        memory.forget_after(5)
        wait_until(lambda: keepers["b"].store.held().get(1, {}) == {0: [5]})
        assert keepers["b"].store.find(key, 6) is None
        keep(memory, 6)
        assert keepers["b"].store.held().get(1, {}) == {0: [5, 6]}


def test_keeper_lets_no_copy_stand_of_a_step_that_was_written_anew(
    token: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    keepers = start("a", "b")
    with taken(token, "a", 0, 1) as memory:
        keep(memory, 5, 6)
        monkeypatch.setattr("cluster.snapshot_keeper_copier.Copier._has_holder", lambda *_: False)  # it is slow to send
        memory.forget_after(5)
        write(memory, 60, SMALL, at=6)  # the run went back and came to step 6 by another way
        wait_until(lambda: keepers["b"].store.held().get(1, {}) == {0: [5]})


def test_keeper_without_anybody_left_to_hold_copies_does_not_keep_ranks_waiting(token: str, start: Start) -> None:
    keepers = start("a", "b")
    with taken(token, "a", 0, 1) as memory:
        keep(memory, 1)
        keepers.pop("b").close()
        keep(memory, 2, 3)
        assert memory.steps() == [2, 3]


def test_keeper_lets_go_of_what_earlier_gangs_left(token: str, start: Start) -> None:
    keepers = start("a", "b", "c")
    with taken(token, "a", 0, 1) as memory:
        keep(memory, 1, 2)
    with taken(token, "c", 0, 1) as memory:  # the rank has moved
        keep(memory, 3)
    held = {node: keeper.store.held().get(1, {}) for node, keeper in keepers.items()}
    # The owner, and the one that holds its copy; nobody else.
    wait_until(lambda: sum(bool(keeper.store.held().get(1, {})) for keeper in keepers.values()) == 2)
    assert held["c"] == {0: [2, 3]}


def test_keeper_hands_a_gang_of_another_size_the_snapshots_of_all_former_ranks(token: str, start: Start) -> None:
    keepers = start("a", "b")
    with taken(token, "a", 0, 2) as first, taken(token, "b", 1, 2) as second:
        for step in (4, 5):
            write(first, step, SMALL)
            write(second, 100 + step, SMALL, at=step)
            wait_until(lambda: not first.awaits_copy and not second.awaits_copy)
    keepers.pop("a").close()
    handed = take_snapshot_memory(token, "b", 0, 1, 5.0)
    assert handed is not None
    own_fd, former_fds = handed
    former = [memory_of(fd, rank, SMALL) for rank, fd in enumerate(former_fds)]
    own = memory_of(own_fd, 0, SMALL)
    for fd in (own_fd, *former_fds):
        os.close(fd)
    assert own.steps() == []
    assert [memory.steps() for memory in former] == [[5], [5]]
    assert [values(memory, 5, SMALL) for memory in former] == [{5.0}, {105.0}]
    # Until the new gang is known to have newer ones, they are there for whoever comes next.
    keep(own, 6)
    assert keepers["b"].store.held().keys() == {1, 2}
    keep(own, 7)
    wait_until(lambda: keepers["b"].store.held() == {1: {0: [6, 7]}})


def test_keeper_hands_out_no_older_snapshots_of_another_size(token: str, start: Start) -> None:
    start("a")
    with taken(token, "a", 0, 1) as lone:
        write(lone, 3, SMALL)
    handed = take_snapshot_memory(token, "a", 0, 2, 5.0)
    assert handed is not None and len(handed[1]) == 1
    other = take_snapshot_memory(token, "a", 1, 2, 5.0)
    assert other is not None and len(other[1]) == 1
    for rank, fd in enumerate((handed[0], other[0])):
        write(memory_of(fd, rank, SMALL), 4, SMALL)
    with taken(token, "a", 0, 2) as first:  # no former one beside its own
        assert first.steps() == [4]
    for fd in (handed[0], *handed[1], other[0], *other[1]):
        os.close(fd)


def test_keeper_answers_nobody_without_the_secret(token: str, start: Start) -> None:
    [keeper] = start("a").values()
    stranger = Peers("b", "guess")
    stranger.meet({"a": keeper.address})
    assert stranger.ask_all({"ask": "survey", "world_size": 1, "claimed": None}) == {}
    with socket.socket(socket.AF_UNIX) as sock:  # whoever knows the name does not know the token
        sock.connect(socket_name(token, "a"))
        send_frame(sock, {"token": "guess", "rank": 0, "world_size": 1})
        assert receive_frame(sock) is None
    with socket.create_connection(keeper.address, 5.0) as sock:
        send_frame(sock, {"token": token})
        send_frame(sock, {"ask": "survey", "world_size": 1, "claimed": None})
        assert receive_frame(sock) == {"held": {}, "owned": []}


@contextmanager
def listener_that_is_no_keeper(token: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(socket_name(token, "a"))
        listener.listen()
        listener.settimeout(5.0)
        yield listener


def test_keeper_that_does_not_answer_is_given_up(
    token: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cluster.snapshot_keeper_client.ANSWER_SECONDS", 0.1)
    with listener_that_is_no_keeper(token):
        assert take_snapshot_memory(token, "a", 0, 1, 5.0) is None
    assert "gives no memory: timed out" in caplog.text


def test_secret_is_not_shown_to_another_users_process(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.snapshot_keeper_client.os.getuid", lambda: os.geteuid() + 1)
    with listener_that_is_no_keeper(token) as listener:
        assert take_snapshot_memory(token, "a", 0, 1, 5.0) is None
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(1) == b""


def test_name_that_a_keeper_listens_at_tells_nothing_of_the_token(token: str) -> None:
    name = socket_name(token, "a")
    assert not any(token[at : at + 6] in name for at in range(len(token) - 5))
    assert len(name.encode()) <= 108  # the kernel's limit
    assert name not in (socket_name(token, "b"), socket_name("other", "a"))


def test_keeper_that_is_not_there_is_not_waited_for_longer_than_said(token: str) -> None:
    assert take_snapshot_memory(token, "nowhere", 0, 1, 0.1) is None


def test_keeper_imports_neither_torch_nor_ray() -> None:
    code = "import sys, cluster.snapshot_keeper; sys.exit(bool({'torch', 'ray', 'numpy'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0


def test_keeper_that_did_not_answer_is_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.snapshot_keeper_peers.RETRY_SECONDS", 0.1)
    peers = Peers("a", "secret")
    peers.meet({"a": ("127.0.0.1", 1), "b": ("127.0.0.1", 2)})
    assert peers.nodes == ["b"]
    assert peers.ask_all({"ask": "survey", "world_size": 1, "claimed": None}) == {}
    assert peers.nodes == []
    wait_until(lambda: peers.nodes == ["b"])


def test_keeper_whose_other_ranks_are_nowhere_copies_all_the_same(
    token: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.snapshot_keeper_copier.GATHER_SECONDS", 0.3)
    keepers = start("a", "b")
    with taken(token, "a", 0, 2) as memory:  # rank 1's keeper is lost
        keep(memory, 1)
    assert keepers["b"].store.held().get(2, {}) == {0: [1]}
