"""Finds the texts that kill the process which encodes them: they are encoded in a child process first.

A worker whose process died again and again does its unit anew with this; see `UnitWorker.careful`.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_shards.encoder import Encoder
from data_shards.storage import open_folder
from data_shards.tokenizer import parse_tokenizer

# What makes, from the bytes of a tokenizer.json, its place and whether to be fast, an object with `encode_flat(texts)`.
LOADER = "data_shards.isolation:load_encoder"
# A batch of at most a few MiB takes milliseconds; a child that is silent for so long hangs, as its worker would.
LIMIT_SECONDS = 300.0


def try_texts(
    tokenizer: Path | str,
    texts: Sequence[str],
    *,
    fast: bool = True,
    loader: str = LOADER,
    limit_seconds: float = LIMIT_SECONDS,
) -> dict[int, str]:
    """Encode `texts` in a child process; the places of those that end it, in order, with how ("signal 9 (Killed)").

    `tokenizer` is the path or address of a tokenizer.json, `fast` whether the worker would use the fast encoder.
    All at once first; if that ends the child, one after the other, each time in a new child. A text on which the
    child is silent for `limit_seconds` counts as one that ends it. The child is kept for the next call. Raises
    RuntimeError if the tokenizer cannot be loaded there, or gives an exception, which would be no death of a worker.
    """
    child = _child(str(tokenizer), loader, fast)
    if not texts or child.death_on(texts, limit_seconds) is None:
        return {}
    deaths = {place: child.death_on([text], limit_seconds) for place, text in enumerate(texts)}
    return {place: death for place, death in deaths.items() if death is not None}


class _Child:
    """A process that encodes what it is told to; started when it is first needed and after each death."""

    def __init__(self, tokenizer: str, loader: str, fast: bool) -> None:
        # The child finds the modules where this process did, and not in whatever folder it stands.
        self._command = [sys.executable, "-P", "-m", "data_shards.isolation", loader, tokenizer, str(fast)]
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process: subprocess.Popen[bytes] | None = None

    def death_on(self, texts: Sequence[str], limit_seconds: float) -> str | None:
        """How the child died of these texts, or None if it lives."""
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(list(texts)).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return self._end(process)
        return self._answer(process, limit_seconds)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        process = subprocess.Popen(self._command, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        death = self._answer(process, LIMIT_SECONDS)
        if death is not None:
            raise RuntimeError(f"a process to try texts in did not start: {death}")
        self._process = process
        return process

    def _answer(self, process: subprocess.Popen[bytes], limit_seconds: float) -> str | None:
        """Wait for the child's line; how it died if none came."""
        assert process.stdout is not None
        line = b""
        deadline = time.monotonic() + limit_seconds
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                process.kill()
                self._end(process)
                return f"no answer within {limit_seconds:.0f} s"
            part = os.read(process.stdout.fileno(), 1 << 16)
            if not part:
                return self._end(process)
            line += part
        answer = json.loads(line)
        if answer is not None:
            self._end(process)
            raise RuntimeError(f"a process to try texts in failed: {answer}")
        return None

    def _end(self, process: subprocess.Popen[bytes]) -> str:
        self._process = None
        status = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                _close(pipe)
        return f"signal {-status} ({signal.strsignal(-status)})" if status < 0 else f"exit status {status}"


def _close(pipe: Any) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        return  # what was not yet written is for nobody


@lru_cache(maxsize=1)
def _child(tokenizer: str, loader: str, fast: bool) -> _Child:
    return _Child(tokenizer, loader, fast)


def load_encoder(data: bytes, path: Path, fast: bool) -> Encoder:
    """The encoder that a worker uses."""
    return Encoder(parse_tokenizer(data, path).backend, fast=fast)


def _serve(loader: str, tokenizer: str, fast: str) -> None:
    """The child: a line in for each batch of texts, a line out when it is encoded: null, or what was raised."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that a library prints is taken for an answer
    module, _, name = loader.partition(":")
    try:
        folder, _, file = tokenizer.rpartition("/")
        data = open_folder(folder).read(file)
        if data is None:
            raise FileNotFoundError(tokenizer)
        encoder = getattr(importlib.import_module(module), name)(data, Path(tokenizer), fast == "True")
        print("null", file=answers, flush=True)
        for line in sys.stdin.buffer:
            encoder.encode_flat(json.loads(line))
            print("null", file=answers, flush=True)
    except Exception as error:  # noqa: BLE001  it is raised again by the parent
        print(json.dumps(f"{type(error).__name__}: {error}"), file=answers, flush=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
