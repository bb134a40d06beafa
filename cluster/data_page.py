"""A dataset, or its balance over ranks, as one page of HTML: no script, no other file, no network. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from cluster.charts import NARROW, Column, column_chart, share_chart
from cluster.data_text import rank_groups
from cluster.visible import escape
from data_shards.balance import Balance, Loss, max_over_mean
from monitoring.units import short

_MOST_BARS = 128
_MOST_SOURCES = 50  # that have a chart of their own; the tables hold all
_PALETTE = (
    "4477aa",
    "cc6677",
    "ddaa33",
    "228833",
    "66ccee",
    "aa3377",
    "ee7733",
    "999933",
    "bbbbbb",
    "88aacc",
    "777777",
)
_STYLE = (
    """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #ffffff; --faint: #6a7078; --rule: #d9dce0; --bar: #4477aa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6e9; --paper: #17191c; --faint: #9aa1a9; --rule: #3a3f45; --bar: #77aadd; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; }
.scroll { overflow-x: auto; margin-bottom: 1rem; }
.grid2 { display: grid; grid-template-columns: repeat(auto-fill, minmax(26rem, 1fr)); gap: 0 1.5rem; }
@media (max-width: 30rem) { .grid2 { grid-template-columns: 1fr; } }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem .2rem 0; border-bottom: 1px solid var(--rule); text-align: right; vertical-align: top; }
th:first-child, td:first-child, .words td { text-align: left; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; border-left: 3px solid var(--rule);
  padding-left: .8rem; margin: .3rem 0 1rem; }
