from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from benchmarks.data.corpus import DOCUMENT_BYTES, documents, make_corpus, sentences

TEXT = "One sentence. Another one!  A third,\nover two lines?\n\nA heading\n\n却说曹操大怒。众将皆惊。"


def test_sentences_of_a_text_are_cut_at_their_ends_and_together_are_the_text() -> None:
    found = list(sentences(TEXT))
    assert "".join(found) == TEXT
    assert found[:2] == ["One sentence. ", "Another one!  "]
    assert found[-2:] == ["却说曹操大怒。", "众将皆惊。"]


def test_documents_have_the_sizes_asked_for_and_stop_at_the_total() -> None:
    pool = [f"Sentence number {number}. " for number in range(500)]
    made = list(documents(pool, 200_000, seed=3))
    sizes = [len(text.encode()) for text in made]
    assert 200_000 <= sum(sizes) < 200_000 + DOCUMENT_BYTES[1] + 30
    assert min(sizes) > DOCUMENT_BYTES[0] - 30
    assert max(sizes) < DOCUMENT_BYTES[1] + 30
    assert len(set(made)) == len(made)


def test_documents_of_one_seed_are_the_same_and_of_another_are_not() -> None:
    pool = [f"Sentence number {number}. " for number in range(500)]
    first = list(islice(documents(pool, 10**9, seed=3), 5))
    assert first == list(islice(documents(pool, 10**9, seed=3), 5))
    assert first != list(islice(documents(pool, 10**9, seed=4), 5))


def test_documents_go_on_past_what_is_drawn_at_once() -> None:
    # 262,144 words of 4 bytes are a megabyte.
    assert sum(len(text) for text in documents(["Abc "], 3_000_000, seed=1)) >= 3_000_000


def test_documents_of_no_sentence_are_refused() -> None:
    with pytest.raises(ValueError, match="no sentence"):
        next(documents([], 1000, seed=1))


def test_make_corpus_counts_what_it_wrote_and_is_not_made_twice(tmp_path: Path) -> None:
    source = tmp_path / "source.txt"
    source.write_text(TEXT * 50)
    corpus = make_corpus("small", [source], 20_000, tmp_path)
    texts = [json.loads(line)["text"] for line in corpus.path.read_text(encoding="utf-8").splitlines()]
    assert (corpus.documents, corpus.text_bytes) == (len(texts), sum(len(text.encode()) for text in texts))
    written = corpus.path.stat().st_mtime_ns
    assert make_corpus("small", [source], 20_000, tmp_path) == corpus
    assert corpus.path.stat().st_mtime_ns == written
    assert make_corpus("small", [source], 30_000, tmp_path).text_bytes >= 30_000
