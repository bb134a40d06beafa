"""The error that wrong user input to the trainer raises."""

from __future__ import annotations


class TrainError(ValueError):
    """A run file, a checkpoint or a machine that training cannot go on with; the message says what to do."""
