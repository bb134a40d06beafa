"""What the `headrace data` commands answer, as plain text. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from data_shards.balance import Balance, RankLoad, max_over_mean
from data_shards.example_view import marked
from data_shards.passes import PASSES_OF_FULL_WORTH
from data_shards.show import Segment, Shown

_MOST_BARS, _BAR_WIDTH = 32, 40
_MOST_PLACES = 10


def stats_text(described: dict[str, Any]) -> str:
    """The description of a dataset: a paragraph for each split, a line for each source."""
    lines = [f"{described['dir']}  ({described['vocab_size']:,} tokens in the vocabulary, {described['dtype']})"]
    for split, row in described["splits"].items():
        lines.append(f"{split}: {_counts(row)}; tokens a document: {_spread(row['tokens_per_document'])}")
        lines += _example_lines(row["examples"])
        lines += [
            f"  {name}: {_counts(source)} ({source['token_share'] or 0:.1%} of the tokens); tokens a document: "
            f"{_spread(source['tokens_per_document'])}"
            for name, source in row["sources"].items()
        ]
    lines += [f"text of {name}: {_scripts(row['scripts'])}" for name, row in described["text"].items()]
    lines += _balance_lines(described["balance"])
    lines += _mixture_lines(described["mixture"]) if described["mixture"] else []
    return "\n".join([*lines, *_reject_lines(described)])


def plan_text(found: Balance, facts: dict[str, Any]) -> str:
    """The balance of an epoch over ranks, with a bar for each rank or, in a large world, for each group of ranks."""
    tokens, shards = found.load.tokens, found.load.shards
    most = "" if found.load.is_exact else " (at most)"
    lines = [
        f"{facts['dir']}: {facts['shards']:,} training shards, {facts['tokens']:,} tokens; one epoch is "
        f"{found.sequences:,} sequences of {facts['seq_len']:,} tokens ({facts['seq_len_from']})",
        f"{facts['streams']} streams, a shuffle window of {facts['shuffle_window']}, seed {facts['seed']}; "
        f"{facts['mixing']}",
        "",
        f"{'':28}{'max':>16}{'mean':>18}{'min':>16}{'max/mean':>10}",
        _spread_row("tokens a rank", tokens),
        _spread_row(f"shards a rank opens{most}", shards),
        "",
        *_bars(tokens, shards),
        "",
        f"max/mean of whole shards dealt in turn (round robin): {found.round_robin:.4f}; longest first: "
        f"{found.longest_first:.4f}; here: {max_over_mean(tokens):.4f}",
    ]
    return "\n".join([*lines, *_loss_lines(found)])


def shown_text(shown: Shown, *, with_ids: bool) -> str:
    """A sequence with its place, its documents' borders and the labels that are not trained on; a document as it is."""
    if shown.kind == "document" and not with_ids:
        return _segment_lines(shown.segments[0], with_ids)[0] if shown.segments[0].pieces else shown.segments[0].text
    place = f"tokens {shown.first_token:,} to {shown.first_token + shown.tokens - 1:,} of {shown.shard}"
    shape = f" ({shown.tokens - 1:,} inputs, their labels one further)" if shown.kind == "sequence" else ""
    lines = [f"{shown.kind} {shown.number:,} of {shown.split}{shape}: {place}, source {shown.source}"]
    if not shown.segments[0].has_start:
        lines.append(_rule("within a document"))
    for segment in shown.segments:
        if segment.place:
            masked = (
                ": its label is not trained on, attention and positions restart"
                if segment.place in shown.masked_labels and not segment.pieces
                else ""
            )
            lines.append(_rule(f"document border (token {segment.place}){masked}"))
        lines += _segment_lines(segment, with_ids)
    if not shown.segments[-1].has_end:
        lines.append(_rule("goes on"))
    return "\n".join(lines)


def rank_groups(ranks: int, most: int) -> list[tuple[int, int]]:
    """The ranks in at most `most` groups [low, high) of neighbours, of one size but for the last."""
    size = math.ceil(ranks / most)
    return [(low, min(low + size, ranks)) for low in range(0, ranks, size)]


def _counts(row: dict[str, Any]) -> str:
    return (
        f"{row['tokens']:,} tokens, {row['documents']:,} documents, {row['shards']:,} shards, "
        f"{row['text_bytes_per_token'] or 0:.2f} bytes of text a token"
    )


def _spread(summary: dict[str, float] | None) -> str:
    if summary is None:
        return "-"
    return (
        f"{summary['min']:,} to {summary['max']:,}, median {summary['median']:,.0f}, mean {summary['mean']:,.0f}, "
        f"99 % below {summary['p99']:,.0f}"
    )


