"""How well fields are read off forms, and what a user would try first: regular expressions, or the nearest form.

    headrace generate completions --file recipes/corpus/forms/test.jsonl --to out.jsonl --temperature 0
    python -m recipes.extraction out.jsonl
    python -m recipes.extraction recipes/corpus/forms/test.jsonl --by expressions
    python -m recipes.extraction recipes/corpus/forms/test.jsonl --by nearest --train recipes/corpus/forms/train.jsonl

A record is {"prompt", "completion"} a line; `headrace generate` adds "text". Printed: the share of forms of which every
field is right, and the share of each field, as lines, or as JSON.

The expressions are one for each field, written by somebody who has looked at the training file. The nearest form is
that of the training file with the most similar runs of characters (TF-IDF, cosine), whose fields are taken as they are.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer

Fields = dict[str, str]
Record = dict[str, str]

_DAY = r"\d{1,2} (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\b"
EXPRESSIONS = {
    "name": r"(?:all, |Contact: |, as |^As |^(?!As )|buyer )([A-Z][a-z]+ [A-Z][a-z]+)\b",
    "item": r"\d+ (?:x )?([a-z]+?)s?\b(?! to)|goods ([a-z]+)|\d+ ([a-z]+?)s\b",
    "count": rf"(?!{_DAY})(?<!Form )\b(\d+)\b",
    "place": r"\b(?:in|to|for) ([A-Z][a-z]+)\b",
    "day": rf"({_DAY})",
}


def fields_of(text: str) -> Fields:
    """The fields of "name: value; name: value"; parts without a colon are left out."""
    parts = (part.partition(":") for part in text.strip().split(";"))
    return {name.strip(): value.strip() for name, colon, value in parts if colon}


def by_expressions(prompt: str) -> Fields:
    """What the expressions find in a form; a field that is not found is left out."""
    found = {name: re.search(expression, prompt) for name, expression in EXPRESSIONS.items()}
    return {name: next(filter(None, match.groups())) for name, match in found.items() if match}


def by_nearest(train: Sequence[Record]) -> Callable[[Sequence[str]], list[Fields]]:
    """From forms to the fields of the most similar training form."""
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True)
    known = vectorizer.fit_transform([record["prompt"] for record in train])

    def read(prompts: Sequence[str]) -> list[Fields]:
        nearest = (vectorizer.transform(prompts) @ known.T).toarray().argmax(axis=1)
        return [fields_of(train[number]["completion"]) for number in nearest]

    return read


def scores(wanted: Sequence[Fields], found: Sequence[Fields]) -> dict[str, Any]:
    """forms: how many; exact: share of which all fields are right and there are no others; fields: share of each."""
    names = list(dict.fromkeys(name for fields in wanted for name in fields))
    pairs = list(zip(wanted, found, strict=True))
    return {
        "forms": len(pairs),
        "exact": sum(one == other for one, other in pairs) / len(pairs),
        "fields": {name: sum(one.get(name) == other.get(name) for one, other in pairs) / len(pairs) for name in names},
    }


def read_records(path: Path, needed: Sequence[str]) -> list[Record]:
    """The records of a JSONL file. Raises ValueError, naming the line, where one lacks a text that is needed."""
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        record = json.loads(line)
        missing = [name for name in needed if not isinstance(record.get(name), str)]
        if missing:
            raise ValueError(f"{path}:{number}: must have {missing[0]!r} as text; {', '.join(needed)} are needed")
        records.append(record)
    if not records:
        raise ValueError(f"{path}: has no record; give at least one")
    return records


def found_fields(args: argparse.Namespace, records: Sequence[Mapping[str, str]]) -> list[Fields]:
    """Of each record, by the way that the command line asks for."""
    if args.by == "model":
        return [fields_of(record["text"]) for record in records]
    prompts = [record["prompt"] for record in records]
    if args.by == "expressions":
        return [by_expressions(prompt) for prompt in prompts]
    return by_nearest(read_records(args.train, ("prompt", "completion")))(prompts)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(description="score the fields that were read off forms")
    parser.add_argument("forms", type=Path)
    parser.add_argument("--by", choices=("model", "expressions", "nearest"), default="model")
    parser.add_argument("--train", type=Path, help="forms to be near to; with --by nearest")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    if (args.by == "nearest") != (args.train is not None):
        parser.error("--by nearest and --train belong together; give both or none")
    records = read_records(args.forms, ("completion", "text" if args.by == "model" else "prompt"))
    found = scores([fields_of(record["completion"]) for record in records], found_fields(args, records))
    parts = ", ".join(f"{name} {share:.1%}" for name, share in found["fields"].items())
    line = f"{found['forms']:,} forms: {found['exact']:.1%} with every field right; {parts}"
    sys.stdout.write((json.dumps(found) if args.json else line) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
