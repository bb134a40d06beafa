"""Accelerate's loop, as its documentation has it."""

import os

from accelerate import Accelerator, DistributedDataParallelKwargs
from common import Blocks, asked, build_model, build_optimizer, mean_loss, set_rate


def main() -> None:
    """Train on the task."""
    task = asked()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    views = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    accelerator = Accelerator(cpu=True, mixed_precision="no", kwargs_handlers=[views])
    model = build_model(task)
    model, optimizer = accelerator.prepare(model, build_optimizer(model, task))
    stamps = task.stamps()
    for rate, (tokens_bt, labels_bt) in zip(task.rates, Blocks(task), strict=True):
        set_rate(optimizer, rate)
        loss = mean_loss(model, tokens_bt, labels_bt)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), task.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        stamps.step(loss.item())
    accelerator.end_training()


if __name__ == "__main__":
    main()
