"""Loads an exported model for `mlflow.pyfunc.load_model`. MLflow keeps this file with the model: it imports none of
Headrace's packages, only torch and transformers.

predict(prompts, params): a list of texts, or a table whose first column holds them. A language model gives the
continuation of each; a classifier gives the label of each, or of each pair where there is a second column.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

Params = Mapping[str, Any]


class Continuations:
    """A language model: texts in, their continuations out, one text at a time so that none is padded."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        """Of transformers: a causal model in evaluation mode, and its tokenizer."""
        self._model = model
        self._tokenizer = tokenizer

    def predict(self, model_input: Any, params: Params | None = None) -> list[str]:
        """The continuations. params: max_new_tokens, temperature (0: the likeliest token), top_k (0: all), seed."""
        chosen = {"max_new_tokens": 64, "temperature": 0.0, "top_k": 50, "seed": 0, **(params or {})}
        return [self._continue(prompt, chosen) for prompt in _texts(model_input)]

    def _continue(self, prompt: str, params: Params) -> str:
        limit, eot_id = int(self._model.config.max_position_embeddings), self._tokenizer.eos_token_id
        new_tokens = min(int(params["max_new_tokens"]), limit - 1)
        ids = self._tokenizer(prompt).input_ids[-(limit - new_tokens) :] or [eot_id]
        sampling: dict[str, Any] = {"do_sample": False}
        if params["temperature"] > 0:
            sampling = {"do_sample": True, "temperature": params["temperature"], "top_k": int(params["top_k"])}
            torch.manual_seed(int(params["seed"]))
        prompt_bt = torch.tensor([ids])
        out_bt = self._model.generate(
            prompt_bt,
            attention_mask=torch.ones_like(prompt_bt),
            max_new_tokens=new_tokens,
            pad_token_id=eot_id,
            **sampling,
        )
        return str(self._tokenizer.decode(out_bt[0, len(ids) :], skip_special_tokens=True))


class Labels:
    """A classifier: texts in, labels out."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        """Of transformers: a model for sequence classification in evaluation mode, and its tokenizer."""
        self._model = model
        self._tokenizer = tokenizer

    def predict(self, model_input: Any, params: Params | None = None) -> list[str]:
        """The likeliest label of each text or pair of texts; there are no params."""
        ids = [self._tokenizer(text).input_ids for text in _texts(model_input)]
        if getattr(model_input, "ndim", 1) == 2 and model_input.shape[1] > 1:
            pairs = _texts(model_input.iloc[:, 1])
            end = [self._tokenizer.eos_token_id]
            ids = [own + end + self._tokenizer(pair).input_ids for own, pair in zip(ids, pairs, strict=True)]
        return [self._label(own) for own in ids]

    @torch.no_grad()
    def _label(self, ids: list[int]) -> str:
        limit = int(self._model.config.max_position_embeddings)
        ids = ids[-limit:] or [self._tokenizer.eos_token_id]
        logits_bc = self._model(torch.tensor([ids])).logits
        return str(self._model.config.id2label[int(logits_bc[0].argmax())])


def _load_pyfunc(path: str) -> Continuations | Labels:
    """MLflow's entry: the model in a folder of Hugging Face's layout, on the CPU."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    [architecture] = json.loads((Path(path) / "config.json").read_text())["architectures"]
    tokenizer = AutoTokenizer.from_pretrained(path)
    if architecture.endswith("ForSequenceClassification"):
        return Labels(AutoModelForSequenceClassification.from_pretrained(path).eval(), tokenizer)
    return Continuations(AutoModelForCausalLM.from_pretrained(path).eval(), tokenizer)


def _texts(model_input: Any) -> Iterable[str]:
    """A text, a list or array of texts, or the first column of a table."""
    if isinstance(model_input, str):
        return [model_input]
    if hasattr(model_input, "iloc"):
        model_input = model_input.iloc[:, 0] if getattr(model_input, "ndim", 1) == 2 else model_input
    return [str(text) for text in model_input]
