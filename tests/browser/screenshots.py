"""The README's pictures of the pages: `python -m tests.browser.screenshots`, in the environment of make test-browser.

Two short runs of the demo are made first (`--folder DIR` keeps them, and takes those that lie there), and one more is
submitted to a cluster of one node.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.browser.chromium import HEIGHT, WIDTH, Browser, chromium
from tests.browser.demo_runs import NAMES, dashboard, demo_fields, make_demo_runs, write_comparison
from tests.browser.scenes import fold, make_room, show_charts, show_job
from tests.end_to_end.headrace import ROOT, headrace
from tests.end_to_end.ray_head import ray_head

MOST_BYTES = 200_000
_WIDER = 1.25  # for a page that needs more room than the picture has pixels
_METRICS = "^(loss|val_loss|tokens_per_second|lr|grad_norm|mfu)$"

Scene = Callable[[Browser, Path], AbstractContextManager[None]]


def main() -> int:
    """Write the pictures; 0 if all are small enough."""
    parser = argparse.ArgumentParser(description="Take the README's pictures of the pages.")
    parser.add_argument("--to", type=Path, default=ROOT / "docs/images", metavar="DIR", help="default: docs/images")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="of the demo's runs; default: a temporary one")
    parser.add_argument("--only", choices=SCENES, help="one picture; default: all")
    args = parser.parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    names = [args.only] if args.only else list(SCENES)
    with tempfile.TemporaryDirectory(prefix="headrace-pictures-") as temporary:
        folder = (args.folder or Path(temporary)).absolute()
        make_demo_runs(folder)
        with chromium() as browser:
            sizes = [_picture(browser, folder, SCENES[name], args.to / f"{name}.png") for name in names]
    return 0 if max(sizes) <= MOST_BYTES else 1


def _picture(browser: Browser, folder: Path, scene: Scene, path: Path) -> int:
    """Take a picture, and say how large it is."""
    browser.size(WIDTH, HEIGHT)
    with scene(browser, folder):
        browser.wait_until_still()
        browser.screenshot(path)
    size = path.stat().st_size
    print(f"{path}: {size:,} bytes{'' if size <= MOST_BYTES else f', more than {MOST_BYTES:,}'}")  # noqa: T201
    return size


@contextmanager
def _compare(browser: Browser, folder: Path) -> Iterator[None]:
    page = folder / "compared.html"
    write_comparison(folder / "runs", page)
    browser.open(page.as_uri())
    browser.wait_for("document.documentElement.dataset.drawn === 'yes'", "the curves")
    yield


@contextmanager
def _mlflow(browser: Browser, folder: Path) -> Iterator[None]:
    browser.size(round(_WIDER * WIDTH), round(_WIDER * HEIGHT), 1 / _WIDER)
    with dashboard(folder / "runs") as opened:
        show_charts(browser, opened, _METRICS, plots_at_least=6)
        make_room(browser)
        yield


@contextmanager
def _ray(browser: Browser, folder: Path) -> Iterator[None]:
    browser.size(round(_WIDER * WIDTH), round(_WIDER * HEIGHT), 1 / _WIDER)
    with ray_head(cpus=2) as head, tempfile.TemporaryDirectory(prefix="headrace-submitted-") as submitted:
        words = demo_fields(Path(submitted), NAMES[0], seed=1)
        done = headrace("submit", "recipes/demo.yaml", *words, "--address", head.url, "--follow", deadline_seconds=1800)
        if done.returncode != 0:
            sys.exit(done.stdout + done.stderr)
        show_job(browser, head.url, done.stdout.split("submitted: ")[1].split()[0])
        browser.wait_for_text("SUCCEEDED")
        browser.wait_for_text("step ")  # of a long log the page holds only what is in view
        fold(browser, "Ray Core Overview")
        yield


SCENES: dict[str, Scene] = {"compare": _compare, "mlflow": _mlflow, "ray": _ray}

if __name__ == "__main__":
    sys.exit(main())
