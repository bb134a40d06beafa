"""`headrace status | sync`: how a run is, and MLflow brought up to its journal."""

from __future__ import annotations

import argparse
import time

from cluster.commands.common import Subparsers, add_command, add_json, add_run, say, say_json
from cluster.find import find_run_folder
from cluster.run_holder import run_holder


def register(commands: Subparsers) -> None:
    """Add the two commands."""
    status = add_command(
        commands, "status", status_command, "is a run running, how far it is, what failed", "headrace status demo"
    )
    add_run(status)
    add_json(status)
    sync = add_command(
        commands, "sync", sync_command, "send MLflow what a run's journal has and it has not", "headrace sync demo"
    )
    add_run(sync)


def status_command(args: argparse.Namespace) -> int:
    """Print the status."""
    from monitoring.history import read_fence
    from monitoring.journal import read_records
    from monitoring.status import run_status, to_dict, to_text

    run = find_run_folder(args.run, args.runs_dir)
    # Who drives it comes first: a driver that ends meanwhile has written its end before.
    driver = run_holder(run.out_dir)
    records = list(read_records(run.out_dir))
    fence = read_fence(run.out_dir)
    status = run_status(run.name, run.run_id, records, fence, driver=driver, now=time.time())
    if args.json:
        say_json(to_dict(status))
    else:
        say(to_text(status))
    return 0


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
