"""When a run saves, and the way from its engine into a checkpoint and back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from data_shards.errors import DataError
from data_shards.loader import LoaderState
from model.config import DEFAULT_SHAPE, GPTConfig
from monitoring.journal import read_records
from trainer.attempts import newest_attempt
from trainer.background_save import BackgroundSave
from trainer.checkpoint.copies import CopyMemory
from trainer.checkpoint.fence import is_believed, note_resumed, resumed_steps
from trainer.checkpoint.files import nothing
from trainer.checkpoint.load import CheckpointReader
from trainer.checkpoint.manifest import Header
from trainer.checkpoint.save import At, SaveTask, no_fault
from trainer.checkpoint.store import Choice, agree_on_checkpoint, checkpoints_address, list_checkpoints
from trainer.collectives import broadcast_from_first
from trainer.config import RunConfig
from trainer.engine_state import parameter_shapes, restore, restore_frozen, snapshot
from trainer.errors import FencedError, SaveFailedError, TrainError
from trainer.place import Place
from trainer.snapshots import Snapshots
from trainer.stages import Stage

logger = logging.getLogger(__name__)

RNG_NOTE = "torch's generators are seeded at each step from (seed, step, rank); nothing of them needs saving"
WAIT_SECONDS = 0.05


class Checkpointer:
    """Saves and restores one rank's part of a run. All ranks call `save`, `poll`, `finish` and `restore` together.

    `snapshot_fd` is memory that outlives this rank, where it has a supervisor, and behind `former_fds` are the
    snapshots of all ranks of a gang of another size, where there was one (see `checkpoint.former`). `emit` writes the
    events of saves to the journal; `at` is called in the background thread at the points of a save (see
    `checkpoint.save.At`).
    """

    def __init__(
        self,
        config: RunConfig,
        run_id: str,
        attempt: int,
        dataset_fingerprint: str,
        model_config: GPTConfig,
        precision: str,
        engine: Any,
        snapshot_fd: int | None,
        former_fds: Sequence[int],
        local_world_size: int,
        emit: Callable[[Mapping[str, Any]], None],
        at: At = no_fault,
        stage: Stage | None = None,
    ) -> None:
        self._config = config
        self._stage, self._stage_begin = (0, 0) if stage is None else (stage.index, stage.begin)
        self._engine = engine
        self._run_id = run_id
        self._attempt = attempt
        self._precision = precision
        model = model_config.to_dict()
        del model["activation_checkpointing"]  # may change: it changes no number
        self._model = model
        self._settings = {"model": model, "dataset": dataset_fingerprint, "seed": config.seed}
        self._emit = emit
        self._at = at
        self._address = checkpoints_address(Path(config.out_dir), config.checkpoint.dir)
        self._memory = CopyMemory()
        self._under_way: BackgroundSave | None = None
        self._saves = 0
        self._is_owed = False
        self._last_reason: str | None = None
        self._saved_step = -1
        self._saved_time = time.monotonic()
        self.skipped: tuple[tuple[str, str], ...] = ()
        """Newer checkpoints that the last restore passed over, each with the reason."""
        whose = {**self._settings, "run_id": run_id, "precision": precision, "stage": self._stage}
        interval = config.checkpoint.snapshot_interval
        self.snapshots = Snapshots(snapshot_fd, former_fds, interval, whose, engine, local_world_size, attempt)

    def due(self, step: int) -> bool:
        """Whether the interval in steps ends at this one, or a save that was put off can start."""
        if self._is_owed and self._under_way is None:
            return True
        steps = self._config.checkpoint.interval_steps
        return steps is not None and step % steps == 0

    def time_is_up(self) -> bool:
        """Whether the interval in seconds has passed since the last save."""
        seconds = self._config.checkpoint.interval_seconds
        return seconds is not None and time.monotonic() - self._saved_time >= seconds

    def is_saving(self, step: int) -> bool:
        """Whether the checkpoint of a step is under way; alike on all ranks."""
        return self._under_way is not None and self._under_way.step == step

    def save(self, place: Place, wait: bool = False, waiting: Callable[[], None] = nothing) -> None:
        """Have this rank's part copied and written in the background. A step that has a checkpoint gets no second one.

        While another save is under way, this one is put off to the next step border after it. With `wait`, both are
        waited for, with calls of `waiting` meanwhile.

        Raises:
            SaveFailedError: `wait`, and the storage failed.
            FencedError: a newer attempt has begun.
        """
        if wait:
            self.finish(waiting)
        if self._under_way is not None:
            self._is_owed = True
        elif place.step != self._saved_step:
            self._start(place)
        if wait:
            self.finish(waiting)
            self._refuse_failure(place)

    def poll(self) -> None:
        """Learn, together with the other ranks, whether the save under way is over. All ranks call it at every border.

        Costs a sum of two numbers over the ranks while a save is under way, nothing else. Raises as `save`.
        """
        save = self._under_way
        if save is None:
            return
        self._tell(save.late_event(self._is_owed))
        try:
            if not save.settle(self._engine.device):
                return
        except FencedError:
            newest = newest_attempt(Path(self._config.out_dir))
            self._tell({"event": "fenced", "attempt": self._attempt, "newest": newest})
            raise
        self._under_way = None
        if save.failure is None:
            self._saved_step, self._last_reason = save.step, None
            self._tell(save.end_event())
        elif save.failure != self._last_reason:
            self._last_reason = save.failure
            self._tell(save.end_event())

    def finish(self, waiting: Callable[[], None] = nothing) -> None:
        """Wait for the save under way, if there is one. All ranks call it together; it raises as `save`."""
        while self._under_way is not None:
            self._under_way.wait(WAIT_SECONDS)
            waiting()
            self.poll()

    def _start(self, place: Place) -> None:
        began = time.monotonic()
        copy = self._memory.begin(snapshot(self._engine))
        self._saves += 1
        task = SaveTask(
            out_dir=Path(self._config.out_dir),
            header=self._header(place),
            snapshot=copy.snapshot,
            rank=dist.get_rank(),
            number=self._saves,
            keep=self._config.checkpoint.keep,
            address=self._config.checkpoint.dir,
            at=self._at,
        )
        self._is_owed, self._saved_time = False, began
        self._under_way = BackgroundSave(task, copy.make, began)

    def hold_still(self) -> None:
        """Call it before weights or moments change: the save under way may still copy them."""
        if self._under_way is not None:
            self._under_way.hold_still()

    def _header(self, place: Place) -> Header:
        return Header(
            run_id=self._run_id,
            attempt=self._attempt,
            step=place.step,
            tokens=place.tokens,
            world_size=dist.get_world_size(),
            zero_stage=self._engine.zero_optimization_stage(),
            precision=self._precision,
            loader=place.loader.to_dict(),
            settings=self._settings,
            rng=RNG_NOTE,
            stage=self._stage,
        )

    def _tell(self, event: Mapping[str, Any] | None) -> None:
        if event is not None:
            self._emit(event)

    def _refuse_failure(self, place: Place) -> None:
        if place.step != self._saved_step:
            raise SaveFailedError(
                f"{self._address}: the checkpoint of step {place.step} must be saved before the run ends, but: "
                f"{self._last_reason}. Make room there or correct checkpoint.dir and start the run again: it goes on "
                f"from the newest checkpoint."
            )

    def restore(self, start: Callable[[], object] = nothing) -> tuple[Place, str] | None:
        """Go on from what is newest, a snapshot in memory or a checkpoint on disk: the place, and which it was.

        None where there is neither. Afterwards no checkpoint of an older attempt of a later step counts. `start` puts
        the run's first weights into the engine; it is called where memory does not hold them all (frozen ones).

        Raises:
            TrainError: there are checkpoints and none is good, or the newest good one is of another model or dataset.
        """
        self.finish()
        restored = self._restore(start)
        if dist.get_rank() == 0:
            note_resumed(Path(self._config.out_dir), self._attempt, 0 if restored is None else restored[0].step)
        return restored

    def _restore(self, start: Callable[[], object]) -> tuple[Place, str] | None:
        resumed = resumed_steps(Path(self._config.out_dir))
        kept = self.snapshots.newest_common(lambda attempt, step: is_believed(attempt, step, resumed))
        on_disk = self._newest_on_disk() if kept is not None else -1
        choice = None
        if kept is None or kept < on_disk:
            choice = self._agree()
        if kept is not None and (choice is None or choice.manifest.step < kept) and self._put_frozen(choice, start):
            self._saved_step = -1  # whether a checkpoint of that step is whole was not looked at
            return self.snapshots.restore(self._engine, kept), "memory"
        if choice is None:
            self._refuse_lost_checkpoints()
            return None
        self.skipped = choice.skipped
        return self._load(choice), choice.address

    def _put_frozen(self, choice: Choice | None, start: Callable[[], object]) -> bool:
        """Put in the frozen parameters, which snapshots in memory do not hold; whether there is something to take them
        from: a checkpoint of this stage, or in the first one the run's first weights."""
        if not parameter_shapes(self._engine, trainable=False):
            return True
        choice = choice or self._newest_for_frozen()
        if choice is not None and choice.manifest.step >= self._stage_begin:
            with CheckpointReader(choice.address, choice.manifest) as reader:
                restore_frozen(self._engine, reader)
            return True
        if self._stage_begin == 0:
            start()
        return self._stage_begin == 0

    def _newest_for_frozen(self) -> Choice | None:
        try:
            return self._agree()
        except TrainError as error:
            if self._stage_begin > 0:
                raise
            logger.warning("the run's first weights are taken for what is frozen, since %s", error)
            return None

    def go_back(self, waiting: Callable[[], None] = nothing) -> Place | None:
        """Go back to the newest good checkpoint, whatever memory holds; None where there is none.

        `waiting` is called while a save under way is waited for.

        Raises:
            TrainError: there are checkpoints and none is good.
        """
        self.finish(waiting)
        choice = self._agree()
        if choice is None:
            return None
        place = self._load(choice)
        if dist.get_rank() == 0:
            note_resumed(Path(self._config.out_dir), self._attempt, place.step)
        return place

    def _agree(self) -> Choice | None:
        out_dir, address = Path(self._config.out_dir), self._config.checkpoint.dir
        return agree_on_checkpoint(out_dir, address, rank=dist.get_rank(), broadcast=broadcast_from_first)

    def _newest_on_disk(self) -> int:
        """The newest step of which there is a checkpoint that counts, whole or not; -1 where none is known."""
        steps = [-1]
        if dist.get_rank() == 0:
            try:
                entries = list_checkpoints(Path(self._config.out_dir), self._config.checkpoint.dir)
                steps += [entry.step for entry in entries if entry.is_believed]
            except (OSError, DataError) as error:  # an outage must not end a run that memory can go on from
                logger.warning("going on from memory, since %s cannot be looked into: %s", self._address, error)
        newest: int = broadcast_from_first(max(steps))
        return newest

    def _load(self, choice: Choice) -> Place:
        header = choice.manifest.header
        self._check_same_run(header, choice.address)
        with CheckpointReader(choice.address, choice.manifest) as reader:
            restore(self._engine, reader, self._stage)
        self._saved_step = header.step
        self.snapshots.forget_after(header.step)
        logger.info("restored step %d from %s", header.step, choice.address)
        return Place(header.step, header.tokens, LoaderState.from_dict(header.loader))

    def _refuse_lost_checkpoints(self) -> None:
        """A run that saved before must not start from step 0 without a word because its checkpoints are gone."""
        out_dir = Path(self._config.out_dir)
        saved = []
        if dist.get_rank() == 0:
            resumed = resumed_steps(out_dir)
            records = (record for record in read_records(out_dir) if record.get("event") == "checkpoint")
            saved = [r["step"] for r in records if is_believed(r["attempt"], r["step"], resumed)]
        newest = broadcast_from_first(max(saved, default=None))
        if newest is not None:
            raise TrainError(
                f"{self._address}: the journal says that step {newest} was saved, but no checkpoint is there. Put the "
                f"files back or correct checkpoint.dir, or start a new run with another out_dir."
            )

    def _check_same_run(self, header: Header, path: str) -> None:
        if header.run_id != self._run_id:
            raise TrainError(
                f"{path}: checkpoint.dir must hold one run's checkpoints, but this one is of run {header.run_id} and "
                f"not of {self._run_id}; give this run a checkpoint.dir of its own"
            )
        later = {name: value for name, value in DEFAULT_SHAPE.items() if name in self._model}
        saved = {**header.settings, "model": {**later, **header.settings["model"]}}
        if saved == self._settings:
            return
        differ = sorted(key for key in self._settings if saved.get(key) != self._settings[key])
        raise TrainError(
            f"{path}: the checkpoint must be of this run's model, dataset and seed, but {', '.join(differ)} differ: "
            f"saved {[saved.get(key) for key in differ]}, now {[self._settings[key] for key in differ]}. "
            f"Set them back, or train into another out_dir."
        )
