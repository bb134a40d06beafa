"""What Linux offers for processes that must not outlive one another."""

import ctypes
import logging
import os
import select
import signal
from pathlib import Path

try:
    from setproctitle import setproctitle
except ImportError:  # names are a convenience
    setproctitle = None

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_SCORE = Path("/proc/self/oom_score_adj")
_FIRST_SCORE, _SPARED_SCORE = 1000, 500
_PF_EXITING = 0x4
_STAT_FLAGS = 6  # index of the flags in /proc/PID/stat, after the name in brackets


def die_with_parent(parent_pid: int) -> None:
    """Have this process killed when the thread that made it ends; at once if that has happened already.

    The kernel's signal follows the parent's thread, not its process: make children from a thread that stays.
    OSError if the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:  # it died before the call
        os.kill(os.getpid(), signal.SIGKILL)


def be_spared_memory_kills() -> None:
    """Have the kernel's killer for want of memory prefer others, ranks above all: a rank is soon there again.

    Ray offers its workers to the killer first of all, and what they start with them; a fork server, whose pages its
    ranks share, looks larger to it than they do. Nothing where the kernel refuses.
    """
    _offer_to_memory_killer(min(_SPARED_SCORE, _memory_kill_score()))


def be_first_of_memory_kills() -> None:
    """Have the kernel kill this process before others for want of memory."""
    _offer_to_memory_killer(_FIRST_SCORE)


def _memory_kill_score() -> int:
    try:
        return int(_SCORE.read_text())
    except OSError as error:
        logger.debug("the kernel does not tell whom it would kill for want of memory: %s", error)
        return 0


def _offer_to_memory_killer(score: int) -> None:
    try:
        _SCORE.write_text(str(score))
    except OSError as error:
        logger.debug("the kernel does not say whom it would kill for want of memory: %s", error)


def set_title(title: str) -> None:
    """Show `title` in ps, where setproctitle is installed."""
    if setproctitle is not None:
        setproctitle(title)


def is_over(pidfd: int, wait_seconds: float = 0.0) -> bool:
    """Whether the process of `pidfd` has ended, waiting up to `wait_seconds` for it."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(wait_seconds * 1000.0))


def is_exiting(pid: int) -> bool:
    """Whether process `pid` is on its way out, though perhaps not over yet: its connections close before it is."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return bool(int(stat.rpartition(")")[2].split()[_STAT_FLAGS]) & _PF_EXITING)


def kill(pidfd: int) -> None:
    """SIGKILL the process of `pidfd`, which may have ended already."""
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
