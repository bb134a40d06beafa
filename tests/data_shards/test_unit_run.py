from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards.batches import Batch, TextBatch, TokenBatch, Withdrawal
from data_shards.errors import DataError
from data_shards.rejects import Rejects
from data_shards.storage import LocalFolder
from data_shards.tokenizer import parse_tokenizer, train_tokenizer
from data_shards.unit_output import ShardForm, SplitOutput
from data_shards.unit_run import UnitRun
from data_shards.units import SplitRule, split_hash
from tests.data_shards.corpora import sentence
from tests.data_shards.reading import flat

TEXTS = [sentence(number) for number in range(60)]
TOKENIZER = parse_tokenizer(train_tokenizer(TEXTS, 300), Path("t"))
HASH = SplitRule("hash", 0.4)


class Written:
    """What a run wrote: the documents of each split as ids, and the shards."""

    def __init__(self, folder: Path, batches: Sequence[Batch], rule: SplitRule = HASH, **options: Any) -> None:
        self.rejects = options.pop("rejects", Rejects("skip", logged_per_reason=0))
        form = ShardForm("key", "source", 0, "uint16", TOKENIZER.eot_id, 16)
        with ExitStack() as stack:
            outputs = {split: SplitOutput(LocalFolder(folder), form, split, stack) for split in ("train", "val")}
            run = UnitRun(TOKENIZER, TOKENIZER.encoder, rule, outputs, self.rejects, **options)
            for batch in batches:
                run.add(batch)
            self.shards = {split: output.close() for split, output in outputs.items()}
        self.ids = {split: list(self._documents(folder, split)) for split in outputs}
        self.texts = {split: [TOKENIZER.decode(own) for own in ids] for split, ids in self.ids.items()}
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}

    def _documents(self, folder: Path, split: str) -> Iterator[list[int]]:
        shard = self.shards[split]
        if shard is None:
            return
        data = (folder / shard.path).read_bytes()
        ids: list[int] = []
        for block in shard.blocks:
            ids += np.frombuffer(data, "<u2", block.tokens, block.token_offset).tolist()
        assert ids[-1] == TOKENIZER.eot_id
        document: list[int] = []
        for id in ids:
            if id == TOKENIZER.eot_id:
                yield document
                document = []
            else:
                document.append(id)


def sides(texts: Sequence[str], rule: SplitRule = HASH) -> dict[str, list[str]]:
    return {split: [text for text in texts if rule.split_of(text.encode()) == split] for split in ("train", "val")}


def test_run_sends_each_document_to_its_split(tmp_path: Path) -> None:
    written = Written(tmp_path, [TextBatch(TEXTS[:7]), TextBatch(TEXTS[7:])])
    assert written.texts == sides(TEXTS)
    for split, texts in written.texts.items():
        shard = written.shards[split]
        assert shard is not None
        assert (shard.split, shard.documents) == (split, len(texts))
        assert shard.text_bytes == sum(len(text.encode()) for text in texts)


def test_run_of_pages_from_one_template_splits_them_by_what_differs(tmp_path: Path) -> None:
    pages = [f"{'head ' * 99}{number}{' foot' * 99}" for number in range(64)]
    written = Written(tmp_path, [TextBatch(pages)])
    assert written.texts == sides(pages)
    assert min(map(len, written.texts.values())) >= 8


@pytest.mark.parametrize(("kind", "other"), [("train", "val"), ("val", "train")])
def test_run_without_a_split_by_hash_sends_all_to_one(tmp_path: Path, kind: Any, other: str) -> None:
    written = Written(tmp_path, [TextBatch(TEXTS[:5])], SplitRule(kind))
    assert written.texts == {kind: TEXTS[:5], other: []}
    assert written.shards[other] is None
    assert list(written.files) == [f"{kind}-00000.tar"]


PIECES = st.lists(st.lists(st.sampled_from(["one ", "two three ", "三国 ", "."]), min_size=1, max_size=4), max_size=8)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(PIECES.map(lambda all: all[0] if all else ["x "]), st.booleans()), max_size=8), st.booleans())
def test_run_of_documents_in_parts_keeps_good_ones_together(
    tmp_path_factory: pytest.TempPathFactory, documents: list[tuple[list[str], bool]], by_hash: bool
) -> None:
    rule = HASH if by_hash else SplitRule("train")
    batches: list[Batch] = []
    expected: dict[str, list[str]] = {"train": [], "val": []}
    for number, (parts, is_bad) in enumerate(documents):
        parts = [f"{number} {parts[0]}", *parts[1:]]
        if is_bad:
            batches += [*(TextBatch([part], unfinished=True) for part in parts), Withdrawal()]
        else:
            batches += [TextBatch([part], unfinished=i < len(parts) - 1) for i, part in enumerate(parts)]
            expected[rule.split_of(parts[0].encode())].append("".join(parts))
    written = Written(tmp_path_factory.mktemp("run"), batches, rule)
    assert written.texts == expected
    for split, texts in expected.items():
        shard = written.shards[split]
        assert (shard.text_bytes if shard else 0) == sum(len(text.encode()) for text in texts)


def test_run_of_a_withdrawn_document_alone_leaves_no_shard(tmp_path: Path) -> None:
    written = Written(tmp_path, [TextBatch(["one"], unfinished=True), Withdrawal()])
    assert written.shards == {"train": None, "val": None}
    assert written.files == {}


