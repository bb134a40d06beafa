"""Multiple choice by likelihood: the answer that the model finds likeliest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainer.errors import TrainError
from trainer.language_model import LanguageModel
from trainer.scoring import encode_pair, score


class Question(BaseModel):
    """A prompt, what may follow it, and which of these is right."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    prompt: str
    choices: list[str] = Field(min_length=2)
    answer: int = Field(ge=0)


def read_questions(path: Path) -> list[Question]:
    """The questions of a JSONL file, one a line.

    Raises:
        TrainError: the file cannot be read, has none, or a line is no question; it names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TrainError(f"--choices {path}: cannot be read ({error}); give a JSONL file in UTF-8") from error
    questions = [_question(line, f"{path}:{i}") for i, line in enumerate(lines, 1) if line.strip()]
    if not questions:
        raise TrainError(f"--choices {path}: has no line; give one question a line")
    return questions


def _question(line: str, where: str) -> Question:
    shape = 'give {"prompt": TEXT, "choices": [TEXT, TEXT, ...], "answer": INDEX FROM 0}'
    try:
        question = Question.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the line"
        raise TrainError(f"{where}: {place}: {first['msg']}, found {first['input']!r:.80}; {shape}") from error
    if question.answer >= len(question.choices) or "" in question.choices:
        found = json.dumps(question.model_dump(), ensure_ascii=False)
        raise TrainError(
            f"{where}: answer must be the index of one of the choices, none of them empty: {found}; {shape}"
        )
    return question


def score_questions(
    language_model: LanguageModel, questions: Sequence[Question], delimiter: str = " "
) -> dict[str, Any]:
    """Accuracy where the answer is the choice with the greatest log-likelihood after prompt + delimiter.

    `acc` takes the sum over the choice's tokens, `acc_norm` that sum divided by the choice's bytes in UTF-8, as
    lm-evaluation-harness's acc and acc_norm (which divides by characters). Of equal ones the first is taken.
    """
    pairs = [
        encode_pair(language_model, question.prompt, delimiter + choice)
        for question in questions
        for choice in question.choices
    ]
    likelihoods = iter([scored.log_likelihood for scored in score(language_model.model, pairs)])
    right = right_by_byte = 0
    for question in questions:
        own = [next(likelihoods) for _ in question.choices]
        by_byte = [value / len(text.encode()) for value, text in zip(own, question.choices, strict=True)]
        right += own.index(max(own)) == question.answer
        right_by_byte += by_byte.index(max(by_byte)) == question.answer
    count = len(questions)
    return {"questions": count, "acc": right / count, "acc_norm": right_by_byte / count}
