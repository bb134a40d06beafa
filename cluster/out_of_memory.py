"""Deaths for want of memory: what the kernel counts, what an exception says, and what helps."""

from dataclasses import dataclass
from pathlib import Path

ADVICE = (
    "a smaller train.micro_batch_size, train.activation_checkpointing, a higher train.zero.stage, or fewer workers on "
    "the machine need less memory"
)

_ERROR_TYPES = frozenset({"MemoryError", "torch.OutOfMemoryError", "torch.cuda.OutOfMemoryError"})
_ERROR_WORDS = ("out of memory", "can't allocate memory", "Unable to allocate", "Cannot allocate memory")
_MIB = 1 << 20


@dataclass(frozen=True)
class MemoryKills:
    """How many processes the kernel has killed for want of memory: in this process's cgroup, and on the machine.

    None where the kernel does not tell.
    """

    cgroup: int | None
    machine: int | None


def read_kills(root: Path = Path("/")) -> MemoryKills:
    """The kernel's counters of now (cgroup v1 and v2, `Documentation/admin-guide/cgroup-v2.rst`); never raises."""
    counts = (_field(path, "oom_kill") for path in _cgroup_files(root, "memory.oom_control", "memory.events"))
    known = next((count for count in counts if count is not None), None)
    return MemoryKills(known, _field(root / "proc/vmstat", "oom_kill"))


def memory_limit(root: Path = Path("/")) -> int | None:
    """Bytes that the processes of this cgroup may have together: its limit or the machine's memory."""
    files = _cgroup_files(root, "memory.limit_in_bytes", "memory.max")
    numbers = [int(text) for text in map(_text, files) if text.strip().isdigit()]
    kilobytes = _field(root / "proc/meminfo", "MemTotal:")
    return min([*numbers, *([kilobytes * 1024] if kilobytes is not None else [])], default=None)


def kernel_killed(before: MemoryKills, after: MemoryKills) -> bool:
    """Whether a process that got a SIGKILL between the two was killed by the kernel for want of memory. Pure.

    The machine's counter is of all its cgroups, so it is asked only where the own one is not known.
    """
    if before.cgroup is not None and after.cgroup is not None:
        return after.cgroup > before.cgroup
    return before.machine is not None and after.machine is not None and after.machine > before.machine


def kernel_reason(peak_bytes: int, limit_bytes: int | None) -> str:
    """What is said of a rank that the kernel killed. Pure."""
    of = f" of {limit_bytes // _MIB} MiB that there are" if limit_bytes is not None else ""
    return f"killed by the kernel for want of memory; its peak was {peak_bytes // _MIB} MiB{of}; {ADVICE}"


def is_memory_error(error_type: str, message: str) -> bool:
    """Whether an exception says that memory could not be had, of the machine or of a device. Pure."""
    if error_type in _ERROR_TYPES or error_type.endswith("._ArrayMemoryError"):
        return True
    return error_type in ("RuntimeError", "OSError") and any(word in message for word in _ERROR_WORDS)


def _cgroup_files(root: Path, first_version: str, second_version: str) -> list[Path]:
    """Where the memory controller of this process's cgroup may show a file, the likeliest first.

    In a container the path may be the host's, while what is mounted is the container's own part.
    """
    found = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            base, name = root / "sys/fs/cgroup/memory", first_version
        elif number == "0":
            base, name = root / "sys/fs/cgroup", second_version
        else:
            continue
        found += [base / path.lstrip("/") / name, base / name]
    return found


def _field(path: Path, name: str) -> int | None:
    """The number after `name` in a file of names and numbers; None if there is none."""
    for line in _text(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value.split()[0])
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # no such file, or one that this user may not read
        return ""
