"""`headrace run | prepare | train`: the main job."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.commands.common import Subparsers, add_command, add_run_file, say
from trainer.quick_imports import collector_at_rest

if TYPE_CHECKING:
    from cluster.drive import DriveResult
    from trainer.config import RunConfig

STOPPED_STATUS = 3


def register(commands: Subparsers) -> None:
    """Add the three commands."""
    run = add_command(
        commands,
        "run",
        run_command,
        "prepare if needed, train, evaluate and export",
        "headrace run recipes/demo.yaml --set train.lr=1.0e-3",
    )
    prepare = add_command(
        commands, "prepare", prepare_command, "tokenise and shard only", "headrace prepare recipes/demo.yaml"
    )
    train = add_command(
        commands,
        "train",
        train_command,
        "train only; goes on from the newest good checkpoint",
        "headrace train recipes/demo.yaml",
    )
    for parser in (run, prepare, train):
        add_run_file(parser)
    for parser in (run, train):
        parser.add_argument(
            "--accept-changes", action="store_true", help="resume with a changed length, learning rate or batch"
        )
        for made_at_submit in ("--run-id", "--commit"):
            parser.add_argument(made_at_submit, help=argparse.SUPPRESS)
        parser.add_argument("--queued", nargs=2, type=float, help=argparse.SUPPRESS)


def prepare_command(args: argparse.Namespace) -> int:
    """Tokenise and shard."""
    from cluster.prepare_view import left_out_text
    from cluster.session import LazySession, check_static, prepare_lazily
    from trainer.carried_code import carry_code
    from trainer.config import load_run_file

    config = load_run_file(args.file, args.set)
    settings = check_static(config, str(args.file), args.address)
    config = carry_code(config)
    began = time.monotonic()
    with LazySession(config, settings, args.address) as lazy:
        prepared = prepare_lazily(config, lazy)
    dataset = prepared.dataset
    done = "up to date" if prepared.was_current else f"prepared in {time.monotonic() - began:.0f} s"
    train, val = f"{dataset.tokens('train'):,}", f"{dataset.tokens('val'):,}"
    say(f"{done}: {train} training and {val} held-out tokens in {len(dataset.shards)} shards, {config.data_dir}")
    left_out = left_out_text(dataset)
    if left_out is not None:
        say(left_out)
    say(f"next: headrace data stats {_short(config.data_dir)}")
    return 0


def train_command(args: argparse.Namespace) -> int:
    """Train, without a report of samples and without export."""
    _, result = _train(args)
    return _status(result)


def run_command(args: argparse.Namespace) -> int:
    """The main job, and what came of it."""
    from cluster.report import final_report
    from trainer.evaluate import is_cut

    config, result = _train(args)
    if result.status == "stopped":
        return _status(result)
    out_dir = Path(config.out_dir)
    # Hugging Face has no layout for an encoder-decoder of these parts.
    model_dir = None if is_cut(config) else _export(config, out_dir)
    say(final_report(config, out_dir, model_dir))
    return 0


def _export(config: RunConfig, out_dir: Path) -> Path:
    """The model in Hugging Face's layout, and in MLflow if the run file says so."""
    from cluster.model_log import log_exported
    from trainer.trained import export_trained, open_trained

    trained = open_trained(out_dir)
    model_dir = export_trained(trained, out_dir / "model")
    if config.monitoring.log_model:
        log_exported(config, trained, model_dir)
    return model_dir


def _train(args: argparse.Namespace) -> tuple[RunConfig, DriveResult]:
    with collector_at_rest():
        from cluster.drive import train_on_ray
        from cluster.jobs.time_in_line import TimeInLine
        from cluster.session import LazySession, check_static, prepare_lazily
        from trainer.carried_code import carry_code
        from trainer.config import load_run_file

    config = load_run_file(args.file, args.set)
    settings = check_static(config, str(args.file), args.address)
    config = carry_code(config)
    with LazySession(config, settings, args.address) as lazy:
        dataset = prepare_lazily(config, lazy).dataset
        result = train_on_ray(
            config,
            settings,
            lazy,
            dataset,
            accept_changes=args.accept_changes,
            project=args.file.resolve().parent,
            is_local=args.address is None,
            run_id=args.run_id,
            commit=args.commit,
            in_line=None if args.queued is None else TimeInLine(*args.queued),
        )
    if result.status == "already finished":
        say(f"{config.name} is finished: {result.launch.total_steps} steps in {_short(Path(config.out_dir))}")
    return config, result


def _status(result: DriveResult) -> int:
    from monitoring.journal import read_records

    if result.status != "stopped":
        return 0
    records = read_records(Path(result.launch.config.out_dir))
    if any(record.get("event") == "checkpoint" for record in records):
        say("stopped with a checkpoint; the same command goes on from it")
    else:
        say("stopped before the first checkpoint; the same command starts at step 0")
    return STOPPED_STATUS


def _short(path: Path | str) -> str:
    """A path as a user would type it from here; an address as it is."""
    here = Path.cwd()
    return str(path.relative_to(here)) if isinstance(path, Path) and path.is_relative_to(here) else str(path)
