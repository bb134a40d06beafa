"""`headrace checkpoint list | verify | inspect`: look into a run's checkpoints."""

from __future__ import annotations

import argparse

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
    from trainer.checkpoint.store import NO_MANIFEST, incomplete_folders, list_checkpoints

    out_dir = find_run_folder(args.run, args.runs_dir).out_dir
    entries = list_checkpoints(out_dir)
    rows = [
        {
            "step": entry.step,
            "attempt": entry.attempt,
            "bytes": entry.manifest.bytes if entry.manifest else None,
            "path": str(entry.path),
            "problem": entry.problem,
        }
        for entry in entries
    ]
    if args.json:
        say_json(rows)
        return 0
    for entry in entries:
        size = f"{entry.manifest.bytes / 1e6:10.1f} MB" if entry.manifest else f"   BROKEN: {entry.problem}"
        say(f"step {entry.step:>9}  attempt {entry.attempt:>3} {size}  {entry.path}")
    say(f"{len(entries)} checkpoints")
    for path in incomplete_folders(out_dir):
        say(f"{path} {NO_MANIFEST}")
    return 0


def verify_command(args: argparse.Namespace) -> int:
    """Exit status 1 where a checkpoint is not whole."""
    from trainer.checkpoint.store import NO_MANIFEST, incomplete_folders, list_checkpoints, verify_checkpoint

    out_dir = find_run_folder(args.run, args.runs_dir).out_dir
    problems = {str(entry.path): verify_checkpoint(entry.path) for entry in list_checkpoints(out_dir)}
    problems |= {str(path): [NO_MANIFEST] for path in incomplete_folders(out_dir)}
    if args.json:
        say_json(problems)
    else:
        for path, found in problems.items():
            say(f"{path}: {'; '.join(found) if found else 'every byte is good'}")
    return 1 if any(problems.values()) else 0


def inspect_command(args: argparse.Namespace) -> int:
    """Print the newest checkpoint's manifest in short."""
    from trainer.checkpoint.store import inspect_checkpoint, list_checkpoints

    out_dir = find_run_folder(args.run, args.runs_dir).out_dir
    entries = list_checkpoints(out_dir)
    if not entries:
        raise TrainError(f"{out_dir}: the run has no checkpoint yet. Train it first.")
    described = inspect_checkpoint(entries[-1].path)
    if args.json:
        say_json(described)
    else:
        for key, value in described.items():
            if key != "parameters":
                say(f"{key}: {value}")
        say(f"parameters: {len(described['parameters'])} tensors")
    return 0
