"""How the workers of a gang learn the address of rank 0's coordinator: by their actors, within each worker's process.

Ray Train has an actor for this, a process that imports Ray Train for a second.
"""

from __future__ import annotations

import queue
from collections.abc import Callable

Address = tuple[str, int]

POLL_SECONDS = 0.05
MEETING_SECONDS = 300.0


class Meeting:
    """One worker's part. The rank's thread calls `share`; its actor `tell` at rank 0 and `hear` elsewhere."""

    def __init__(self) -> None:
        self._own: queue.SimpleQueue[Address] = queue.SimpleQueue()
        self._heard: queue.SimpleQueue[Address | None] = queue.SimpleQueue()

    def share(self, own: Address | None) -> Address:
        """Rank 0 gives its address; the others wait for it. Raises: ConnectionError where none comes."""
        if own is not None:
            self._own.put(own)
            return own
        try:
            address = self._heard.get(timeout=MEETING_SECONDS)
        except queue.Empty:
            raise ConnectionError(f"no word of rank 0's coordinator within {MEETING_SECONDS:g} s") from None
        if address is None:
            raise ConnectionError("rank 0 ended before it had a coordinator")
        return address

    def tell(self, is_running: Callable[[], bool]) -> Address | None:
        """Rank 0's address once it has one; None if the rank's thread ends before."""
        while True:
            was_running = is_running()
            try:
                return self._own.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if not was_running:
                    return None

    def hear(self, address: Address | None) -> None:
        """What rank 0 has told."""
        self._heard.put(address)
