"""Bytes per parameter and rank, by counting live tensors: ours, DeepSpeed alone, FSDP2, beside ZeRO's formula."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.environment import ROOT, environment
from benchmarks.harness.launch import group, rank_environments
from benchmarks.train.plan import Plan
from model.config import GPTConfig
from trainer.batch import plan_batch
from trainer.plan_sizes import model_sizes
from trainer.plan_states import Partition, Sizes, formula_bytes, partition_of
from trainer.settings import TrainSettings
from trainer.zero import deepspeed_config

logger = logging.getLogger(__name__)

OWN, DEEPSPEED, FSDP2 = "headrace", "DeepSpeed alone", "FSDP2"
CASE_SECONDS = 900.0
STAGES = (0, 1, 2, 3)
FSDP2_STAGE = 3


@dataclass(frozen=True)
class Case:
    """A model on so many ranks at a stage; FSDP2 partitions what stage 3 does."""

    arm: str
    stage: int
    ranks: int


def measure_memory(plan: Plan) -> dict[str, Any]:
    """All cases, each in processes of its own; one that fails is told under `failed`."""
    config = model_of(plan)
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for case in cases(plan.memory_ranks):
        train = train_of(case)
        batch = plan_batch(train.global_batch_size, train.micro_batch_size, case.ranks)
        sizes = model_sizes(config, train)
        document = deepspeed_config(train, batch, "fp32", sizes.total)
        try:
            counted = _count(plan, case, config, train, document)
        except RuntimeError as error:
            logger.error("%s", error)
            failed[f"{case.arm}, stage {case.stage}, {case.ranks} ranks"] = str(error)
            continue
        rows.append(row(case, counted, sizes, partition_of(document, "fp32", case.ranks)))
    return {"parameters": model_sizes(config, train_of(Case(OWN, 0, 1))).total, "rows": rows, "failed": failed}


def cases(ranks: tuple[int, ...]) -> Iterator[Case]:
    """By stage and ranks, the arms side by side."""
    for stage in STAGES:
        for number in ranks:
            for arm in (OWN, DEEPSPEED, *([FSDP2] if stage == FSDP2_STAGE else [])):
                yield Case(arm, stage, number)


def row(case: Case, counted: Mapping[str, int], sizes: Sizes, partition: Partition) -> dict[str, Any]:
    """A case's figures, in bytes."""
    return {
        "arm": case.arm,
        "stage": case.stage,
        "ranks": case.ranks,
        **counted,
        "formula": formula_bytes(sizes, case.stage, case.ranks, "fp32"),
        "buckets": 0 if case.arm == FSDP2 else declared_bucket_bytes(sizes, partition),
    }


def declared_bucket_bytes(sizes: Sizes, partition: Partition) -> int:
    """What DeepSpeed's configuration says that it takes beside the states. Pure.

    The bucket in which gradients are reduced; from stage 1 on that in which parameters are gathered after the update,
    which is as large; at stage 3 instead the parameters that are gathered ahead, and those that stay whole.
    """
    bucket = partition.element_bytes * min(partition.bucket, sizes.trained)
    if partition.stage == 0:
        return bucket
    if partition.stage < 3:
        return 2 * bucket
    ahead = partition.element_bytes * min(partition.prefetch, sizes.total)
    return bucket + (
        ahead + partition.element_bytes * sizes.below(partition.persistent) if partition.world_size > 1 else 0
    )


def model_of(plan: Plan) -> GPTConfig:
    """The model whose bytes are counted: short sequences, so that activations do not count."""
    return GPTConfig(**plan.memory_shape, real_vocab_size=plan.memory_shape["vocab_size"])


def train_of(case: Case) -> TrainSettings:
    """One sequence a rank."""
    return TrainSettings.model_validate(
        {
            "max_steps": 9,
            "global_batch_size": case.ranks,
            "micro_batch_size": 1,
            "lr": 1e-3,
            "zero": {"stage": case.stage},
        }
    )


def _count(
    plan: Plan, case: Case, config: GPTConfig, train: TrainSettings, document: Mapping[str, Any]
) -> dict[str, int]:
    """Bytes of the rank that holds most."""
    folder = plan.folder / "memory"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    asked = {"model": config.to_dict(), "out": str(folder)}
    if case.arm == OWN:
        script, python = "own/memory.py", sys.executable
        asked["train"] = train.model_dump(mode="json")
    else:
        script, python = "peers/memory.py", plan.peers_python
        asked |= {"kind": "fsdp2" if case.arm == FSDP2 else "deepspeed", "deepspeed": document}
    command = [python, str(ROOT / "benchmarks/train" / script), json.dumps(asked)]
    with group(f"{case.arm}, stage {case.stage}", folder / "log") as processes:
        for variables in rank_environments(case.ranks, even_one=True):
            processes.start(command, frozenset(plan.cores), {**environment(), **variables, "GLOO_SOCKET_IFNAME": "lo"})
        processes.wait(CASE_SECONDS)
    found = [json.loads(path.read_text()) for path in folder.glob("bytes-*.json")]
    logger.info("%s: %s", case, found)
    return {key: max(rank[key] for rank in found) for key in ("rest", "peak")}
