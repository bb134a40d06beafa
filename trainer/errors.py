"""The errors that end a training with a message for its user."""

from __future__ import annotations


class TrainError(ValueError):
    """A run file, a checkpoint or a machine that training cannot go on with; the message says what to do."""


class BadNumbersError(ArithmeticError):
    """The loss or the gradient is not to be believed, and the run file says to stop there, or nothing else helped."""


class FencedError(RuntimeError):
    """A newer attempt of the run has begun: what this one would still write must not count."""


class SaveFailedError(RuntimeError):
    """A checkpoint that must not be missing could not be saved; the message says where, why and what to do."""


class SmallerMicroBatchError(RuntimeError):
    """A GPU's memory did not suffice, and the attempts that follow compute in smaller passes: the run is to go on."""
