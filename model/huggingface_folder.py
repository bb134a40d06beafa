"""Weights from a folder in Hugging Face's layout: config.json and safetensors, in one file or several."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.config import GPTConfig
from model.errors import ModelError
from model.gpt import GPT, parameter_shapes
from model.huggingface_config import class_names, read_folder_config, read_json
from model.huggingface_layout import LAYOUTS, stored_tensors

_HEAD = "lm_head.weight"
# Constants that old files carry along.
_CONSTANTS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq", "position_ids")


class WeightsFolder:
    """A folder whose files were seen to belong together. Parameters are read one at a time, through memory maps.

    `config` is the model's shape, without checkpointing; `classes` are the names of a classifier's; `shapes` are those
    of its parameters by name.
    """

    def __init__(self, folder: Path) -> None:
        """Raises ModelError, naming the file, for a folder that holds another kind of model or is not whole."""
        self.folder = folder
        model_type, self.config = read_folder_config(folder)
        self.classes = class_names(folder / "config.json", read_json(folder / "config.json"))
        layout = LAYOUTS[model_type]
        self.shapes = parameter_shapes(self.config)
        self._places = stored_tensors(layout, self.config, self.shapes)
        self._files: dict[str, tuple[Any, str]] = {}
        """By the tensor's name in the layout: its file, and what it is called in there."""
        for file in _open_files(folder):
            for name in file.keys():  # noqa: SIM118  it is no mapping
                whole = name if name.startswith((layout.stem, "lm_head.", "score.")) else layout.stem + name
                if not whole.endswith(_CONSTANTS):
                    self._files[whole] = file, name
        self._check_names_and_shapes()
        self._check_tied_head()

    def read(self, name: str) -> Tensor:
        """A parameter in its own shape, float32; rows that pad the vocabulary are zero."""
        out = torch.zeros(self.shapes[name])
        for stored in self._places[name]:
            tensor = self._tensor(stored.name)
            out[stored.start : stored.stop].copy_(tensor.T if stored.is_transposed else tensor)
        return out

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Name and value of every parameter, in the model's order."""
        for name in self.shapes:
            yield name, self.read(name)

    def _tensor(self, stored_name: str) -> Tensor:
        file, name = self._files[stored_name]
        tensor: Tensor = file.get_tensor(name)
        return tensor

    def _check_names_and_shapes(self) -> None:
        expected = {stored.name: stored.shape for places in self._places.values() for stored in places}
        found = {known: tuple(file.get_slice(name).get_shape()) for known, (file, name) in self._files.items()}
        if self.config.tied_head:
            found.pop(_HEAD, None)
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise ModelError(
                    f"{self.folder}: weight {name} has shape {found.get(name, 'none')}, config.json asks for "
                    f"{expected.get(name, 'none')}: the two files do not belong together"
                )

    def _check_tied_head(self) -> None:
        embedding = self._places["wte.weight"][0].name
        if not self.config.tied_head or _HEAD not in self._files:
            return
        if not torch.equal(self._tensor(_HEAD), self._tensor(embedding)):
            raise ModelError(
                f"{self.folder}: {_HEAD} differs from {embedding}, but config.json ties the two; set "
                "tie_word_embeddings to false there"
            )


def load_model(folder: Path) -> tuple[GPT, GPTConfig]:
    """A GPT with the float32 weights of a folder in Hugging Face layout, in training mode. Raises ModelError."""
    weights = WeightsFolder(folder)
    with torch.device("meta"):
        model = GPT(weights.config)
    model.load_state_dict(dict(weights.parameters()), assign=True)
    return model, weights.config


def _open_files(folder: Path) -> Iterator[Any]:
    """model.safetensors, or the files that model.safetensors.index.json names."""
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.exists():
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
        for name in names:
            if Path(name).name != name:
                raise ModelError(f"{index}: weight_map: must name files beside it, found {name!r}; copy them there")
    for path in (folder / name for name in names):
        try:
            yield safe_open(path, framework="pt", device="cpu")
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} cannot be read: {error}; copy the weights again (as safetensors)") from error
