"""Writes orders in free wording and what a clerk would enter of them: corpus/forms/{train,test}.jsonl.

`python recipes/data/forms.py [--out FOLDER]`; {"prompt", "completion"} a line, the same bytes each time. No order of
the test file stands in the training file, whatever its wording.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

TRAIN, TEST, SEED = 3000, 300, 20
FIRST = [
    "Anna",
    "Bela",
    "Carl",
    "Dora",
    "Emil",
    "Frida",
    "Gero",
    "Hanna",
    "Ivo",
    "Jana",
    "Karl",
    "Lena",
    "Max",
    "Nora",
    "Otto",
    "Paula",
    "Rolf",
    "Sara",
    "Theo",
    "Vera",
]
LAST = [
    "Becker",
    "Cohen",
    "Dietz",
    "Engel",
    "Fuchs",
    "Graf",
    "Huber",
    "Jung",
    "Kraus",
    "Lang",
    "Meyer",
    "Novak",
    "Ott",
    "Pohl",
    "Roth",
    "Sommer",
    "Vogt",
    "Wolf",
]
PLACES = [
    "Aachen",
    "Bonn",
    "Celle",
    "Dessau",
    "Emden",
    "Fulda",
    "Gera",
    "Halle",
    "Jena",
    "Kiel",
    "Lauf",
    "Mainz",
    "Neuss",
    "Passau",
    "Rheine",
    "Soest",
]
ITEMS = ["gate", "wheel", "chute", "pump", "valve", "shaft", "millstone", "sluice", "grate", "belt", "gear", "lamp"]
WORDINGS = (
    "Dear all, {name} in {place} needs {count} {item}s by {day}. Please confirm.",
    "Order: {count} x {item}. Deliver to {place} on {day}. Contact: {name}.",
    "On {day} we expect {count} {item}s at our yard in {place}, as {name} agreed on the phone.",
    "{name} here. Could you send {count} {item}s to {place}? {day} would suit us.",
    "Form 7 / buyer {name} / goods {item} / number {count} / to {place} / date {day}",
    "As {name} wrote: the {count} {item}s for {place} are due on {day}, not a day later.",
)
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

Order = tuple[tuple[str, str], ...]
"""Names and values of the fields, in their order."""


def order(source: random.Random) -> Order:
    """One order."""
    return (
        ("name", f"{source.choice(FIRST)} {source.choice(LAST)}"),
        ("item", source.choice(ITEMS)),
        ("count", str(source.randint(2, 99))),
        ("place", source.choice(PLACES)),
        ("day", f"{source.randint(1, 28)} {source.choice(MONTHS)}"),
    )


def record(fields: Order, wording: str) -> dict[str, str]:
    """The order in words, and its fields."""
    prompt = f"{wording.format(**dict(fields))}\n"
    return {"prompt": prompt, "completion": "; ".join(f"{name}: {value}" for name, value in fields)}


def write(out: Path) -> None:
    """Write both files."""
    source = random.Random(SEED)
    orders: dict[Order, None] = {}
    while len(orders) < TRAIN + TEST:
        orders[order(source)] = None
    records = [record(fields, source.choice(WORDINGS)) for fields in orders]
    out.mkdir(parents=True, exist_ok=True)
    for name, own in (("train", records[:TRAIN]), ("test", records[TRAIN:])):
        (out / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in own))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "corpus/forms")
    write(parser.parse_args().out)