def test_run_with_parts_warns_where_borders_do_not_hold(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    TOKENIZER.__dict__["borders_hold"] = False
    try:
        Written(tmp_path, [TextBatch(["one"], unfinished=True), TextBatch([" two"], True), TextBatch([" three"])])
    finally:
        del TOKENIZER.__dict__["borders_hold"]
    assert len(caplog.messages) == 1
    assert "this tokenizer's tokens may be others there" in caplog.messages[0]


def tokens(documents: Sequence[Sequence[int]], unfinished: bool = False) -> TokenBatch:
    return TokenBatch(*flat(documents), unfinished, place=lambda i: f"row {i}")


def test_run_takes_tokens_as_they_are(tmp_path: Path) -> None:
    ids = [own.tolist() for own in TOKENIZER.encode(TEXTS)]
    written = Written(tmp_path, [tokens(ids[:9]), tokens(ids[9:])])
    assert sorted(written.ids["train"] + written.ids["val"]) == sorted(ids)
    for split in ("train", "val"):
        shard = written.shards[split]
        assert shard is not None
        assert shard.text_bytes == sum(len(text.encode()) for text in written.texts[split])
        assert 5 < shard.documents < 55


def test_run_of_tokens_in_parts_is_as_of_whole_ones(tmp_path: Path) -> None:
    ids = TOKENIZER.encode(TEXTS[:1])[0].tolist()
    parts = [tokens([[7], ids[:3]], True), tokens([ids[3:5]], True), tokens([ids[5:], [8]])]
    written = Written(tmp_path, parts, SplitRule("train"))
    assert written.ids["train"] == [[7], ids, [8]]


@pytest.mark.parametrize(
    ("bad", "reason"), [(300, "an id that the tokenizer does not have"), (0, "an end mark within a document")]
)
def test_run_rejects_tokens_that_the_tokenizer_cannot_have_given(tmp_path: Path, bad: int, reason: str) -> None:
    batches = [
        tokens([[5, 6], [7, bad, bad], [8]]),
        tokens([[9], [5, 5]], True),
        tokens([[6, bad]], True),
        tokens([[7], [6]]),
    ]
    written = Written(tmp_path, batches, SplitRule("train"))
    assert written.ids["train"] == [[5, 6], [8], [9], [6]]
    assert [(place.where, place.reason, place.found) for place in written.rejects.places] == [
        ("row 1", reason, f"id {bad}, of 300"),
        ("row 0", reason, f"id {bad}, of 300"),
    ]
    with pytest.raises(DataError, match=f"row 1: {reason}"):
        Written(tmp_path, batches, rejects=Rejects("fail"))


def test_run_in_pairs_ends_each_pair_of_sentences(tmp_path: Path) -> None:
    text = "One is. Two is. Three is. Four is. Five is."
    written = Written(tmp_path, [TextBatch([text, "Six is."])], SplitRule("train"), in_pairs=True)
    assert written.texts["train"] == ["One is. Two is. ", "Three is. Four is. ", "Five is.", "Six is."]


def test_run_in_pairs_withdraws_all_pairs_of_a_document(tmp_path: Path) -> None:
    parts = [
        TextBatch(["Good is. All is.", "One is. Two is. Three is."], True),
        TextBatch([" Four is."], True),
        Withdrawal(),
    ]
    written = Written(tmp_path, [*parts, TextBatch(["Last is."])], SplitRule("train"), in_pairs=True)
    assert written.texts["train"] == ["Good is. All is.", "Last is."]


def killing(word: str) -> Callable[[Sequence[str]], Mapping[int, str]]:
    return lambda texts: {i: "signal 9 (SIGKILL)" for i, text in enumerate(texts) if word in text}


def test_run_rejects_texts_that_kill_their_worker(tmp_path: Path) -> None:
    batches = [
        TextBatch(["good one", "killer", "good two"], place=lambda i: f"f:{i + 1}"),
        TextBatch(["good three", "long"], True, place=lambda i: f"f:{i + 4}"),
        TextBatch([" killer"], True, place=lambda i: f"f:{i + 5}"),
        TextBatch([" end", "good four"], place=lambda i: f"f:{i + 5}"),
    ]
    written = Written(tmp_path, batches, SplitRule("train"), try_texts=killing("killer"))
    assert written.texts["train"] == ["good one", "good two", "good three", "good four"]
    assert [(place.where, place.reason) for place in written.rejects.places] == [
        ("f:2", "killed its worker"),
        ("f:5", "killed its worker"),
    ]
    assert written.rejects.places[0].found == "signal 9 (SIGKILL); it begins with 'killer'"
    with pytest.raises(DataError, match="f:2: killed its worker"):
        Written(tmp_path, batches, rejects=Rejects("fail"), try_texts=killing("killer"))


def test_run_in_pairs_rejects_the_document_of_a_killing_pair(tmp_path: Path) -> None:
    batch = TextBatch(["One is. Two is. A killer is.", "Good is."], place=lambda i: f"f:{i + 1}")
    written = Written(tmp_path, [batch], SplitRule("train"), in_pairs=True, try_texts=killing("killer"))
    assert written.texts["train"] == ["Good is."]
    assert [place.where for place in written.rejects.places] == ["f:1"]


@given(st.lists(st.binary(max_size=6)), st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_documents_are_held_out_together_as_one_by_one(documents: list[bytes], fraction: float) -> None:
    rule = SplitRule("hash", fraction)
    split_hashes = np.array([split_hash(document) for document in documents], dtype=np.uint64)
    assert rule.held_out(split_hashes).tolist() == [rule.split_of(document) == "val" for document in documents]
