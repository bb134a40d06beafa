"""Lightning's Trainer, with all that it can do without switched off."""

import os
from typing import Any

import lightning
import torch
from common import (
    RANK,
    WORLD_SIZE,
    Blocks,
    Task,
    asked,
    build_model,
    build_optimizer,
    mean_loss,
    rate_schedule,
)
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor


class Module(lightning.LightningModule):
    """The model as Lightning takes it."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task, self.model, self.stamps = task, build_model(task), task.stamps()

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The mean loss of this rank's rows."""
        return mean_loss(self.model, *batch)

    def configure_optimizers(self) -> Any:
        """AdamW, and the rates by the step."""
        optimizer = build_optimizer(self.model, self.task, rate=1.0)
        schedule = {"scheduler": rate_schedule(self.task, optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
        """The end of a step."""
        self.stamps.step(outputs["loss"].item())


def main() -> None:
    """Train on the task."""
    task = asked()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    many = DDPStrategy(process_group_backend="gloo", gradient_as_bucket_view=True)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=WORLD_SIZE,
        strategy=many if WORLD_SIZE > 1 else "auto",
        precision="32-true",
        max_steps=task.steps,
        max_epochs=-1,
        gradient_clip_val=task.grad_clip,
        gradient_clip_algorithm="norm",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        default_root_dir=task.out,
    )
    loader = torch.utils.data.DataLoader(Blocks(task), batch_size=None, shuffle=False)
    trainer.fit(Module(task), loader)
    assert trainer.global_rank == RANK


if __name__ == "__main__":
    main()
