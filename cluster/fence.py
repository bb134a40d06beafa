"""Whether a newer attempt of the run has begun elsewhere: then this one must stop, and nothing of it counts."""

import logging
import threading
from pathlib import Path

from trainer.attempts import newest_attempt

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
END_SECONDS = 1.0


class Fence:
    """Looks at the numbers in OUT_DIR/attempts once a second, in a thread: a storage that stalls holds up nobody."""

    def __init__(self, out_dir: Path, poll_seconds: float = POLL_SECONDS) -> None:
        self._out_dir = out_dir
        self._poll_seconds = poll_seconds
        self._newest = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="fence", daemon=True)
        self._thread.start()

    @property
    def newest(self) -> int:
        """The newest attempt that was seen, 0 if none."""
        return self._newest

    def look(self) -> int:
        """The newest attempt of now; waits for the storage."""
        try:
            self._newest = max(self._newest, newest_attempt(self._out_dir))
        except OSError as error:
            logger.warning("the attempts of %s cannot be read: %s", self._out_dir, error)
        return self._newest

    def close(self) -> None:
        """End the thread, or leave it to a storage that does not answer."""
        self._closing.set()
        self._thread.join(END_SECONDS)

    def _watch(self) -> None:
        while not self._closing.wait(self._poll_seconds):
            self.look()
