"""Whether a machine or a cluster is fit for Headrace: what was found, judged. Pure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cluster.node_facts import NodeFacts

LEAST_SHM_BYTES = 2 << 30
"""Ray's object store lies there; with less Ray uses the disk, which is many times slower."""
LEAST_DISK_BYTES = 10 << 30
LEAST_OPEN_FILES = 4096
MOST_CLOCK_SECONDS = 1.0
"""More, and the times of events of different nodes cannot be compared."""
SLOW_SHARE = 0.6
"""A node slower than this share of the others' median holds all of them up: ranks wait for one another at each step."""

_GIB, _MIB = 1 << 30, 1 << 20


@dataclass(frozen=True)
class Link:
    """What one node sent to the next: bytes per second, 0 where no connection came about, with the reason."""

    sender: str
    receiver: str
    bytes_per_second: float
    problem: str = ""


@dataclass(frozen=True)
class ClusterFacts:
    """All nodes and what lies between them.

    all_reduce_bytes_per_second: the sum's size over the time of one all-reduce over all nodes on CPUs, None where
    there is one node; is_open: whether who reaches the cluster's address needs no token, None for a local machine;
    mlflow: (address, problem or nothing) of the run file's store.
    """

    nodes: Sequence[NodeFacts]
    links: Sequence[Link] = ()
    all_reduce_bytes_per_second: float | None = None
    all_reduce_problem: str = ""
    address: str | None = None
    is_open: bool | None = None
    mlflow: tuple[str, str] | None = None


@dataclass(frozen=True)
class Finding:
    """One line of the answer. level: `ok`, `warning` or `bad`; advice: what to do, nothing where all is well."""

    check: str
    level: str
    found: str
    advice: str = ""


def judge(facts: ClusterFacts) -> list[Finding]:
    """A finding for each check, in the order in which a user would mend things."""
    checks = (_versions, _accelerators, _folders, _disk, _shm, _memory, _open_files, _clocks)
    speeds = (_links, _all_reduce, _matmul, _disk_speed)
    found = [finding for check in (*checks, *speeds) for finding in check(facts)]
    return [*found, *_mlflow(facts), *_token(facts)]


def slow_nodes(rates: Mapping[str, float]) -> list[str]:
    """The nodes whose rate is far below the median of the others. Pure."""
    slow = []
    for node, rate in rates.items():
        others = [other for name, other in rates.items() if name != node]
        if others and rate < SLOW_SHARE * statistics.median(others):
            slow.append(node)
    return slow


def _versions(facts: ClusterFacts) -> Iterator[Finding]:
    for name in facts.nodes[0].versions:
        counts = Counter(node.versions.get(name, "none") for node in facts.nodes)
        usual = counts.most_common(1)[0][0]
        others = [f"{node.node} has {node.versions.get(name)}" for node in facts.nodes if node.versions[name] != usual]
        if usual == "none" and name != "headrace":
            yield Finding(f"version of {name}", "bad", "not installed", "pip install headrace on every node")
        elif others:
            advice = "install the same on all nodes, as constraints.txt has it"
            yield Finding(f"version of {name}", "bad", f"{usual}, but {', '.join(others)}", advice)
    names = ", ".join(f"{name} {version}" for name, version in facts.nodes[0].versions.items())
    yield Finding("versions", "ok", names)


def _accelerators(facts: ClusterFacts) -> Iterator[Finding]:
    kinds = Counter(name for node in facts.nodes for name in node.accelerators)
    without = [node.node for node in facts.nodes if not node.accelerators]
    if not kinds:
        yield Finding("accelerators", "ok", f"none; {sum(node.cpus for node in facts.nodes)} CPUs")
    elif len(kinds) > 1:
        advice = "name nodes of one kind, since the slowest sets the pace"
        yield Finding("accelerators", "warning", ", ".join(f"{n} {kind}" for kind, n in kinds.items()), advice)
    else:
        found = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        yield Finding("accelerators", "ok", found + (f"; none on {', '.join(without)}" if without else ""))


def _folders(facts: ClusterFacts) -> Iterator[Finding]:
    for folder in facts.nodes[0].folders_seen:
        blind = [node.node for node in facts.nodes if not node.folders_seen.get(folder)]
        if blind:
            advice = "mount it there, or set out_dir and data.dir to shared storage or an object store"
            yield Finding(f"folder {folder}", "bad", f"not seen by {', '.join(blind)}", advice)
        else:
            yield Finding(f"folder {folder}", "ok", "written here and read by every node")


def _least(
    facts: ClusterFacts, check: str, of: Callable[[NodeFacts], int], least: int, unit: tuple[int, str], advice: str
) -> Iterator[Finding]:
    size, name = unit
    lacking = [f"{node.node} has {of(node) / size:,.1f}{name}" for node in facts.nodes if of(node) < least]
    if lacking:
        found = f"{', '.join(lacking)}, less than {least / size:,.0f}{name}"
        yield Finding(check, "warning", found, advice)
    else:
        digits = 1 if name else 0
        yield Finding(check, "ok", f"at least {min(of(node) for node in facts.nodes) / size:,.{digits}f}{name}")


