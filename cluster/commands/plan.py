"""`headrace plan`: what a run will take, before anything runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, get_args

from cluster.commands.common import Subparsers, add_command, add_json, add_run_file, say, say_json

if TYPE_CHECKING:  # the command's help needs no torch
    from model.config import GPTConfig
    from trainer.config import RunConfig
    from trainer.plan import Hardware, RunPlan


def register(commands: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "plan",
        plan_command,
        "before anything runs: parameters, memory of a rank at each ZeRO stage, time, checkpoints, whether it fits",
        "headrace plan recipes/gpt-1.3b.yaml --accelerator H100 --world 8",
    )
    add_run_file(parser, address=False)
    parser.add_argument("--world", type=int, metavar="N", help="ranks; default: cluster.workers")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--accelerator", metavar="NAME", help="a GPU by its published figures, such as H100 or A100")
    where.add_argument("--measure", action="store_true", help="this machine, measured (the default)")
    parser.add_argument("--memory", type=float, metavar="GIB", help="memory that a rank may take, in GiB")
    parser.add_argument("--utilisation", type=float, metavar="SHARE", help="of the peak; default: 0.35, assumed")
    parser.add_argument(
        "--disk", type=float, metavar="GBPS", help="checkpoints' bandwidth of all ranks together, in GB/s"
    )
    parser.add_argument(
        "--mtbf-hours", type=float, metavar="H", help="hours between failures of one device; default: 50,000, published"
    )
    add_json(parser)


def plan_command(args: argparse.Namespace) -> int:
    """Print the plan; what does not fit is said, and is no error."""
    from trainer.config import load_run_file
    from trainer.plan import to_dict
    from trainer.plan_text import plan_text

    _check_numbers(args)
    plan = _plan(args, load_run_file(args.file, args.set))
    if args.json:
        say_json(to_dict(plan))
    else:
        say(plan_text(plan))
    return 0


def _check_numbers(args: argparse.Namespace) -> None:
    from cluster.errors import ClusterError

    for name in ("world", "memory", "utilisation", "disk", "mtbf_hours"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise ClusterError(f"--{name.replace('_', '-')}: must be above 0, found {value:g}.")
    if args.utilisation is not None and args.utilisation > 1:
        raise ClusterError(f"--utilisation: is a share of the peak and so at most 1, found {args.utilisation:g}.")


def _plan(args: argparse.Namespace, config: RunConfig) -> RunPlan:
    import dataclasses

    from model.settings import resolve
    from trainer.fitting import planned_batch
    from trainer.plan import plan_run
    from trainer.plan_facts import read_facts
    from trainer.plan_hardware import Asked, hardware_of, precision_on
    from trainer.plan_memory import MemoryModel, Setting
    from trainer.plan_sizes import model_sizes
    from trainer.settings import ZeroSettings

    train, facts = config.train, read_facts(config)
    shape: GPTConfig = resolve(config.model, facts.vocab_size, train.activation_checkpointing)
    shape = dataclasses.replace(shape, n_classes=facts.n_classes)
    world_size = args.world or _workers(config, str(args.file), args.accelerator)
    asked = Asked(args.accelerator, args.memory, args.utilisation, args.disk, args.mtbf_hours)
    precision = precision_on(asked, train.precision)
    hardware: Hardware = hardware_of(asked, config, precision, world_size)
    model = MemoryModel(config, shape, model_sizes(shape, train), precision, hardware.device, world_size)
    batch = planned_batch(model, hardware.memory_bytes)
    setting = Setting(train.zero.stage, batch.micro_batch, train.activation_checkpointing, train.zero.offload)
    offloads = get_args(ZeroSettings.model_fields["offload"].annotation)
    return plan_run(model, setting, batch, hardware, facts.steps, offloads)


def _workers(config: RunConfig, where: str, accelerator: str | None) -> int:
    """Ranks that the run file asks for; of `auto` those of this machine, and of a range the most."""
    import torch

    from cluster.errors import ClusterError
    from cluster.settings import parse_cluster, resolve_resources

    settings = parse_cluster(config.cluster, where)
    if settings.workers == "auto" and accelerator is not None:
        raise ClusterError(
            f"cluster.workers: auto takes every GPU of a cluster, and how many {accelerator} there are is not "
            "known here; give --world N."
        )
    return resolve_resources(settings, torch.cuda.device_count(), None).workers
