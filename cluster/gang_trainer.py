"""Ray Train's trainer, started in a fraction of the time: its controller runs in the driver, without helpers.

By default Ray Train starts an actor for the controller, one that speaks to the cluster's autoscaler and three more
helpers, each a process that imports Ray Train for seconds of CPU, one after another, before the first worker is asked
for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import ray
import ray.exceptions
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.util import invoke_context_managers
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
    """Workers that call no controller and meet without a helper, started with the environment of their job alone.

    So processes that Ray has ready for the job are used for them.
    """

    def __init__(self, train_run_context: Any, *more: Any, **named: Any) -> None:
        super().__init__(train_run_context, *more, **named)
        self._worker_cls = gang_worker(GangSpec.from_dict(train_run_context.train_loop_config["gang"]))

    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Mapping[str, Any]) -> dict[str, Any]:
        return dict(custom_runtime_env)

    def _start_impl(self, worker_group_state_builder: Any) -> None:
        """As Ray Train's own, but for its SynchronizationActor; where it wants one, rank 0's worker stands in."""
        self._assert_inactive()
        context, builder = self._worker_group_context, worker_group_state_builder
        self._check_cluster_resources_and_raise_if_insufficient(context.resources_per_worker, context.num_workers)
        with invoke_context_managers([each.on_worker_group_start for each in self._callbacks]):
            for callback in self._callbacks:
                callback.before_worker_group_start(context)
            place = self._placed(context)
            builder.with_placement_group_handle(place)
            workers = self._create_workers(context.num_workers, place.placement_group, context.resources_per_worker)
            builder.with_workers(workers).with_sync_actor(workers[0].actor)
            try:
                self._init_train_context(workers, workers[0].actor)
                self._worker_group_state = builder.build()
                for callback in self._callbacks:
                    callback.after_worker_group_start(self)
            except ray.exceptions.RayActorError as error:
                raise WorkerGroupStartupFailedError("A worker died before it had started.") from error
        ray.get([worker.actor.run_train_fn.remote(context.train_fn_ref) for worker in workers])
        if len(workers) > 1:  # nobody waits for it here: it goes from worker to worker
            address = workers[0].actor.tell_address.remote()
            self._hearing = [worker.actor.hear_address.remote(address) for worker in workers[1:]]
        for callback in self._callbacks:
            callback.after_worker_group_training_start(self)

    def _placed(self, context: Any) -> Any:
        """Room for the workers, all at once."""
        place = self._create_placement_group(self._train_run_context.scaling_config, context)
        if not place.wait(self._worker_group_start_timeout_s):
            place.shutdown()
            raise WorkerGroupStartupTimeoutError(num_workers=context.num_workers)
        return place

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
