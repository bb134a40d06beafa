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


def has_memory(token: str) -> bool:
    """As a worker: whether the keeper has memory for rank 0 of 1, which is known by its page of numbers."""
    memory = fetch_snapshot_memory(token, 0, 1)
    size = os.fstat(memory.fds()["snapshot"]).st_size
    memory.close()
    return size > 0


def begin_asking(node_id: str, token: str) -> Any:
    where = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=where)(has_memory).remote(token)


def wait_for_keepers(keepers: SnapshotKeepers, count: int) -> list[str]:
    def there() -> bool:
        keepers.cover_nodes()
        return len(keepers.nodes) == count

    wait_until(there, f"{count} keepers", 40)
    return keepers.nodes


def test_keepers_are_on_every_node_also_on_one_that_joins_and_end_when_closed(cluster: Any) -> None:
    token = os.urandom(16).hex()
    keepers = SnapshotKeepers("mill", token, is_local=True)
    first, second = wait_for_keepers(keepers, 2)
    assert ray.get([begin_asking(first, token), begin_asking(second, token)], timeout=60) == [True, True]
    before = wait_until(lambda: len(pids_titled(TITLE)) == 2 and pids_titled(TITLE), "two keepers", 20)

    os.kill(before[0], signal.SIGKILL)
    third = cluster.add_node(num_cpus=1).node_id
    asking = begin_asking(third, token)  # before it has a keeper

    def asked() -> bool:
        keepers.cover_nodes()
        return bool(ray.wait([asking], timeout=0.1)[0])

    wait_until(asked, "the answer of the new node's keeper", 60)
    assert ray.get(asking, timeout=1)
    # Ray sets a title of its own with each call, for a second.
    after = wait_until(lambda: len(found := {*pids_titled(TITLE)} - {before[0]}) == 3 and found, "three keepers", 60)
    assert before[1] in after  # with all that it holds
    assert sorted(wait_for_keepers(keepers, 3)) == sorted([first, second, third])
    keepers.close()
    wait_until(lambda: not pids_titled(TITLE), "the keepers' end", 10)
