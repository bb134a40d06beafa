"""Construction of a rank's part of a run: everything that the loop works on, put together once."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from data_shards.class_counts import class_counts
from data_shards.dataset import Dataset
from data_shards.loader import LoaderState, TrainLoader
from data_shards.packing import separates_documents
from data_shards.shard_cache import cache_place
from data_shards.stats import unigram_loss
from data_shards.tokenizer import load_tokenizer
from model.config import GPTConfig
from model.flops import model_flops_per_token
from model.settings import resolve
from monitoring.journal import last_values, read_records
from trainer.adversarial import passes_of
from trainer.bad_numbers import WINDOW
from trainer.batch import BatchPlan
from trainer.changes import flatten
from trainer.checkpoint.save import no_fault
from trainer.checkpoint.store import list_checkpoints
from trainer.checkpointer import Checkpointer
from trainer.classification import prior_loss, trained_class_weights
from trainer.collectives import broadcast_from_first, gather_to_first, reduce_sum
from trainer.config import RunConfig, dump_run_file
from trainer.engine import build_engine
from trainer.engine_state import prepare_optimizer
from trainer.errors import TrainError
from trainer.evaluate import Batches, held_out_batches, is_cut, label_ids
from trainer.faults import FaultPoints
from trainer.init_from import start_from
from trainer.length import make_order, planned_length
from trainer.lineage import dataset_facts, lineage_tags
from trainer.micro_batch import choose_batch
from trainer.number_guard import NumberGuard
from trainer.optimizer_step import Beat
from trainer.own_time import OwnTime
from trainer.peak import matmul_flops_per_second
from trainer.place import Place
from trainer.precision import resolve_here
from trainer.stages import Stage, stage_at
from trainer.stop import StopRequest
from trainer.training_run import Emit, StageStart, TrainingRun

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankSpec:
    """What a rank is told when it starts."""

    config: RunConfig
    run_id: str
    dataset_fingerprint: str
    tags: Mapping[str, str]
    rank: int
    world_size: int
    attempt: int
    node: str
    snapshot_fd: int | None
    former_fds: Sequence[int]
    local_world_size: int


def build_run(
    spec: RankSpec, device: torch.device, emit: Emit, beat: Beat, faults: FaultPoints | None = None
) -> TrainingRun:
    """This rank's part of the run, restored from the newest good checkpoint where there is one.

    The process group must stand. Announces the attempt by a `start` event.

    Raises:
        TrainError, DataError: what the run file, dataset or checkpoints make impossible.
    """
    config, rank, world_size = spec.config, spec.rank, spec.world_size
    dataset = Dataset.open(config.data_dir, spec.dataset_fingerprint, cache_place(config.data))
    precision = resolve_here(config.train.precision, device)
    model_config = _model_config(config, dataset)
    plan = choose_batch(config, model_config, precision, device, world_size, spec.local_world_size)
    beat(0, "load")
    nodes = gather_to_first(spec.node) or []
    open_stage = partial(_open_stage, spec, dataset, model_config, plan, precision, device, emit, faults)
    start = open_stage()
    place = start.place
    loader = _train_loader(config, dataset, rank, plan)
    run = TrainingRun(
        config=config,
        stage=start.stage,
        engine=start.engine,
        plan=plan,
        loader=loader,
        evaluation_batches=_evaluation_batches(config, dataset, rank, plan),
        unigram_loss=_unigram_loss(config, dataset) if rank == 0 else 0.0,
        load_tokenizer=partial(load_tokenizer, dataset.tokenizer_path),
        checkpointer=start.checkpointer,
        rank=rank,
        total_steps=planned_length(config, dataset, (place.step, place.tokens)).total_steps,
        flops_per_token=_flops_per_token(config, model_config),
        peak_flops_per_second=_peak(config, device, precision, world_size),
        place=place,
        emit=emit,
        beat=beat,
        stop_asked=StopRequest(Path(config.out_dir), watches_mark=rank == 0),
        guard=NumberGuard(config.train, loader, _losses_before(config, place.step)),
        own_time=OwnTime(device, counts_forward=config.train.zero.stage < 3),
        nodes=nodes,
        open_stage=open_stage,
        classes=dataset.classes,
        spoil=None if faults is None else faults.spoil,
    )
    emit({**start_event(spec, dataset, run, precision, device), **start.restored})
    return run


def _open_stage(
    spec: RankSpec,
    dataset: Dataset,
    model_config: GPTConfig,
    plan: BatchPlan,
    precision: str,
    device: torch.device,
    emit: Emit,
    faults: FaultPoints | None,
) -> StageStart:
    """The engine of the stage that the run is in, with the weights of the newest checkpoint or snapshot in memory.

    The stage is taken from the newest checkpoint: there is one at each border, and what memory holds is of the stage
    after it. Only if that one turns out to be bad, and the one before is of another stage, an engine of that is built.
    """
    config, stage = spec.config, _stage_of_newest(spec.config, dataset)
    while True:
        engine = _engine(spec, stage, dataset, model_config, plan, precision, device)
        checkpointer = Checkpointer(
            config,
            spec.run_id,
            spec.attempt,
            dataset.fingerprint,
            model_config,
            precision,
            engine,
            spec.snapshot_fd,
            spec.former_fds,
            spec.local_world_size,
            emit,
            no_fault if faults is None else faults.at,
            stage,
        )
        begin = partial(_start_from_origin, engine, config, model_config, dataset)
        place, restored = _restore(checkpointer, emit, begin)
        if stage.holds(place.step):
            return StageStart(stage, engine, checkpointer, place, restored)
        engine.destroy()
        stage = _stage_after(config, dataset, place.step, place.tokens)


def _stage_of_newest(config: RunConfig, dataset: Dataset) -> Stage:
    """The stage of the step after the newest checkpoint, whole or not; the same on all ranks.

    Raises:
        OSError, DataError: the run has stages, and its checkpoints cannot be looked for.
    """
    newest = (0, 0)
    if config.train.stages and torch.distributed.get_rank() == 0:
        entries = list_checkpoints(Path(config.out_dir), config.checkpoint.dir)
        headers = [entry.manifest.header for entry in entries if entry.is_believed and entry.manifest is not None]
        newest = (headers[-1].step, headers[-1].tokens) if headers else newest
    return _stage_after(config, dataset, *broadcast_from_first(newest))


def _stage_after(config: RunConfig, dataset: Dataset, steps: int, tokens: int) -> Stage:
    """The stage of the step after so many steps and tokens."""
    return stage_at(config.train, planned_length(config, dataset, (steps, tokens)))


def _model_config(config: RunConfig, dataset: Dataset) -> GPTConfig:
    """The model's shape, with a classifier's head where the dataset's records have classes."""
    model_config = resolve(config.model, dataset.vocab_size, config.train.activation_checkpointing)
    if not dataset.classes:
        return model_config
    if config.eval.samples:
        raise TrainError(
            f"eval.samples: a classifier continues no prompts, and the records of {dataset.dir} have classes; found "
            f"{config.eval.samples[0]!r}. Leave samples out."
        )
    return dataclasses.replace(model_config, n_classes=len(dataset.classes))


