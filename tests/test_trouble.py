"""The messages that docs/trouble.md explains are the ones that the program says, and its settings exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cluster.settings import ClusterSettings
from trainer.config import RunConfig

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/trouble.md").read_text()
PACKAGES = ("cluster", "trainer", "data_shards", "model", "monitoring")
OF_OTHERS = ("No space left on device",)  # the system's words
SECTIONS = {"data", "model", "train", "eval", "checkpoint", "cluster", "monitoring"}


def messages() -> list[str]:
    blocks = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def source() -> str:
    """All source text with each placeholder as `…`, and literals that stand side by side made one."""
    texts = [path.read_text() for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    joined = re.sub(r'"\s*\n\s*f?"', "", "\n".join(texts))
    return re.sub(r"\{[^{}]*(\{[^{}]*\}[^{}]*)*\}|%[.0-9]*[sdf]", "…", joined)


@pytest.mark.parametrize("message", messages())
def test_message_of_the_page_is_one_that_the_program_says(message: str) -> None:
    text, fragments = source(), [part.strip() for part in message.split("…")]
    missing = [part for part in fragments if part not in text and part.strip(";: ") not in (*OF_OTHERS, "")]
    assert missing == []


def field_exists(section: str, name: str) -> bool:
    if section == "cluster":
        return name in ClusterSettings.model_fields
    model = RunConfig.model_fields[section].annotation
    return name in model.model_fields  # type: ignore[union-attr]


@pytest.mark.parametrize(("section", "name"), sorted({*re.findall(r"`([a-z]+)\.([a-z_]+)[`:.]", PAGE)}))
def test_setting_of_the_page_exists(section: str, name: str) -> None:
    assert section in SECTIONS
    assert field_exists(section, name)
