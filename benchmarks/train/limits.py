"""What limits the rows, as read from the code of what runs; the figures are in the tables alone."""

from __future__ import annotations

LIMITS = """### What limits, read from the code and to be seen in the tables

- **Training against the bare loop.** The kernels are the same, so what differs is what a step costs whatever its batch
  is (the table above). Beside fp32 parameters DeepSpeed keeps, from stage 1 on, masters of their own: gradients are
  copied into a bucket and out of it, masters back into the parameters, and the clip is a pass over the gradients by
  itself, all of them reads and writes of memory as large as the model. The gradient's norm is taken in fp64, which
  first writes all gradients anew at twice their size. At stage 3 there is Python for each parameter that is gathered
  and let go.
- **Frameworks.** All of them run the same kernels on the same batch; a framework can only be overtaken by the Python
  that it adds to a step, which is little beside a step of a second.
- **nanoGPT.** Eager, it holds all logits and passes over them several times. Headrace's loss makes them in chunks that
  stay in the cache, and takes their gradient where they are.
- **Starts.** A run of `headrace train` starts Ray, Ray Train's controller, a worker, and in it the process that imports
  torch and DeepSpeed; each imports what it needs, one after the other. A driver no longer imports torch. `ray.train`
  imports pandas, which nothing here asks for. A Ray that runs saves the first of these steps alone.
- **Bytes.** Where each rank's share of gradients, masters and moments is small, the buckets are the rest: Headrace lets
  them be as large as the model, up to 500 million elements; `train.deepspeed.zero_optimization.reduce_bucket_size`
  makes them smaller."""