def _flops_per_token(config: RunConfig, model_config: GPTConfig) -> float:
    """Of all passes that the way of training asks for."""
    return passes_of(config.train.adversarial) * model_flops_per_token(model_config, config.seq_len)


def _engine(
    spec: RankSpec,
    stage: Stage,
    dataset: Dataset,
    model_config: GPTConfig,
    plan: BatchPlan,
    precision: str,
    device: torch.device,
) -> Any:
    """The engine around a fresh model, which knows how much each class of the dataset counts."""
    engine = build_engine(model_config, stage.train, plan, precision, spec.config.seed, device)
    engine.module.class_weights = trained_class_weights(stage.train.class_weights, dataset, device)
    prepare_optimizer(engine)
    return engine


def _start_from_origin(engine: Any, config: RunConfig, model_config: GPTConfig, dataset: Dataset) -> str:
    """A run's first weights, if it takes them from anywhere; what the start event says of it."""
    if config.init_from is None:
        return "nothing"
    start_from(engine, config.init_from, model_config, dataset.classes)
    return config.init_from


def _restore(checkpointer: Checkpointer, emit: Emit, start: Callable[[], str]) -> tuple[Place, dict[str, Any]]:
    """Where the run goes on, and what the start event says of it. `start` is called where it begins, or where memory
    does not hold all weights."""
    began = time.perf_counter()
    place, restored_from = checkpointer.restore(start) or (Place(0, 0, LoaderState()), start())
    load_seconds = time.perf_counter() - began
    for path, why in checkpointer.skipped:
        emit({"event": "checkpoint_bad", "path": path, "reason": why})
    return place, {"restored_from": restored_from, "load_seconds": load_seconds}


