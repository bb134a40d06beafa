"""A Ray that runs: started by a benchmark, asked by `headrace prepare --address`, ended when standard input closes.

Options: workers (CPUs that Ray gives out).
"""

from __future__ import annotations

import json
import sys

import ray

OBJECT_STORE_BYTES = 512 << 20


def main() -> None:
    """Print the address, then hold."""
    asked = json.loads(sys.argv[-1])
    ray.init(
        address="local",
        num_cpus=asked["workers"],
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level="ERROR",
    )
    sys.stdout.write(json.dumps({"address": ray.get_runtime_context().gcs_address}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main()
