"""`headrace generate --file`: prompts in, texts out, through Ray Data."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cluster.generate_file import generate_file
from cluster.ray_session import TRAIN_ENVIRONMENT
from model.sampling import Sampling
from tests.trainer.trained_run import make_run
from trainer.language_model import ModelPlace, TextRequest, open_language_model

REQUEST = TextRequest(12, Sampling(1.2, top_k=50), stops=("\x00",), seed=9)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(300)
def test_generate_file_gives_each_prompt_its_text_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 prompts are three batches for Ray Data; the texts are those of one batch in this process."""
    for name in TRAIN_ENVIRONMENT:
        monkeypatch.setenv(name, os.environ.get(name, ""))
    place = ModelPlace(make_run(tmp_path), is_run=True)
    prompts = [f"{'tide ' * (number % 4)}三国 {number}" for number in range(40)]
    records = [{"prompt": prompt, "number": number} for number, prompt in enumerate(prompts)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    to = tmp_path / "out/texts.jsonl"
    assert generate_file(place, REQUEST, tmp_path / "p.jsonl", to, None) == 40
    found = [json.loads(line) for line in to.read_text(encoding="utf-8").splitlines()]
    texts = open_language_model(place).texts(prompts, REQUEST)
    assert found == [{**record, "text": text} for record, text in zip(records, texts, strict=True)]
    assert len(set(texts)) > 30
    assert list(to.parent.iterdir()) == [to]