def _train_loader(config: RunConfig, dataset: Dataset, rank: int, plan: BatchPlan) -> TrainLoader:
    return TrainLoader(
        dataset,
        make_order(config, dataset),
        seq_len=config.seq_len,
        rank=rank,
        world=plan.world_size,
        micro_batch=plan.micro_batch,
        with_documents=separates_documents(config.data.packing),
        cut_seed=config.seed if is_cut(config) else None,
        on_bad_shard=config.data.on_bad_shard,
        ahead=dataset.ahead,
    )


def _losses_before(config: RunConfig, step: int) -> list[tuple[int, float]]:
    """(step, loss) of the believed steps up to this one, which spikes are told from; the same on all ranks."""
    if config.train.spike_deviations is None:
        return []
    losses: list[tuple[int, float]] = []
    if torch.distributed.get_rank() == 0:
        believed = last_values(read_records(Path(config.out_dir)))
        losses = [(at, float.fromhex(record["loss_hex"])) for at, record in believed.items() if at <= step]
    newest: list[tuple[int, float]] = broadcast_from_first(losses[-WINDOW:])
    return newest


def _evaluation_batches(config: RunConfig, dataset: Dataset, rank: int, plan: BatchPlan) -> Batches:
    return held_out_batches(
        config,
        dataset,
        max_tokens=config.eval.max_tokens,
        rank=rank,
        world=plan.world_size,
        micro_batch=plan.micro_batch,
    )


def _unigram_loss(config: RunConfig, dataset: Dataset) -> float:
    labels = label_ids(held_out_batches(config, dataset, max_tokens=config.eval.max_tokens)())
    if dataset.classes:
        return prior_loss(class_counts(dataset, len(dataset.classes)), labels)
    return unigram_loss(dataset, labels, on_bad_shard=config.data.on_bad_shard)


def _peak(config: RunConfig, device: torch.device, precision: str, world_size: int) -> float:
    """Summed matrix-product peak of all ranks, measured at the run's first start on this number of ranks and kept."""
    path = Path(config.out_dir) / "peak.json"
    key = f"{world_size} ranks, {device.type}, {precision}"
    known: dict[str, float] = broadcast_from_first(_read_peaks(path))
    if key in known:
        return known[key]
    peak: float
    [peak] = reduce_sum([matmul_flops_per_second(device, precision)], device)
    if torch.distributed.get_rank() == 0:
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps({**known, key: peak}))
        draft.replace(path)
    return peak


def _read_peaks(path: Path) -> dict[str, float]:
    if not path.exists():
        return {}
    peaks: dict[str, float] = json.loads(path.read_text())
    return peaks


def start_event(
    spec: RankSpec, dataset: Dataset, run: TrainingRun, precision: str, device: torch.device
) -> dict[str, Any]:
    """The journal's record of an attempt's start: what MLflow shows as the run's parameters and tags."""
    config = spec.config
    params = flatten(config.model_dump(mode="json"))
    params["resolved.precision"] = precision
    params["resolved.micro_batch_size"] = run.plan.micro_batch
    params["resolved.gradient_accumulation"] = run.plan.accumulation
    params["resolved.parameters"] = sum(_true_size(parameter) for parameter in run.engine.module.parameters())
    tags = {
        **spec.tags,
        **lineage_tags(config, dataset),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }
    return {
        "event": "start",
        "run_id": spec.run_id,
        "name": config.name,
        "world_size": spec.world_size,
        "nodes": list(run.nodes),
        "max_steps": run.total_steps,
        "max_tokens": run.total_tokens,
        "tokens_per_step": config.tokens_per_step,
        "resumed_step": run.place.step,
        "params": params,
        "tags": tags,
        "datasets": dataset_facts(config, dataset),
        "run_file": dump_run_file(config),
    }


def _true_size(parameter: torch.nn.Parameter) -> int:
    """Elements of a parameter, also where ZeRO stage 3 left this rank a part of it."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))
