"""Addresses that hold a secret: found, and shown without it."""

from __future__ import annotations

import re

# All up to the last @, since a password may itself hold / and @. An address without a host, such as sqlite:////a@b, has
# no user. On the web even a user's name alone may be a token.
_USER_AND_PASSWORD = re.compile(r"(://[^/@:?#]*):.*@")
_USER_ON_THE_WEB = re.compile(r"\b(https?://)[^/?#]*@")
_SECRET_PARAMETER = re.compile(
    r"([?&](?:x-(?:amz|goog)-(?:signature|credential|security-token)|signature|sig|token|access_token|api_?key|secret"
    r"|password|passwd)=)(?!\.\.\.)[^&#]+",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """The text with `...` for passwords and signatures in addresses; unchanged where it holds none."""
    shown = _USER_AND_PASSWORD.sub(r"\1:...@", text)
    shown = _USER_ON_THE_WEB.sub(lambda found: found[0] if found[0].endswith(":...@") else f"{found[1]}...@", shown)
    return _SECRET_PARAMETER.sub(r"\1...", shown)


def holds_secret(text: str) -> bool:
    """Whether an address tells a password, a token or a signature."""
    return without_secrets(text) != text
