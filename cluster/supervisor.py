"""One supervisor of a gang: it keeps one rank alive, as the coordinator says. No torch, no Ray.

    Ray Train worker = supervisor --execs--> zygote (imports everything) --forks--> rank (trains)

`supervise` is the entry. It must run in one thread from start to end, whose end ends the zygote and the rank.
"""

import logging
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

from cluster.connection import Connection
from cluster.coordinator_server import CoordinatorServer
from cluster.policy import Diagnosis
from cluster.processes import be_spared_memory_kills
from cluster.rank_memory import RankMemory
from cluster.spec import GangFailed, GangSpec, Outcome
from cluster.supervision import Supervision
from cluster.zygote_client import ZygoteClient
from trainer.attempts import take_attempt

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.1
CONNECT_SECONDS = 30.0
REAP_SECONDS = 10.0

Address = tuple[str, int]


def supervise(
    spec: GangSpec,
    rank: int,
    world_size: int,
    coordinator_address: Address | None = None,
    *,
    share_address: Callable[[Address | None], Address] | None = None,
    host: str = "127.0.0.1",
    node: str | None = None,
    local_rank: int = 0,
    local_world_size: int = 1,
    raylet_pid: int | None = None,
    memory: RankMemory | None = None,
    zygote: ZygoteClient | None = None,
    take_attempt_number: Callable[[], int] | None = None,
    on_tick: Callable[[], None] = lambda: None,
) -> Outcome:
    """Supervise `rank` of `world_size` until the gang ends well; GangFailed in every supervisor if it does not.

    coordinator_address: where rank 0's supervisor listens, if it is known already; otherwise `share_address` is
    called on all ranks, with the address at rank 0 and None elsewhere, and returns rank 0's address to all.
    host: the address of this machine at which the others reach it (used at rank 0); node: this machine's name in
    diagnoses; local_rank, local_world_size: index and number of the ranks on this machine; raylet_pid: a process of
    this machine with whose death the rank is ended at once; memory: for the rank's snapshots, closed
    here; by default this process makes it, and it goes with the process; zygote: one that this process has started
    already, in a thread that stays, closed here; take_attempt_number: by default numbers are taken in
    OUT_DIR/attempts; on_tick: called some ten times a second.
    """
    place = {"rank": rank, "world_size": world_size, "local_rank": local_rank, "local_world_size": local_world_size}
    be_spared_memory_kills()
    with ExitStack() as stack:
        memory = memory or RankMemory()
        stack.callback(memory.close)
        zygote = zygote or ZygoteClient(spec)  # it imports while the gang gathers
        supervision = Supervision(spec, place, node or socket.gethostname(), zygote, memory, on_tick)
        stack.callback(supervision.close)
        if rank == 0:
            take = take_attempt_number or (lambda: take_attempt(spec.out_path))
            supervision.server = CoordinatorServer(spec, world_size, host, take)
            supervision.server.start()
            coordinator_address = supervision.server.address
        if share_address is not None:
            coordinator_address = share_address(coordinator_address)
        if coordinator_address is None:
            raise ValueError("a supervisor of rank > 0 needs coordinator_address or share_address")
        return supervision.run(_connect(spec, coordinator_address), raylet_pid)


def _connect(spec: GangSpec, address: Address) -> Connection:
    try:
        sock = socket.create_connection(address, timeout=CONNECT_SECONDS)
    except OSError as error:
        reason = f"no connection to the coordinator at {address[0]}:{address[1]}: {error}"
        raise GangFailed(Diagnosis("infrastructure", reason)) from error
    return Connection(sock, spec.ping_seconds, time.monotonic())
