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
        if wishes.stop:
            run.save()
            return Status.STOPPED
        if run.checkpoint_due(wishes):
            run.save()
        if run.evaluation_due():
            run.evaluate()
    run.save()
    run.evaluate(final=True)
    return Status.FINISHED
