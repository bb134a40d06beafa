import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.cli import main
from data_shards.dataset import Dataset
from tests.data_shards.text_dataset import line, text_dataset

TEXTS = [line(number, words=40) for number in range(200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("commands")
    text_dataset(base / "d", {"a": TEXTS[:150], "b": TEXTS[150:]}, val={"v": TEXTS[:20]}, documents_per_shard=20)
    return base


def answer(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    assert main([str(word) for word in ("data", *words, "--json")]) == 0
    return json.loads(capsys.readouterr().out)


def run_file(folder: Path, **train: Any) -> Path:
    run = {
        "data": {
            "sources": [{"path": "a.txt", "name": "a", "weight": 0.5}, {"path": "b.txt", "name": "b", "weight": 0.5}],
            "tokenizer": {"train": "bpe", "vocab_size": 300},
            "packing": "documents",
            "streams": 6,
        },
        "model": {"preset": "gpt2-tiny", "max_seq_len": 32},
        "train": {"global_batch_size": 4, "lr": 1e-3, **train},
        "seed": 5,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


def test_plan_tells_the_ranks_loads(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = answer(capsys, "plan", folder / "d", "--world", 4, "--seq-len", 64, "--lose", 2)
    assert len(plan["rank_tokens"]) == len(plan["rank_shards"]) == 4
    assert sum(plan["rank_tokens"]) == plan["sequences"] * 64
    assert plan["tokens_max_over_mean"] == max(plan["rank_tokens"]) / (sum(plan["rank_tokens"]) / 4)
    assert (plan["seq_len_from"], plan["seed"], plan["streams"]) == ("--seq-len", 1337, 192)
    assert plan["after_loss"]["ranks"] == 2
    assert plan["after_loss"]["moved_share"] == plan["after_loss"]["least_moved_share"]
    assert plan["after_loss"]["moved_share"] == pytest.approx(0.5, abs=0.01)


def test_plan_takes_the_run_files_order(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = answer(capsys, "plan", folder / "d", "--world", 3, "--file", run_file(folder, max_tokens=10_000))
    assert (plan["seq_len"], plan["seq_len_from"], plan["seed"], plan["streams"]) == (32, "the run file", 5, 6)
    assert plan["mixing"] == "sources by the run file's weights"
    assert plan["after_loss"]["ranks"] == 1


def test_plan_prints_and_writes_a_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = folder / "plan.html"
    assert main(["data", "plan", str(folder / "d"), "--world", "2", "--seq-len", "64"]) == 0
    assert "rank 1 " in capsys.readouterr().out
    assert main(["data", "plan", str(folder / "d"), "--world", "2", "--seq-len", "64", "--html", str(page)]) == 0
    assert capsys.readouterr().out == ""
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_stats_show_the_mixture_of_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stats = answer(capsys, "stats", folder / "d", "--file", run_file(folder, max_tokens=12_800))
    mixture = stats["mixture"]
    a, b = mixture["sources"]["a"], mixture["sources"]["b"]
    assert mixture["tokens"] == 12_800
    assert (a["asked_share"], b["asked_share"]) == (0.5, 0.5)
    assert a["held_share"] == stats["splits"]["train"]["sources"]["a"]["token_share"]
    # 12,800 tokens are 400 sequences of 32, of which half are each source's.
    of_b = [shard.tokens for shard in Dataset.open(folder / "d").split("train") if shard.source == "b"]
    assert b["passes"] == pytest.approx(200 / sum((tokens - 1) // 32 for tokens in of_b))
    assert b["max_passes"] is None


def test_stats_write_a_page_with_the_corpus_as_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = folder / "stats.html"
    assert main(["data", "stats", str(folder / "d"), "--html", str(page)]) == 0
    assert capsys.readouterr().out == ""
    assert "&lt;|endoftext|&gt;" in page.read_text()  # a word of the corpus
    assert main(["data", "stats", str(folder / "d")]) == 0
    assert "text of a: " in capsys.readouterr().out


def test_show_prints_a_document(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", str(folder / "d"), "170"]) == 0
    assert capsys.readouterr().out == TEXTS[170] + "\n"


def test_show_sequence_takes_the_run_files_order_and_packing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run_file(folder, max_tokens=10_000)
    borders, sources = 0, ""
    for number in range(20):
        shown = answer(capsys, "show", folder / "d", number, "--sequence", "--file", file)
        assert shown["tokens"] == 33
        sources += shown["source"]
        assert shown["masked_labels"] == [segment["place"] for segment in shown["segments"][1:]]
        borders += len(shown["masked_labels"])
    assert borders > 0
    assert sources in ("ab" * 10, "ba" * 10)  # weights of a half: in turn


def test_show_sequence_counts_from_an_epoch(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = answer(capsys, "plan", folder / "d", "--world", 1, "--seq-len", 50)
    options = ["--sequence", "--seq-len", 50]
    later = answer(capsys, "show", folder / "d", 3, *options, "--epoch", 2)
    assert later["number"] == 2 * plan["sequences"] + 3
    assert later == answer(capsys, "show", folder / "d", later["number"], *options)
    assert later != answer(capsys, "show", folder / "d", 3, *options, "--epoch", 2, "--seed", 1)


def test_show_sequence_of_validation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = answer(capsys, "show", folder / "d", 1, "--sequence", "--split", "val", "--seq-len", 10)
    assert (shown["shard"], shown["first_token"], shown["tokens"]) == ("val-00000.tar", 10, 11)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "DIR", "--world", "0"], "--world: must be at least 1, found 0"),
        (["plan", "DIR", "--world", "4", "--lose", "4"], "--lose: must be below the number of ranks, 4"),
        (["plan", "DIR", "--world", "4", "--seq-len", "0"], "--seq-len: must be at least 1, found 0"),
        (["plan", "DIR", "--world", "4", "--seq-len", "100000"], "no whole sequence"),
        (["stats", "DIR", "--html", "absent/page.html"], "--html: absent/page.html cannot be written"),
        (["show", "DIR", "5000"], "train has no document number 5000"),
        (["show", "DIR", "1", "--sequence", "--epoch", "-1", "--seq-len", "16"], "must be 0 or more"),
        (["show", "DIR/absent", "1"], "holds no dataset"),
    ],
)
def test_wrong_input_ends_with_status_2_and_one_message(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["data", *(word.replace("DIR", str(folder / "d")) for word in words)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
