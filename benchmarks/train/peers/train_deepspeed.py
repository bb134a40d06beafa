"""DeepSpeed alone, with the configuration that Headrace gives it."""

import logging
import os

import deepspeed
from common import Blocks, asked, build_model, build_optimizer, mean_loss, set_rate


def main() -> None:
    """Train on the task."""
    task = asked()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # Else the first collective compiles an operation for two minutes, in every run.
    vars(deepspeed.ops)["__compatible_ops__"] = {}
    defaults = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in {**defaults, "GLOO_SOCKET_IFNAME": "lo"}.items():
        os.environ.setdefault(name, value)
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)
    model = build_model(task)
    optimizer = build_optimizer(model, task)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=task.deepspeed, dist_init_required=False)
    stamps = task.stamps()
    for rate, (tokens_bt, labels_bt) in zip(task.rates, Blocks(task), strict=True):
        set_rate(engine.optimizer, rate)
        loss = mean_loss(engine, tokens_bt, labels_bt)
        engine.backward(loss)
        engine.step()
        stamps.step(loss.item())
    engine.destroy()


if __name__ == "__main__":
    main()
