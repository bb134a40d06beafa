"""What is done to a run and when: a plan from a YAML file, or a random one from a seed. Pure but for reading the file.

nodes: 3                  # that may hold workers, beside a head that holds none
cpus_per_node: 1
faults:
  - {kind: kill_rank, rank: 1, at_step: 12}
  - {kind: kill_node, rank: 0, at_step: 25, seconds: 5}            # another node takes its place 5 s later
  - {kind: kill, rank: 0, at_step: 30, phase: before-rename}       # by the rank itself, in that phase
  - {kind: flip_checkpoint, at_step: 42, byte: 1000}
  - {kind: kill_driver, at_step: 42}
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cluster.errors import ClusterError
from trainer.config import explain

Phase = Literal[
    "init", "load", "data", "forward", "backward", "collective", "step", "eval",
    "save", "mid-save", "before-rename", "after-save",
]  # fmt: skip
ProcessKind = Literal["kill_rank", "stop_rank", "kill_supervisor"]
NodeKind = Literal["kill_raylet", "kill_node", "stop_node", "remove_node"]
OutsideKind = Literal["return_node", "kill_driver", "terminate_driver", "kill_head", "kill_mlflow"]
CheckpointKind = Literal["cut_checkpoint", "flip_checkpoint", "lose_checkpoint"]
InnerKind = Literal[
    "kill", "stop", "exception", "out_of_memory", "oom_kill", "exit", "nan_loss", "nan_gradient", "spike", "slow"
]

PROCESS_KINDS: tuple[str, ...] = get_args(ProcessKind)
NODE_KINDS: tuple[str, ...] = get_args(NodeKind)
CHECKPOINT_KINDS: tuple[str, ...] = get_args(CheckpointKind)
INNER_KINDS: tuple[str, ...] = get_args(InnerKind)
"""Done by the rank itself, at a step and in a phase: `trainer/faults.py`."""
NUMBER_KINDS = ("nan_loss", "nan_gradient", "spike")
"""After these the run leaves sequences out, and so is no longer the undisturbed one."""
STALL_SECONDS = 300.0
IN_FORWARD = ("slow", *NUMBER_KINDS)

SAVE_PHASES = ("save", "mid-save", "before-rename", "after-save")
_FIELDS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(PROCESS_KINDS, ("rank",)),
    "stop_rank": ("rank", "seconds"),
    **dict.fromkeys(NODE_KINDS, ("rank", "node", "seconds")),
    "kill_mlflow": ("seconds",),
    **dict.fromkeys(CHECKPOINT_KINDS, ("byte",)),
    "lose_checkpoint": (),
    **dict.fromkeys(INNER_KINDS, ("rank", "phase", "attempt", "seconds", "steps")),
}
"""Which fields a kind has beside its time; those not named here have none."""

# Of a random plan: faults that are mended within a gang are more frequent than those that start the gang anew.
_WEIGHTS = {
    "kill_rank": 4, "stop_rank": 2, "kill": 6, "slow": 1, "kill_supervisor": 2, "kill_raylet": 1, "kill_node": 1,
    "kill_driver": 1, "terminate_driver": 1, "kill_mlflow": 1, "flip_checkpoint": 1, "cut_checkpoint": 1,
    "lose_checkpoint": 1,
}  # fmt: skip
_KILL_PHASES: tuple[Phase, ...] = (
    "data", "forward", "backward", "collective", "step", "mid-save", "before-rename", "after-save",
)  # fmt: skip
_CHECKPOINTS_BETWEEN_DAMAGES = 3


class Fault(BaseModel):
    """One fault, at a step of the run or so many seconds after its start."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ProcessKind | NodeKind | OutsideKind | CheckpointKind | InnerKind
    at_step: int | None = Field(None, ge=0, description="as soon as the journal has this step; within a rank: in it")
    after_seconds: float | None = Field(None, ge=0, description="after the run's first start")
    rank: int | None = Field(None, ge=0, description="the rank, or for a node's fault the rank whose node it is")
    node: int | None = Field(None, ge=1, description="the node, counted from 1 in the order in which they came")
    phase: Phase | None = Field(None, description="of the step, for faults within a rank; default: forward")
    attempt: int | None = Field(None, ge=1, description="only in this attempt, for faults within a rank")
    steps: int | None = Field(None, ge=1, description="for how many steps, for slow")
    seconds: float | None = Field(
        None, gt=0, description="until what was stopped goes on or what was lost is replaced; for slow: per step"
    )
    byte: int | None = Field(None, description="where a checkpoint's largest file is cut or flipped; default: half way")

    @model_validator(mode="after")
    def _has_the_fields_of_its_kind(self) -> Fault:
        own = _FIELDS.get(self.kind, ())
        others = {"rank", "node", "phase", "attempt", "steps", "seconds", "byte"} - set(own)
        if foreign := sorted(name for name in others if getattr(self, name) is not None):
            known = ", ".join(("at_step", "after_seconds", *own))
            raise ValueError(f"kind {self.kind} has no {' and no '.join(foreign)}; its fields are {known}")
        if (self.at_step is None) == (self.after_seconds is None):
            raise ValueError(f"kind {self.kind} must have at_step or after_seconds, and not both")
        if self.kind in NODE_KINDS and (self.rank is None) == (self.node is None):
            raise ValueError(f"kind {self.kind} must have rank or node, and not both")
        if self.kind in (*PROCESS_KINDS, *INNER_KINDS) and self.rank is None:
            raise ValueError(f"kind {self.kind} must have a rank")
        if self.kind in INNER_KINDS and self.at_step is None:
            raise ValueError(f"kind {self.kind} happens within a rank and must have at_step")
        if self.kind in IN_FORWARD and self.phase not in (None, "forward"):
            raise ValueError(f"kind {self.kind} happens in phase forward alone")
        if self.kind in ("slow", "stop_node") and self.seconds is None:
            raise ValueError(f"kind {self.kind} must have seconds")
        return self

    def for_rank(self) -> dict[str, Any]:
        """A fault within a rank, as `trainer/faults.py` reads it."""
        given = self.model_dump(exclude_none=True, exclude={"at_step"})
        return {"phase": "forward", **given, "step": self.at_step}


