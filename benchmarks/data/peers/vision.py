"""Lets `import streaming` succeed where torch is built for CPUs and torchvision for GPUs; neither is used."""

import importlib
import sys

import torch


def load_torchvision() -> torch.library.Library | None:
    """Import torchvision, which Streaming's examples ask for; where its operators do not load, declare those it needs.

    The library must be kept, since its operators go with it.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        importlib.import_module("torchvision")
        return library
    return None


LIBRARY = load_torchvision()
