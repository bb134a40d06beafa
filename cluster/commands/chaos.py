"""`headrace chaos`: inject faults into a run and compare it with an undisturbed one."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.commands.common import Subparsers, add_command, add_json, say, say_json
from cluster.errors import ClusterError

if TYPE_CHECKING:
    from cluster.chaos.cluster import ChaosCluster
    from cluster.chaos.evidence import Evidence
    from cluster.chaos.experiment import Experiment
    from cluster.chaos.plan import Plan
    from cluster.settings import ClusterSettings

logger = logging.getLogger(__name__)


def register(commands: Subparsers) -> None:
    """Add the command."""
    chaos = add_command(
        commands,
        "chaos",
        chaos_command,
        "inject faults into a run, on a Ray cluster of its own, and compare it with an undisturbed one",
        "headrace chaos recipes/demo.yaml --seed 7 --faults 20",
    )
    chaos.add_argument("file", type=Path, metavar="RUN.yaml", help="the run file")
    chaos.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a field of the run file")
    chaos.add_argument("--plan", type=Path, metavar="PLAN.yaml", help="what is done to the run, and when")
    chaos.add_argument("--seed", type=int, help="draw a plan of faults that the run is to survive; default: 1")
    chaos.add_argument("--faults", type=int, default=20, help="how many faults a drawn plan has; default: 20")
    chaos.add_argument("--nodes", type=int, default=3, help="nodes that hold workers, of a drawn plan; default: 3")
    chaos.add_argument("--save-plan", type=Path, metavar="F", help="write the plan to a file, for --plan")
    chaos.add_argument("--baseline", metavar="RUN", help="an undisturbed run of the same file that has finished")
    chaos.add_argument("--runs-dir", type=Path, help="where --baseline is looked up; default: runs, recipes/runs")
    add_json(chaos)


def chaos_command(args: argparse.Namespace) -> int:
    """Run both, print the verdict; exit status 1 if a promise was not kept."""
    from cluster.chaos.cluster import ChaosCluster
    from cluster.chaos.experiment import Experiment, last_step
    from cluster.chaos.plan import STALL_SECONDS, cpus_of_node, load_plan
    from cluster.session import check_static
    from trainer.config import load_run_file

    if args.plan is not None and args.seed is not None:
        raise ClusterError("--plan and --seed: give one of them; a drawn plan is kept with --save-plan F")
    if args.nodes < 1:
        raise ClusterError(f"--nodes {args.nodes}: must be at least 1")
    config = load_run_file(args.file, args.set)
    place = _place(check_static(config, str(args.file), None), args.nodes)
    plan = load_plan(args.plan) if args.plan is not None else None
    calm = _baseline(args) if args.baseline else None
    steps = last_step(calm) if calm else config.train.max_steps
    if steps is not None:  # otherwise the undisturbed run says how long it is
        _plan_for(plan, args, place, steps, checkpoint_steps=1)
    nodes, cpus = (plan.nodes, plan.cpus_per_node) if plan else (args.nodes, cpus_of_node(**place))
    experiment = Experiment(args.file, args.set, config)
    with ChaosCluster(nodes, cpus, experiment.folder / "cluster.log") as cluster:
        calm = calm or experiment.run_calm(cluster, plan.stall_seconds if plan else STALL_SECONDS)
        every = experiment.limits(calm).checkpoint_steps
        plan = _plan_for(plan, args, place, last_step(calm), checkpoint_steps=every)
        _show_plan(plan, args, experiment)
        return _disturb(experiment, cluster, calm, plan, args.json)


def _place(settings: ClusterSettings, nodes: int) -> dict[str, int]:
    """What a drawn plan has to know of the cluster and of the gang on it."""
    from cluster.settings import DEFAULT_CPU_WORKERS

    asked: object = settings.workers  # a number, a least and a most, or auto
    workers = max(asked) if isinstance(asked, (list, tuple)) else asked
    per_worker = settings.cpus_per_worker
    return {
        "nodes": nodes,
        "workers": workers if isinstance(workers, int) else DEFAULT_CPU_WORKERS,
        "cpus_per_worker": per_worker if isinstance(per_worker, int) else 1,
    }


def _plan_for(
    plan: Plan | None, args: argparse.Namespace, place: dict[str, int], steps: int, checkpoint_steps: int
) -> Plan:
    """The plan that was given, or one that is drawn; refused if a run of so many steps is too short for it."""
    from cluster.chaos.plan import check_plan, random_plan

    if plan is None:
        seed = 1 if args.seed is None else args.seed
        return random_plan(seed, args.faults, steps=steps, checkpoint_steps=checkpoint_steps, **place)
    check_plan(plan, steps, place["workers"])
    return plan


def _show_plan(plan: Plan, args: argparse.Namespace, experiment: Experiment) -> None:
    """Into the experiment's folder, and where the user wants it."""
    if args.plan is None:
        logger.info("seed %d gives the plan\n%s", 1 if args.seed is None else args.seed, plan.dump())
    (experiment.folder / "plan.yaml").write_text(plan.dump())
    if args.save_plan is not None:
        args.save_plan.write_text(plan.dump())


def _baseline(args: argparse.Namespace) -> Evidence:
    from cluster.chaos.evidence import gather
    from cluster.find import find_run_folder

    run = find_run_folder(args.baseline, args.runs_dir)
    calm = gather(run.out_dir, run.out_dir / "absent", 0, "", run.name)
    if [r["status"] for r in calm.records if r.get("event") == "end"][-1:] != ["finished"]:
        raise ClusterError(f"--baseline {args.baseline}: must be a run that has finished. Train it, or leave it out.")
    return calm


def _disturb(experiment: Experiment, cluster: ChaosCluster, calm: Evidence, plan: Plan, as_json: bool) -> int:
    from cluster.chaos.report import to_dict, to_text
    from cluster.chaos.verdict import judge
    from monitoring.goodput import goodput

    rough = experiment.run_rough(cluster, plan)
    verdict = judge(calm, rough.evidence, rough.injections, rough.not_done, experiment.limits(calm))
    ratios = {"undisturbed": goodput(calm.records).ratio, "disturbed": goodput(rough.evidence.records).ratio}
    if as_json:
        say_json({"folder": str(experiment.folder), "plan": plan.model_dump(mode="json", exclude_none=True),
                  **to_dict(verdict, ratios)})  # fmt: skip
    else:
        say(to_text(verdict, ratios))
        say(f"runs, logs and plan: {experiment.folder}")
    return 0 if verdict.held else 1
