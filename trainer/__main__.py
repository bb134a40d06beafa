"""`python -m trainer`: the command in `trainer.command`, in a process whose allocator keeps what is freed."""

import sys

from trainer.allocator import restart_keeping_memory
from trainer.quick_imports import collector_at_rest

if __name__ == "__main__":
    restart_keeping_memory()
    with collector_at_rest():
        from trainer.command import command
    sys.exit(command())
