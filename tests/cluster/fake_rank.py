"""An entry module without torch: ranks that meet at a TCP barrier each step, and fail where they are told to."""

import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any


def preload() -> None:
    wish = os.environ.get("FAKE_PRELOAD")
    if wish == "raise":
        raise ImportError("no module named 'wheel_of_the_mill'")
    if wish == "threads":
        for _ in range(3):
            threading.Thread(target=threading.Event().wait, daemon=True).start()


def main(spec: dict[str, Any]) -> int:
    """Run steps up to spec["steps"]; rank 0 keeps a checkpoint after each and writes it to the journal."""
    out_dir = Path(spec["out_dir"])
    note_time(out_dir, "entered", spec)
    beat = spec["heartbeat"].beat
    checkpoint = out_dir / "checkpoint"
    first = int(checkpoint.read_text()) + 1 if checkpoint.exists() else 1
    beat(first, "init")
    if "remember" in spec:
        os.pwrite(spec["snapshot_fd"], spec["remember"].encode(), 0)
    peers = _meet(spec)
    for step in range(first, spec["steps"] + 1):
        for phase in ("data", "forward", "collective"):
            beat(step, phase)
            code = _fail(spec, step, phase)
            if code is not None:
                return code
        _barrier(spec["rank"], peers)
        beat(step, "step")
        if spec["rank"] == 0:
            os.write(spec["journal_fd"], json.dumps({"step": step, "attempt": spec["attempt"]}).encode() + b"\n")
            _save(checkpoint, step)
        if step % spec.get("eval_interval", 1 << 30) == 0:
            beat(step, "eval")
            _fail(spec, step, "eval")
            _barrier(spec["rank"], peers)
        time.sleep(spec.get("pace_seconds", 0.0))
    return 0


def note_time(out_dir: Path, name: str, spec: dict[str, Any]) -> None:
    """Append the moment to OUT_DIR/NAME.jsonl; one write, so that ranks do not mix their lines."""
    line = json.dumps({"attempt": spec["attempt"], "rank": spec["rank"], "pid": os.getpid(), "at": time.monotonic()})
    with (out_dir / f"{name}.jsonl").open("ab", buffering=0) as file:
        file.write(line.encode() + b"\n")


def _fail(spec: dict[str, Any], step: int, phase: str) -> int | None:
    for fault in spec.get("faults", []):
        if fault.get("phase", "forward") != phase:
            continue
        if fault["rank"] != spec["rank"] or fault["step"] != step or spec["attempt"] not in fault["attempts"]:
            continue
        note_time(Path(spec["out_dir"]), "faults", spec)
        if fault["do"] == "use_up_memory":
            raise MemoryError
        if fault["do"] == "raise":
            raise RuntimeError(f"the mill broke at step {step}")
        if fault["do"] == "return":
            sys.stderr.write(fault.get("say", "") + "\n")
            return int(fault["code"])
        if fault["do"] == "kill_zygote":
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()
        if fault["do"] == "wait":
            threading.Event().wait()
        os.kill(os.getpid(), signal.Signals[fault["do"]])
    return None


def _meet(spec: dict[str, Any]) -> list[socket.socket]:
    others = spec["world_size"] - 1
    if spec["rank"] == 0:
        with socket.socket(fileno=spec["store_fd"]) as listener:
            return [listener.accept()[0] for _ in range(others)]
    return [socket.create_connection((spec["store_host"], spec["store_port"]))]


def _barrier(rank: int, peers: list[socket.socket]) -> None:
    order = (_hear, _tell) if rank == 0 else (_tell, _hear)
    for act in order:
        for peer in peers:
            act(peer)


def _tell(peer: socket.socket) -> None:
    peer.sendall(b".")


def _hear(peer: socket.socket) -> None:
    if not peer.recv(1):
        raise ConnectionError("peer closed")


def _save(path: Path, step: int) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(str(step))
    partial.replace(path)
