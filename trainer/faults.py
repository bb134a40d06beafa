"""Faults that a rank does to itself where it is told to, to show what a run survives.

A fault is a plain dict: {"kind", "rank", "step", "phase", "attempt", "seconds", "steps"}. It strikes once per run, on
its rank, the first time that this rank is in the phase at the step or a later one (a save may not fall on the step
itself), and before it does leaves the mark OUT_DIR/faults/NNNN.json, NNNN being its index in the list.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import TrainError

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

VARIABLE = "HEADRACE_FAULTS"
"""Environment variable with a JSON list of faults, read where a run is started."""

KINDS = (
    "kill",
    "stop",
    "exception",
    "out_of_memory",
    "oom_kill",
    "exit",
    "slow",
    "nan_loss",
    "nan_gradient",
    "spike",
)
PHASES = (
    "init",
    "load",
    "data",
    "forward",
    "backward",
    "collective",
    "step",
    "eval",
    "save",
    "mid-save",
    "before-rename",
    "after-save",
)
NUMBERS = ("nan_loss", "nan_gradient", "spike")
"""Kinds that spoil a step's numbers; of several, each spoils a step, or a try of one, of its own."""
IN_FORWARD = ("slow", *NUMBERS)
"""Kinds that strike in the forward pass alone."""
SPIKE_FACTOR = 1e4
OOM_BYTES = 1 << 26
EXIT_STATUS = 1


@dataclass(frozen=True)
class Fault:
    """One fault. step: 0 where it is about the start; attempt: None for any; seconds and steps: of `slow`."""

    kind: str
    rank: int
    step: int
    phase: str = "forward"
    attempt: int | None = None
    seconds: float = 0.1
    steps: int = 1

    def is_due(self, rank: int, attempt: int, step: int, phase: str) -> bool:
        """Whether it strikes here."""
        is_mine = self.rank == rank and self.attempt in (None, attempt)
        return is_mine and self.phase == phase and (step >= self.step or phase in ("init", "load"))


_FIELDS = {field.name for field in fields(Fault)}


def parse_faults(entries: Any, where: str) -> tuple[Fault, ...]:
    """The faults of a list of dicts. `where` names the list in messages.

    Raises:
        TrainError: naming the entry, the rule and the value found.
    """
    if not isinstance(entries, list):
        raise TrainError(f"{where}: must be a list of faults, found {entries!r}. Give [] for none.")
    return tuple(_parse(entry, f"{where}[{index}]") for index, entry in enumerate(entries))


