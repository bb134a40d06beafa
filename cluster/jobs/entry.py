"""The entry process of a job: `python -P -m cluster.jobs.entry`, in the folder that travelled.

It puts the run's files into the run's folder, waits in line if asked to, and keeps a driver alive.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

from cluster.jobs.driver import KeptDriver
from cluster.jobs.job import REFUSED, STOPPED
from cluster.jobs.order import FILES_DIR, Errand, RunOrder, read_order
from cluster.jobs.standing_in_line import stand_in_line, time_in_line
from cluster.jobs.submitted import Submitted, keep_submitted, submitted_run_file
from cluster.jobs.time_in_line import TimeInLine
from cluster.processes import set_title
from cluster.run_holder import run_holder
from monitoring.runs import read_run_folder
from trainer.stop import clear_marks

logger = logging.getLogger(__name__)

HEAD_VARIABLE = "RAY_ADDRESS"  # HOST:PORT of the head, which the job server gives to its jobs


def main() -> int:
    """Do what the order in this folder says; the job's exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    order = read_order(Path.cwd())
    if isinstance(order, Errand):
        return subprocess.run([sys.executable, "-P", "-m", order.module, *order.words], check=False).returncode
    return run_job(order, Path.cwd() / FILES_DIR, os.environ[HEAD_VARIABLE])


def run_job(order: RunOrder, files: Path, head: str) -> int:
    """Run a submitted run to its end. files: the folder that travelled; head: the cluster's, HOST:PORT."""
    ticket = order.ticket
    out_dir = Path(ticket.out_dir)
    set_title(f"headrace: entry of {ticket.name}")
    holder = run_holder(out_dir)
    if holder is not None:
        logger.error("%s: the run is driven by %s; wait for it, or stop it", out_dir, holder)
        return REFUSED
    keep_submitted(out_dir, None if order.resumes else files, Submitted(ticket, order.address))
    _tell_of_another_id(out_dir, ticket.run_id)
    clear_marks(out_dir)  # an earlier job's; whoever stops this one waits until it knows this job
    if ticket.waits and not stand_in_line(ticket.job_id, out_dir, head):
        logger.info("stopped while it waited in line")
        return STOPPED
    command = driver_command(order, head, time_in_line(ticket.job_id, head))
    folder = submitted_run_file(out_dir).parent
    return KeptDriver(command, out_dir, ticket.max_driver_restarts, folder).run()


def _tell_of_another_id(out_dir: Path, run_id: str) -> None:
    """The submitter may not have seen that the folder holds a run already."""
    if (out_dir / "run.json").is_file() and read_run_folder(out_dir).run_id != run_id:
        logger.warning("the run in %s goes on; its own id is %s", out_dir, read_run_folder(out_dir).run_id)


def driver_command(order: RunOrder, head: str, in_line: TimeInLine | None) -> list[str]:
    """The command that trains."""
    file = submitted_run_file(Path(order.ticket.out_dir))
    command = [sys.executable, "-P", "-m", "cluster.cli", "run", str(file), "--address", head]
    command += ["--run-id", order.ticket.run_id]
    command += ["--commit", order.commit] if order.commit else []
    command += in_line.to_words() if in_line is not None else []
    return [*command, "--accept-changes"] if order.accept_changes else command


if __name__ == "__main__":
    sys.exit(main())
