"""The section on faults, from a made-up answer of `headrace chaos --json`."""

from __future__ import annotations

from benchmarks.chaos import section

MACHINE = {"cpu": "A CPU", "cores": 2, "memory_gib": 8.0, "system": "Linux 6", "python": "3.11.9"}


def fault(kind: str, new_step: float | None, again: int, problems: list[str], **fields: str) -> dict[str, object]:
    times = {"detected_seconds": 0.25, "new_step_seconds": new_step, "replayed_steps": again}
    return {"fault": {"kind": kind, **fields}, **times, "problems": problems}


ANSWER = {
    "plan": {"nodes": 3},
    "effective_time_ratio": {"undisturbed": 0.9, "disturbed": None},
    "replayed_steps": 3,
    "promises": [
        {"name": "same data", "found": "all", "problems": []},
        {"name": "no process is left", "found": "1 left", "problems": ["headrace: rank 0/2 of x"]},
    ],
    "faults": [
        fault("kill", 1.0, 1, [], phase="forward"),
        fault("kill_rank", 1.0, 1, []),
        fault("kill_rank", 2.0, 2, ["too late"]),
        fault("kill_driver", None, 0, []),
    ],
}


def test_section_gathers_faults_by_kind_and_names_what_did_not_hold() -> None:
    text = section(ANSWER, MACHINE, "headrace chaos demo.yaml --seed 1 --faults 4")
    assert "1 of 2 promises of the whole run held" in text
    assert "of all time: unknown, undisturbed 90.0%. Steps run again: 3." in text
    assert "| kill in forward | 1 | 0.25 | 1.00 | 1 | yes |" in text
    assert "| kill_rank | 2 | 0.25 (to 0.25) | 1.50 (to 2.00) | 2 | too late |" in text
    assert "| kill_driver | 1 | 0.25 |  | 0 | yes |" in text
    assert "| no process is left | 1 left | headrace: rank 0/2 of x |" in text
