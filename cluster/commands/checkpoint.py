"""`headrace checkpoint list | verify | inspect`: look into a run's checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path

from cluster.commands.common import Subparsers, add_command, add_json, add_run, say, say_json
from cluster.find import find_run_folder
from trainer.errors import TrainError


def register(commands: Subparsers) -> None:
    """Add the three commands."""
    checkpoint = commands.add_parser("checkpoint", help="list, verify and inspect a run's checkpoints").add_subparsers(
        title="commands", required=True
    )
    for name, handler, what in (
        ("list", list_command, "list a run's checkpoints"),
        ("verify", verify_command, "check every byte of a run's checkpoints"),
        ("inspect", inspect_command, "say what the newest checkpoint holds"),
    ):
        parser = add_command(checkpoint, name, handler, what, f"headrace checkpoint {name} demo")
        add_run(parser)
        add_json(parser)


def list_command(args: argparse.Namespace) -> int:
    """Print step, size and place of each checkpoint."""
    from trainer.checkpoint.store import FENCED, incomplete_folders, list_checkpoints

    out_dir, address = _place(args)
    entries = list_checkpoints(out_dir, address)
    rows = [
        {
            "step": entry.step,
            "attempt": entry.attempt,
            "bytes": entry.manifest.bytes if entry.manifest else None,
            "path": entry.address,
            "problem": entry.problem if entry.is_believed else FENCED,
        }
        for entry in entries
    ]
    if args.json:
        say_json(rows)
        return 0
    for entry in entries:
        size = f"{entry.manifest.bytes / 1e6:10.1f} MB" if entry.manifest else f"   BROKEN: {entry.problem}"
        note = "" if entry.is_believed else f"  {FENCED}"
        say(f"step {entry.step:>9}  attempt {entry.attempt:>3} {size}  {entry.address}{note}")
    say(f"{len(entries)} checkpoints")
    for torn in incomplete_folders(out_dir, address):
        say(f"{torn.address} {torn.problem}")
    return 0


def verify_command(args: argparse.Namespace) -> int:
    """Exit status 1 where a checkpoint is not whole."""
    from trainer.checkpoint.store import NO_MANIFEST, incomplete_folders, list_checkpoints, verify_checkpoint

    out_dir, address = _place(args)
    problems = {entry.address: verify_checkpoint(entry.address) for entry in list_checkpoints(out_dir, address)}
    problems |= {torn.address: [NO_MANIFEST] for torn in incomplete_folders(out_dir, address)}
    if args.json:
        say_json(problems)
    else:
        for path, found in problems.items():
            say(f"{path}: {'; '.join(found) if found else 'every byte is good'}")
    return 1 if any(problems.values()) else 0


def inspect_command(args: argparse.Namespace) -> int:
    """Print the newest checkpoint's manifest in short."""
    from trainer.checkpoint.store import inspect_checkpoint, list_checkpoints

    out_dir, address = _place(args)
    entries = [entry for entry in list_checkpoints(out_dir, address) if entry.is_believed]
    if not entries:
        raise TrainError(f"{out_dir}: the run has no checkpoint yet. Train it first.")
    described = inspect_checkpoint(entries[-1].address)
    if args.json:
        say_json(described)
    else:
        for key, value in described.items():
            if key != "parameters":
                say(f"{key}: {value}")
        say(f"parameters: {len(described['parameters'])} tensors")
    return 0


def _place(args: argparse.Namespace) -> tuple[Path, str | None]:
    """The run's folder, and where its checkpoints lie if not in it."""
    from trainer.config import parse_run_file

    run = find_run_folder(args.run, args.runs_dir)
    return run.out_dir, parse_run_file(run.run_file.read_text(), str(run.run_file)).checkpoint.dir
