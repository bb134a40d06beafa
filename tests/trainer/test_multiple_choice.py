from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from trainer.errors import TrainError
from trainer.language_model import LanguageModel
from trainer.multiple_choice import Question, read_questions, score_questions


class Bigrams(nn.Module):
    """Bytes, of which each follows each by a table of log-probabilities; what is not in it has the rest."""

    class config:
        max_seq_len, vocab_size, real_vocab_size = 64, 256, 256

    def __init__(self, table: dict[str, float]) -> None:
        super().__init__()
        self.wte = nn.Embedding(256, 256)
        with torch.no_grad():
            for row in range(256):
                given = {ord(pair[1]): p for pair, p in table.items() if ord(pair[0]) == row}
                rest = (1 - sum(given.values())) / (256 - len(given))
                self.wte.weight[row] = math.log(rest)
                for byte, p in given.items():
                    self.wte.weight[row, byte] = math.log(p)

    def forward(self, tokens_bt: Tensor) -> Tensor:
        logits: Tensor = self.wte(tokens_bt)
        return logits


def bigram_model(table: dict[str, float]) -> LanguageModel:
    model = Bigrams(table)
    return LanguageModel(model, lambda text: list(text.encode()), lambda ids: bytes(ids).decode(), 0)  # type: ignore[arg-type]


TABLE = {" a": 0.3, "ab": 0.9, "bc": 0.9, "cd": 0.9, " z": 0.4}


def test_score_questions_by_sum_and_by_byte() -> None:
    """ " z" is likelier as a whole (0.4 against 0.3 * 0.9**3), " abcd" by byte."""
    question = Question(prompt="Q:", choices=["z", "abcd"], answer=0)
    other = question.model_copy(update={"answer": 1})
    model = bigram_model({**TABLE, ": ": 0.9})
    assert score_questions(model, [question]) == {"questions": 1, "acc": 1.0, "acc_norm": 0.0}
    assert score_questions(model, [other, other, question]) == {
        "questions": 3,
        "acc": pytest.approx(1 / 3),
        "acc_norm": pytest.approx(2 / 3),
    }


def test_score_questions_with_another_delimiter_scores_other_text() -> None:
    model = bigram_model({":x": 0.8, " y": 0.8, ": ": 0.1})
    question = Question(prompt="Q:", choices=["y", "x"], answer=1)
    assert score_questions(model, [question])["acc"] == 0.0
    assert score_questions(model, [question], delimiter="")["acc"] == 1.0


def test_read_questions_gives_the_records(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"prompt": "水", "choices": ["a", "b"], "answer": 1, "id": 7}\n\n', encoding="utf-8")
    assert read_questions(path) == [Question(prompt="水", choices=["a", "b"], answer=1)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "q.jsonl:2: the line"),
        ('{"prompt": "p", "choices": ["a", "b"]}', "q.jsonl:2: answer: Field required"),
        ('{"prompt": "p", "choices": ["a"], "answer": 0}', "q.jsonl:2: choices"),
        ('{"prompt": "p", "choices": ["a", "b"], "answer": 2}', "q.jsonl:2: answer must be the index"),
        ('{"prompt": "p", "choices": ["a", ""], "answer": 0}', "q.jsonl:2: answer must be the index"),
        ('{"prompt": "p", "choices": ["a", "b"], "answer": true}', "q.jsonl:2: answer"),
    ],
)
def test_read_questions_of_a_bad_line_names_it(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"prompt": "p", "choices": ["a", "b"], "answer": 0}\n' + line + "\n")
    with pytest.raises(TrainError, match=said):
        read_questions(path)


def test_read_questions_without_any_is_refused(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text("\n")
    with pytest.raises(TrainError, match="has no line"):
        read_questions(tmp_path / "q.jsonl")
    with pytest.raises(TrainError, match="cannot be read"):
        read_questions(tmp_path / "none.jsonl")
