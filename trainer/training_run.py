"""What the loop works on: one rank's part of a run, with its place in it."""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from data_shards.loader import StepBatch, TrainLoader
from data_shards.tokenizer import TextTokenizer
from model.encoder_decoder import continue_greedily
from model.generate import generate
from trainer.bad_shards import read_or_skip
from trainer.batch import BatchPlan
from trainer.checkpointer import Checkpointer
from trainer.classification import evaluate_classes, journal_facts
from trainer.config import RunConfig
from trainer.errors import BadNumbersError
from trainer.evaluate import Batches, evaluate, is_cut
from trainer.number_guard import NumberGuard, Verdict, diagnosis
from trainer.optimizer_step import Beat, StepResult, StepWatch, run_step
from trainer.own_time import OwnTime
from trainer.place import Place
from trainer.seeds import derive_seed
from trainer.slow_rank import WINDOW, Pace, own_medians, watch_pace
from trainer.stages import Length, Stage, stage_rate

logger = logging.getLogger(__name__)

Emit = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Wishes:
    """What any rank asked for at a step border; alike on all ranks."""

    stop: bool
    save: bool
    snapshot_interval: int  # rank 0's: steps between snapshots in memory, 0 for none


@dataclass(frozen=True)
class StageStart:
    """The engine of a stage, with the weights of the place where it goes on, and what restored them."""

    stage: Stage
    engine: Any
    checkpointer: Checkpointer
    place: Place
    restored: Mapping[str, Any]


