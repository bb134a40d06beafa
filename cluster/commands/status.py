"""`headrace status | sync`: how a run is, and MLflow brought up to its journal."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from cluster.commands.common import Subparsers, add_command, add_json, add_run, add_server, say, say_json
from cluster.find import find_run_folder
from cluster.run_holder import run_holder
from monitoring.errors import MonitoringError

if TYPE_CHECKING:
    from monitoring.runs import RunFolder


def register(commands: Subparsers) -> None:
    """Add the two commands."""
    status = add_command(
        commands, "status", status_command, "is a run running, how far it is, what failed", "headrace status demo"
    )
    add_run(status)
    add_json(status)
    add_server(status)
    sync = add_command(
        commands, "sync", sync_command, "send MLflow what a run's journal has and it has not", "headrace sync demo"
    )
    add_run(sync)


def status_command(args: argparse.Namespace) -> int:
    """Print the status: of the run's folder, and of its job where the run was submitted."""
    from cluster.folder_status import folder_status

    try:
        run = find_run_folder(args.run, args.runs_dir)
    except MonitoringError:
        if not _is_submitted(args, None):
            raise
        run = None  # not seen from here, or not begun
    folder = None if run is None else folder_status(run)
    job = None
    if _is_submitted(args, run):
        from cluster.jobs.status import job_status

        job = job_status(args.run, args.runs_dir, args.address, None if run is None else run.run_id)
        is_other = job.job is not None and run is not None and job.job.ticket.run_id != run.run_id
        folder = job.folder if is_other or folder is None else folder
    if args.json:
        say_json({**(folder["values"] if folder else {}), **(job.to_dict() if job else {})})
    else:
        say("\n".join([*([folder["text"]] if folder else []), *(job.lines() if job else [])]))
    return 0


def _is_submitted(args: argparse.Namespace, run: RunFolder | None) -> bool:
    """Whether a job server is to be asked: one is named, or the run was submitted to one."""
    from cluster.jobs.submitted import ADDRESS_VARIABLE, submitted_here

    if args.address or (run is None and os.environ.get(ADDRESS_VARIABLE)):
        return True
    return submitted_here(args.run if run is None else str(run.out_dir), args.runs_dir) is not None


def sync_command(args: argparse.Namespace) -> int:
    """Send the rest; a run that nobody drives any more and that has no end is marked as failed in MLflow."""
    from monitoring.dashboard import import_run

    run = find_run_folder(args.run, args.runs_dir)
    report = import_run(run, is_driven=run_holder(run.out_dir) is not None)
    if report.mlflow_run_id is None:
        say(f"{run.name}: its own sender is at work; nothing to do")
    else:
        say(f"{run.name}: {report.points:,} values sent; {report.status} in MLflow")
    return 0
