import gzip
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_shards import units as units_module
from data_shards.errors import DataError
from data_shards.rejects import Rejects
from data_shards.settings import DataSettings, resolve_paths
from data_shards.sources import SourceFile
from data_shards.units import SplitRule, Unit, corpus_fingerprint, cut_file, plan_units, with_keys

LINES = st.lists(st.sampled_from(["", "\r", "a", "三", "a longer line", "é" * 30]), max_size=30)


def data_settings(base: Path, *sources: Any, unit_bytes: int = 1000, **fields: Any) -> DataSettings:
    given = {"sources": list(sources), "tokenizer": "t", "unit_bytes": unit_bytes, **fields}
    return resolve_paths(DataSettings.model_validate(given), base)


def documents_of(units: Sequence[Unit]) -> list[str]:
    rejects = Rejects("fail")
    return [text for unit in units for text in unit.documents(rejects)]


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
    monkeypatch.setattr(units_module, "CHUNK_BYTES", chunk_bytes)
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
    pieces = cut_file(SourceFile(str(tmp_path / "a"), "text", "", "", "line"), 10)
    assert [(piece.start, piece.end) for piece in pieces] == [(0, 10), (10, 21), (21, 23)]


def test_cut_file_pieces_hold_as_many_paragraphs_as_fit_whatever_ends_them(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a\n\nb\n\r\nc\n\nlong paragraph")
    pieces = cut_file(SourceFile(str(tmp_path / "a"), "text", "", "", "blank_line"), 8)
    assert [(piece.start, piece.end) for piece in pieces] == [(0, 7), (7, 10), (10, 24)]


def test_plan_units_small_files_are_grouped_and_big_ones_stand_alone(tmp_path: Path) -> None:
    for name, size in {"a": 40, "b": 50, "c": 20, "d": 300, "e": 10}.items():
        (tmp_path / f"{name}.txt").write_bytes(b"123456789\n" * (size // 10))
    planned = plan_units(data_settings(tmp_path, {"path": "*.txt", "document": "line"}, unit_bytes=100), cut_file)
    names = [[Path(piece.file.path).stem for piece in unit.pieces] for unit in planned]
    assert names == [["a", "b"], ["c"], ["d"], ["d"], ["d"], ["e"]]


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
        keys_of(base, source={"document": "blank_line"}),
        keys_of(base, source={"name": "other"}),
        keys_of(corpus(tmp_path / "d", "a\nc\n")),
    ]
    assert len({key for (key,) in variants}) == len(variants)


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
    assert [(unit.source, unit.rule.split_of("any")) for unit in planned] == [("0.txt", "train"), ("1.txt", "val")]


def test_split_rule_by_hash_holds_its_fraction_and_is_stable() -> None:
    rule = SplitRule("hash", 0.25)
    sides = [rule.split_of(f"document {number}") for number in range(4000)]
    assert sides[:8] == [SplitRule("hash", 0.25).split_of(f"document {number}") for number in range(8)]
    assert abs(sides.count("val") - 1000) < 110  # four standard deviations
    larger = SplitRule("hash", 0.5)
    assert all(larger.split_of(f"document {i}") == "val" for i, side in enumerate(sides) if side == "val")


def test_unit_survives_a_round_trip_through_plain_values(tmp_path: Path) -> None:
    (unit,) = with_keys(plan_units(data_settings(corpus(tmp_path / "c", "a\n"), "*.txt"), cut_file), "t", 8)
    assert Unit.from_dict(json.loads(json.dumps(unit.to_dict()))) == unit
