"""`headrace watch`: a live page of a run on the terminal."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live

from cluster.commands.common import Subparsers, add_command, add_run

if TYPE_CHECKING:
    from monitoring.watch import Watched

AT_REST = ("finished", "failed", "stopped")


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "watch",
        watch_command,
        "a live page of a run: losses, speed, goodput, restarts",
        "headrace watch demo",
    )
    add_run(parser)
    parser.add_argument("--once", action="store_true", help="print the page once; so it is where there is no terminal")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="N", help="between two looks (default: 1)")


def watch_command(args: argparse.Namespace) -> int:
    """Show the page until the run is at rest, or until Ctrl-C, which leaves the run alone."""
    # Imported here: what reads a run's folder imports the storages' libraries.
    from cluster.watch_source import WatchSource
    from monitoring.watch import Frame

    console = Console()
    with WatchSource(args.run, args.runs_dir) as source:
        if args.once or not console.is_terminal:
            console.print(Frame(source.read()))
            return 0
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            try:
                follow(source.read, lambda run: live.update(Frame(run), refresh=True), time.sleep, args.seconds)
            except KeyboardInterrupt:
                return 0
    return 0


def follow(
    read: Callable[[], Watched], show: Callable[[Watched], None], wait: Callable[[float], None], seconds: float
) -> None:
    """Read and show, again and again, until the run is at rest."""
    while True:
        run = read()
        show(run)
        if run.status.state in AT_REST:
            return
        wait(max(0.1, seconds))
