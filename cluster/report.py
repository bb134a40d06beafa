"""What a finished run prints: losses, a sample, where everything lies, and what to try next."""

from __future__ import annotations

import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from monitoring.journal import Record, is_step, read_records
from monitoring.settings import default_tracking_uri
from trainer.config import RunConfig


def summary_lines(records: Sequence[Record]) -> list[str]:
    """Losses, speed and samples of a finished run, from its journal. Pure."""
    steps = [record for record in records if is_step(record)]
    final = [record for record in records if record.get("event") == "eval" and record["final"]][-1]
    speed = statistics.median(record["tokens_per_second"] for record in steps)
    utilisation = statistics.median(record["mfu"] for record in steps)
    lines = [
        f"{final['step']:,} steps, {final['tokens']:,} tokens at {speed:,.0f} tokens/s "
        f"({utilisation:.0%} of the measured matrix-product peak)",
        _loss_line(final),
    ]
    for sample in final["samples"]:
        lines += ["", f"--- {sample['prompt']!r} goes on:", sample["prompt"] + sample["text"]]
    return lines


def _loss_line(final: Record) -> str:
    gain = final["unigram_loss"] - final["val_loss"]
    if "classes" in final:
        texts = sum(map(sum, final["confusion"]))  # eval.max_tokens may be less than all
        return (
            f"held-out accuracy {final['val_accuracy']:.1%}, macro F1 {final['val_macro_f1']:.3f} on {texts:,} texts "
            f"of {len(final['classes'])} classes; loss {final['val_loss']:.3f} nats per text, from their frequency "
            f"alone {final['unigram_loss']:.3f}"
        )
    return (
        f"validation loss {final['val_loss']:.3f} nats per token; unigram model of the same tokens "
        f"{final['unigram_loss']:.3f}; {abs(gain):.3f} {'below' if gain >= 0 else 'above'} it"
    )


def final_report(config: RunConfig, out_dir: Path, model_dir: Path | None) -> str:
    """The whole text that `headrace run` ends with; model_dir: None where the model was not exported."""
    records = list(read_records(out_dir))
    is_classifier = any("classes" in record for record in records if record.get("event") == "eval")
    uri = config.monitoring.tracking_uri or default_tracking_uri(out_dir)
    proposal = f"evaluate {out_dir}" if is_classifier else f"generate {out_dir} --prompt {_prompt(config)!r}"
    where = [
        "",
        f"run         {out_dir}",
        f"dataset     {config.data_dir}",
        *([] if model_dir is None else [f"model       {model_dir}  (Hugging Face layout)"]),
        f"MLflow      {uri}",
        "",
        f"next: {command_name()} dashboard --runs-dir {out_dir.parent}",
        f"      {command_name()} {proposal}",
    ]
    return "\n".join(["", *summary_lines(records), *where])


def command_name() -> str:
    """How this command is typed from here: `headrace` where it is on the path, else where it lies."""
    if shutil.which("headrace") or sys.argv[0].endswith(".py"):  # run as a module, as jobs run it
        return "headrace"
    program, here = Path(sys.argv[0]).absolute(), Path.cwd()
    return str(program.relative_to(here)) if program.is_relative_to(here) else str(program)


def _prompt(config: RunConfig) -> str:
    return config.eval.samples[0].splitlines()[-1] if config.eval.samples else "To be"
