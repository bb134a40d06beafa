"""A run's status as its folder tells it."""

from __future__ import annotations

import time
from typing import Any, TypedDict

from cluster.run_holder import run_holder
from monitoring.history import read_fence
from monitoring.journal import read_records
from monitoring.runs import RunFolder
from monitoring.status import run_status, to_dict, to_text


class FolderStatus(TypedDict):
    """For people and for programs."""

    text: str
    values: dict[str, Any]


def folder_status(run: RunFolder) -> FolderStatus:
    """The status now."""
    # Who drives it comes first: a driver that ends meanwhile has written its end before.
    driver = run_holder(run.out_dir)
    records = list(read_records(run.out_dir))
    fence = read_fence(run.out_dir)
    status = run_status(run.name, run.run_id, records, fence, driver=driver, now=time.time())
    return {"text": to_text(status), "values": to_dict(status)}
