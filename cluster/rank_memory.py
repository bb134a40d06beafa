"""The descriptors of the memory that a rank gets from its supervisor."""

from __future__ import annotations

import os
from collections.abc import Sequence

from trainer.checkpoint.memory_layout import NUMBERS_BYTES, SLOTS, read_numbers


class RankMemory:
    """Memory for a rank's snapshots, and the snapshots of a gang of another size, from which the rank may go on.

    It is closed by `close`; the former gang's as soon as the rank has written to all slots of its own, when every rank
    of the gang has a newer snapshot.
    """

    def __init__(self, own_fd: int | None = None, former_fds: Sequence[int] = ()) -> None:
        """The descriptors are this object's from now on; without `own_fd` it makes memory, which goes with it."""
        self._own_fd = os.memfd_create("headrace-snapshot") if own_fd is None else own_fd
        self._former_fds = list(former_fds)

    def fds(self) -> dict[str, int]:
        """Descriptors by the names under which a rank gets them (see cluster.zygote)."""
        self.look()
        return {"snapshot": self._own_fd, **{f"former{rank}": fd for rank, fd in enumerate(self._former_fds)}}

    def look(self) -> None:
        """Let go of the former gang's snapshots once they are needed no more."""
        if not self._former_fds:
            return
        page = os.pread(self._own_fd, NUMBERS_BYTES, 0)
        if len(page) == NUMBERS_BYTES and len(read_numbers(page).steps) == SLOTS:
            self._close_former()

    def close(self) -> None:
        """Close all descriptors."""
        self._close_former()
        os.close(self._own_fd)

    def _close_former(self) -> None:
        for fd in self._former_fds:
            os.close(fd)
        self._former_fds = []