def _example_lines(facts: dict[str, Any] | None) -> list[str]:
    if facts is None:
        return []
    lines = [
        f"  examples in rows of {facts['seq_len']:,} tokens, of which {facts['learned_share']:.1%} are learned and "
        f"{facts['filling_share']:.1%} are filling"
    ]
    classes = ", ".join(f"{name} {number:,}" for name, number in facts["classes"].items())
    return [*lines, f"  classes: {classes}"] if classes else lines


def _scripts(shares: dict[str, float]) -> str:
    held = sorted(((share, kind) for kind, share in shares.items() if share > 0), reverse=True)
    return ", ".join(f"{kind} {share:.1%}" for share, kind in held) or "-"


def _balance_lines(described: dict[str, Any]) -> list[str]:
    ranks = described["ranks"]
    if ranks is None:
        return []
    return [
        f"balance over {ranks['world']} ranks (sequences of {ranks['seq_len']:,} tokens): max/mean "
        f"{ranks['max_over_mean']:.4f}; whole shards in turn would give {ranks['round_robin']:.4f}, longest first "
        f"{ranks['longest_first']:.4f}"
    ]


def _mixture_lines(mixture: dict[str, Any]) -> list[str]:
    lines = [f"a run of {mixture['tokens']:,} tokens ({mixture['file']}):"]
    for name, row in mixture["sources"].items():
        most = "" if row["max_passes"] is None else f" of at most {row['max_passes']:g}"
        lines.append(
            f"  {name}: asked for {row['asked_share']:.1%} of the tokens, holds {row['held_share']:.1%}: "
            f"{row['passes']:.2f} passes{most}{_worth(row['passes'])}"
        )
    return lines


def _worth(passes: float) -> str:
    return f" (more than {PASSES_OF_FULL_WORTH:g}: less is learned from each)" if passes > PASSES_OF_FULL_WORTH else ""


def _reject_lines(described: dict[str, Any]) -> list[str]:
    lines = [f"left out: {described['empty_documents']:,} empty documents"]
    lines += [f"skipped: {number:,} records, {reason}" for reason, number in described["skipped_records"].items()]
    places = described["reject_places"]
    lines += [f"  {place['where']}: {place['reason']}: {place['found']}" for place in places[:_MOST_PLACES]]
    return lines


def _spread_row(label: str, values: Any) -> str:
    return (
        f"{label:<28}{int(values.max()):>16,}{float(values.mean()):>18,.1f}{int(values.min()):>16,}"
        f"{max_over_mean(values):>10.4f}"
    )


def _bars(tokens: Any, shards: Any) -> list[str]:
    lines = []
    groups = rank_groups(len(tokens), _MOST_BARS)
    for low, high in groups:
        name = f"rank {low}" if high - low == 1 else f"ranks {low}-{high - 1}"
        most = int(tokens[low:high].max())
        bar = "█" * round(_BAR_WIDTH * most / max(1, int(tokens.max())))
        each = "" if len(groups) == len(tokens) else " at most"
        lines.append(f"{name:<16}{bar:<{_BAR_WIDTH}} {most:,} tokens, {int(shards[low:high].max()):,} shards{each}")
    return lines


def _loss_lines(found: Balance) -> list[str]:
    loss = found.loss
    if loss is None:
        return []
    load: RankLoad = loss.load
    most = "" if load.is_exact else " at most"
    about = "" if loss.extra_is_exact else "about "
    return [
        f"after the loss of {loss.ranks} of {found.world} ranks half-way, from position {loss.position:,} on:",
        f"  tokens a rank in the rest: max/mean {max_over_mean(load.tokens):.4f}; shards a rank opens in it: "
        f"{float(load.shards.mean()):,.1f}{most}",
        f"  {loss.moved_share:.1%} of the rest's sequences are read by another rank than without the loss "
        f"({loss.least_moved_share:.1%} were the lost ranks' own)",
        f"  {about}{loss.extra_shards:,} times a rank opens a shard that it would not have opened in this epoch",
    ]


def _rule(text: str) -> str:
    return f"──── {text} ────"


def _segment_lines(segment: Segment, with_ids: bool) -> Sequence[str]:
    if segment.pieces:
        lines = [marked(segment.pieces)]
    else:
        lines = [segment.text + ("<|endoftext|>" if segment.has_end else "")]
    if with_ids:
        lines.append(f"[{segment.place}] " + " ".join(map(str, segment.ids)))
    return lines
