"""Hugging Face's Trainer, with reports, logs and saves switched off."""

import os
from typing import Any

import torch
from common import Blocks, Task, asked, build_model, build_optimizer, mean_loss, rate_schedule
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """This rank's rows by step, as the Trainer names them."""

    def __init__(self, task: Task) -> None:
        self._blocks = Blocks(task)

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        tokens_bt, labels_bt = self._blocks[step]
        return {"tokens_bt": tokens_bt, "labels_bt": labels_bt}


class Wrapped(nn.Module):
    """The model without its `config`, which the Trainer takes for one of its own library's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_bt: Tensor, labels_bt: Tensor) -> Tensor:
        """The model's summed loss."""
        loss: Tensor = self.model(tokens_bt, labels_bt)
        return loss


class StepTrainer(Trainer):
    """The Trainer with our loss and rows."""

    last_loss: Tensor

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *others: Any, **more: Any) -> Any:
        """The mean loss of this rank's rows."""
        return mean_loss(model, inputs["tokens_bt"], inputs["labels_bt"])

    def training_step(self, *arguments: Any, **more: Any) -> Tensor:
        """Forward and backward; the loss is kept for the stamp."""
        self.last_loss = super().training_step(*arguments, **more)
        return self.last_loss

    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
        """Whole batches of this rank, not to be dealt out once more."""
        assert self.train_dataset is not None
        return torch.utils.data.DataLoader(self.train_dataset, batch_size=None, shuffle=False)


class Stamp(TrainerCallback):
    """The end of a step."""

    def __init__(self, task: Task) -> None:
        self._stamps = task.stamps()
        self.trainer: StepTrainer | None = None

    def on_step_end(self, *arguments: Any, **more: Any) -> None:
        """Read the loss and stamp."""
        assert self.trainer is not None
        self._stamps.step(self.trainer.last_loss.item())


def main() -> None:
    """Train on the task."""
    task = asked()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    arguments = TrainingArguments(
        output_dir=task.out,
        use_cpu=True,
        max_steps=task.steps,
        per_device_train_batch_size=1,
        max_grad_norm=task.grad_clip,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
    )
    model = Wrapped(build_model(task))
    optimizer = build_optimizer(model, task, rate=1.0)
    stamp = Stamp(task)
    trainer = StepTrainer(
        model=model,
        args=arguments,
        train_dataset=Rows(task),
        optimizers=(optimizer, rate_schedule(task, optimizer)),
        callbacks=[stamp],
    )
    stamp.trainer = trainer
    trainer.train()


if __name__ == "__main__":
    main()
