"""Waiting in line on the cluster, and telling what for: the hands and eyes of cluster.jobs.line."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from cluster.errors import ClusterError
from cluster.jobs.line import Turn, turn_of
from cluster.jobs.nodes import cluster_nodes
from cluster.jobs.server import JobServer
from cluster.jobs.time_in_line import TimeInLine
from trainer.stop import is_stop_asked

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
SURE_LOOKS = 2
"""The head learns of what its nodes hold a moment late: room must be seen so often in a row."""


def stand_in_line(
    job_id: str,
    out_dir: Path,
    head: str,
    look: Callable[[], Turn] | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until it is the job's turn; False if the run was asked to stop.

    Args:
        head: the cluster's, HOST:PORT; look: whether it is our turn, by default as the cluster says.
    """
    look = look or _looker(job_id, head)
    seen, told, is_away = 0, "", False
    while True:
        if is_stop_asked(out_dir):
            return False
        try:
            turn = look()
        except ClusterError as error:  # the server is away for a moment
            if not is_away:  # said once
                logger.warning("the line cannot be seen now: %s", error)
            seen, is_away = 0, True
        else:
            is_away = False
            seen = seen + 1 if turn.is_now else 0
            if seen >= SURE_LOOKS:
                return True
            line = turn.room.to_line()
            if line != told and not turn.is_now:
                logger.info("%s", line)
                told = line
        pause(LOOK_SECONDS)


def time_in_line(job_id: str, head: str) -> TimeInLine | None:
    """Until now, since the submission; None, with a warning, where the job server does not say when that was."""
    try:
        since = JobServer(head).job(job_id).submitted
    except ClusterError as error:
        logger.warning("the journal will not tell how long the run stood in line: %s", error)
        return None
    return TimeInLine(since, max(since, time.time())) if since else None


def _looker(job_id: str, head: str) -> Callable[[], Turn]:
    server = JobServer(head)
    return lambda: turn_of(job_id, server.jobs(), server.placed_drivers(), cluster_nodes(head))