def faults_of_environment() -> list[dict[str, Any]]:
    """The faults that the environment asks for, checked; [] where it asks for none.

    Raises:
        TrainError: HEADRACE_FAULTS is not a JSON list of faults.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return []
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise TrainError(f"{VARIABLE}: must be a JSON list of faults, found {text[:60]!r} ({error}).") from error
    parse_faults(entries, VARIABLE)
    checked: list[dict[str, Any]] = entries
    return checked


def _parse(entry: Any, where: str) -> Fault:
    if not isinstance(entry, Mapping):
        raise TrainError(f"{where}: a fault must be an object such as {{'kind': 'kill', 'rank': 0}}, found {entry!r}.")
    if unknown := sorted(entry.keys() - _FIELDS):
        raise TrainError(f"{where}.{unknown[0]}: no such field of a fault. There are {', '.join(sorted(_FIELDS))}.")
    kind, phase = entry.get("kind"), entry.get("phase", "forward")
    _check(kind in KINDS, f"{where}.kind", f"one of {', '.join(KINDS)}", kind)
    _check(phase in PHASES, f"{where}.phase", f"one of {', '.join(PHASES)}", phase)
    _check(kind not in IN_FORWARD or phase == "forward", f"{where}.phase", f"forward for {kind}", phase)
    for name, least in (("rank", 0), ("step", 0), ("attempt", 1), ("steps", 1)):
        value = entry.get(name, None if name in ("rank", "step") else least)
        optional = (name == "attempt" and value is None) or (name == "step" and phase in ("init", "load"))
        good = isinstance(value, int) and not isinstance(value, bool) and value >= least
        _check(good or (optional and value is None), f"{where}.{name}", f"a whole number of at least {least}", value)
    seconds = entry.get("seconds", 0.1)
    good = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds < math.inf
    _check(good, f"{where}.seconds", "a number above 0", seconds)
    return Fault(**{"step": 0, **entry})


def _check(holds: bool, field: str, rule: str, value: Any) -> None:
    if not holds:
        raise TrainError(f"{field}: must be {rule}, found {value!r}.")


class FaultPoints:
    """The faults of one rank's attempt: `at` is called wherever the rank begins a phase."""

    def __init__(self, faults: Sequence[Fault], out_dir: Path, rank: int, attempt: int) -> None:
        self._folder = out_dir / "faults"
        self._rank, self._attempt = rank, attempt
        mine = [(index, fault) for index, fault in enumerate(faults) if fault.rank == rank]
        self._open = {index: fault for index, fault in mine if not self._mark(index).exists()}
        self._numbers: str | None = None  # kind of the fault in this step's numbers
        self._slow: Fault | None = None
        self._slow_steps: set[int] = set()

    def at(self, step: int, phase: str) -> None:
        """Do what is due where the rank begins `phase` of `step` (0 before the first)."""
        if phase == "data":
            self._numbers = None
        for index, fault in list(self._open.items()):
            must_wait = fault.kind in NUMBERS and self._numbers is not None
            if must_wait or not fault.is_due(self._rank, self._attempt, step, phase):
                continue
            is_left = self._open.pop(index, None) is not None  # a save calls from a thread of its own
            if is_left and self._take(index, fault, step):
                self._strike(fault, f"fault ({fault.kind}) at step {step}, phase {phase}")
        if self._slow is not None and phase == "forward":
            self._dawdle(self._slow, step)

    def after(self, beat: Callable[[int, str], None]) -> Callable[[int, str], None]:
        """A beat that is followed by what is due there."""

        def beat_and_strike(step: int, phase: str) -> None:
            beat(step, phase)
            self.at(step, phase)

        return beat_and_strike

    def spoil(self, loss: Tensor) -> Tensor:
        """A micro-batch's scalar loss, as the fault in this step's numbers leaves it."""
        if self._numbers == "nan_loss":
            return loss * math.nan
        if self._numbers == "spike":
            return loss * SPIKE_FACTOR
        if self._numbers == "nan_gradient":
            tensor: Any = loss
            tensor.register_hook(lambda gradient: gradient * math.nan)
        return loss

    def _mark(self, index: int) -> Path:
        return self._folder / f"{index:04d}.json"

    def _take(self, index: int, fault: Fault, step: int) -> bool:
        """Whether the fault is this process's to do: its mark is made by one process of the run."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            fd = os.open(self._mark(index), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        what = {"kind": fault.kind, "rank": fault.rank, "step": step, "phase": fault.phase}
        with os.fdopen(fd, "w") as file:
            json.dump({**what, "time": time.time(), "attempt": self._attempt, "pid": os.getpid()}, file)
        return True

    def _strike(self, fault: Fault, what: str) -> None:
        logger.warning("%s", what)
        match fault.kind:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "exception":
                raise RuntimeError(what)
            case "out_of_memory":
                from torch import OutOfMemoryError  # here, so that a driver can read faults without loading it

                raise OutOfMemoryError(f"{what}: tried to allocate more than there is")
            case "oom_kill":
                _die_of_memory()
            case "exit":
                os._exit(EXIT_STATUS)
            case "slow":
                self._slow, self._slow_steps = fault, set()
            case _:
                self._numbers = fault.kind

    def _dawdle(self, fault: Fault, step: int) -> None:
        if step in self._slow_steps:
            return
        if len(self._slow_steps) == fault.steps:
            self._slow = None
            return
        self._slow_steps.add(step)
        time.sleep(fault.seconds)


def _die_of_memory() -> None:
    """What the kernel's killer leaves to be seen: memory taken, then SIGKILL without a word.

    The killer itself needs a limit of the control group, which a rank cannot set for itself.
    """
    taken = bytearray(OOM_BYTES)
    taken[:: os.sysconf("SC_PAGE_SIZE")] = b"\1" * len(range(0, OOM_BYTES, os.sysconf("SC_PAGE_SIZE")))
    os.kill(os.getpid(), signal.SIGKILL)
