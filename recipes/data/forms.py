"""Writes orders in free wording and what a clerk would enter of them: corpus/forms/{train,test,unseen}.jsonl.

`python -m recipes.data.forms [--out FOLDER]`; {"prompt", "completion"} a line, the same bytes each time. No order of
the other two files stands in the training file, whatever its wording; those of unseen.jsonl are in wordings, too, that
it does not have.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from recipes.data.labelled import out_folder

TRAIN, TEST, UNSEEN, SEED = 3000, 300, 100, 20
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
UNSEEN_WORDINGS = (
    "Hello, this is {name}. We want {count} {item}s in {place}, {day} at the latest.",
    "{place} yard, {day}: {count} {item}s. Ordered by {name}.",
    "Please bring {count} {item}s to us in {place} before {day}. Regards, {name}",
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
    """Write the three files."""
    source = random.Random(SEED)
    orders: dict[Order, None] = {}
    while len(orders) < TRAIN + TEST:
        orders[order(source)] = None
    records = [record(fields, source.choice(WORDINGS)) for fields in orders]
    while len(orders) < TRAIN + TEST + UNSEEN:
        orders[order(source)] = None
    unseen = [record(fields, source.choice(UNSEEN_WORDINGS)) for fields in [*orders][TRAIN + TEST :]]
    out.mkdir(parents=True, exist_ok=True)
    for name, own in (("train", records[:TRAIN]), ("test", records[TRAIN:]), ("unseen", unseen)):
        (out / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in own))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    write(out_folder("forms", __doc__, arguments))


if __name__ == "__main__":
    main()
