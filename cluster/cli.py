"""`headrace`: the command line.

Exit status: 0 done, 1 failed, 2 the user's input is wrong, 3 stopped on request with a checkpoint, 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence

from cluster.commands import (
    chaos,
    checkpoint,
    classify,
    compare,
    data,
    doctor,
    evaluate,
    generate,
    jobs,
    plan,
    profile,
    results,
    status,
    train,
    watch,
)
from cluster.errors import ClusterError
from data_shards.errors import DataError
from model.errors import ModelError
from monitoring.errors import MonitoringError
from trainer.errors import TrainError

USER_ERRORS = (ClusterError, DataError, ModelError, MonitoringError, TrainError)
FAILED_STATUS, USER_ERROR_STATUS, INTERRUPTED_STATUS, BROKEN_PIPE_STATUS = 1, 2, 130, 141

MODULES = (
    train,
    plan,
    jobs,
    status,
    watch,
    data,
    checkpoint,
    compare,
    results,
    generate,
    classify,
    evaluate,
    profile,
    chaos,
    doctor,
)
"""In the order in which their commands are listed."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="headrace", description="Raw text to trained, compared GPT models on a Ray cluster."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in MODULES:
        module.register(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    args = build_parser().parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for library in ("aiobotocore", "botocore"):  # they tell where they found credentials
        logging.getLogger(library).setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, where nothing else is asked of it
    try:
        status: int = args.handler(args)
    except KeyboardInterrupt:
        return INTERRUPTED_STATUS
    except BrokenPipeError:  # whoever read the answer has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE_STATUS
    except USER_ERRORS as error:
        if args.debug:
            raise
        return _refuse(str(error))
    except Exception as error:
        if args.debug:
            raise
        return _fail(error)
    return status


def _refuse(message: str) -> int:
    print(f"headrace: {message}", file=sys.stderr)  # noqa: T201
    return USER_ERROR_STATUS


def _fail(error: Exception) -> int:
    text = str(error) or type(error).__name__
    hint = "" if type(error).__name__ == "RunFailedError" else "\n(--debug shows the stack trace)"
    print(f"headrace: failed: {text}{hint}", file=sys.stderr)  # noqa: T201
    return FAILED_STATUS


def run() -> None:
    """The installed command."""
    status = main()
    if status == INTERRUPTED_STATUS:
        print("headrace: interrupted; the same command goes on from what is there", file=sys.stderr, flush=True)  # noqa: T201
        # Ray's own threads may be half started: no clean-up at exit, and Ray's processes end with this one.
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    run()
