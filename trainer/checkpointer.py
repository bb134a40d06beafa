"""When a run saves, and the way from its engine into a checkpoint and back."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist

from data_shards.loader import LoaderState
from model.config import GPTConfig
from monitoring.journal import read_records
from trainer.checkpoint.load import CheckpointReader
from trainer.checkpoint.manifest import Header
from trainer.checkpoint.save import save_checkpoint
from trainer.checkpoint.store import agree_on_checkpoint, list_checkpoints
from trainer.config import RunConfig
from trainer.engine_state import restore, snapshot
from trainer.errors import TrainError
from trainer.place import Place
from trainer.process_group import broadcast_from_first, gather_to_first
from trainer.snapshots import Snapshots

logger = logging.getLogger(__name__)

RNG_NOTE = "torch's generators are seeded at each step from (seed, step, rank); nothing of them needs saving"


class Checkpointer:
    """Saves and restores one rank's part of a run. All ranks call `save` and `restore` together.

    `snapshot_fd` is memory that outlives this rank, where it has a supervisor.
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
        local_world_size: int,
    ) -> None:
        self._config = config
        self._engine = engine
        self._run_id = run_id
        self._attempt = attempt
        self._precision = precision
        model = model_config.to_dict()
        del model["activation_checkpointing"]  # may change: it changes no number
        self._settings = {"model": model, "dataset": dataset_fingerprint, "seed": config.seed}
        self._saved_step = -1
        self._saved_time = time.monotonic()
        self.skipped: tuple[tuple[Path, str], ...] = ()
        """Newer checkpoints that the last restore passed over, each with the reason."""
        identity = {
            **self._settings,
            "run_id": run_id,
            "precision": precision,
            "rank": dist.get_rank(),
            "world_size": dist.get_world_size(),
            "zero_stage": engine.zero_optimization_stage(),
        }
        self.snapshots = Snapshots(snapshot_fd, config.checkpoint.snapshot_interval, identity, engine, local_world_size)

    def due(self, step: int) -> bool:
        """Whether the interval in steps ends at this one."""
        steps = self._config.checkpoint.interval_steps
        return steps is not None and step % steps == 0

    def time_is_up(self) -> bool:
        """Whether the interval in seconds has passed since the last save."""
        seconds = self._config.checkpoint.interval_seconds
        return seconds is not None and time.monotonic() - self._saved_time >= seconds

    def save(self, place: Place) -> dict[str, Any] | None:
        """Write a checkpoint; path, bytes and seconds on success, None where this step has one already."""
        if place.step == self._saved_step:
            return None
        header = Header(
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
        )
        out_dir, keep = Path(self._config.out_dir), self._config.checkpoint.keep
        result = save_checkpoint(
            out_dir, header, snapshot(self._engine), rank=dist.get_rank(), gather=gather_to_first, keep=keep
        )
        # Nobody goes on before the manifest is in place: a rank that dies right after must find the checkpoint.
        dist.barrier()
        self._saved_step, self._saved_time = place.step, time.monotonic()
        return {"path": str(result.path), "bytes": result.bytes, "seconds": result.seconds}

    def restore(self) -> tuple[Place, str] | None:
        """Go on from what is newest, a snapshot in memory or a checkpoint on disk: the place, and which it was.

        None where there is neither.

        Raises:
            TrainError: there are checkpoints and none is good, or the newest good one is of another model or dataset.
        """
        kept = self.snapshots.newest_common()
        out_dir = Path(self._config.out_dir)
        on_disk = broadcast_from_first(max((entry.step for entry in list_checkpoints(out_dir)), default=-1))
        choice = None
        if kept is None or kept < on_disk:
            choice = agree_on_checkpoint(out_dir, rank=dist.get_rank(), broadcast=broadcast_from_first)
        if kept is not None and (choice is None or choice.manifest.step < kept):
            self._saved_step = kept if kept == on_disk else -1
            return self.snapshots.restore(self._engine, kept), "memory"
        if choice is None:
            self._refuse_lost_checkpoints(out_dir)
            return None
        self.skipped = choice.skipped
        header = choice.manifest.header
        self._check_same_run(header, choice.path)
        with CheckpointReader(choice.path, choice.manifest) as reader:
            restore(self._engine, reader)
        self._saved_step = header.step
        logger.info("restored step %d from %s", header.step, choice.path)
        return Place(header.step, header.tokens, LoaderState.from_dict(header.loader)), str(choice.path)

    def _refuse_lost_checkpoints(self, out_dir: Path) -> None:
        """A run that saved before must not start from step 0 without a word because its checkpoints are gone."""
        saved = (
            [r["step"] for r in read_records(out_dir) if r.get("event") == "checkpoint"] if dist.get_rank() == 0 else []
        )
        newest = broadcast_from_first(max(saved, default=None))
        if newest is not None:
            raise TrainError(
                f"{out_dir / 'checkpoints'}: the journal says that step {newest} was saved, but no checkpoint is "
                f"there. Put the files back, or start a new run with another out_dir."
            )

    def _check_same_run(self, header: Header, path: Path) -> None:
        if dict(header.settings) == self._settings:
            return
        differ = sorted(key for key in self._settings if header.settings.get(key) != self._settings[key])
        raise TrainError(
            f"{path}: the checkpoint must be of this run's model, dataset and seed, but {', '.join(differ)} differ: "
            f"saved {[header.settings.get(key) for key in differ]}, now {[self._settings[key] for key in differ]}. "
            f"Set them back, or train into another out_dir."
        )
