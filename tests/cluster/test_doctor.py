"""What `headrace doctor` makes of what it found."""

from __future__ import annotations

import dataclasses

import pytest

from cluster.doctor import ClusterFacts, Finding, Link, judge, slow_nodes
from cluster.node_facts import NodeFacts

GIB = 1 << 30
VERSIONS = {"python": "3.11.7", "torch": "2.13.0", "ray": "2.60.0"}


def node(name: str, **changes: object) -> NodeFacts:
    fit = NodeFacts(
        node=name,
        versions=VERSIONS,
        cpus=8,
        memory_bytes=32 * GIB,
        shm_bytes=16 * GIB,
        disk_bytes=500 * GIB,
        open_files=65536,
        matmul_flops_per_second=1e11,
        disk_write_bytes_per_second=5e8,
        folders_seen={"/shared/run": True},
    )
    return dataclasses.replace(fit, **changes)  # type: ignore[arg-type]


def ring(*rates: float) -> list[Link]:
    names = [f"n{index}" for index in range(len(rates))]
    return [
        Link(names[i], names[(i + 1) % len(names)], rate, "" if rate else "refused") for i, rate in enumerate(rates)
    ]


def found(facts: ClusterFacts, check: str) -> Finding:
    [finding] = [finding for finding in judge(facts) if finding.check == check]
    return finding


def test_doctor_of_like_nodes_finds_nothing_to_mend() -> None:
    facts = ClusterFacts([node("n0"), node("n1")], ring(1e9, 1e9), 5e8, address="10.0.0.1:6379", is_open=False)
    assert {finding.level for finding in judge(facts)} == {"ok"}
    assert found(facts, "network").found == "954 MiB/s or more on every link"
    assert found(facts, "all-reduce").found == "477 MiB/s over all nodes' CPUs (gloo)"


@pytest.mark.parametrize(
    ("changes", "check", "level", "words"),
    [
        ({"versions": {**VERSIONS, "torch": "2.12.0"}}, "version of torch", "bad", "n1 has 2.12.0"),
        ({"folders_seen": {"/shared/run": False}}, "folder /shared/run", "bad", "not seen by n1"),
        ({"disk_bytes": 4 * GIB}, "free disk", "warning", "n1 has 4.0 GiB, less than 10 GiB"),
        ({"shm_bytes": GIB // 16}, "free /dev/shm", "warning", "n1 has 0.1 GiB"),
        ({"memory_bytes": GIB}, "free memory", "warning", "n1 has 1.0 GiB"),
        ({"open_files": 1024}, "open files", "warning", "n1 has 1,024"),
        ({"clock_offset_seconds": -3.0}, "clocks", "warning", "n1 is off by -3.0 s"),
        ({"matmul_flops_per_second": 3e10}, "matrix products", "warning", "far slower than the others: n1"),
        ({"disk_write_bytes_per_second": 1e7}, "disk speed", "warning", "far slower than the others: n1"),
        ({"problems": ("/x: No such file",)}, "disk of n1", "bad", "/x: No such file"),
        ({"accelerators": ("H100",)}, "accelerators", "ok", "1 H100; none on n0, n2"),
    ],
)
def test_doctor_names_the_node_that_differs(changes: dict[str, object], check: str, level: str, words: str) -> None:
    finding = found(ClusterFacts([node("n0"), node("n1", **changes), node("n2")]), check)
    assert finding.level == level
    assert words in finding.found
    assert bool(finding.advice) == (level != "ok")


def test_doctor_believes_a_clock_only_as_far_as_it_could_be_read() -> None:
    facts = ClusterFacts([node("n0"), node("n1", clock_offset_seconds=3.0, clock_uncertainty_seconds=2.5)])
    assert found(facts, "clocks").level == "ok"


def test_doctor_names_the_node_both_of_whose_links_are_slow() -> None:
    facts = ClusterFacts([node(f"n{i}") for i in range(4)], ring(1e9, 1e8, 1e8, 1e9))
    assert found(facts, "network").found.endswith("far slower than the others: n2")


def test_doctor_names_the_link_that_does_not_come_about() -> None:
    finding = found(ClusterFacts([node("n0"), node("n1")], ring(1e9, 0.0)), "network n1 to n0")
    assert (finding.level, finding.found) == ("bad", "refused")


def test_doctor_says_that_a_failed_all_reduce_must_be_mended() -> None:
    facts = ClusterFacts([node("n0"), node("n1")], ring(1e9, 1e9), None, "timed out")
    assert (found(facts, "all-reduce").level, found(facts, "all-reduce").found) == ("bad", "timed out")


@pytest.mark.parametrize(
    ("address", "is_open", "level"),
    [("127.0.0.1:6379", True, "ok"), ("10.0.0.1:6379", True, "warning"), ("10.0.0.1:6379", False, "ok")],
)
def test_doctor_warns_of_a_cluster_that_anyone_may_use(address: str, is_open: bool, level: str) -> None:
    facts = ClusterFacts([node("n0")], address=address, is_open=is_open)
    assert found(facts, "access").level == level


def test_doctor_warns_of_a_tracking_store_that_is_away() -> None:
    facts = ClusterFacts([node("n0")], mlflow=("http://m:5000", "does not answer"))
    assert found(facts, "MLflow").level == "warning"


def test_slow_nodes_are_compared_with_the_others_and_never_with_themselves() -> None:
    assert slow_nodes({"a": 1.0}) == []
    assert slow_nodes({"a": 1.0, "b": 10.0}) == ["a"]
    assert slow_nodes({"a": 9.0, "b": 10.0, "c": 2.0, "d": 11.0}) == ["c"]
