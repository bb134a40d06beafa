"""`python -m trainer`: the command in `trainer.command`, in a process whose allocator keeps what is freed."""

import sys

from trainer.allocator import restart_keeping_memory

if __name__ == "__main__":
    restart_keeping_memory()
    from trainer.command import command

    sys.exit(command())
