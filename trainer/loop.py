"""The training loop."""

from __future__ import annotations

from enum import IntEnum

from trainer.training_run import TrainingRun


class Status(IntEnum):
    """How training ended; the value is the rank's exit status."""

    FINISHED = 0
    STOPPED = 3


def train(run: TrainingRun) -> Status:
    """Train to the last step, or to the step border at which a stop was asked for, with a checkpoint at either."""
    while not run.done:
        batch = run.read_batch()
        result = run.optimize(batch)
        wishes = run.record(batch, result)
        if run.evaluation_due():  # before the step is kept: a resume must not pass over its evaluation
            run.evaluate()
        if wishes.stop:
            run.save()
            return Status.STOPPED
        run.snapshot(wishes)
        if run.checkpoint_due(wishes):
            run.save()
    run.save()
    run.evaluate(final=True)
    return Status.FINISHED
