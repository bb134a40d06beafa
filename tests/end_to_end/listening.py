"""What a process and all that it started listen at."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from cluster.chaos.process_table import descendants, read_parents

_LISTENS = "0A"


def family(pid: int) -> list[int]:
    """The process and what it started, directly or not."""
    return sorted({pid} | descendants([pid], read_parents()))


def arguments(pid: int) -> str:
    """What `ps` shows of a process; nothing for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def listeners(pids: list[int]) -> set[tuple[str, str]]:
    """(address, process) of each TCP socket that one of the processes listens at."""
    owners = {inode: pid for pid in pids for inode in _sockets(pid)}
    rows = [row for name in ("tcp", "tcp6") for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    fields = [row.split() for row in rows]
    return {
        (_address(row[1].split(":")[0]), arguments(owners[row[9]]))
        for row in fields
        if row[3] == _LISTENS and row[9] in owners
    }


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches it."""
    parsed = ipaddress.ip_address(address)
    inner = getattr(parsed, "ipv4_mapped", None) or parsed
    return bool(inner.is_loopback)


def _sockets(pid: int) -> Iterator[str]:
    """The inodes of a process's sockets."""
    try:
        paths = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # it has ended
        return
    for path in paths:
        try:
            link = str(path.readlink())
        except OSError:  # closed meanwhile
            continue
        if link.startswith("socket:["):
            yield link[len("socket:[") : -1]


def _address(digits: str) -> str:
    """From the kernel's form: words of four bytes in the machine's order."""
    words = [int(digits[i : i + 8], 16) for i in range(0, len(digits), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
