"""What a run has learnt: its newest good checkpoint as a model, for export, generation and evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data_shards.dataset import Dataset
from data_shards.shard_cache import cache_place
from data_shards.stats import unigram_loss
from data_shards.tokenizer import TextTokenizer, load_tokenizer
from model.config import GPTConfig
from model.generate import generate
from model.gpt import GPT
from model.huggingface import export
from trainer.checkpoint.load import read_full_parameters
from trainer.checkpoint.store import Choice, newest_good
from trainer.config import RunConfig, parse_run_file
from trainer.errors import TrainError
from trainer.evaluate import held_out_batches, label_ids, summed_loss


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
        return GPTConfig.from_dict(dict(self.choice.manifest.header.settings["model"]))

    def tokenizer(self) -> TextTokenizer:
        """The tokenizer that the run was trained with."""
        return load_tokenizer(self.dataset.tokenizer_path)

    def parameters(self) -> dict[str, torch.Tensor]:
        """Every parameter whole, float32, by name."""
        return dict(read_full_parameters(self.choice.address, self.choice.manifest))

    def model(self) -> GPT:
        """The model, in evaluation mode, on the CPU."""
        model = GPT(self.model_config)
        model.load_state_dict(self.parameters())
        return model.eval()


def open_trained(out_dir: Path) -> Trained:
    """The newest good checkpoint of a run, verified.

    Raises:
        TrainError: the run has none yet, or none that is whole.
    """
    config = parse_run_file((out_dir / "run.yaml").read_text(), str(out_dir / "run.yaml"))
    choice = newest_good(out_dir, config.checkpoint.dir)
    if choice is None:
        raise TrainError(f"{out_dir}: the run has no checkpoint yet. Train it first with `headrace train FILE.yaml`.")
    fingerprint = choice.manifest.header.settings["dataset"]
    return Trained(config, choice, Dataset.open(config.data_dir, fingerprint, cache_place(config.data)))


def export_trained(trained: Trained, to: Path) -> Path:
    """Write the model as config.json, model.safetensors and tokenizer.json, in Hugging Face's layout."""
    dataset = trained.dataset
    export(trained.parameters(), trained.model_config, dataset.tokenizer_path, to, dataset.eot_id)
    return to


def continue_text(
    trained: Trained, prompt: str, *, tokens: int, temperature: float, top_k: int | None, seed: int
) -> str:
    """The text that the model writes after a prompt."""
    tokenizer = trained.tokenizer()
    [prompt_ids] = tokenizer.encode([prompt])
    ids = generate(
        trained.model(),
        [int(token) for token in prompt_ids],
        tokens,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
        eot_id=tokenizer.eot_id,
    )
    return tokenizer.decode(ids)


def held_out_loss(trained: Trained, max_tokens: int) -> dict[str, float]:
    """Mean cross-entropy on the held-out split in nats per token, its perplexity, and the unigram model's loss."""
    batches = held_out_batches(trained.config, trained.dataset, max_tokens=max_tokens)
    loss_sum, labels = summed_loss(trained.model(), batches(), torch.device("cpu"))
    loss = loss_sum / max(labels, 1)
    unigram = unigram_loss(trained.dataset, label_ids(batches()), on_bad_shard=trained.config.data.on_bad_shard)
    return {"loss": loss, "perplexity": float(np.exp(loss)), "unigram_loss": unigram, "tokens": float(labels)}
