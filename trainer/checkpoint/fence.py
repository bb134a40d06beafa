"""Which of several attempts' checkpoints count: what an attempt writes after a newer one went on never does.

Each attempt notes in OUT_DIR/attempts/NNNN.resumed.json the step that it went on from. A writer looks for a newer
attempt before it publishes; between its look and its rename there is a window, which the readers' rule closes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from trainer.attempts import newest_attempt
from trainer.checkpoint.files import write_durably
from trainer.errors import FencedError

_SUFFIX = ".resumed.json"


def note_resumed(out_dir: Path, attempt: int, step: int) -> None:
    """Note the step that an attempt goes on from; the lowest one, where it goes back again later."""
    step = min(step, resumed_steps(out_dir).get(attempt, step))
    path = out_dir / "attempts" / f"{attempt:04d}{_SUFFIX}"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, iter([json.dumps({"step": step}).encode()]))


def resumed_steps(out_dir: Path) -> dict[int, int]:
    """The step that each attempt went on from, by attempt; without those that never came so far."""
    paths = (out_dir / "attempts").glob(f"[0-9]*{_SUFFIX}")
    return {int(path.name.removesuffix(_SUFFIX)): json.loads(path.read_text())["step"] for path in sorted(paths)}


def is_believed(attempt: int, step: int, resumed: Mapping[int, int]) -> bool:
    """Whether what an attempt wrote of a step counts: no later attempt went on from a lower step. Pure."""
    return all(step <= went_on_from for later, went_on_from in resumed.items() if later > attempt)


def check_fence(out_dir: Path, attempt: int) -> None:
    """Raise FencedError where a newer attempt has begun."""
    newest = newest_attempt(out_dir)
    if newest > attempt:
        raise FencedError(
            f"{out_dir}: attempt {attempt} must write nothing more, since attempt {newest} has begun; this process "
            f"was taken for dead and ends now. The newer attempt goes on."
        )
