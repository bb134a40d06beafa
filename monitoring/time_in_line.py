"""The time that a submitted run stood in line, as `queued` events tell of it. Pure. Times in microseconds.

The driver writes one for each submission, before the attempt that it begins with. `since`: when the cluster's job
server took the run in, in unix seconds; `seconds`: from there until its turn came.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from monitoring.journal import Record, number

QUEUED_EVENT = "queued"

Span = tuple[int, int]  # since, until
Piece = tuple[str, int, int]  # cause, since when, how long


def spans_in_line(records: Iterable[Record]) -> list[Span]:
    """When the run stood in line, in order and without overlap; a submission that is told of twice counts once."""
    told = [_span(record) for record in records if record.get("event") == QUEUED_EVENT]
    spans: list[Span] = []
    for since, until in sorted(told):
        since = max(since, spans[-1][1]) if spans else since
        if until > since:
            spans.append((since, until))
    return spans


def _span(record: Record) -> Span:
    since, seconds = number(record, "since"), number(record, "seconds")
    if since is None or seconds is None:
        return 0, 0
    return round(since * 1e6), round((since + seconds) * 1e6)


def with_line(pieces: Iterable[Piece], spans: Sequence[Span], cause: str, giving: frozenset[str]) -> Iterator[Piece]:
    """The pieces, where those whose cause is in `giving` give what they share with the spans to `cause`."""
    for name, began, amount in pieces:
        if name not in giving:
            yield name, began, amount
            continue
        at = began
        for since, until in spans:
            since, until = max(at, since), min(began + amount, until)
            if until > since:
                yield name, at, since - at
                yield cause, since, until - since
                at = until
        yield name, at, began + amount - at
