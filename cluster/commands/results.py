"""`headrace dashboard | export`: what comes of runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from cluster.commands.common import Subparsers, add_command, add_run, say
from cluster.find import RUNS_DIRS, find_run_folder
from cluster.run_holder import run_holder


def register(commands: Subparsers) -> None:
    """Add the two commands."""
    dashboard = add_command(
        commands, "dashboard", dashboard_command, "the MLflow dashboard on the right store", "headrace dashboard"
    )
    dashboard.add_argument("--runs-dir", type=Path, help="folder of runs; default: runs, or recipes/runs")
    dashboard.add_argument("--tracking-uri", help="another store; default: mlflow.db in the folder of runs")
    dashboard.add_argument("--port", type=int, default=5000)
    export = add_command(
        commands, "export", export_command, "write the model in Hugging Face's layout", "headrace export demo --to DIR"
    )
    add_run(export)
    export.add_argument("--to", type=Path, required=True, metavar="DIR")


def dashboard_command(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from monitoring.dashboard import serve

    runs_dir = args.runs_dir or next((d for d in RUNS_DIRS if d.is_dir()), RUNS_DIRS[0])
    return serve(
        args.tracking_uri,
        runs_dir=runs_dir,
        port=args.port,
        is_driven=lambda out_dir: run_holder(out_dir) is not None,
    )


def export_command(args: argparse.Namespace) -> int:
    """Write the folder and say where it is."""
    from trainer.trained import export_trained, open_trained

    trained = open_trained(find_run_folder(args.run, args.runs_dir).out_dir)
    say(f"step {trained.step} written to {export_trained(trained, args.to)}")
    return 0
