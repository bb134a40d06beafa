"""Whether a tracking store can be used from here."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path

TIMEOUT_SECONDS = 5.0


def reach_problem(tracking_uri: str) -> str:
    """What is in the way of using the store at that address; nothing if nothing is."""
    if tracking_uri.startswith("sqlite:///"):
        folder = Path(tracking_uri.removeprefix("sqlite:///")).parent
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            return f"{folder} is not a folder"
        return "" if os.access(folder, os.W_OK) else f"{folder} is not writable"
    try:
        with urllib.request.urlopen(f"{tracking_uri.rstrip('/')}/health", timeout=TIMEOUT_SECONDS):
            return ""
    except urllib.error.HTTPError as error:
        # It asks who we are: credentials come from the environment, when they are needed.
        return "" if error.code in (401, 403) else f"answers with {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        return f"does not answer: {getattr(error, 'reason', error)}"
