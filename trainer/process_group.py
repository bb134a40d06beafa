"""The process group of a rank: made from a store that its supervisor opened, or from the launcher's environment."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch.distributed import HashStore, PrefixStore, Store, TCPStore, distributed_c10d  # type: ignore[attr-defined]

logger = logging.getLogger(__name__)

COLLECTIVE_SECONDS = 1800.0
"""How long a collective may take where the spec does not say."""


def _limit_all_groups(timeout: timedelta) -> None:
    """Make `timeout` what a group gets that is made without one, such as DeepSpeed's clones of the world group.

    torch looks these names up at each `new_group`; their own values are 30 minutes (gloo) and 10 (NCCL).
    """
    vars(distributed_c10d).update(default_pg_timeout=timeout, default_pg_nccl_timeout=timeout)


def _store(spec: Mapping[str, Any], timeout: timedelta) -> Store:
    """The attempt's key/value store; rank 0 takes over the listening socket that its supervisor bound."""
    prefix = f"attempt-{spec['attempt']}"
    if spec.get("store") is not None:
        return PrefixStore(prefix, spec["store"])
    if "store_port" not in spec:
        return PrefixStore(prefix, HashStore())
    rank, listen_fd = spec["rank"], spec.get("store_fd")
    store = TCPStore(
        spec["store_host"],
        spec["store_port"],
        world_size=spec["world_size"],
        is_master=rank == 0,
        timeout=timeout,
        wait_for_workers=False,
        **({"master_listen_fd": listen_fd} if rank == 0 and listen_fd is not None else {}),
    )
    return PrefixStore(prefix, store)


def _do_without_compiled_ops() -> None:
    """Say that no operation can be compiled here, before DeepSpeed looks.

    Looking runs the C compiler, in every rank, each time that one starts. What is asked for is the shared-memory op
    alone, whose first use compiles for a minute or two; a process killed meanwhile leaves a lock on which every later
    start hangs.
    """
    vars(deepspeed.ops)["__compatible_ops__"] = {}


def interface_of(spec: Mapping[str, Any]) -> dict[str, str]:
    """Variables that keep gloo on the loopback where all ranks are on this machine; else it goes by the host's name."""
    return {"GLOO_SOCKET_IFNAME": "lo"} if str(spec.get("store_host", "")).startswith("127.") else {}


def init_process_group(spec: Mapping[str, Any], device: torch.device) -> None:
    """Join the other ranks, for torch and for DeepSpeed.

    They meet at the spec's `store` (an object, of a launcher such as torchrun) or at `store_host` and `store_port`; a
    single rank without either meets itself. A collective that takes longer than the spec's `collective_seconds` raises,
    in whichever group.
    """
    rank, world_size = spec["rank"], spec["world_size"]
    timeout = timedelta(seconds=spec.get("collective_seconds", COLLECTIVE_SECONDS))
    _limit_all_groups(timeout)
    os.environ.update({**interface_of(spec), **os.environ})
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(spec["local_rank"]))
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = _store(spec, timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    _do_without_compiled_ops()
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False, timeout=timeout)
    logger.info("rank %d of %d joined over %s", rank, world_size, backend)
