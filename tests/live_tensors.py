"""Counts the memory of the tensors that are alive, and its peak, by watching every operation of a thread."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Bytes of all storages that were made or seen within it. The backward pass of a CPU runs in the same thread.

    What a kernel takes and gives back within one operation is no tensor, and not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now_bytes = 0
        self.peak_bytes = 0
        self._seen: dict[int, tuple[weakref.ref[Any], int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((result, args, kwargs)):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf)
        return result

    def restart(self) -> None:
        """Look for a peak from here on."""
        self.peak_bytes = self.now_bytes

    def _see(self, tensor: torch.Tensor) -> None:
        if tensor.device.type == "meta":
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        known = self._seen.get(key)
        if known is not None and known[0]() is storage:
            self._add(size - known[1])
            self._seen[key] = (known[0], size)
        else:
            self._seen[key] = (weakref.ref(storage, lambda ref, key=key: self._forget(key, ref)), size)
            self._add(size)

    def _forget(self, key: int, ref: weakref.ref[Any]) -> None:
        known = self._seen.get(key)
        if known is not None and known[0] is ref:
            del self._seen[key]
            self.now_bytes -= known[1]

    def _add(self, size: int) -> None:
        self.now_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.now_bytes)

    def by_size(self) -> list[int]:
        """Sizes of what is alive, the largest first."""
        return sorted((size for _, size in self._seen.values()), reverse=True)
