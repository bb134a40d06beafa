"""The browser that the other tests use reaches this machine's own address, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.browser.chromium import Browser

pytestmark = [pytest.mark.browser, pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(600)]

_TRY = """
const done = arguments[1];
fetch(arguments[0], {mode: 'no-cors'}).then(() => done('answered'), error => done(error.name));
"""


class Page(BaseHTTPRequestHandler):
    """Answers everything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<title>here</title>")

    def log_message(self, format: str, *values: object) -> None:
        """Nothing."""


@contextmanager
def server(address: str) -> Iterator[str]:
    with ThreadingHTTPServer((address, 0), Page) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"http://{address}:{listening.server_port}/"
        finally:
            listening.shutdown()
            thread.join()


def test_browser_reaches_one_address_of_this_machine_and_no_other(browser: Browser) -> None:
    """Another loopback address stands for the world: without the rule it would answer."""
    with ExitStack() as stack:
        here, elsewhere = (stack.enter_context(server(address)) for address in ("127.0.0.1", "127.0.0.2"))
        browser.open(here)
        assert browser.driver.title == "here"
        assert browser.driver.execute_async_script(_TRY, f"{here}again") == "answered"
        assert browser.driver.execute_async_script(_TRY, elsewhere) == "TypeError"
        assert browser.requests()[:1] == [here]
        assert elsewhere in browser.requests()
        assert any("net::ERR_NAME_NOT_RESOLVED" in complaint for complaint in browser.complaints())
