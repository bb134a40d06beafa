"""What the head does in a run's folder for users who do not see it: `python -m cluster.jobs.look_at_run`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cluster.commands.common import say
from cluster.jobs.errands import ANSWER_SIGN
from cluster.jobs.status import look
from cluster.jobs.stopping import leave_mark


def main(words: list[str]) -> int:
    """`stop OUT_DIR JOB_ID`, or `status OUT_DIR`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("stop", "status"))
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("job_id", nargs="?", default="")
    args = parser.parse_args(words)
    say(ANSWER_SIGN)
    say(leave_mark(args.out_dir, args.job_id) if args.what == "stop" else look(args.out_dir))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
