"""What a user would try first on labelled texts: TF-IDF with logistic regression.

    python recipes/baselines.py TRAIN.jsonl TEST.jsonl

The files hold a record a line, {"text": ..., "label": ...} (or other names: --text, --label), as for a source with the
task {text, label}. Two kinds of features are tried: words with pairs of words, and runs of 1 to 4 characters, which
serve Chinese too. Which one is taken, and the regression's strength C, is chosen on a fifth of the training texts that
is held out for it; the chosen one is then trained on all of them, and the test texts are looked at once. Printed:
accuracy and macro F1, as a line, or as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline

STRENGTHS = (1.0, 10.0, 100.0)
CHOICE_SHARE, SEED = 0.2, 0


def read_records(path: Path, text: str = "text", label: str = "label") -> tuple[list[str], list[str]]:
    """Texts and labels of a JSONL file. Raises ValueError, naming the line, where a record lacks one of them."""
    texts, labels = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        record = json.loads(line)
        missing = [name for name in (text, label) if not isinstance(record.get(name), str | int)]
        if missing:
            raise ValueError(f"{path}:{number}: must have {missing[0]!r} as text; give --text and --label")
        texts.append(str(record[text]))
        labels.append(str(record[label]))
    return texts, labels


def features() -> list[TfidfVectorizer]:
    """The two kinds of features that are tried."""
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
    characters = TfidfVectorizer(sublinear_tf=True, analyzer="char", ngram_range=(1, 4), min_df=2, max_features=300_000)
    return [words, characters]


def regression(strength: float, balanced: bool) -> LogisticRegression:
    """The classifier; strength: C, the inverse of its regularisation."""
    weights = "balanced" if balanced else None
    return LogisticRegression(C=strength, max_iter=1000, class_weight=weights, random_state=SEED)


def choose(texts: Sequence[str], labels: Sequence[str], balanced: bool) -> tuple[TfidfVectorizer, float]:
    """The features and the strength with the highest macro F1 on a held-out part of the training texts."""
    kept, held, kept_labels, held_labels = train_test_split(
        texts, labels, test_size=CHOICE_SHARE, random_state=SEED, stratify=labels
    )
    found = []
    for vectorizer in features():
        kept_features, held_features = vectorizer.fit_transform(kept), vectorizer.transform(held)
        for strength in STRENGTHS:
            predicted = regression(strength, balanced).fit(kept_features, kept_labels).predict(held_features)
            found.append((float(f1_score(held_labels, predicted, average="macro")), vectorizer, strength))
    _, vectorizer, strength = max(found, key=lambda one: one[0])
    return vectorizer, strength


def baseline(
    train: tuple[Sequence[str], Sequence[str]], test: tuple[Sequence[str], Sequence[str]], balanced: bool = False
) -> dict[str, Any]:
    """Scores on the test texts of the best pipeline on the training texts; balanced: classes weigh the same."""
    began = time.process_time()
    vectorizer, strength = choose(*train, balanced)
    chosen = Pipeline([("features", vectorizer), ("regression", regression(strength, balanced))])
    predicted = chosen.fit(*train).predict(test[0])
    return {
        "accuracy": float(accuracy_score(test[1], predicted)),
        "macro_f1": float(f1_score(test[1], predicted, average="macro")),
        "features": "words" if vectorizer.analyzer == "word" else "characters",
        "C": strength,
        "train_texts": len(train[0]),
        "test_texts": len(test[0]),
        "classes": len(set(train[1])),
        "cpu_seconds": time.process_time() - began,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(description="TF-IDF with logistic regression on labelled texts")
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--text", default="text", help="the field of the text")
    parser.add_argument("--label", default="label", help="the field of the class")
    parser.add_argument("--balanced", action="store_true", help="all classes weigh the same")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    train, test = (read_records(path, args.text, args.label) for path in (args.train, args.test))
    scores = baseline(train, test, args.balanced)
    line = (
        f"TF-IDF of {scores['features']} with logistic regression (C = {scores['C']:g}): accuracy "
        f"{scores['accuracy']:.1%}, macro F1 {scores['macro_f1']:.3f} on {scores['test_texts']:,} texts of "
        f"{scores['classes']} classes, after {scores['train_texts']:,} in {scores['cpu_seconds']:.0f} s of one core"
    )
    sys.stdout.write((json.dumps(scores) if args.json else line) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
