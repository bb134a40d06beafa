"""Secrets in addresses."""

from __future__ import annotations

import pytest

from monitoring.addresses import holds_secret, without_secrets


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://me:pw@host:5000", "http://me:...@host:5000"),
        ("http://me:p/w@host", "http://me:...@host"),
        ("postgresql+psycopg2://u:p@w@host/d", "postgresql+psycopg2://u:...@host/d"),
        ("sftp://u:pw@host/corpus.txt", "sftp://u:...@host/corpus.txt"),
        ("https://pw@host/a", "https://...@host/a"),
        ("https://h/a.txt?X-Amz-Credential=pw&X-Amz-Date=1", "https://h/a.txt?X-Amz-Credential=...&X-Amz-Date=1"),
        ("https://h/a?sv=1&sig=pw", "https://h/a?sv=1&sig=..."),
        ("postgresql://h/d?user=me&password=pw", "postgresql://h/d?user=me&password=..."),
    ],
)
def test_address_with_a_secret_is_shown_without_it(address: str, shown: str) -> None:
    assert without_secrets(address) == shown
    assert holds_secret(address)
    assert not holds_secret(shown)


@pytest.mark.parametrize(
    "address",
    ["http://host:5000", "sqlite:////srv/a:b@c.db", "postgresql://u@h/d", "s3://bucket/a@b:c", "corpus/*.txt", ""],
)
def test_address_without_a_secret_stays(address: str) -> None:
    assert without_secrets(address) == address
    assert not holds_secret(address)
