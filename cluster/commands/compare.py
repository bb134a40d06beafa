"""`headrace compare`: runs side by side, on the terminal, as a page, or for a program."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.commands.common import Subparsers, add_command, add_json, say, say_json
from cluster.errors import ClusterError
from cluster.find import RUNS_DIRS, find_run_folder

if TYPE_CHECKING:
    from monitoring.compare import Comparison
    from monitoring.compared_runs import ComparedRun


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        commands, "compare", compare_command, "runs side by side, and what their seeds prove",
        "headrace compare demo wide --html compared.html",
    )  # fmt: skip
    parser.add_argument("run", metavar="RUN", nargs="*", help="a run's name, folder or id")
    parser.add_argument("--runs-dir", type=Path, help="where names and ids are looked up; default: runs, recipes/runs")
    parser.add_argument(
        "--search", metavar="FILTER", help="runs of the store that MLflow's filter finds: \"params.`seed` = '1'\""
    )
    parser.add_argument("--tracking-uri", help="the store to search; default: mlflow.db in the folder of runs")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write one page with plots, complete in itself")
    add_json(parser)


def compare_command(args: argparse.Namespace) -> int:
    """Print the table, or JSON; write the page."""
    # Imported here: a command that compares nothing does without them.
    from monitoring.compare import to_dict
    from monitoring.compare_text import to_table
    from monitoring.compared_runs import compare_runs, from_folder

    if not args.run and args.search is None:
        raise ClusterError(
            "RUN: needs a run, or --search FILTER, found neither. `headrace compare --help` has examples."
        )
    runs = [from_folder(find_run_folder(run, args.runs_dir)) for run in args.run]
    if args.search is not None:
        known = {run.summary.run_id for run in runs}
        runs += [run for run in _searched(args) if run.summary.run_id not in known]
    comparison = compare_runs(runs)
    if args.html is not None:
        _write_page(args.html, comparison)
    if args.json:
        say_json(to_dict(comparison))
    else:
        say(to_table(comparison))
        if args.html is not None:
            say(f"page: {args.html}")
    return 0


def _searched(args: argparse.Namespace) -> list[ComparedRun]:
    from monitoring.compared_runs import search
    from monitoring.runs import list_runs
    from monitoring.settings import default_tracking_uri

    runs_dir = args.runs_dir or next((folder for folder in RUNS_DIRS if folder.is_dir()), RUNS_DIRS[0])
    uri = args.tracking_uri or default_tracking_uri(runs_dir / "any")
    return search(uri, args.search, list_runs(runs_dir))


def _write_page(path: Path, comparison: Comparison) -> None:
    from cluster.compare_page import compare_page

    try:
        path.write_text(compare_page(comparison), encoding="utf-8")
    except OSError as error:
        raise ClusterError(
            f"--html {path}: must be a file that can be written, but: {error.strerror}. Give another path."
        ) from error
