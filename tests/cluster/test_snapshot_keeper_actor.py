from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.ray_session import ray_session
from cluster.snapshot_keeper_actor import SnapshotKeepers, fetch_snapshot_memory
from tests.end_to_end.headrace import pids_titled, wait_until
from tests.end_to_end.test_prepare import ray_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

TITLE = "headrace: keeper of mill"


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes that this process has joined."""
    with ray_cluster(nodes=2) as cluster, ray_session(cluster.address, 1):
        yield cluster


def has_memory(token: str, nodes: list[str]) -> bool:
    """As a worker: whether the keeper has memory for rank 0 of 1, which is known by its page of numbers."""
    memory = fetch_snapshot_memory(token, nodes, 0, 1)
    size = os.fstat(memory.fds()["snapshot"]).st_size
    memory.close()
    return size > 0


def node_has_memory(node_id: str, token: str, nodes: list[str]) -> bool:
    where = NodeAffinitySchedulingStrategy(node_id, soft=False)
    answer: bool = ray.get(
        ray.remote(num_cpus=0, scheduling_strategy=where)(has_memory).remote(token, nodes), timeout=60
    )
    return answer


def test_keepers_are_on_every_node_again_before_each_gang_and_end_when_closed(
    cluster: Any, caplog: pytest.LogCaptureFixture
) -> None:
    token = os.urandom(16).hex()
    keepers = SnapshotKeepers("mill", token, is_local=True)
    keepers.cover_nodes()
    first, second = keepers.nodes
    assert node_has_memory(first, token, keepers.nodes)
    assert node_has_memory(second, token, keepers.nodes)
    assert not node_has_memory(second, token, [first])  # it is not asked where none is known to be
    before = wait_until(lambda: len(pids_titled(TITLE)) == 2 and pids_titled(TITLE), "two keepers", 20)

    os.kill(before[0], signal.SIGKILL)
    cluster.add_node(num_cpus=1)

    def covered() -> bool:
        keepers.cover_nodes()
        return len(keepers.nodes) == 3 and "gets a new one" in caplog.text

    wait_until(covered, "the dead keeper to be noticed, and the new node", 30)
    # Ray sets a title of its own with each call, for a second.
    after = wait_until(lambda: len(found := {*pids_titled(TITLE)} - {before[0]}) == 3 and found, "three keepers", 60)
    assert before[1] in after  # with all that it holds
    assert len(keepers.nodes) == 3
    assert all(node_has_memory(node, token, keepers.nodes) for node in keepers.nodes)
    keepers.cover_nodes(without=[first])
    assert len(keepers.nodes) == 2
    assert first not in keepers.nodes
    keepers.close()
    wait_until(lambda: not pids_titled(TITLE), "the keepers' end", 10)
