"""Tables, and the place of a section in RESULTS.md. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness.stats import Estimate
from benchmarks.harness.targets import Promise, Target

BEGIN, END = "<!-- data: begin -->", "<!-- data: end -->"
TITLE = "# Results\n\nEach section is written by the command that it names.\n"


def put_section(page: str, section: str, name: str = "data") -> str:
    """The page with the section between the markers of its name: in place of the one that is there, else at the end."""
    first, last = BEGIN.replace("data", name), END.replace("data", name)
    block = f"{first}\n{section}\n{last}"
    before, begin, rest = (page or TITLE).partition(first)
    if not begin:
        return f"{before.rstrip()}\n\n{block}\n"
    _, end, after = rest.partition(last)
    if not end:
        raise ValueError(f"the page has {first!r} without {last!r}: put it back, or remove both")
    return f"{before}{block}{after}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def target_table(promised: Sequence[Promise]) -> str:
    """What was promised and what was found, as a table. Met: with the whole interval."""
    rows = [
        (
            target.what,
            f"{'≥' if target.at_least else '≤'} {target.wanted:g}",
            _figure(target.found) if isinstance(target, Target) else "",
            target.verdict,
        )
        for target in promised
    ]
    return table(("what", "target", "found", ""), rows)


def _figure(found: Estimate) -> str:
    digits = 0 if found.median >= 100 else 1 if found.median >= 10 else 2 if found.median >= 1.01 else 4
    return found.text(digits) if found.low != found.high else f"{found.median:.5f}"
