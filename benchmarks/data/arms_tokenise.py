"""Tokenising side by side: JSONL in, token files out, GPT-2's vocabulary, one core."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.data.arms import OWN, PEERS, Arm, Comparison, compare
from benchmarks.data.corpus import Corpus
from benchmarks.data.fetch import chinese_prose, python_sources
from benchmarks.data.plan import EOT_ID, Plan

HEADRACE, BARE, TIKTOKEN, DATATROVE = "headrace", "bare encoder (fastokens)", "tiktoken script", "datatrove"
# Of the bare encoder: as many bytes at a time as Headrace's worker gives it.
BATCH_BYTES = 1 << 20


def measure_tokenising(plan: Plan) -> list[dict[str, Any]]:
    """All comparisons: a corpus each, with the arms that are run on it."""
    return [
        _compare(plan, plan.corpus("prose", plan.small_bytes), (HEADRACE, BARE, TIKTOKEN, DATATROVE)),
        _compare(plan, plan.corpus("prose", plan.large_bytes), (HEADRACE, BARE)),
        _compare(plan, plan.corpus("code", plan.other_bytes, python_sources()), (HEADRACE, BARE, TIKTOKEN)),
        _compare(plan, plan.corpus("chinese", plan.other_bytes, chinese_prose()), (HEADRACE, BARE, TIKTOKEN)),
    ]


def _compare(plan: Plan, corpus: Corpus, names: Sequence[str]) -> dict[str, Any]:
    arms = _arms(plan, corpus)
    found = compare(f"tokenising {corpus.name}", [arms[name] for name in names], plan.repetitions)
    _require_equal_tokens(found)
    return {"corpus": {**asdict(corpus), "path": corpus.path.name}, "comparison": asdict(found)}


def _arms(plan: Plan, corpus: Corpus) -> dict[str, Arm]:
    tokenizer, vocabulary, out = str(plan.tokenizer()), str(plan.vocabulary()), plan.folder / "out"
    base = {"corpus": str(corpus.path), "eot_id": EOT_ID}
    given = {**base, "tokenizer": tokenizer}
    pooled = {**base, "vocabulary": vocabulary, "workers": 1}

    def peer(name: str, script: str, options: dict[str, Any], writes: Path | None) -> Arm:
        return Arm(name, plan.peers_python, PEERS / script, options, plan.core, writes)

    return {
        HEADRACE: Arm(HEADRACE, sys.executable, OWN / "tokenise.py", given, plan.core, out),
        BARE: peer(BARE, "encode_fastokens.py", {**given, "batch_bytes": BATCH_BYTES}, None),
        TIKTOKEN: peer(TIKTOKEN, "tokenise_tiktoken.py", pooled, out),
        DATATROVE: peer(DATATROVE, "tokenise_datatrove.py", given, out),
    }


def _require_equal_tokens(found: Comparison) -> None:
    numbers = {arm: {sample["tokens"] for sample in samples} for arm, samples in found.samples.items()}
    if len(set.union(*numbers.values())) != 1:
        raise RuntimeError(f"{found.name}: the timed runs gave different numbers of tokens: {numbers}")
