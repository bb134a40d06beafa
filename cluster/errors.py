"""The error that wrong user input to the cluster side raises."""

from __future__ import annotations


class ClusterError(ValueError):
    """A cluster section, an address or a folder that cannot be worked with; the message says what to do."""
