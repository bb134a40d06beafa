"""The stages of a run: which one a step is in, and the course of the learning rate within it. Pure functions.

At a stage's end the run saves, and goes on from that checkpoint with an engine of the next stage: the weights are the
checkpoint's, bit for bit, and the optimizer is a fresh one. So the border is crossed in the same way by a run that goes
on and by one that was killed there.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.errors import TrainError
from trainer.schedule import learning_rate
from trainer.settings import TrainSettings, UntilSettings


@dataclass(frozen=True)
class Length:
    """How long a run is, as seen from a place in it."""

    done_steps: int
    done_tokens: int
    total_steps: int
    tokens_per_step: int

    def tokens_at(self, step: int) -> int:
        """Tokens trained when so many steps are done, with the present global batch."""
        return 0 if step == 0 else self.done_tokens + (step - self.done_steps) * self.tokens_per_step

    def step_at(self, tokens: int) -> int:
        """The last step border that does not exceed so many tokens."""
        return self.done_steps + (tokens - self.done_tokens) // self.tokens_per_step


@dataclass(frozen=True)
class Stage:
    """Steps `begin` + 1 to `end` of a run, and the settings that hold for them."""

    index: int
    train: TrainSettings
    begin: int
    end: int

    def holds(self, step: int) -> bool:
        """Whether a run that has done so many steps is in this stage, or at its end."""
        return self.begin <= step <= self.end


def stage_ends(train: TrainSettings, length: Length) -> list[int]:
    """The step after which each stage ends, the last with the run.

    Raises:
        TrainError: a stage without a step.
    """
    untils = [stage.until for stage in train.stages if stage.until is not None]
    ends = [*(_end(until, length) for until in untils), length.total_steps]
    for index, (before, end) in enumerate(zip([0, *ends], ends, strict=False)):
        if end <= before and train.stages:
            raise TrainError(
                f"train.stages.{index}: every stage must have a step, but this one begins after step {before} and ends "
                f"after step {end} of {length.total_steps}. Move its until, or the one before."
            )
    return ends


def stage_at(train: TrainSettings, length: Length) -> Stage:
    """The stage of the next step; at the run's end, the last.

    Raises:
        TrainError: a stage without a step.
    """
    ends = stage_ends(train, length)
    index = min(sum(end <= length.done_steps for end in ends), len(ends) - 1)
    return Stage(index, train.of_stage(index), ends[index - 1] if index else 0, ends[index])


def stage_rate(stage: Stage, length: Length, tokens: int) -> float:
    """The rate of the step that brings the run to `tokens`, by the stage's schedule over the stage's own tokens."""
    begin = length.tokens_at(stage.begin)
    return learning_rate(stage.train, tokens - begin, length.tokens_at(stage.end) - begin)


def _end(until: UntilSettings, length: Length) -> int:
    if until.steps is not None:
        return until.steps
    if until.tokens is not None:
        return length.step_at(until.tokens)
    assert until.ratio is not None
    return length.step_at(round(until.ratio * length.tokens_at(length.total_steps)))
