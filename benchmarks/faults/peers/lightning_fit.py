"""Lightning under torchrun: `ModelCheckpoint(save_last="link")` every so many steps, `fit(ckpt_path="last")`.

A link, since `True` writes each checkpoint twice. All checkpoints stay and the link has one name: a kill between the
removal of an old checkpoint and the new link would leave a link to nothing, which Lightning cannot start from.
"""

from __future__ import annotations

import os

import training

asked = training.options()
rank = int(os.environ["RANK"])
training.announce(asked, rank)

from collections.abc import Iterator  # noqa: E402
from datetime import timedelta  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import lightning  # noqa: E402
import torch  # noqa: E402
from lightning.pytorch.callbacks import Callback, ModelCheckpoint  # noqa: E402
from lightning.pytorch.strategies import DDPStrategy  # noqa: E402
from torch.utils.data import DataLoader, IterableDataset  # noqa: E402

WORLD = int(os.environ["WORLD_SIZE"])


class Rows(IterableDataset[torch.Tensor]):
    """This rank's rows of each step, from the step on that the trainer is at."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self._tokens = training.Tokens(asked)

    def __iter__(self) -> Iterator[torch.Tensor]:
        step = self.trainer.global_step
        while True:
            step += 1
            yield self._tokens.own_rows(asked, step, rank, WORLD)


class Module(lightning.LightningModule):
    """The model with its loss and optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.gpt = training.build_model(asked)

    def training_step(self, tokens: torch.Tensor, number: int) -> torch.Tensor:
        return training.loss_of(self.gpt, tokens)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return training.build_optimizer(asked, self.gpt)


class Log(Callback):
    """Writes the step log."""

    def __init__(self) -> None:
        self._log = training.StepLog(asked, rank)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self._log.write(trainer.global_step)


def main() -> None:
    """Train until somebody ends it."""
    rows = Rows()
    saving = ModelCheckpoint(
        dirpath=Path(asked["out"]) / "checkpoints",
        save_last="link",
        save_top_k=-1,
        enable_version_counter=False,
        every_n_train_steps=asked["save_every"],
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy=DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=asked["timeout_seconds"])),
        max_steps=10**9,
        gradient_clip_val=1.0,
        callbacks=[saving, Log()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    rows.trainer = trainer
    trainer.fit(Module(), DataLoader(rows, batch_size=None), ckpt_path="last")


if __name__ == "__main__":
    main()