def _disk(facts: ClusterFacts) -> Iterator[Finding]:
    for node in facts.nodes:
        for problem in node.problems:
            yield Finding(f"disk of {node.node}", "bad", problem, "make the folder, or its rights, right there")
    advice = "make room, or set out_dir to another disk: each checkpoint takes 12 bytes a parameter"
    yield from _least(facts, "free disk", lambda node: node.disk_bytes, LEAST_DISK_BYTES, (_GIB, " GiB"), advice)


def _shm(facts: ClusterFacts) -> Iterator[Finding]:
    advice = "in a container give it more (docker run --shm-size=8g): Ray's object store lies there"
    yield from _least(facts, "free /dev/shm", lambda node: node.shm_bytes, LEAST_SHM_BYTES, (_GIB, " GiB"), advice)


def _memory(facts: ClusterFacts) -> Iterator[Finding]:
    advice = "snapshots and the copies of checkpoints lie in memory; `headrace plan` tells how much a run takes"
    yield from _least(facts, "free memory", lambda node: node.memory_bytes, 2 * _GIB, (_GIB, " GiB"), advice)


def _open_files(facts: ClusterFacts) -> Iterator[Finding]:
    advice = "raise `ulimit -n`: Ray opens many connections"
    yield from _least(facts, "open files", lambda node: node.open_files, LEAST_OPEN_FILES, (1, ""), advice)


def _clocks(facts: ClusterFacts) -> Iterator[Finding]:
    off = {
        node.node: node.clock_offset_seconds
        for node in facts.nodes
        if abs(node.clock_offset_seconds) > MOST_CLOCK_SECONDS + node.clock_uncertainty_seconds
    }
    if off:
        found = ", ".join(f"{node} is off by {seconds:+.1f} s" for node, seconds in off.items())
        yield Finding("clocks", "warning", found, "let NTP or chrony set them")
    elif len(facts.nodes) > 1:
        worst = max(abs(node.clock_offset_seconds) for node in facts.nodes)
        yield Finding("clocks", "ok", f"within {worst:.3f} s")


def _links(facts: ClusterFacts) -> Iterator[Finding]:
    broken = [link for link in facts.links if link.bytes_per_second == 0]
    for link in broken:
        advice = "open all ports between the nodes: ranks and keepers of snapshots use ones that the system picks"
        yield Finding(f"network {link.sender} to {link.receiver}", "bad", link.problem, advice)
    if not facts.links or broken:
        return
    slow = slow_nodes(_best_by_node(facts.links))
    found = f"{min(link.bytes_per_second for link in facts.links) / _MIB:,.0f} MiB/s or more on every link"
    yield _speed("network", found, slow)


def _best_by_node(links: Sequence[Link]) -> dict[str, float]:
    """A link is as slow as the slower of its ends, so that a node is as fast as the better of its links."""
    best: dict[str, float] = {}
    for link in links:
        for node in (link.sender, link.receiver):
            best[node] = max(best.get(node, 0.0), link.bytes_per_second)
    return best


def _all_reduce(facts: ClusterFacts) -> Iterator[Finding]:
    if facts.all_reduce_problem:
        advice = "ranks would hang or fail likewise; see whether nodes reach one another by their addresses"
        yield Finding("all-reduce", "bad", facts.all_reduce_problem, advice)
    elif facts.all_reduce_bytes_per_second is not None:
        rate = facts.all_reduce_bytes_per_second / _MIB
        yield Finding("all-reduce", "ok", f"{rate:,.0f} MiB/s over all nodes' CPUs (gloo)")


def _matmul(facts: ClusterFacts) -> Iterator[Finding]:
    rates = {node.node: node.matmul_flops_per_second for node in facts.nodes}
    found = f"{min(rates.values()) / 1e9:,.0f} GFLOP/s or more on every node"
    yield _speed("matrix products", found, slow_nodes(rates))


def _disk_speed(facts: ClusterFacts) -> Iterator[Finding]:
    rates = {node.node: node.disk_write_bytes_per_second for node in facts.nodes if node.disk_write_bytes_per_second}
    if rates:
        found = f"{min(rates.values()) / _MIB:,.0f} MiB/s or more written and synced"
        yield _speed("disk speed", found, slow_nodes(rates))


def _speed(check: str, found: str, slow: Sequence[str]) -> Finding:
    if not slow:
        return Finding(check, "ok", found)
    advice = "the slowest node sets the pace of all: see what else runs there, or leave it out"
    return Finding(check, "warning", f"{found}; far slower than the others: {', '.join(slow)}", advice)


def _mlflow(facts: ClusterFacts) -> Iterator[Finding]:
    if facts.mlflow is None:
        return
    address, problem = facts.mlflow
    if problem:
        advice = "training would go on and its metrics follow later; correct monitoring.tracking_uri"
        yield Finding("MLflow", "warning", f"{address}: {problem}", advice)
    else:
        yield Finding("MLflow", "ok", address)


def _token(facts: ClusterFacts) -> Iterator[Finding]:
    if facts.is_open is None:
        return
    host = (facts.address or "").rpartition(":")[0]
    if not facts.is_open:
        yield Finding("access", "ok", "the cluster asks for a token")
    elif host in ("127.0.0.1", "localhost", "::1"):
        yield Finding("access", "ok", "open, and on this machine only")
    else:
        advice = "start its nodes with RAY_AUTH_MODE=token (see SECURITY.md)"
        yield Finding("access", "warning", "whoever reaches the cluster may run code on it", advice)
