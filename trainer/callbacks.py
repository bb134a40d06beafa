"""Functions of the user's that the run file names (`callbacks: [module:function]`), told of what happens in a run.

They are called on rank 0, in the training process, between its steps: all ranks wait for one that takes long. What they
do to the run is up to them; a stop is asked for with `trainer.stop.ask_to_stop(event.out_dir)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, cast

from data_shards.named_function import load_function, place_of
from trainer.config import RunConfig
from trainer.errors import TrainError

EventKind = Literal["start", "step", "evaluation", "checkpoint", "end"]

_KINDS: Mapping[str, EventKind] = {
    "start": "start",
    "eval": "evaluation",
    "checkpoint": "checkpoint",
    "end": "end",
}


@dataclass(frozen=True)
class Event:
    """What a callback is told.

    start: an attempt begins or goes on. step: a step counts. evaluation: on held-out data. checkpoint: one is safe.
    end: the run is finished, or was stopped with a checkpoint. A step that is run again after a failure is told again.

    step, tokens: how far the weights are, 0 before the first step; of a checkpoint, its own step, and the tokens of
    the newest one. values: the journal's record, such as loss and lr of a step, val_loss of an evaluation, path of a
    checkpoint, status of the end.
    """

    kind: EventKind
    step: int
    tokens: int
    values: Mapping[str, Any]
    name: str  # of the run
    out_dir: Path


class Callback(Protocol):
    """What the run file names."""

    def __call__(self, event: Event) -> None:
        """Called with each event, in order; an exception ends the run."""


def load_callbacks(config: RunConfig) -> tuple[tuple[str, Callback], ...]:
    """The run's callbacks with the texts that name them.

    Raises:
        DataError: one cannot be found or imported; the field is named.
    """
    fields = ((f"callbacks.{number}", text) for number, text in enumerate(config.callbacks))
    return tuple((text, cast(Callback, load_function(text, field))) for field, text in fields)


class CallbackCaller:
    """Calls the callbacks with the events that the journal's records are."""

    def __init__(self, config: RunConfig, callbacks: Sequence[tuple[str, Callback]]) -> None:
        """callbacks: as `load_callbacks` gives them."""
        self._name, self._out_dir = config.name, Path(config.out_dir)
        self._callbacks = callbacks
        self._step = self._tokens = 0

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Tell what a record says, if it is one of the kinds of events.

        Raises:
            TrainError: a callback raised.
        """
        kind = "step" if "event" not in record else _KINDS.get(record["event"])
        if kind is None:
            return
        if kind in ("step", "end"):
            self._step, self._tokens = record["step"], record["tokens"]
        step = record.get("step", record.get("resumed_step", self._step))
        event = Event(kind, step, self._tokens, MappingProxyType(dict(record)), self._name, self._out_dir)
        for text, callback in self._callbacks:
            try:
                callback(event)
            except Exception as error:
                raise TrainError(
                    f"callbacks: {text} failed at the {kind} event of step {step} ({type(error).__name__}: {error}; "
                    f"{place_of(error)}). Correct the function, or take it out of the run file."
                ) from error
