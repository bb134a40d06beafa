import gzip
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_shards import pieces as pieces_module
from data_shards import units as units_module
from data_shards.errors import DataError
from data_shards.pieces import Piece, cut_file
from data_shards.rejects import Rejects
from data_shards.settings import DataSettings, resolve_paths
from data_shards.source_files import state_of
from data_shards.sources import FoundFile, SourceFile
from data_shards.units import SplitRule, Unit, corpus_fingerprint, plan_units, with_keys
from tests.data_shards.reading import documents_of as documents_in

LINES = st.lists(st.sampled_from(["", "\r", "a", "三", "a longer line", "é" * 30]), max_size=30)


def data_settings(base: Path, *sources: Any, unit_bytes: int = 1000, **fields: Any) -> DataSettings:
    given = {"sources": list(sources), "tokenizer": "t", "unit_bytes": unit_bytes, **fields}
    return resolve_paths(DataSettings.model_validate(given), base)


def documents_of(units: Sequence[Unit]) -> list[str]:
    rejects = Rejects("fail")
    return [text for unit in units for text in documents_in(unit.documents(rejects))]


def cut(path: Path, document: str, unit_bytes: int) -> tuple[Piece, ...]:
    file = SourceFile(str(path), "text", "", "", document)
    return cut_file(FoundFile(file, state_of(file.path)), unit_bytes)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(LINES, min_size=1, max_size=4), st.integers(1, 80), st.sampled_from(["line", "blank_line"]), st.booleans()
)
@example([["a", "", "", "", "b"]], 1, "blank_line", True)
def test_units_cover_every_document_once(files: list[list[str]], unit_bytes: int, document: str, ended: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number, lines in enumerate(files):
            data = "\n".join(lines) + ("\n" if ended and lines else "")
            (Path(folder) / f"{number}.txt").write_bytes(data.encode())
        source = {"path": "*.txt", "document": document}
        whole = plan_units(data_settings(Path(folder), source, unit_bytes=1 << 20), cut_file)
        cut = plan_units(data_settings(Path(folder), source, unit_bytes=unit_bytes), cut_file)
        assert len(whole) == 1
        assert documents_of(cut) == documents_of(whole)
        for unit in cut:
            assert unit.text_bytes <= unit_bytes or len(documents_of([unit])) <= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text('a三\n\r\u2028"\\', max_size=20), min_size=1, max_size=12), st.integers(1, 100))
def test_units_of_jsonl_cover_every_document_once(texts: list[str], unit_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
        (Path(folder) / "a.jsonl").write_bytes("".join(lines).encode())
        planned = plan_units(data_settings(Path(folder), "a.jsonl", unit_bytes=unit_bytes), cut_file)
        assert documents_of(planned) == [text for text in texts if text]


@pytest.mark.parametrize("document", ["line", "blank_line"])
@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 7])
def test_cut_file_borders_are_found_across_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: str, chunk_bytes: int
) -> None:
    monkeypatch.setattr(pieces_module, "CHUNK_BYTES", chunk_bytes)
    data = b"one\r\n\r\ntwo two two two two\n\nthree\n\n\n\nfour\nfive\n\r\nsix"
    (tmp_path / "a.txt").write_bytes(data)
    source = {"path": "a.txt", "document": document}
    expected = documents_of(plan_units(data_settings(tmp_path, source), cut_file))
    for unit_bytes in range(1, len(data)):
        planned = plan_units(data_settings(tmp_path, source, unit_bytes=unit_bytes), cut_file)
        assert documents_of(planned) == expected
        assert len(planned) > 1


def test_cut_file_pieces_hold_as_many_lines_as_fit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345\n123\n1234567890\n1\n")
    pieces = cut(tmp_path / "a", "line", 10)
    assert [(piece.start, piece.end) for piece in pieces] == [(0, 10), (10, 21), (21, 23)]


