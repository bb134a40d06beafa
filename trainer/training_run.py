"""What the loop works on: one rank's part of a run, with its place in it."""

from __future__ import annotations

import logging
import math
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from data_shards.loader import StepBatch, TrainLoader
from data_shards.tokenizer import TextTokenizer
from model.generate import generate
from trainer.bad_shards import read_or_skip
from trainer.batch import BatchPlan
from trainer.checkpointer import Checkpointer
from trainer.config import RunConfig
from trainer.evaluate import Batches, evaluate
from trainer.optimizer_step import Beat, StepResult, run_step
from trainer.place import Place
from trainer.process_group import reduce_sum
from trainer.schedule import learning_rate
from trainer.seeds import derive_seed

logger = logging.getLogger(__name__)

Emit = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Wishes:
    """What any rank asked for at a step border; alike on all ranks."""

    stop: bool
    save: bool
    snapshot_interval: int  # rank 0's: steps between snapshots in memory, 0 for none


@dataclass
class TrainingRun:
    """A rank's engine, data and place, and the steps of the loop on them."""

    config: RunConfig
    engine: Any
    plan: BatchPlan
    loader: TrainLoader
    evaluation_batches: Batches
    unigram_loss: float
    tokenizer: TextTokenizer
    checkpointer: Checkpointer
    rank: int
    total_steps: int
    flops_per_token: float
    peak_flops_per_second: float
    place: Place
    emit: Emit
    beat: Beat
    stop_asked: Callable[[], bool]
    step_began: float = 0.0
    data_wait_seconds: float = 0.0

    @property
    def done(self) -> bool:
        """Whether the last step is behind."""
        return self.place.step >= self.total_steps

    @property
    def total_tokens(self) -> int:
        """Tokens of the whole run: those behind, and what is left in steps of the present global batch."""
        return self.place.tokens + (self.total_steps - self.place.step) * self.config.tokens_per_step

    def read_batch(self) -> StepBatch:
        """This rank's rows of the next global batch.

        Raises:
            DataError: a shard cannot be read, and data.on_bad_shard is fail.
        """
        self.step_began = time.perf_counter()
        self.beat(self.place.step + 1, "data")
        state, size = self.place.loader, self.config.train.global_batch_size
        if self.config.data.on_bad_shard == "skip":
            batch = read_or_skip(self.loader, state, size, self.emit, self.engine.device)
        else:
            batch = self.loader.read(state, size)
        self.data_wait_seconds = time.perf_counter() - self.step_began
        return batch

    def optimize(self, batch: StepBatch) -> StepResult:
        """Forward, backward and update on the batch; the place moves on by one step."""
        step, tokens = self.place.step + 1, self.place.tokens + batch.tokens_real
        rate = learning_rate(self.config.train, tokens, self.total_tokens)
        result = run_step(
            self.engine,
            batch,
            self.plan,
            rate=rate,
            seed=self.config.seed,
            step=step,
            rank=self.rank,
            beat=self.beat,
        )
        self.place = Place(step, tokens, batch.state_after)
        return result

    def record(self, batch: StepBatch, result: StepResult) -> Wishes:
        """Put the step into the journal, and agree with the other ranks on what to do at this border.

        Raises:
            FloatingPointError: the loss is not a number, alike on all ranks.
        """
        asks_save = self.rank == 0 and self.checkpointer.time_is_up()
        snapshot_interval = self.checkpointer.snapshots.proposal if self.rank == 0 else 0
        told = [result.loss_sum, float(self.stop_asked()), float(asks_save), float(snapshot_interval)]
        sums = reduce_sum(told, self.engine.device)
        loss = sums[0] / result.labels
        self.beat(self.place.step, "step")
        self.emit(self._step_record(batch, loss, result.grad_norm))
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"step {self.place.step}: the loss must be a finite number, found {loss}; lower train.lr, or look at "
                f"the step's data"
            )
        return Wishes(stop=sums[1] > 0, save=sums[2] > 0, snapshot_interval=int(sums[3]))

    def _step_record(self, batch: StepBatch, loss: float, grad_norm: float) -> dict[str, Any]:
        seconds = time.perf_counter() - self.step_began
        tokens_per_second = batch.tokens_real / seconds
        record = {
            "step": self.place.step,
            "loss": loss,
            "loss_hex": loss.hex(),
            "sequence_hash": batch.sequence_hash,
            "lr": self.engine.optimizer.param_groups[0]["lr"],
            "grad_norm": grad_norm,
            "tokens": self.place.tokens,
            "tokens_per_second": tokens_per_second,
            "mfu": tokens_per_second * self.flops_per_token / self.peak_flops_per_second,
            "memory_bytes": _memory_bytes(self.engine.device),
            "data_wait_seconds": self.data_wait_seconds,
            "step_seconds": seconds,
        }
        if self.engine.fp16_enabled():
            record["loss_scale"] = float(self.engine.optimizer.loss_scale)
        return record

    def checkpoint_due(self, wishes: Wishes) -> bool:
        """Whether a checkpoint falls on this step border; the last step's is saved by the loop."""
        return not self.done and (wishes.save or self.checkpointer.due(self.place.step))

    def evaluation_due(self) -> bool:
        """Whether an evaluation falls on this step border; the final one is asked for by the loop."""
        return not self.done and self.place.step % self.config.eval.interval == 0

    def evaluate(self, final: bool = False) -> None:
        """Held-out loss into the journal; at the end with samples."""
        self.beat(self.place.step, "eval")
        began = time.perf_counter()
        loss = evaluate(self.engine, self.evaluation_batches, lambda: self.beat(self.place.step, "eval"))
        self.emit(
            {
                "event": "eval",
                "step": self.place.step,
                "tokens": self.place.tokens,
                "val_loss": loss,
                "unigram_loss": self.unigram_loss,
                "final": final,
                "seconds": time.perf_counter() - began,
                "samples": self._samples() if final else [],
            }
        )

    def _samples(self) -> list[dict[str, str]]:
        """Continuations of the prompts. Every rank computes them: at ZeRO stage 3 a forward pass needs all ranks."""
        return [{"prompt": prompt, "text": self._continue(prompt)} for prompt in self.config.eval.samples]

    def _continue(self, prompt: str) -> str:
        [prompt_ids] = self.tokenizer.encode([prompt])
        ids = generate(
            self.engine.module,
            [int(token) for token in prompt_ids],
            self.config.eval.sample_tokens,
            temperature=0.8,
            top_k=50,
            seed=derive_seed(self.config.seed, "sample", prompt),
            eot_id=self.tokenizer.eot_id,
        )
        return self.tokenizer.decode(ids)

    def snapshot(self, wishes: Wishes) -> None:
        """This place into memory that outlives the rank, as often as was agreed."""
        self.checkpointer.snapshots.take(self.engine, self.place, wishes.snapshot_interval)

    def save(self) -> None:
        """A checkpoint of this place, unless it has one."""
        self.beat(self.place.step, "save")
        saved = self.checkpointer.save(self.place)
        if saved is not None:
            self.emit({"event": "checkpoint", "step": self.place.step, **saved})


def _memory_bytes(device: torch.device) -> int:
    """Peak memory of this rank: of the device, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
