"""The chat template that a dataset's conversations were written with, kept beside them: its source may change."""

from __future__ import annotations

from data_shards.chat_template import ChatTemplate, chat_template
from data_shards.dataset import Dataset
from data_shards.settings import DataSettings

TEMPLATE_FILE = "chat_template.json"


def template_file(template: ChatTemplate | None) -> dict[str, bytes]:
    """What a version of a dataset keeps of a template, by the file's name; nothing of none."""
    return {} if template is None else {TEMPLATE_FILE: template.to_json()}


def kept_template(dataset: Dataset, settings: DataSettings) -> ChatTemplate | None:
    """The template of a dataset of conversations; None of another dataset.

    One that was made before templates were kept has that of the tokenizer that the settings name. Raises: DataError
    where that cannot be read.
    """
    if dataset.examples is None or dataset.examples.task != "chat":
        return None
    data = dataset.kept(TEMPLATE_FILE)
    return chat_template(settings.tokenizer) if data is None else ChatTemplate.from_json(data)
