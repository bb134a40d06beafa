"""Whether a step's numbers can be believed, and what follows where they cannot. Pure: values to values.

All ranks judge alike, since they judge the same numbers: the loss of the global batch and the norm of its gradient.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Policy = Literal["skip", "rollback", "stop"]
What = Literal["loss", "spike", "grad_norm", "skipped_steps"]

WINDOW = 64
"""Losses that a spike is told from."""
FEWEST_LOSSES = 16
"""With fewer there is no telling."""
SPIKE_STEPS = 3
"""Steps whose sequences a rollback leaves out for a spike: it may have begun before the step that shows it."""
MOST_SKIPS = 10
"""Bad numbers in a row at one step that are borne under `skip`."""
MOST_ROLLBACKS = 3
"""Rollbacks from one step."""
MOST_RETURNS = 10
"""Rollbacks to one place, whatever step they were from: more do not help."""
MOST_OVERFLOWS = 64
"""Updates in a row that the loss scale of fp16 may discard: from 2**32, the largest, to 1 it takes half as many."""

_NORMAL = 1.4826  # of a normal distribution: standard deviation over median absolute deviation
_LEAST_DEVIATION = 0.01  # of the median: a loss that stands still is not all spikes


@dataclass(frozen=True)
class Watch:
    """What a run remembers of its numbers.

    losses: (step, loss) of the newest believed steps, at most WINDOW; overflows: updates in a row that the loss scale
    discarded; step: where the newest bad numbers were, 0 if there were none; tries: how often in a row it failed;
    back_at_step: where the newest rollback led; returns: how many in a row led there.
    """

    losses: tuple[tuple[int, float], ...] = ()
    overflows: int = 0
    step: int = 0
    tries: int = 0
    back_at_step: int = -1
    returns: int = 0


@dataclass(frozen=True)
class Numbers:
    """What a step gave. is_scaled: fp16, where a discarded update may be the loss scale's search for its place."""

    step: int
    loss: float
    grad_norm: float
    is_applied: bool
    is_scaled: bool


@dataclass(frozen=True)
class Bad:
    """Numbers that are not believed. limit: what `value` should not exceed, None where it should be finite."""

    what: What
    value: float
    limit: float | None = None

    def text(self) -> str:
        """What is wrong, for people."""
        match self.what:
            case "loss":
                return f"the loss must be a finite number, found {self.value}"
            case "spike":
                return (
                    f"the loss must not spike above {self.limit:.4g} (train.spike_deviations), found {self.value:.4g}"
                )
            case "grad_norm":
                return f"the gradient's norm must be a finite number, found {self.value}"
            case "skipped_steps":
                return f"the loss scale must find its place, but {self.value:.0f} updates in a row overflowed"


def loss_limit(watch: Watch, deviations: float | None) -> float:
    """The loss above which a step is a spike: median + deviations * deviation; infinite where there is no telling.

    The deviation is the median absolute one, scaled so that it is the standard deviation of a normal distribution
    (Leys et al. 2013), and at least 1% of the median.
    """
    if deviations is None or len(watch.losses) < FEWEST_LOSSES:
        return math.inf
    losses = [loss for _, loss in watch.losses]
    median = statistics.median(losses)
    deviation = _NORMAL * statistics.median(abs(loss - median) for loss in losses)
    return median + deviations * max(deviation, _LEAST_DEVIATION * abs(median))


def judge(watch: Watch, numbers: Numbers, limit: float) -> tuple[Watch, Bad | None]:
    """The watch after the step, and what is wrong with its numbers. `limit` is the `loss_limit` before the step."""
    bad = _find(watch, numbers, limit)
    if bad is not None:
        tries = watch.tries + 1 if numbers.step == watch.step else 1
        return replace(watch, step=numbers.step, tries=tries, overflows=0), bad
    overflows = 0 if numbers.is_applied else watch.overflows + 1
    tries = 0 if numbers.step >= watch.step else watch.tries
    losses = (*watch.losses, (numbers.step, numbers.loss))[-WINDOW:]
    return replace(watch, losses=losses, overflows=overflows, tries=tries), None


def _find(watch: Watch, numbers: Numbers, limit: float) -> Bad | None:
    if not math.isfinite(numbers.loss):
        return Bad("loss", numbers.loss)
    if numbers.loss > limit:
        return Bad("spike", numbers.loss, limit)
    if numbers.is_applied:
        return None
    if not numbers.is_scaled:
        return Bad("grad_norm", numbers.grad_norm)
    overflows = watch.overflows + 1
    return Bad("skipped_steps", overflows, MOST_OVERFLOWS) if overflows > MOST_OVERFLOWS else None


def action(watch: Watch, policy: Policy, bad: Bad) -> Policy:
    """What follows: the policy, or `stop` once it has been tried too often, or where it could not help."""
    most = {"skip": MOST_SKIPS, "rollback": MOST_ROLLBACKS, "stop": 0}[policy]
    has_failed = watch.tries > most or watch.returns >= MOST_RETURNS
    return "stop" if has_failed or bad.what == "skipped_steps" else policy


def left_out(bad: Bad, spans: Sequence[tuple[int, int]], chosen: Policy) -> tuple[int, int]:
    """The half-open range of positions that are not to be taken again.

    spans: of the newest steps, the bad one last. A skipped step's update was not made, so that its own are enough.
    """
    steps = SPIKE_STEPS if bad.what == "spike" and chosen == "rollback" else 1
    return spans[-steps:][0][0], spans[-1][1]


def back_at(watch: Watch, step: int) -> Watch:
    """The watch of a run that went back to `step`."""
    returns = watch.returns + 1 if watch.back_at_step == step else 1
    losses = tuple(entry for entry in watch.losses if entry[0] <= step)
    return replace(watch, losses=losses, overflows=0, back_at_step=step, returns=returns)