class Plan(BaseModel):
    """All that happens to a run, and the cluster that it happens on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: int = Field(3, ge=1, description="nodes that may hold workers; the head, beside them, holds none")
    cpus_per_node: int = Field(1, ge=1, description="CPUs that Ray counts on each of these nodes")
    stall_seconds: float = Field(STALL_SECONDS, gt=0, description="a run without a new step for so long counts as hung")
    faults: tuple[Fault, ...] = Field(min_length=1, description="in the order in which they are to happen")

    def dump(self) -> str:
        """The plan as YAML, which `load_plan` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_none=True), sort_keys=False)


def inner_faults(faults: Sequence[Fault]) -> dict[int, Fault]:
    """The faults within ranks by their index in the plan; their order is that of the list that ranks are given."""
    return {index: fault for index, fault in enumerate(faults) if fault.kind in INNER_KINDS}


def load_plan(path: Path) -> Plan:
    """The plan in a YAML file. ClusterError or TrainError, naming file, field and rule, if it is none."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ClusterError(f"--plan {path}: must be a YAML file that can be read, but: {error}") from error
    if not isinstance(document, dict):
        raise ClusterError(f"--plan {path}: must be a mapping with faults, found a {type(document).__name__}")
    try:
        return Plan.model_validate(document)
    except ValidationError as error:
        raise explain(error, str(path), (), Plan) from error


def check_plan(plan: Plan, steps: int, workers: int) -> None:
    """Refuse a plan that a run of so many steps and workers cannot meet with.

    Raises:
        ClusterError: naming the fault, the rule and what to do.
    """
    for index, fault in enumerate(plan.faults):
        if fault.at_step is not None and fault.at_step >= steps:
            raise ClusterError(
                f"faults.{index}.at_step: must be below the run's last step, which is {steps}; found {fault.at_step}. "
                f"Lower it, or lengthen the run with --set train.max_steps=N."
            )
        if fault.rank is not None and fault.rank >= workers:
            raise ClusterError(
                f"faults.{index}.rank: must be below the number of workers, {workers}; found {fault.rank}."
            )


def cpus_of_node(workers: int, nodes: int, cpus_per_worker: int = 1) -> int:
    """CPUs that each node must have for all workers to find room while one node is away."""
    return cpus_per_worker * -(-workers // max(1, nodes - 1))


def random_plan(
    seed: int,
    faults: int,
    *,
    steps: int,
    workers: int,
    checkpoint_steps: int,
    nodes: int = 3,
    cpus_per_worker: int = 1,
) -> Plan:
    """Faults that a run of `steps` steps survives, spread over it; the same plan from the same arguments.

    What is lost comes back after some seconds, and checkpoints are damaged no more often than new ones are written
    (every `checkpoint_steps`). After a damaged one the driver is killed, so that the run has to notice; together they
    are two faults.

    Raises:
        ClusterError: the run is too short for so many.
    """
    first, last = 2, steps - 2
    if faults < 1 or last - first < 2 * faults:
        raise ClusterError(
            f"--faults {faults}: a run of {steps} steps has room for 1 to {max(0, (last - first) // 2)} faults that "
            f"lie apart. Give fewer, or lengthen the run with --set train.max_steps=N."
        )
    generator = random.Random(seed)
    chosen: list[Fault] = []
    first_damage = 2 * checkpoint_steps + 1
    while len(chosen) < faults:
        low, high = (first + (last - first) * (len(chosen) + extra) // faults for extra in (0, 1))
        step = generator.randrange(low, high)
        may_damage = step >= first_damage and len(chosen) + 2 <= faults
        kinds = {kind: weight for kind, weight in _WEIGHTS.items() if may_damage or kind not in CHECKPOINT_KINDS}
        [kind] = generator.choices(list(kinds), list(kinds.values()))
        if kind in CHECKPOINT_KINDS:
            step = _between_saves(generator, step, (checkpoint_steps, low, high))
        fault = _draw(generator, kind, step, workers, (checkpoint_steps, low, high))
        chosen.append(fault)
        if kind in CHECKPOINT_KINDS:
            chosen.append(Fault(kind="kill_driver", at_step=step))
            first_damage = step + _CHECKPOINTS_BETWEEN_DAMAGES * checkpoint_steps
    return Plan(nodes=nodes, cpus_per_node=cpus_of_node(workers, nodes, cpus_per_worker), faults=tuple(chosen))


def _draw(generator: random.Random, kind: str, step: int, workers: int, place: tuple[int, int, int]) -> Fault:
    """A fault of that kind; place: steps between checkpoints, and the range of steps that is this fault's own."""
    rank = generator.randrange(workers)
    seconds = round(generator.uniform(2.0, 6.0), 1)
    drawn: dict[str, Callable[[], dict[str, Any]]] = {
        "kill": lambda: {"rank": rank, **_phase(generator, step, *place)},
        "slow": lambda: {"rank": rank, "seconds": 0.05, "steps": 5},
        "flip_checkpoint": lambda: {"byte": generator.randrange(1 << 20)},
        "cut_checkpoint": lambda: {"byte": generator.randrange(1 << 20)},
        **dict.fromkeys(PROCESS_KINDS, lambda: {"rank": rank}),
        **dict.fromkeys(NODE_KINDS, lambda: {"rank": rank, "seconds": seconds}),
        "kill_mlflow": lambda: {"seconds": seconds},
    }
    fields = {"at_step": step, **drawn.get(kind, dict)()}
    return Fault.model_validate({"kind": kind, **fields})


def _between_saves(generator: random.Random, step: int, place: tuple[int, int, int]) -> int:
    """A step well after a save, which is written in the background: a later one would make up for the damage."""
    checkpoint_steps, low, high = place
    late = [other for other in range(max(low, step), high) if 2 * (other % checkpoint_steps) >= checkpoint_steps]
    return generator.choice(late) if late else step


def _phase(generator: random.Random, step: int, checkpoint_steps: int, low: int, high: int) -> dict[str, Any]:
    """A phase, and for those of a save a step of that range at which there is one."""
    saves = [save for save in range(low, high) if save % checkpoint_steps == 0]
    phase = generator.choice([p for p in _KILL_PHASES if saves or p not in SAVE_PHASES])
    return {"phase": phase, "at_step": generator.choice(saves) if phase in SAVE_PHASES else step}
