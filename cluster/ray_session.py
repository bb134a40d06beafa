"""Joining a Ray cluster, or starting a local one for the length of a command."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, chdir, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from cluster.access import (
    CONNECT_SECONDS,
    TOKEN_FILE,
    asks_for_token,
    keep_token_private,
    loopback_only,
    make_token,
    show_token,
    warn_if_open,
)
from cluster.errors import ClusterError
from cluster.local_node import local_node
from trainer.variables import variable

logger = logging.getLogger(__name__)

PACKAGES = ("cluster", "trainer", "data_shards", "model", "monitoring")
LOCAL_OBJECT_STORE_BYTES = 512 << 20

# Read by Ray Train's controller and workers. A gang ends as soon as Ray knows of a loss; one that finds no room is
# given up soon, since the driver looks for room itself; it also watches for nodes that are to be taken away. A worker
# that never shares its address with the others is not waited for for ever. Workers stay in the folder they were started
# in, so that nothing depends on where Ray Train would move them.
TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "300",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def check_address(address: str) -> None:
    """Refuse an address that nothing listens at, which Ray itself would try for minutes.

    Raises:
        ClusterError: it is malformed, or nothing answers there.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise ClusterError(f"--address {address}: must be HOST:PORT of a Ray cluster's head, or auto.")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"--address {address}: must be the address of a running Ray cluster, but nothing answers there ({error}). "
            f"Start one with `ray start --head`, or leave --address out."
        ) from error


def _project_root() -> Path:
    return Path(__file__).resolve().parent.parent


def _runtime_env(address: str | None) -> dict[str, object]:
    """The five packages travel to the nodes of a cluster, so that a user's own `model/` does not shadow ours.

    Within a submitted job they are there already, and Ray refuses to be told of them a second time. A local Ray has
    them in the environment that it is started with: processes that it has ready can be used for anything then.
    """
    if address is None or RAY_JOB_CONFIG_JSON_ENV_VAR in os.environ:
        return {}
    root = _project_root()
    return {"py_modules": [str(root / name) for name in PACKAGES], "excludes": ["__pycache__"]}


@contextmanager
def ray_session(address: str | None, local_cpus: int) -> Iterator[None]:
    """Ray for the length of the block: the cluster at `address`, or a fresh local one with `local_cpus` CPUs.

    Ray puts the driver's working folder before everything on the workers' path; during the start it is ours, so that
    a user's own `model/` there does not shadow ours. More CPUs than the machine has may be given to a local Ray, whose
    workers are processes that share them.

    Raises:
        ClusterError: no cluster answers at the address.
    """
    os.environ.update(TRAIN_ENVIRONMENT)
    keep_token_private(TOKEN_FILE)
    common = {"log_to_driver": False, "logging_level": logging.ERROR, "runtime_env": _runtime_env(address)}
    with ExitStack() as stack:
        if address is None:
            make_token(TOKEN_FILE)
            with chdir(_project_root()), loopback_only(), _own_packages_first():
                head = stack.enter_context(local_node(local_cpus, LOCAL_OBJECT_STORE_BYTES))
                ray.init(address=head, **common)
        else:
            _join(address, common)
        stack.callback(ray.shutdown)
        yield


def _join(address: str, options: Mapping[str, Any]) -> None:
    if TOKEN_FILE.exists() and (address == "auto" or asks_for_token(address)):
        show_token()
    try:
        with chdir(_project_root()):
            ray.init(address=address, **options)
    except (ConnectionError, ValueError) as error:
        raise ClusterError(
            f"--address {address}: must be the address of a running Ray cluster, such as HOST:6379 or auto, but "
            f"none answers there ({error}). Start one with `ray start --head`, leave --address out, or, where "
            f"the cluster asks for a token, put it into {TOKEN_FILE}."
        ) from error
    warn_if_open(ray.get_runtime_context().gcs_address)


def _own_packages_first() -> AbstractContextManager[None]:
    """Processes that are started in the block find our five packages before all others of these names."""
    paths = [str(_project_root()), os.environ.get("PYTHONPATH")]
    return variable("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def cluster_total(resource: str) -> int:
    """How much of a resource (CPU, GPU) the cluster that this process has joined has in all."""
    return int(ray.cluster_resources().get(resource, 0))
