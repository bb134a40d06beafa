"""`headrace profile`: where a step's time goes, and a trace of it for Perfetto."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.commands.common import Subparsers, add_command, add_json, add_run_file, say, say_json

if TYPE_CHECKING:
    from trainer.config import RunConfig
    from trainer.phase_shares import StepShares

DEFAULT_STEPS = 5
STOPPED_STATUS = 3


def register(commands: Subparsers) -> None:
    """Add the command."""
    profile = add_command(
        commands,
        "profile",
        profile_command,
        "trace a few steps on the run's own ranks, and say where their time goes",
        "headrace profile recipes/demo.yaml --steps 5",
    )
    add_run_file(profile)
    profile.add_argument("--steps", type=int, default=DEFAULT_STEPS, help="steps that are traced; default: 5")
    profile.add_argument("--to", type=Path, metavar="DIR", help="default: OUT_DIR/profile/DATE")
    add_json(profile)


def profile_command(args: argparse.Namespace) -> int:
    """Prepare if needed, run the steps, print the table."""
    from cluster.errors import ClusterError
    from trainer.config import load_run_file
    from trainer.phase_shares import shares

    if args.steps < 1:
        raise ClusterError(f"--steps {args.steps}: must be at least 1.")
    config = load_run_file(args.file, args.set)
    to = args.to.absolute() if args.to else Path(config.out_dir) / "profile" / time.strftime("%Y%m%d-%H%M%S")
    if to.exists() and any(to.iterdir()):
        raise ClusterError(f"--to {to}: must be a folder that is not there yet, or empty. Give another.")
    _run(args, config, to)
    paths = trace_paths(to)
    if paths is None:
        say("stopped before the steps were traced; nothing is kept of it but the folder")
        return STOPPED_STATUS
    ranks = [shares(_read_events(path)) for path in paths]
    if args.json:
        say_json(to_dict(ranks, paths))
    else:
        say(to_table(ranks, paths))
    return 0


def _run(args: argparse.Namespace, config: RunConfig, to: Path) -> None:
    from cluster.drive import train_on_ray
    from cluster.session import LazySession, check_static, prepare_lazily
    from trainer.carried_code import carry_code
    from trainer.profiling import profile_config

    profiled = carry_code(profile_config(config, to, args.steps))
    settings = check_static(profiled, str(args.file), args.address)
    with LazySession(profiled, settings, args.address) as lazy:
        dataset = prepare_lazily(profiled, lazy).dataset
        train_on_ray(
            profiled,
            settings,
            lazy,
            dataset,
            accept_changes=False,
            project=args.file.resolve().parent,
            is_local=args.address is None,
            profile_steps=args.steps,
        )


def trace_paths(out_dir: Path) -> list[Path] | None:
    """The traces of all ranks that the journal tells of; None if one is not there."""
    from monitoring.journal import read_records
    from trainer.profiling import trace_path

    ranks = [record["world_size"] for record in read_records(out_dir) if record.get("event") == "start"]
    paths = [trace_path(out_dir, rank) for rank in range(max(ranks, default=0))]
    return paths if paths and all(path.is_file() for path in paths) else None


def _read_events(path: Path) -> list[dict[str, Any]]:
    import gzip
    import json

    with gzip.open(path, "rt", encoding="utf-8") as file:
        events: list[dict[str, Any]] = json.load(file)["traceEvents"]
    return events


def to_dict(ranks: Sequence[StepShares], paths: Sequence[Path]) -> dict[str, Any]:
    """The answer for programs: seconds and shares of the mean step, and of each rank's."""
    from trainer.phase_shares import mean_shares

    def told(step: StepShares) -> dict[str, Any]:
        parts = {row: {"seconds": value, "share": value / step.step_seconds} for row, value in step.seconds.items()}
        return {"step_seconds": step.step_seconds, "parts": parts}

    by_rank = [{"rank": rank, "trace": str(paths[rank]), **told(step)} for rank, step in enumerate(ranks)]
    return {"steps": ranks[0].steps, "ranks": len(ranks), **told(mean_shares(ranks)), "by_rank": by_rank}


def to_table(ranks: Sequence[StepShares], paths: Sequence[Path]) -> str:
    """The same for readers: the mean over ranks, and beside it the ranks with the least and the most of each part."""
    from trainer.phase_shares import mean_shares

    mean = mean_shares(ranks)
    lines = [f"{'part':<14}{'seconds a step':>15}{'share':>8}   of the ranks"]
    for row, seconds in mean.seconds.items():
        own = [rank.seconds[row] for rank in ranks]
        spread = f"{min(own):.4f} to {max(own):.4f} (most: rank {own.index(max(own))})" if len(own) > 1 else ""
        lines.append(f"{row:<14}{seconds:>15.4f}{seconds / mean.step_seconds:>8.1%}   {spread}".rstrip())
    lines.append(f"{'step':<14}{mean.step_seconds:>15.4f}{1:>8.1%}")
    where = [f"traces of {mean.steps} steps, for https://ui.perfetto.dev:", *(f"  {path}" for path in paths)]
    return "\n".join([*lines, "", *where])
