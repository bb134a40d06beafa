"""How much memory a process has needed."""

import re
from pathlib import Path


def peak_rss_bytes() -> int:
    """This process's largest resident set so far.

    Not `ru_maxrss`: in a program started by another it is at least what that one had when it started it.
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
