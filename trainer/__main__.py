"""`python -m trainer`: the command in `trainer.command`, in a process whose allocator keeps what is freed."""

import gc
import sys

from trainer.allocator import restart_keeping_memory

if __name__ == "__main__":
    restart_keeping_memory()
    # Nearly all that imports make stays: the collector would look through it again and again.
    gc.disable()
    from trainer.command import command

    gc.freeze()
    gc.enable()
    sys.exit(command())
