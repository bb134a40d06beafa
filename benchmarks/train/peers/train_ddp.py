"""DistributedDataParallel around the model of the bare loop; gradients are views of its buckets, so no copies."""

import torch.distributed as dist
from common import asked, build_model, build_optimizer, join, plain_loop
from torch.nn.parallel import DistributedDataParallel


def main() -> None:
    """Train on the task."""
    task = asked()
    join()
    model = DistributedDataParallel(build_model(task), gradient_as_bucket_view=True)
    plain_loop(model, model.parameters(), build_optimizer(model, task), task)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
