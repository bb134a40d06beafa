"""Ray Train's worker, which starts its rank's zygote before it imports Ray Train: so both import at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster.gang_meeting import Address, Meeting
from cluster.spec import GangSpec
from cluster.zygote_client import ZygoteClient
from trainer.quick_imports import collector_at_rest

if TYPE_CHECKING:
    from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker

MEETING = Meeting()
"""This process's: a worker serves one gang."""

_zygotes: list[ZygoteClient] = []


def take_zygote() -> ZygoteClient | None:
    """The zygote that this process has started already, for whoever asks first."""
    return _zygotes.pop() if _zygotes else None


def gang_worker(spec: GangSpec) -> type[GangWorker]:
    """The workers of one gang, as a class without arguments: Ray Train gives none."""

    class Worker(GangWorker):
        def __init__(self) -> None:
            super().__init__(spec)

    return Worker


class GangWorker:
    """What Ray Train calls of its own worker, which is imported and made at the first call.

    The zygote is of this process's main thread, with which the process ends. A worker with a GPU learns later which
    devices it sees, and so starts its zygote later.
    """

    def __init__(self, spec: GangSpec) -> None:
        if spec.run_spec.get("device") == "cpu":
            _zygotes.append(ZygoteClient(spec))
        self._own: RayTrainWorker | None = None

    @property
    def _worker(self) -> Any:
        if self._own is None:
            with collector_at_rest():
                from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker

            self._own = RayTrainWorker()
        return self._own

    def execute(self, function: Any, *arguments: Any, **named: Any) -> Any:
        """Call a function here."""
        return self._worker.execute(function, *arguments, **named)

    def get_metadata(self) -> Any:
        """Where this worker is."""
        return self._worker.get_metadata()

    def init_train_context(self, **context: Any) -> Any:
        """Learn the place in the gang."""
        return self._worker.init_train_context(**context)

    def run_train_fn(self, train_fn_ref: Any) -> Any:
        """Start the training function in a thread."""
        return self._worker.run_train_fn(train_fn_ref)

    def tell_address(self) -> Address | None:
        """At rank 0: the address of its coordinator, once it has one."""
        from ray.train.v2._internal.execution.context import get_train_context

        return MEETING.tell(get_train_context().execution_context.training_thread_runner.is_running)

    def hear_address(self, address: Address | None) -> None:
        """Elsewhere: be told of it."""
        MEETING.hear(address)

    def poll_status(self) -> Any:
        """How that thread fares."""
        return self._worker.poll_status()

    def clear_result_queue(self) -> Any:
        """Forget reports, of which there are none."""
        return self._worker.clear_result_queue()

    def mark_preempt(self, info: Any) -> Any:
        """Learn of a preemption."""
        return self._worker.mark_preempt(info)

    def shutdown(self) -> Any:
        """Be told of the end."""
        return self._worker.shutdown()
