from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from data_shards.document_flow import DocumentFlow

# Documents of one or more parts, of which each is good or bad; a part may end its batch.
DOCUMENT = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=4)


def collected(flow_of: Callable[[Callable[[], None]], DocumentFlow], documents: list[list[tuple[bool, bool]]]) -> Any:
    """What is kept of documents, as (document, part) pairs, when they come in batches."""
    kept: list[list[tuple[int, int]]] = []
    flow = flow_of(lambda: kept.pop() and None)
    batch: list[tuple[int, int, bool]] = []

    def send(unfinished: bool) -> None:
        continues = flow.within_document
        bad = {i for i, (_, _, is_good) in enumerate(batch) if not is_good}
        for i in flow.kept(len(batch), unfinished, bad):
            document, part, _ = batch[i]
            if continues and i == 0:
                kept[-1].append((document, part))
            else:
                kept.append([(document, part)])
        batch.clear()

    for number, parts in enumerate(documents):
        for part, (is_good, ends_batch) in enumerate(parts):
            is_last = part == len(parts) - 1
            batch.append((number, part, is_good))
            if not is_last or ends_batch:
                send(unfinished=not is_last)
    send(unfinished=False)
    return kept


@given(st.lists(DOCUMENT, max_size=8))
def test_flow_keeps_whole_good_documents(documents: list[list[tuple[bool, bool]]]) -> None:
    expected = [
        [(number, part) for part in range(len(parts))]
        for number, parts in enumerate(documents)
        if all(is_good for is_good, _ in parts)
    ]
    assert collected(DocumentFlow, documents) == expected


def test_flow_withdrawal_of_a_document_that_is_dropped_already_does_nothing() -> None:
    withdrawn: list[int] = []
    flow = DocumentFlow(lambda: withdrawn.append(1))
    assert list(flow.kept(1, True, {0})) == []
    flow.withdraw()
    assert list(flow.kept(2, True, ())) == [0, 1]
    flow.withdraw()
    assert list(flow.kept(1, False, ())) == [0]
    assert withdrawn == [1]
