"""A rank of one attempt, as its supervisor sees it."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster import heartbeat, out_of_memory, processes
from cluster.heartbeat import HangLimits, Pulse
from cluster.messages import Stuck
from cluster.policy import Death
from cluster.spec import GangSpec
from cluster.zygote_client import ZygoteClient, ZygoteGoneError

LAST_LINES = 30
_TAIL_BYTES = 16_384
_REASON_CHARS = 500
_INPUT_STATUS = 2
GOOD_STATUSES = (0, 3)
_WHAT_IT_MEANS: dict[int, str] = {
    signal.SIGBUS: " (SIGBUS: a file that it had mapped, such as a shard, was cut meanwhile or its disk failed)"
}


class RankProcess:
    """Forks the rank. spec: given to `main`, with "rank", "world_size" and "attempt" in it; fds: further descriptors.

    killed: its supervisor ended it; reaped: it is gone; reported: its death was told; stopping: the coordinator waits
    for its end; stuck_told: the coordinator knows that it stands still. note_fd: readable when there is something for
    `read_note`.
    """

    def __init__(
        self, zygote: ZygoteClient, gang: GangSpec, node: str, spec: dict[str, Any], fds: dict[str, int]
    ) -> None:
        self.attempt: int = spec["attempt"]
        self.rank: int = spec["rank"]
        self.node = node
        self.killed = False
        self.reported = False
        self.reaped = False
        self.stopping = False
        self.stuck_told = False
        self._log_path = log_path(gang.out_path, self.attempt, self.rank)
        self._kills_before = out_of_memory.read_kills()
        page_fd = heartbeat.create_page(time.monotonic())
        self._page = heartbeat.map_page(page_fd)
        self._note = b""
        self.note_fd, note_write_fd = os.pipe()
        os.set_blocking(self.note_fd, False)
        own = {"spec": _spec_fd(spec), "log": _open_log(self._log_path), "heartbeat": page_fd, "note": note_write_fd}
        try:
            title = f"headrace: rank {self.rank}/{spec['world_size']} of {gang.name}"
            self.child = zygote.fork(title, {**own, **fds})
        except ZygoteGoneError:
            os.close(self.note_fd)
            raise
        finally:
            for fd in own.values():
                os.close(fd)

    def pulse(self) -> Pulse:
        return heartbeat.read(self._page)

    def stopped(self, now: float, limits: HangLimits) -> Death | None:
        """That it counts as dead, or None."""
        reason = heartbeat.stopped(self.pulse(), now, limits)
        return self.death("hang", reason) if reason is not None else None

    def stuck(self, now: float, limits: HangLimits) -> Stuck | None:
        """That it stands still, by itself or for another, or None."""
        pulse = self.pulse()
        reason = heartbeat.stands_still(pulse, now, limits)
        if reason is None:
            return None
        death = replace(self.death("hang", reason), detected_seconds=now - pulse.beat_time)
        return Stuck(self.attempt, death, pulse.place)

    def is_over(self, wait_seconds: float = 0.0) -> bool:
        return processes.is_over(self.child.pidfd, wait_seconds)

    def kill(self) -> None:
        """Kill it, unless it has ended by itself, or is about to: whose doing its end is must stay clear.

        A peer that hears of a broken connection may have us called before the dead one is over.
        """
        if not self.is_over() and not processes.is_exiting(self.child.pid):
            self.killed = True
            processes.kill(self.child.pidfd)

    def death(self, kind: str, reason: str, **more: Any) -> Death:
        """Its death at the place where it is, detected now."""
        pulse, lines = self.pulse(), more.pop("last_lines", None)
        return Death(
            self.rank,
            self.node,
            kind,
            reason,
            pulse.step,
            phase=pulse.phase,
            detected_seconds=time.monotonic() - pulse.last_sign,
            last_lines=self._tail() if lines is None else lines,
            **more,
        )

    def ended_by_itself(self, status: int) -> bool:
        """Whether `status` is its own and not our kill's: a process on its way out keeps the status that it had."""
        return not self.killed or status not in (-signal.SIGKILL, *GOOD_STATUSES)

    def death_by_status(self, status: int, peak_bytes: int = 0) -> Death:
        """How it died. status: exit status, or minus the signal's number; peak_bytes: of its resident memory."""
        if status == -signal.SIGKILL and out_of_memory.kernel_killed(self._kills_before, out_of_memory.read_kills()):
            reason = out_of_memory.kernel_reason(peak_bytes, out_of_memory.memory_limit())
            return self.death("memory", reason, signal=-status)
        if status < 0:
            return self.death("signal", f"killed by signal {-status}{_WHAT_IT_MEANS.get(-status, '')}", signal=-status)
        if status == _INPUT_STATUS:
            lines = self._tail()
            reason = next((line for line in reversed(lines) if line.strip()), "wrong input, with no message")
            return self.death("input", reason, exit_code=status, last_lines=lines)
        return self.death("exit", f"exit status {status}", exit_code=status)

    def read_note(self) -> bool:
        """Take what the rank has written of its exception; False at the end of the stream. Never waits."""
        try:
            data = os.read(self.note_fd, 1 << 16)
        except BlockingIOError:
            return True
        self._note += data
        return bool(data)

    def death_by_note(self) -> Death | None:
        """The exception that ended the rank, once its note is complete."""
        if not self._note.endswith(b"\n"):
            return None
        note = json.loads(self._note)
        error_type, message = note["type"], note["message"]
        reason = f"{error_type}: {message[:_REASON_CHARS]}"
        if out_of_memory.is_memory_error(error_type, message):
            reason += f"; {out_of_memory.ADVICE}"
        lines = tuple(note["traceback"].splitlines()[-LAST_LINES:])
        return self.death("exception", reason, last_lines=lines, error_type=error_type, error_message=message)

    def close(self) -> None:
        """Let go of the page and the descriptors."""
        self._page.close()
        os.close(self.note_fd)
        os.close(self.child.pidfd)

    def _tail(self) -> tuple[str, ...]:
        with self._log_path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            return tuple(file.read().decode(errors="replace").splitlines()[-LAST_LINES:])


def log_path(out_dir: Path, attempt: int, rank: int) -> Path:
    """Where a rank's standard output and error go."""
    return out_dir / "logs" / f"attempt-{attempt:04d}-rank-{rank}.log"


def _open_log(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def _spec_fd(spec: dict[str, Any]) -> int:
    fd = os.memfd_create("headrace-spec")
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(json.dumps(spec).encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
