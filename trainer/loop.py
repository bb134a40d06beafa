"""The training loop."""

from __future__ import annotations

from enum import IntEnum

from trainer.training_run import TrainingRun


class Status(IntEnum):
    """How training ended; the value is the rank's exit status."""

    FINISHED = 0
    STOPPED = 3


def train(run: TrainingRun) -> Status:
    """Train to the last step, or to the step border at which a stop was asked for, with a checkpoint at either.

    Where a stage ends the run goes on from a checkpoint, with a fresh optimizer (see `trainer.stages`). A step whose
    numbers are bad does not count: it is tried again with other sequences, or ends the run.

    Raises:
        BadNumbersError: by train.on_bad_numbers.
    """
    while not run.done:
        if run.stage_done:
            run.begin_stage()
        batch = run.read_batch()
        result = run.optimize(batch)
        if not run.believes(batch, result):
            continue
        wishes = run.record(batch, result)
        if wishes.stop:  # a node that is taken away may have no time for more than the save
            run.save_and_wait()
        if run.evaluation_due():  # else before the step is kept: a resume must not pass over its evaluation
            run.evaluate()
        if wishes.stop:
            return Status.STOPPED
        run.snapshot(wishes)
        run.save_when_due(wishes)
    run.save_and_wait()
    run.evaluate(final=True)
    return Status.FINISHED