@dataclass
class TrainingRun:
    """A rank's engine, data and place, and the steps of the loop on them."""

    config: RunConfig
    stage: Stage
    engine: Any
    plan: BatchPlan
    loader: TrainLoader
    evaluation_batches: Batches
    unigram_loss: float
    load_tokenizer: Callable[[], TextTokenizer]  # at the end, for the samples: a restart does without it
    checkpointer: Checkpointer
    rank: int
    total_steps: int
    flops_per_token: float
    peak_flops_per_second: float
    place: Place
    emit: Emit
    beat: Beat
    stop_asked: Callable[[], bool]
    guard: NumberGuard
    own_time: OwnTime
    nodes: list[str]  # of all ranks; known to rank 0 alone, which keeps the journal
    open_stage: Callable[[], StageStart]  # of what is newest, a checkpoint or a snapshot in memory
    classes: tuple[str, ...] = ()  # of a classifier
    spoil: Callable[[torch.Tensor], torch.Tensor] | None = None  # what a fault makes of a loss
    pace: Pace = field(default_factory=Pace)
    step_began: float = 0.0
    data_wait_seconds: float = 0.0
    own_seconds: float = 0.0  # of the step before, by this rank itself
    rate: float = 0.0  # of the step before

    @property
    def done(self) -> bool:
        """Whether the last step is behind."""
        return self.place.step >= self.total_steps

    @property
    def total_tokens(self) -> int:
        """Tokens of the whole run: those behind, and what is left in steps of the present global batch."""
        return self.length.tokens_at(self.total_steps)

    @property
    def length(self) -> Length:
        """The run's length, as seen from here."""
        return Length(self.place.step, self.place.tokens, self.total_steps, self.config.tokens_per_step)

    @property
    def stage_done(self) -> bool:
        """Whether the stage's last step is behind, and another stage follows."""
        return self.place.step >= self.stage.end and not self.done

    def begin_stage(self) -> None:
        """Save, and go on from there with an engine of the next stage.

        Raises:
            SaveFailedError: the storage failed.
        """
        self.save_and_wait()
        self._reopen()

    def _reopen(self) -> None:
        """Go on from what is newest, with an engine of its stage in place of this one."""
        self.beat(self.place.step, "load")
        self.engine.destroy()
        del self.engine, self.checkpointer  # their memory goes before the next ones' comes
        start = self.open_stage()
        self.stage, self.engine = start.stage, start.engine
        self.checkpointer, self.place = start.checkpointer, start.place
        self.emit({"event": "stage", "stage": self.stage.index, "step": self.place.step, "tokens": self.place.tokens})

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
            with self.own_time.part():
                batch = self.loader.read(state, size)
        self.data_wait_seconds = time.perf_counter() - self.step_began
        return batch

    def optimize(self, batch: StepBatch) -> StepResult:
        """Forward, backward and update on the batch; what the ranks told each other comes with the result."""
        step, tokens = self.place.step + 1, self.place.tokens + batch.tokens_real
        self.rate = stage_rate(self.stage, self.length, tokens)
        own_seconds = [0.0] * self.plan.world_size
        own_seconds[self.rank] = self.own_seconds
        watch = StepWatch(
            beat=self.beat,
            own_time=self.own_time,
            tell=lambda: [*self._wishes(), *own_seconds],
            loss_limit=self.guard.loss_limit,
            spoil=self.spoil,
            before_update=self.checkpointer.hold_still,
        )
        adversarial = self.config.train.adversarial
        result = run_step(
            self.engine,
            batch,
            self.plan,
            rate=self.rate,
            seed=self.config.seed,
            step=step,
            rank=self.rank,
            watch=watch,
            normalize=self.config.train.loss.normalize,
            epsilon=None if adversarial is None else adversarial.epsilon,
        )
        self.own_seconds = self.own_time.take()
        return result

    def _wishes(self) -> tuple[float, float, float, float]:
        """What this rank has to say of the next step border."""
        asks_save = self.rank == 0 and self.checkpointer.time_is_up()
        snapshot_interval = self.checkpointer.snapshots.proposal if self.rank == 0 else 0
        behind = float(self.checkpointer.snapshots.behind)
        return float(self.stop_asked()), float(asks_save), float(snapshot_interval), behind

    def believes(self, batch: StepBatch, result: StepResult) -> bool:
        """Whether the step counts. Where its numbers are bad, what the run file says is done, alike on all ranks.

        Raises:
            BadNumbersError: it says to stop, or what it says has not helped; a checkpoint is saved before.
        """
        verdict = self.guard.judge(self.place, batch.state_after.consumed, result, self.engine.fp16_enabled())
        if verdict is None:
            return True
        logger.warning("step %d: %s (%s)", self.place.step + 1, verdict.bad.text(), verdict.action)
        if verdict.action == "stop":
            self.emit(verdict.event)
            self.save_and_wait()
            raise BadNumbersError(diagnosis(verdict))
        span = self._leave_out(batch, verdict)
        # Where the run goes on from: the journal's steps after it do not count.
        self.emit({**verdict.event, "excluded": [list(span)], "resumed_step": self.place.step})
        return False

    def _leave_out(self, batch: StepBatch, verdict: Verdict) -> tuple[int, int]:
        """Try the step again without the sequences that did it, from a checkpoint where that is the policy.

        Returns the range of positions that is left out: what the weights have seen by then cannot be.
        """
        place, step = self.place, self.place.step + 1
        if verdict.action == "rollback":
            self.beat(step, "load")  # it may wait for a save under way, and for storage
            # With no checkpoint yet, the weights as they are: the update was not made.
            place = self._go_back(step) or place
            self.guard.went_back(place.step)
        loader = place.loader
        span = max(verdict.span[0], loader.consumed), verdict.span[1]
        for earlier in (*batch.state_after.excluded, span):  # a checkpoint knows nothing of what was left out after it
            loader = loader.excluding(*earlier)
        self.place = Place(place.step, place.tokens, loader)
        if verdict.action == "rollback":
            self.checkpointer.snapshots.start_over(self.engine, self.place)
        return span

    def _go_back(self, step: int) -> Place | None:
        place = self.checkpointer.go_back(lambda: self.beat(step, "load"))
        if place is not None and not self.stage.holds(place.step):  # the border's checkpoint is no longer good
            self._reopen()
            return self.place
        return place

    def record(self, batch: StepBatch, result: StepResult) -> Wishes:
        """Move on by the step, put it into the journal; what the ranks agreed on for this border."""
        self.place = Place(self.place.step + 1, self.place.tokens + batch.tokens_real, batch.state_after)
        self.beat(self.place.step, "step")
        self.emit(self._step_record(batch, result.loss, result.grad_norm))
        stop, save, snapshot_interval, behind, *own_seconds = result.told
        self._watch_pace(own_seconds)
        return Wishes(stop=stop > 0, save=save > 0, snapshot_interval=0 if behind else int(snapshot_interval))

    def _watch_pace(self, own_seconds: list[float]) -> None:
        if self.rank > 0:
            return
        self.pace, found = watch_pace(self.pace, time.perf_counter() - self.step_began, own_seconds)
        for slow in found:
            node = self.nodes[slow.rank]
            logger.warning(
                "rank %d on %s is slow: %.3f s a step by itself, the others %.3f s",
                slow.rank,
                node,
                slow.seconds,
                slow.others_seconds,
            )
            seconds = {"seconds": slow.seconds, "others_seconds": slow.others_seconds}
            self.emit({"event": "slow_rank", "step": self.place.step, "rank": slow.rank, "node": node, **seconds})
        if self.place.step % WINDOW == 0 and (medians := own_medians(self.pace)):
            rounded = [round(seconds, 6) for seconds in medians]
            self.emit({"event": "rank_times", "step": self.place.step, "seconds": rounded, "nodes": self.nodes})

    def where(self) -> str:
        """The step in work and its sequences, for a diagnosis."""
        first = self.place.loader.consumed
        return (
            f"in step {self.place.step + 1}, which takes {self.config.train.global_batch_size} sequences from position "
            f"{first} of the order on (`headrace data show {self.config.data_dir} {first} --sequence --file RUN.yaml`)"
        )

    def _step_record(self, batch: StepBatch, loss: float, grad_norm: float) -> dict[str, Any]:
        seconds = time.perf_counter() - self.step_began
        tokens_per_second = batch.tokens_real / seconds
        record = {
            "step": self.place.step,
            "loss": loss,
            "loss_hex": loss.hex(),
            "sequence_hash": batch.sequence_hash,
            "lr": self.rate,
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
            record["skipped_updates"] = self.guard.overflows
        return record

    def checkpoint_due(self, wishes: Wishes) -> bool:
        """Whether a checkpoint falls on this step border; the last step's is saved by the loop."""
        return not self.done and (wishes.save or self.checkpointer.due(self.place.step))

    def evaluation_due(self) -> bool:
        """Whether an evaluation falls on this step border; the final one is asked for by the loop."""
        return not self.done and self.place.step % self.config.eval.interval == 0

    def evaluate(self, final: bool = False) -> None:
        """Held-out loss into the journal, with what else is told of a classifier; at the end with samples."""
        self.beat(self.place.step, "eval")
        began = time.perf_counter()
        loss, facts = self._judge()
        self.emit(
            {
                "event": "eval",
                "step": self.place.step,
                "tokens": self.place.tokens,
                "val_loss": loss,
                "unigram_loss": self.unigram_loss,
                **facts,
                "final": final,
                "seconds": time.perf_counter() - began,
                "samples": self._samples() if final else [],
            }
        )

    def _judge(self) -> tuple[float, dict[str, Any]]:
        """Held-out loss over all ranks, and what else the journal says of it."""

        def beat() -> None:
            self.beat(self.place.step, "eval")

        if not self.classes:
            return evaluate(self.engine, self.evaluation_batches, beat), {}
        result = evaluate_classes(self.engine, self.evaluation_batches, len(self.classes), beat)
        return result.loss, journal_facts(result, self.classes)

    def _samples(self) -> list[dict[str, str]]:
        """Continuations of the prompts. Every rank computes them: at ZeRO stage 3 a forward pass needs all ranks."""
        tokenizer = self.load_tokenizer()
        return [{"prompt": prompt, "text": self._continue(prompt, tokenizer)} for prompt in self.config.eval.samples]

    def _continue(self, prompt: str, tokenizer: TextTokenizer) -> str:
        self.beat(self.place.step, "export")  # takes far longer than a batch of the evaluation
        [encoded] = tokenizer.encode([prompt])
        prompt_ids, tokens = [int(token) for token in encoded], self.config.eval.sample_tokens
        module, eot_id = self.engine.module, tokenizer.eot_id
        with torch.compiler.set_stance("force_eager"):  # texts of all lengths would each be compiled for
            if is_cut(self.config):
                return tokenizer.decode(continue_greedily(module, prompt_ids, tokens, eot_id=eot_id))
            seed = derive_seed(self.config.seed, "sample", prompt)
            ids = generate(module, prompt_ids, tokens, temperature=0.8, top_k=50, seed=seed, eot_id=eot_id)
        return tokenizer.decode(ids)

    def snapshot(self, wishes: Wishes) -> None:
        """This place into memory that outlives the rank, as often as was agreed."""
        self.checkpointer.snapshots.take(self.engine, self.place, wishes.snapshot_interval)

    def save_when_due(self, wishes: Wishes) -> None:
        """Learn how the save under way stands, and begin one if it falls on this step border."""
        self.checkpointer.poll()
        if self.checkpoint_due(wishes):
            self.beat(self.place.step, "save")
            self.checkpointer.save(self.place)

    def save_and_wait(self) -> None:
        """A checkpoint of this place, unless it has one; it is safe when this returns.

        Raises:
            SaveFailedError: the storage failed.
        """
        self.beat(self.place.step, "save")
        self.checkpointer.save(self.place, wait=True, waiting=lambda: self.beat(self.place.step, "save"))


def _memory_bytes(device: torch.device) -> int:
    """Peak memory of this rank: of the device, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