def test_cut_file_pieces_hold_as_many_paragraphs_as_fit_whatever_ends_them(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a\n\nb\n\r\nc\n\nlong paragraph")
    pieces = cut(tmp_path / "a", "blank_line", 8)
    assert [(piece.start, piece.end) for piece in pieces] == [(0, 7), (7, 10), (10, 24)]


def test_plan_units_small_files_are_grouped_and_big_ones_stand_alone(tmp_path: Path) -> None:
    for name, size in {"a": 40, "b": 50, "c": 20, "d": 300, "e": 10}.items():
        (tmp_path / f"{name}.txt").write_bytes(b"123456789\n" * (size // 10))
    planned = plan_units(data_settings(tmp_path, {"path": "*.txt", "document": "line"}, unit_bytes=100), cut_file)
    names = [[Path(piece.file.path).stem for piece in unit.pieces] for unit in planned]
    assert names == [["a", "b"], ["c"], ["d"], ["d"], ["d"], ["e"]]


def test_plan_units_groups_hold_so_many_files_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus(tmp_path, *"abcdefg")
    monkeypatch.setattr(units_module, "_MOST_FILES", 3)
    planned = plan_units(data_settings(tmp_path, "*.txt"), cut_file)
    assert [len(unit.pieces) for unit in planned] == [3, 3, 1]
    assert documents_of(planned) == list("abcdefg")


def test_plan_units_remote_file_is_cut_as_a_local_one(tmp_path: Path) -> None:
    data = "".join(json.dumps({"text": f"text {number}" * 9}) + "\n" for number in range(400)).encode()
    (tmp_path / "a.jsonl").write_bytes(data)
    fsspec.filesystem("memory").pipe_file("/plan/a.jsonl", data)
    local = plan_units(data_settings(tmp_path, "a.jsonl"), cut_file)
    remote = plan_units(data_settings(tmp_path, "memory://plan/a.jsonl"), cut_file)
    ranges = [(piece.start, piece.end) for unit in local for piece in unit.pieces]
    assert len(ranges) > 20
    assert [(piece.start, piece.end) for unit in remote for piece in unit.pieces] == ranges
    assert documents_of(remote) == documents_of(local)
    assert {unit.key for unit in remote}.isdisjoint(unit.key for unit in local)  # one goes by the store's version


def test_plan_units_sources_are_never_mixed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    planned = plan_units(data_settings(tmp_path, "a.txt", "b.txt"), cut_file)
    assert [unit.source for unit in planned] == ["a.txt", "b.txt"]


def test_plan_units_compressed_and_file_documents_are_never_cut(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x\n" * 100)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(bytes(range(256)) * 4))
    sources = ["a.txt", {"path": "b.txt.gz", "document": "line"}]
    planned = plan_units(data_settings(tmp_path, *sources, unit_bytes=10), cut_file)
    assert [len(unit.pieces) for unit in planned] == [1, 1]


def test_plan_units_parquet_is_cut_between_row_groups(tmp_path: Path) -> None:
    texts = [f"{number} " * 500 for number in range(10)]
    table = pa.table({"text": texts, "id": list(range(10))})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2, write_statistics=False)
    planned = plan_units(data_settings(tmp_path, "a.parquet", unit_bytes=5000), cut_file)
    assert [(unit.pieces[0].start, unit.pieces[0].end) for unit in planned] == [(0, 2), (2, 4), (4, 5)]
    assert documents_of(planned) == texts


def keys_of(base: Path, tokenizer: str = "t", block_tokens: int = 8, **fields: Any) -> list[str]:
    source = {"path": "*.txt", "document": "line", "name": "s", **fields.pop("source", {})}
    planned = plan_units(data_settings(base, source, unit_bytes=100, **fields), cut_file)
    return [unit.key for unit in with_keys(planned, tokenizer, block_tokens)]


def corpus(folder: Path, *texts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for number, text in enumerate(texts):
        (folder / f"{number}.txt").write_text(text)
    return folder


def test_with_keys_moved_corpus_keeps_its_keys(tmp_path: Path) -> None:
    here, there = corpus(tmp_path / "here", "a\n" * 80, "b\n"), corpus(tmp_path / "there", "a\n" * 80, "b\n")
    assert keys_of(here) == keys_of(there)
    assert len(keys_of(here)) == 3


def test_with_keys_every_part_of_the_identity_counts(tmp_path: Path) -> None:
    base = corpus(tmp_path / "c", "a\nb\n")
    variants = [
        keys_of(base),
        keys_of(base, tokenizer="u"),
        keys_of(base, block_tokens=16),
        keys_of(base, val_fraction=0.5),
        keys_of(base, packing="sentence_pairs"),
        keys_of(base, source={"document": "blank_line"}),
        keys_of(base, source={"name": "other"}),
        keys_of(corpus(tmp_path / "d", "a\nc\n")),
    ]
    assert len({key for (key,) in variants}) == len(variants)


def test_with_keys_other_packings_share_their_units(tmp_path: Path) -> None:
    base = corpus(tmp_path / "c", "a\nb\n")
    assert keys_of(base, packing="documents") == keys_of(base)


def test_with_keys_text_added_at_the_end_leaves_earlier_units(tmp_path: Path) -> None:
    before = keys_of(corpus(tmp_path / "c", "".join(f"line {i}\n" for i in range(50))))
    after = keys_of(corpus(tmp_path / "c", "".join(f"line {i}\n" for i in range(51))))
    assert after[:-1] == before[:-1]
    assert after[-1] != before[-1]


def test_with_keys_equal_files_have_different_keys(tmp_path: Path) -> None:
    keys = keys_of(corpus(tmp_path / "c", "a\n" * 40, "a\n" * 40))
    assert len(set(keys)) == 2


def test_corpus_fingerprint_does_not_depend_on_the_tokenizer_but_on_text(tmp_path: Path) -> None:
    base = corpus(tmp_path / "c", "a\n")
    first = plan_units(data_settings(base, "*.txt"), cut_file)
    again = plan_units(data_settings(base, "*.txt", tokenizer="other"), cut_file)
    corpus(base, "b\n")
    changed = plan_units(data_settings(base, "*.txt"), cut_file)
    assert corpus_fingerprint(first) == corpus_fingerprint(again)
    assert corpus_fingerprint(first) != corpus_fingerprint(changed)


def test_plan_units_file_on_both_sides_is_refused(tmp_path: Path) -> None:
    base = corpus(tmp_path / "c", "a\n", "b\n")
    (base / "link").symlink_to(base / "0.txt")
    with pytest.raises(DataError, match=r"data\.val_sources: .*link belongs to data\.sources \(.*\.txt\) too"):
        plan_units(data_settings(base, "*.txt", val_sources=["link"]), cut_file)


def test_plan_units_val_sources_make_the_split(tmp_path: Path) -> None:
    base = corpus(tmp_path / "c", "a\n", "b\n")
    planned = plan_units(data_settings(base, "0.txt", val_sources=["1.txt"]), cut_file)
    assert [(unit.source, unit.rule.split_of(b"any")) for unit in planned] == [("0.txt", "train"), ("1.txt", "val")]


def test_split_rule_by_hash_holds_its_fraction_and_is_stable() -> None:
    rule = SplitRule("hash", 0.25)
    sides = [rule.split_of(b"document %d" % number) for number in range(4000)]
    assert sides[:8] == [SplitRule("hash", 0.25).split_of(b"document %d" % number) for number in range(8)]
    assert abs(sides.count("val") - 1000) < 110  # four standard deviations
    larger = SplitRule("hash", 0.5)
    assert all(larger.split_of(b"document %d" % i) == "val" for i, side in enumerate(sides) if side == "val")


def test_split_rule_of_equal_checksums_is_mixed() -> None:
    # Neighbouring checksums, as those of numbered lines, are not to fall on one side.
    rule = SplitRule("hash", 0.5)
    sides = "".join(rule.split_of(b"%08d" % i)[0] for i in range(2000))
    assert abs(sides.count("v") - 1000) < 90
    assert max(map(len, sides.split("v"))) < 24


def test_unit_survives_a_round_trip_through_plain_values(tmp_path: Path) -> None:
    base = corpus(tmp_path / "c", "a\n", "b\n")
    (base / "c.txt.gz").write_bytes(gzip.compress(b"c\n"))
    planned = plan_units(data_settings(base, {"path": "*.txt*", "document": "line"}), cut_file)
    (unit,) = with_keys(planned, "t", 8)
    assert len(unit.pieces) == 3
    assert Unit.from_dict(json.loads(json.dumps(unit.to_dict()))) == unit


def test_unit_of_thousands_of_files_is_short(tmp_path: Path) -> None:
    file = SourceFile("/corpus/folder/file", "text", "", "", "line")
    pieces = tuple(Piece(replace(file, path=f"{file.path}{i}"), 0, 10, "0" * 64, 10) for i in range(1000))
    unit = Unit("k" * 64, "s", SplitRule("hash", 0.1), pieces)
    assert len(json.dumps(unit.to_dict(), separators=(",", ":"))) < 1000 * 115


def test_plan_units_error_in_a_file_is_that_of_the_first(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.parquet").write_bytes(b"no parquet %d" % number)
    with pytest.raises(DataError, match=r"0\.parquet: not a Parquet file"):
        plan_units(data_settings(tmp_path, "*.parquet"), cut_file)


def test_plan_units_order_does_not_depend_on_which_file_is_read_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        (tmp_path / f"{number:02d}.txt").write_text(f"{number}\n" * (1 + number % 7))
    monkeypatch.setattr(units_module, "_FILES_AT_ONCE", 1)
    planned = plan_units(data_settings(tmp_path, "*.txt", unit_bytes=30), cut_file)
    names = [Path(piece.file.path).stem for unit in planned for piece in unit.pieces]
    assert names == [f"{number:02d}" for number in range(40)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokenizer": {"train": "bpe", "vocab_size": 300}}, r"data\.sources: .* holds ids, whose tokenizer must be"),
        ({"packing": "sentence_pairs"}, r"data\.packing: sentence_pairs needs text, but sources has .* holds ids"),
    ],
)
def test_plan_units_ids_where_text_is_needed_are_refused(tmp_path: Path, fields: Any, message: str) -> None:
    (tmp_path / "a.idx").touch()
    (tmp_path / "a.bin").touch()
    with pytest.raises(DataError, match=message):
        plan_units(data_settings(tmp_path, "a.idx", **fields), cut_file)
