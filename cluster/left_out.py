"""The sequences that a run's bad numbers came from, as text: what `headrace data show RUN --excluded` answers."""

from __future__ import annotations

from dataclasses import dataclass

from data_shards.dataset import Dataset
from data_shards.show import Shown, show_sequence
from monitoring.errors import MonitoringError
from monitoring.journal import read_records
from monitoring.runs import RunFolder
from trainer.config import parse_run_file
from trainer.length import make_order


@dataclass(frozen=True)
class LeftOut:
    """A sequence, the step whose numbers were bad, what was wrong (`loss`, `grad_norm`, `spike`) and what followed."""

    step: int
    what: str
    action: str  # skip and rollback left it out of the run; stop ended the run there
    sequence: Shown


def left_out_sequences(run: RunFolder) -> list[LeftOut]:
    """All of the run, by the order of the journal, each once; read from the version of the dataset that the run has.

    Raises:
        MonitoringError: the run never started.
        DataError: the dataset or a shard cannot be read.
    """
    records = list(read_records(run.out_dir))
    starts = [record for record in records if record.get("event") == "start"]
    if not starts:
        raise MonitoringError(f"{run.out_dir}: the run has not started yet, so that nothing was left out")
    found: dict[int, tuple[int, str, str]] = {}
    for record in records:
        if record.get("event") == "bad_numbers":
            what = record["step"], record["what"], record["action"]
            found |= {position: what for position, _, _ in record["sequences"] if position not in found}
    config = parse_run_file(run.run_file.read_text(), str(run.run_file))
    dataset = Dataset.open(config.data_dir, starts[0]["tags"]["dataset.fingerprint"])
    order, packing = make_order(config, dataset), config.data.packing
    return [LeftOut(*what, show_sequence(dataset, order, position, packing)) for position, what in found.items()]
