"""What a run has learnt: its newest good checkpoint as a model, for export, generation and evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from data_shards.dataset import Dataset
from data_shards.kept_template import kept_template
from data_shards.shard_cache import cache_place
from data_shards.tokenizer import TextTokenizer, load_tokenizer
from model.config import GPTConfig
from model.encoder_decoder import build_model
from model.gpt import GPT
from model.huggingface_export import ChatFacts, export
from model.lora import merge
from model.lora_settings import LoRASettings
from trainer.checkpoint.load import CheckpointReader, SavedParameters, read_full_parameters
from trainer.checkpoint.manifest import Manifest
from trainer.checkpoint.store import (
    Choice,
    checkpoints_address,
    list_checkpoints,
    newest_good,
    read_manifest,
    verify_checkpoint,
)
from trainer.config import RunConfig, parse_run_file
from trainer.errors import TrainError


@dataclass(frozen=True)
class Trained:
    """A run and the checkpoint that stands for it."""

    config: RunConfig
    choice: Choice
    dataset: Dataset

    @property
    def step(self) -> int:
        """Optimizer steps behind the weights."""
        return self.choice.manifest.step

    @property
    def model_config(self) -> GPTConfig:
        """The model's shape as it was saved."""
        return model_config_of(self.choice.manifest)

    def tokenizer(self) -> TextTokenizer:
        """The tokenizer that the run was trained with."""
        return load_tokenizer(self.dataset.tokenizer_path)

    def parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and value of every parameter, float32, read one at a time; adapters are merged into their layers."""
        lora = self.config.train.lora
        if lora is None:
            return read_full_parameters(self.choice.address, self.choice.manifest)
        return _merged_parameters(self.choice, lora)

    def model(self) -> GPT:
        """The model, in evaluation mode, on the CPU."""
        with torch.device("meta"):
            model = build_model(self.model_config)
        model.load_state_dict(dict(self.parameters()), assign=True)
        return model.eval()


def _merged_parameters(choice: Choice, lora: LoRASettings) -> Iterator[tuple[str, torch.Tensor]]:
    with CheckpointReader(choice.address, choice.manifest) as reader:
        for name, value in merge(SavedParameters(reader), lora).items():
            yield name, value
            reader.let_go()


def model_config_of(manifest: Manifest) -> GPTConfig:
    """The shape of the model in a checkpoint."""
    return GPTConfig.from_dict(dict(manifest.header.settings["model"]))


def find_checkpoint(out_dir: Path, step: int | None = None) -> tuple[RunConfig, Choice]:
    """A run's configuration, and its newest good checkpoint or the one of a step, verified.

    Raises:
        TrainError: there is none, or none that is whole.
    """
    config = parse_run_file((out_dir / "run.yaml").read_text(), str(out_dir / "run.yaml"))
    choice = newest_good(out_dir, config.checkpoint.dir) if step is None else _of_step(out_dir, config, step)
    if choice is None:
        raise TrainError(f"{out_dir}: the run has no checkpoint yet. Train it first with `headrace train FILE.yaml`.")
    return config, choice


def _of_step(out_dir: Path, config: RunConfig, step: int) -> Choice:
    entries = [entry for entry in list_checkpoints(out_dir, config.checkpoint.dir) if entry.is_believed]
    of_step = [entry for entry in entries if entry.step == step]
    if not of_step:
        where, steps = checkpoints_address(out_dir, config.checkpoint.dir), [entry.step for entry in entries]
        raise TrainError(f"{where}: there must be a checkpoint of step {step}, there are of {steps or 'none'}.")
    problems = verify_checkpoint(of_step[-1].address)
    if problems:
        raise TrainError(f"{of_step[-1].address}: {'; '.join(problems)}. Use the checkpoint of another step.")
    return Choice(of_step[-1].address, read_manifest(of_step[-1].address), ())


def open_trained(out_dir: Path, step: int | None = None) -> Trained:
    """The newest good checkpoint of a run, or the one of a step, verified.

    Raises:
        TrainError: the run has none yet, or none that is whole.
    """
    config, choice = find_checkpoint(out_dir, step)
    return Trained(config, choice, open_dataset(config, choice))


def open_dataset(config: RunConfig, choice: Choice) -> Dataset:
    """The version of the dataset that a checkpoint was trained on. Raises DataError if it is not there."""
    fingerprint = choice.manifest.header.settings["dataset"]
    return Dataset.open(config.data_dir, fingerprint, cache_place(config.data))


def export_trained(trained: Trained, to: Path) -> Path:
    """Write the model in Hugging Face's layout: config.json, safetensors and tokenizer.json. One parameter at a time
    is held."""
    dataset = trained.dataset
    export(
        trained.parameters(),
        trained.model_config,
        dataset.tokenizer_path,
        to,
        dataset.eot_id,
        classes=dataset.classes,
        chat=_chat_facts(trained),
    )
    return to


def _chat_facts(trained: Trained) -> ChatFacts | None:
    template = kept_template(trained.dataset, trained.config.data)
    return None if template is None else ChatFacts(template.text, template.tokens, template.end_mark)
