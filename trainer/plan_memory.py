"""The memory of a rank: states, activations, snapshots and the copy of a save. Pure functions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from data_shards.packing import separates_documents
from model.config import GPTConfig
from trainer.batch import BatchPlan
from trainer.checkpoint.memory_layout import memory_bytes
from trainer.config import RunConfig
from trainer.plan_activations import Pass, activations
from trainer.plan_states import (
    STATES_BYTES,
    Offload,
    Partition,
    Sizes,
    formula_bytes,
    host_bytes,
    moments,
    partition_of,
    states_at_rest,
)
from trainer.settings import TrainSettings
from trainer.zero import deepspeed_config

PROCESS_BYTES = 700_000_000
"""What a rank's process takes on a CPU before it has a tensor: the interpreter and the libraries."""


@dataclass(frozen=True)
class Setting:
    """What of a run file changes its memory and speed, but no result."""

    stage: int
    micro_batch: int
    checkpointing: str
    offload: Offload = "none"


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of one rank.

    states: held between steps, by what they are; formula: the same by ZeRO's formula; activations: kept between a
    forward and its backward pass; moments: all of the device's, at the moments of most memory; host: of offloaded
    states and activations; arena: the copy that a save is written from; snapshots: in memory that outlives the rank.
    """

    states: dict[str, int]
    formula: int
    activations: int
    moments: dict[str, int]
    host: int
    arena: int
    snapshots: int

    @property
    def peak(self) -> int:
        """The device's, at its highest moment."""
        return max(self.moments.values())

    @property
    def peak_moment(self) -> str:
        """When that is."""
        return max(self.moments, key=lambda moment: self.moments[moment])

    def needed(self, device: str) -> int:
        """What must be there: on a CPU the process and the copy of a save count too. Snapshots give way."""
        return self.peak if device == "cuda" else self.peak + self.host + self.arena + PROCESS_BYTES


@dataclass(frozen=True)
class MemoryModel:
    """A run as far as its memory is concerned, but for what `Setting` says."""

    config: RunConfig
    shape: GPTConfig
    sizes: Sizes
    precision: str
    device: str
    world_size: int

    @property
    def train(self) -> TrainSettings:
        """The `train` section."""
        return self.config.train

    def share(self) -> int:
        """Sequences of a rank in a step."""
        return -(-self.train.global_batch_size // self.world_size)

    def plan(self, setting: Setting) -> MemoryPlan:
        """What a rank needs with a setting.

        Raises:
            TrainError: `train.deepspeed` sets what Headrace owns.
        """
        partition = self._partition(setting)
        shape = dataclasses.replace(self.shape, activation_checkpointing=setting.checkpointing)
        separates = separates_documents(self.config.data.packing)
        part = Pass(setting.micro_batch, shape.max_seq_len, partition.element_bytes, self.device, separates)
        acts = activations(shape, part)
        stage, world_size, sizes = partition.stage, partition.world_size, self.sizes
        saved = STATES_BYTES * (partition.share(sizes.trained) if stage > 0 else sizes.trained)
        takes_snapshots = self.config.checkpoint.snapshot_interval != 0
        return MemoryPlan(
            states=states_at_rest(sizes, partition),
            formula=formula_bytes(sizes, stage, world_size, self.precision, setting.offload),
            activations=acts.saved,
            moments=moments(sizes, partition, acts),
            host=host_bytes(sizes, partition) + acts.host,
            arena=saved,
            snapshots=memory_bytes(saved) if takes_snapshots else 0,
        )

    def _partition(self, setting: Setting) -> Partition:
        zero = self.train.zero.model_copy(update={"stage": setting.stage, "offload": setting.offload})
        train = self.train.model_copy(update={"zero": zero})
        accumulation = -(-self.share() // setting.micro_batch)
        batch = BatchPlan(train.global_batch_size, self.world_size, setting.micro_batch, accumulation)
        document = deepspeed_config(train, batch, self.precision, self.sizes.total)
        return partition_of(document, self.precision, self.world_size, setting.offload)
