"""Ray Train's trainer, started in a fraction of the time: its controller runs in the driver, without helpers.

By default Ray Train starts an actor for the controller, one that speaks to the cluster's autoscaler and two more
helpers, each a process that imports Ray Train for seconds of CPU, one after another, before the first worker is asked
for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import ray
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from cluster.gang_worker import gang_worker
from cluster.spec import GangSpec

# What it says of a gang that fails is in the error that it raises, too.
logging.getLogger("ray.train").setLevel(logging.CRITICAL)


class GangScaling(FixedScalingPolicy):  # type: ignore[misc]  # Ray tells no types here
    """Asks no autoscaler for room: a gang is started where there is room for it already."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Register nothing."""

    def _maybe_send_resource_request(self) -> None:
        """Send nothing."""


class GangWorkers(WorkerGroup):  # type: ignore[misc]
    """Workers that call no controller, and are started with the environment of their job alone.

    So processes that Ray has ready for the job are used for them.
    """

    def __init__(self, train_run_context: Any, *more: Any, **named: Any) -> None:
        super().__init__(train_run_context, *more, **named)
        self._worker_cls = gang_worker(GangSpec.from_dict(train_run_context.train_loop_config["gang"]))

    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Mapping[str, Any]) -> dict[str, Any]:
        return dict(custom_runtime_env)

    def _init_train_context_on_workers(
        self, workers: list[Any], sync_actor: Any, train_context_args: Mapping[str, list[Any]]
    ) -> None:
        """As Ray Train's own, which takes the controller for an actor that workers could report checkpoints to."""
        calls = [
            worker.actor.init_train_context.remote(
                train_run_context=self._train_run_context,
                distributed_context=worker.distributed_context,
                synchronization_actor=sync_actor,
                storage_context=self._storage_context,
                worker_callbacks=self._worker_callbacks_to_propagate,
                controller_actor=None,
                **{name: values[number] for name, values in train_context_args.items()},
            )
            for number, worker in enumerate(workers)
        ]
        ray.get(calls)
        self._decorate_worker_log_file_paths(workers)


class GangController(TrainController):  # type: ignore[misc]
    """The controller with the gang's own kind of workers."""

    worker_group_cls = GangWorkers


class GangTrainer(DataParallelTrainer):  # type: ignore[misc]
    """Starts one gang and waits for its end, in the calling thread."""

    # They hand out Ray's datasets, and remove the placement group of a controller that died, which Ray does as well.
    NEEDLESS = ("DatasetsCallback", "PlacementGroupCleanerCallback")

    def _create_default_callbacks(self) -> list[Any]:
        return [each for each in super()._create_default_callbacks() if type(each).__name__ not in self.NEEDLESS]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        """What Ray Train has an actor do; the gang's processes are the driver's then, and end with it."""
        controller = GangController(**{**arguments, "scaling_policy": GangScaling(self.scaling_config)})
        asyncio.run(controller.run())
        return controller.get_result()
