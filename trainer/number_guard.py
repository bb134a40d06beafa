"""The numbers of a run's steps, judged as the run file says, and the journal's event where they are bad."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_shards.loader import TrainLoader
from trainer.bad_numbers import SPIKE_STEPS, Bad, Numbers, Policy, Watch, action, back_at, judge, left_out, loss_limit
from trainer.optimizer_step import StepResult
from trainer.place import Place
from trainer.settings import TrainSettings

SHOWN_SEQUENCES = 8


@dataclass(frozen=True)
class Verdict:
    """Bad numbers at a step, what follows, and the half-open range of positions that did it."""

    bad: Bad
    action: Policy
    span: tuple[int, int]
    event: Mapping[str, Any]


class NumberGuard:
    """Alike on all ranks, which call it with the same values.

    losses: (step, loss) of the steps before, which spikes are told from.
    """

    def __init__(self, settings: TrainSettings, loader: TrainLoader, losses: Sequence[tuple[int, float]] = ()) -> None:
        self._policy: Policy = settings.on_bad_numbers
        self._deviations = settings.spike_deviations
        self._loader = loader
        self._watch = Watch(losses=tuple(losses))
        self._spans: deque[tuple[int, int]] = deque(maxlen=SPIKE_STEPS)
        self.overflows = 0
        """Updates that the loss scale of fp16 discarded, in this attempt."""

    @property
    def loss_limit(self) -> float:
        """The loss above which the next step is a spike."""
        return loss_limit(self._watch, self._deviations)

    def judge(self, place: Place, end: int, result: StepResult, is_scaled: bool) -> Verdict | None:
        """What is wrong with the step that followed `place` and took the positions up to `end`; None: nothing."""
        numbers = Numbers(place.step + 1, result.loss, result.grad_norm, result.is_applied, is_scaled)
        self._watch, bad = judge(self._watch, numbers, self.loss_limit)
        own_span = place.loader.consumed, end
        if bad is None:
            self._spans.append(own_span)
            self.overflows += not result.is_applied
            return None
        chosen = action(self._watch, self._policy, bad)
        span = left_out(bad, [*self._spans, own_span], chosen)
        sequences = self._loader.sequences(*span, place.loader.excluded)
        event = {
            "event": "bad_numbers",
            "step": numbers.step,
            "what": bad.what,
            "value": bad.value,
            "limit": bad.limit,
            "action": chosen,
            "tries": self._watch.tries,
            "excluded": [] if chosen == "stop" else [list(span)],
            "sequences": [list(row) for row in sequences],
        }
        return Verdict(bad, chosen, span, event)

    def went_back(self, step: int) -> None:
        """The run went back to `step`: what came after it is forgotten."""
        self._watch = back_at(self._watch, step)
        self._spans.clear()


def diagnosis(verdict: Verdict) -> str:
    """Why the run stops: step, what, value, and the sequences that did it."""
    event = verdict.event
    tried = f", {event['tries']} times in a row" if event["tries"] > 1 else ""
    first, end = verdict.span
    shown = [f"{position} ({shard} from token {token})" for position, shard, token in event["sequences"]]
    more = f" and {len(shown) - SHOWN_SEQUENCES} more" if len(shown) > SHOWN_SEQUENCES else ""
    return (
        f"step {event['step']}: {verdict.bad.text()}{tried}. The update was not made, and the weights of step "
        f"{event['step'] - 1} are saved. Its sequences are at positions {first} to {end - 1}: "
        f"{', '.join(shown[:SHOWN_SEQUENCES])}{more}. Read them by `headrace data show RUN --excluded`, "
        f"lower train.lr, or set train.on_bad_numbers to skip or rollback."
    )
