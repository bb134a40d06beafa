from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ClusterError
from cluster.jobs.line import turn_of
from cluster.jobs.room import Node, Room, largest_gang, refuse_impossible_gang, room_from_log, without_gang
from tests.cluster.jobs_world import gang, job


def nodes(*free_of_total: tuple[float, float]) -> list[Node]:
    return [Node({"CPU": free}, {"CPU": total}) for free, total in free_of_total]


def test_turn_comes_when_the_gang_fits_over_several_nodes() -> None:
    own = job(waits=True, gang=gang(4))
    assert turn_of(own.id, [own], (), nodes((2, 4), (2, 4))).is_now
    turn = turn_of(own.id, [own], (), nodes((2, 4), (1.5, 4)))
    assert not turn.is_now
    assert turn.room == Room(gang(4), free_cpus=3.5, free_gpus=0.0, largest=3, before=0)


def test_line_is_first_come_first_served_though_a_later_gang_would_fit() -> None:
    large, small = job("a", waits=True, gang=gang(4)), job("b", waits=True, gang=gang(1), submitted=2.0)
    room = nodes((2, 4))
    assert not turn_of(large.id, [small, large], (), room).is_now
    turn = turn_of(small.id, [small, large], (), room)
    assert not turn.is_now
    assert turn.room.before == 1


def test_line_is_not_held_up_by_a_gang_that_no_idle_cluster_could_hold() -> None:
    huge, small = job("a", waits=True, gang=gang(9)), job("b", waits=True, gang=gang(1), submitted=2.0)
    assert turn_of(small.id, [huge, small], (), nodes((2, 4))).is_now
    assert not turn_of(huge.id, [huge, small], (), nodes((4, 4))).is_now


def test_run_that_was_started_keeps_its_room_until_it_holds_it() -> None:
    """Its resources are free in Ray's eyes while it prepares its corpus, or between two gangs."""
    own = job("b", waits=True, gang=gang(2), submitted=2.0)
    preparing, pending = job("a", gang=gang(3), driver_id="01000000"), job("c", status="PENDING", gang=gang(3))
    placed = frozenset({"01000000"})
    assert not turn_of(own.id, [preparing, own], (), nodes((4, 4))).is_now
    assert turn_of(own.id, [preparing, own], placed, nodes((4, 7))).is_now
    assert not turn_of(own.id, [pending, own], (), nodes((4, 4))).is_now
    over = job("d", status="FAILED", gang=gang(3))
    assert turn_of(own.id, [over, own], (), nodes((4, 4))).is_now


def test_turn_of_a_job_that_the_server_forgot_is_an_error() -> None:
    with pytest.raises(KeyError):
        turn_of("x", [], (), [])


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_line_lets_at_most_the_first_start(workers: list[int], free: list[int]) -> None:
    """Whatever asks and whatever is free, two runs never start at the same look."""
    jobs = [job(str(i), waits=True, gang=gang(n), submitted=float(i)) for i, n in enumerate(workers)]
    room = nodes(*((float(n), 4.0) for n in free))
    starting = [own.id for own in jobs if turn_of(own.id, jobs, (), room).is_now]
    possible = [own.id for own in jobs if own.ticket.gang.workers <= 4 * len(free)]
    first_fits = bool(possible) and jobs[[j.id for j in jobs].index(possible[0])].ticket.gang.workers <= sum(free)
    assert starting == (possible[:1] if first_fits else [])


def test_without_gang_takes_the_fullest_nodes_first_and_no_more_than_there_is() -> None:
    assert without_gang([{"CPU": 1.0}, {"CPU": 4.0}], gang(4)) == [{"CPU": 1.0}, {"CPU": 0.0}]
    assert without_gang([{"CPU": 1.0}, {"CPU": 1.0}], gang(4)) == [{"CPU": 0.0}, {"CPU": 0.0}]
    assert largest_gang([{"CPU": 4.0, "GPU": 1.0}, {"CPU": 8.0}], gang(2, gpus=1).per_worker) == 1


def test_gang_that_could_never_fit_is_refused_with_the_figures() -> None:
    refuse_impossible_gang(gang(4), [{"CPU": 2.0}, {"CPU": 2.0}])
    with pytest.raises(
        ClusterError,
        match=r"asks for 4 workers of 1 CPU and 1 GPU, and the cluster has 8 CPU and 3 GPU on 2 nodes; the largest "
        r"gang that would fit there is 3\..* --wait",
    ):
        refuse_impossible_gang(gang(4, gpus=1), [{"CPU": 4.0, "GPU": 2.0}, {"CPU": 4.0, "GPU": 1.0}])


@pytest.mark.parametrize("room", [Room(gang(4), 2.5, 0.0, 2, 1), Room(gang(8, gpus=1), 16.0, 7.0, 7, 0)])
def test_room_comes_back_from_the_newest_line_of_a_log(room: Room) -> None:
    older = Room(gang(4), 0.0, 0.0, 0, 3)
    log = f"Running entrypoint\n{older.to_line()}\nmore\n{room.to_line()}\nmore\n"
    assert room_from_log(log) == room
    assert room_from_log("Running entrypoint\n") is None
