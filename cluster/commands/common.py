"""What several commands share: arguments, and how answers are printed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Handler = Callable[[argparse.Namespace], int]
Subparsers = Any  # argparse's own type for it is private


def say(text: str) -> None:
    """Print an answer to standard output at once."""
    print(text, flush=True)  # noqa: T201  the one place where answers are printed


def say_piece(text: str) -> None:
    """Print a piece of an answer at once, with no line's end after it."""
    print(text, end="", flush=True)  # noqa: T201


def say_json(value: Any) -> None:
    """Print an answer for programs."""
    say(json.dumps(value, ensure_ascii=False, indent=2))


def add_command(commands: Subparsers, name: str, handler: Handler, what: str, example: str) -> argparse.ArgumentParser:
    """A command with its help and an example, and the options that every command has."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=what,
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(handler=handler)
    parser.add_argument("--debug", action="store_true", help="show the stack trace of an error")
    return parser


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`, for commands whose answer a program would read."""
    parser.add_argument("--json", action="store_true", help="answer as JSON")


def add_run_file(parser: argparse.ArgumentParser, address: bool = True) -> None:
    """The run file and what overrides it; the cluster's address, for commands that go there."""
    parser.add_argument("file", type=Path, metavar="FILE.yaml", help="the run file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="override a field of the run file; repeatable"
    )
    if address:
        parser.add_argument("--address", help="a Ray cluster's address; default: a local Ray for this command")


def add_run(parser: argparse.ArgumentParser, many: bool = False) -> None:
    """The run that a command is about."""
    parser.add_argument("run", metavar="RUN", nargs="+" if many else None, help="a run's name, folder or id")
    parser.add_argument("--runs-dir", type=Path, help="where names and ids are looked up; default: runs, recipes/runs")


def add_server(parser: argparse.ArgumentParser) -> None:
    """`--address` of a job server."""
    parser.add_argument(
        "--address",
        help="the job server, http://HOST:8265; default: RAY_API_SERVER_ADDRESS, or where the run was submitted to",
    )