svg { width: 100%; height: auto; display: block; } .faint { color: var(--faint); }
.column { fill: var(--bar); } .grid { stroke: var(--rule); stroke-width: 1; }
.tick { font: 11px system-ui, sans-serif; fill: var(--faint); } .end { text-anchor: end; }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1em; }
"""
    + "\n".join(f".part{k} {{ fill: #{colour}; background: #{colour}; }}" for k, colour in enumerate(_PALETTE))
    + "\n"
)


def stats_page(described: dict[str, Any]) -> str:
    """The page of `headrace data stats`, from what `describe_all` gives. All text of the corpus is escaped."""
    sections = [
        _facts(described),
        *(_split_section(split, row) for split, row in described["splits"].items() if row["shards"]),
        _mixture_section(described["mixture"]),
        _text_section(described["text"]),
        _balance_section(described["balance"]),
        _reject_section(described),
    ]
    return _page(f"Dataset {described['dir']}", sections)


def plan_page(found: Balance, facts: dict[str, Any]) -> str:
    """The page of `headrace data plan`: the balance and its facts as `plan_text` takes them."""
    load = found.load
    summary = _table(
        ("", "max", "mean", "min", "max/mean"),
        [_spread_cells("tokens a rank", load.tokens), _spread_cells(_opened(load.is_exact), load.shards)],
    )
    ways = _table(
        ("how shards come to ranks", "max/mean of sequences"),
        [
            ("streams, levelled to one sequence (as here)", f"{max_over_mean(load.tokens):.4f}"),
            ("whole shards, the longest first", f"{found.longest_first:.4f}"),
            ("whole shards in turn (round robin)", f"{found.round_robin:.4f}"),
        ],
    )
    given = f"{facts['seq_len']:,} tokens ({facts['seq_len_from']})"
    about = _paragraph(
        f"{facts['shards']:,} training shards, {facts['tokens']:,} tokens. One epoch: {found.sequences:,} sequences of "
        f"{given}; {facts['streams']} streams, a shuffle window of {facts['shuffle_window']}, seed {facts['seed']}; "
        f"{facts['mixing']}."
    )
    return _page(
        f"{facts['dir']} over {found.world} ranks",
        [
            about + summary + ways,
            _section("Tokens of each rank", _rank_chart(load.tokens, "tokens")),
            _section("Shards that each rank opens", _rank_chart(load.shards, "shards")),
            _loss_section(found.loss),
        ],
    )


def _page(title: str, sections: Iterable[str]) -> str:
    # The policy holds back whatever might get through: nothing is fetched or run.
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body>\n</html>\n"
    )


def _section(title: str, *parts: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def _paragraph(text: str, style: str = "") -> str:
    return f'<p class="{style}">{escape(text)}</p>' if style else f"<p>{escape(text)}</p>"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]], style: str = "") -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    head_and_body = f"<thead><tr>{cells}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    return f'<div class="scroll"><table class="{style}">{head_and_body}</table></div>'


def _facts(described: dict[str, Any]) -> str:
    names = ("fingerprint", "tokenizer_fingerprint", "corpus_fingerprint", "vocab_size", "dtype")
    return _table(("", ""), [(name.replace("_", " "), described[name]) for name in names], "words")


def _split_section(split: str, row: dict[str, Any]) -> str:
    sources = sorted(row["sources"].items(), key=lambda item: -int(item[1]["tokens"]))
    head = ("source", "tokens", "share", "documents", "shards", "bytes of text", "bytes a token")
    rows = [_source_cells("all", row), *(_source_cells(name, source) for name, source in sources)]
    spreads = [_spread_of_lengths("all", row), *(_spread_of_lengths(name, source) for name, source in sources)]
    lengths = ("tokens a document", "least", "1 %", "10 %", "25 %", "median", "75 %", "90 %", "99 %", "most", "mean")
    charted = [("all", row), *(sources[:_MOST_SOURCES] if len(sources) > 1 else [])]
    charts = [_histogram(name, each["lengths"], "documents", "tokens") for name, each in charted]
    read = f"Lengths are those of {row['shards_read']:,} of {row['shards']:,} shards, drawn at random."
    sampled = _paragraph(read, "faint") if row["shards_read"] < row["shards"] else ""
    grid = '<div class="grid2">' + "\n".join(charts) + "</div>"
    return _section(f"Split {split}", _table(head, rows), _table(lengths, spreads), sampled, grid)


def _source_cells(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    share, ratio = row.get("token_share"), row["text_bytes_per_token"]
    return (
        name,
        f"{row['tokens']:,}",
        "" if share is None else f"{share:.1%}",
        f"{row['documents']:,}",
        f"{row['shards']:,}",
        short(row["text_bytes"]),
        "" if ratio is None else f"{ratio:.2f}",
    )


def _spread_of_lengths(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    spread = row["tokens_per_document"]
    keys = ("min", "p1", "p10", "p25", "median", "p75", "p90", "p99", "max", "mean")
    return (name, *("-" if spread is None else f"{spread[key]:,.0f}" for key in keys))


def _histogram(title: str, bins: Sequence[dict[str, int]], what: str, unit: str) -> str:
    columns = [
        Column(short(each["low"]), each["count"], f"{each['low']:,} to {each['high'] - 1:,} {unit}: {each['count']:,}")
        for each in bins
    ]
    chart = column_chart(columns, f"{title}: {what} by {unit}", NARROW)
    return f"<div><h3>{escape(title)}: {escape(what)} by {escape(unit)}</h3>\n{chart}</div>"


def _mixture_section(mixture: dict[str, Any] | None) -> str:
    if mixture is None:
        return ""
    head = ("source", "share of tokens held", "share asked for", "passes", "most passes")
    rows = [
        (
            name,
            f"{row['held_share']:.1%}",
            f"{row['asked_share']:.1%}",
            f"{row['passes']:.2f}",
            "-" if row["max_passes"] is None else f"{row['max_passes']:g}",
        )
        for name, row in mixture["sources"].items()
    ]
    return _section(
        "Mixture", _paragraph(f"A run of {mixture['tokens']:,} tokens ({mixture['file']})."), _table(head, rows)
    )


def _text_section(text: dict[str, Any]) -> str:
    kinds = [kind for row in text.values() for kind in row["scripts"]]
    kinds = list(dict.fromkeys(kinds))
    keys = "".join(f'<span class="key part{k}"></span>{escape(kind)}' for k, kind in enumerate(kinds))
    scripts, examples = [], []
    for name, row in list(text.items())[:_MOST_SOURCES]:
        scripts.append(f"<h3>{escape(name)}</h3>\n" + share_chart(list(row["scripts"].items()), f"scripts of {name}"))
        examples.append(f"<h3>{escape(name)}</h3>\n" + "\n".join(map(_example, row["examples"])))
    shares = [(name, *(f"{row['scripts'][kind]:.1%}" for kind in kinds)) for name, row in text.items()]
    about = "Shares of characters, from a sample of each source; emoji and other symbols count as punctuation."
    return "\n".join(
        [
            _section(
                "Scripts", _paragraph(about, "faint"), f"<p>{keys}</p>", *scripts, _table(("source", *kinds), shares)
            ),
            _section("Examples", *examples),
        ]
    )


def _example(example: dict[str, Any]) -> str:
    head = f"document {example['document']:,} of {example['shard']}, {example['tokens']:,} tokens"
    more = "" if example["is_whole"] else " …"
    return _paragraph(head, "faint") + f'<pre dir="auto">{escape(example["text"])}{more}</pre>'


def _balance_section(balance: dict[str, Any]) -> str:
    if balance["shard_tokens"] is None:
        return ""
    parts = [f'<div class="grid2">{_histogram("training shards", balance["histogram"], "shards", "tokens")}</div>']
    ranks = balance["ranks"]
    if ranks is not None:
        parts.append(
            _paragraph(
                f"An epoch over {ranks['world']} ranks (sequences of {ranks['seq_len']:,} tokens): the rank with most "
                f"has {ranks['max_over_mean']:.4f} times the mean; whole shards in turn would give "
                f"{ranks['round_robin']:.4f}, longest first {ranks['longest_first']:.4f}."
            )
        )
        columns = [
            Column(str(rank), tokens, f"rank {rank}: {tokens:,} tokens") for rank, tokens in enumerate(ranks["tokens"])
        ]
        parts.append(column_chart(columns, "tokens of each rank"))
    return _section("Shards and their balance", *parts)


def _reject_section(described: dict[str, Any]) -> str:
    rows = [(reason, f"{number:,}") for reason, number in described["skipped_records"].items()]
    rows.append(("empty document", f"{described['empty_documents']:,}"))
    places = [(each["where"], each["reason"], each["found"]) for each in described["reject_places"]]
    first = [_paragraph("The first of them:"), _table(("where", "reason", "found"), places, "words")] if places else []
    return _section("Left out", _table(("reason", "records"), rows), *first)


def _opened(is_exact: bool) -> str:
    return "shards a rank opens" + ("" if is_exact else ", at most")


def _spread_cells(label: str, values: Any) -> tuple[str, ...]:
    mean = float(values.mean())
    return label, f"{int(values.max()):,}", f"{mean:,.1f}", f"{int(values.min()):,}", f"{max_over_mean(values):.4f}"


def _rank_chart(values: Any, what: str) -> str:
    groups = rank_groups(len(values), _MOST_BARS)
    columns = []
    for low, high in groups:
        most, name = (
            int(values[low:high].max()),
            f"rank {low}" if high - low == 1 else f"ranks {low} to {high - 1}, most",
        )
        columns.append(Column(str(low), most, f"{name}: {most:,} {what}"))
    return column_chart(columns, f"{what} of each rank")


def _loss_section(loss: Loss | None) -> str:
    if loss is None:
        return ""
    rows = [
        _spread_cells("tokens a rank in the rest", loss.load.tokens),
        _spread_cells(_opened(loss.load.is_exact) + " in the rest", loss.load.shards),
    ]
    extra = f"{'' if loss.extra_is_exact else 'about '}{loss.extra_shards:,}"
    about = (
        f"From position {loss.position:,}, half-way through the epoch, on. {loss.moved_share:.1%} of the rest's "
        f"sequences are read by another rank than without the loss; {loss.least_moved_share:.1%} were the lost ranks' "
        f"own. Times that a rank opens a shard which it would not have opened in this epoch: {extra}."
    )
    return _section(
        f"After the loss of {loss.ranks} of {loss.ranks + len(loss.load.tokens)} ranks",
        _table(("", "max", "mean", "min", "max/mean"), rows),
        _paragraph(about),
    )
