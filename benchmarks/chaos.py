"""The soak: random faults from a printed seed on several Ray nodes, compared with an undisturbed run.

`python -m benchmarks.chaos` runs `headrace chaos` on the demo, and puts its answer into benchmarks/RESULTS.md and
benchmarks/results/chaos.json. `--file F.yaml` takes another run file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.machine import describe_machine
from benchmarks.harness.page import put_section, table
from tests.end_to_end.headrace import ROOT, command, environment

PAGE = ROOT / "benchmarks/RESULTS.md"
ANSWER = ROOT / "benchmarks/results/chaos.json"


def section(answer: Mapping[str, Any], machine: Mapping[str, Any], words: str) -> str:
    """The section as Markdown, without its markers. Pure."""
    ratio = answer["effective_time_ratio"]
    held = sum(not promise["problems"] for promise in answer["promises"])
    lines = [
        "## Faults: `python -m benchmarks.chaos`",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB; {machine['system']}; Python "
        f"{machine['python']}. `{words}`: {len(answer['faults'])} faults on {answer['plan']['nodes']} Ray nodes of one "
        f"machine, with a head beside them.",
        "",
        f"{held} of {len(answer['promises'])} promises of the whole run held. Time spent on steps that count, of all "
        f"time: {_percent(ratio['disturbed'])}, undisturbed {_percent(ratio['undisturbed'])}. Steps run again: "
        f"{answer['replayed_steps']}.",
        "",
        table(("fault", "times", "detected, s", "next new step, s", "steps run again", "held"), list(_rows(answer))),
        "",
        "Seconds from the fault: median, and the most of several. Detected: the first event in the journal.",
        "",
        table(
            ("promise", "found", "held"),
            [(p["name"], p["found"], "; ".join(p["problems"]) or "yes") for p in answer["promises"]],
        ),
    ]
    return "\n".join(lines)


def _rows(answer: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for fault in answer["faults"]:
        phase = fault["fault"].get("phase")
        kinds.setdefault(fault["fault"]["kind"] + (f" in {phase}" if phase else ""), []).append(fault)
    for kind, faults in sorted(kinds.items()):
        problems = [problem for fault in faults for problem in fault["problems"]]
        detected, new_step = (_seconds([f[key] for f in faults]) for key in ("detected_seconds", "new_step_seconds"))
        again = max(fault["replayed_steps"] for fault in faults)
        yield kind, str(len(faults)), detected, new_step, str(again), "; ".join(problems) or "yes"


def _seconds(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    middle = f"{statistics.median(known):.2f}"
    return middle if len(known) == 1 else f"{middle} (to {max(known):.2f})"


def _percent(ratio: float | None) -> str:
    return "unknown" if ratio is None else f"{ratio:.1%}"


def main() -> None:
    """Run it and write the section; exit status 1 if a promise was not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, default=ROOT / "recipes/demo.yaml")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--no-page", action="store_true", help="print the section, write nothing")
    options = parser.parse_args()
    shown = ["headrace", "chaos", options.file.name, "--seed", str(options.seed), "--faults", str(options.faults)]
    with tempfile.TemporaryDirectory() as folder:
        words = [*shown[1:2], options.file, *shown[3:], "--json", "--set", f"out_dir={folder}/soak"]
        done = subprocess.run(command(*words), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 1) or not done.stdout:
        sys.exit(done.returncode)
    answer = json.loads(done.stdout)
    text = section(answer, describe_machine({}), " ".join(shown))
    if options.no_page:
        print(text)  # noqa: T201
    else:
        ANSWER.parent.mkdir(exist_ok=True)
        ANSWER.write_text(json.dumps(answer, indent=1))
        PAGE.write_text(put_section(PAGE.read_text() if PAGE.is_file() else "", text, name="chaos"))
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
