"""What Linux offers for processes that must not outlive one another."""

import ctypes
import os
import select
import signal
from pathlib import Path

try:
    from setproctitle import setproctitle
except ImportError:  # names are a convenience
    setproctitle = None

_PR_SET_PDEATHSIG = 1
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
