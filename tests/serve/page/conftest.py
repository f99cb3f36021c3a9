"""Fixtures: a server, a browser and the page in it. `tools/page/check` says what they need and runs these tests.

Each page that a test opens is watched: it must ask no other server, break no policy and log no error.
"""

import asyncio
import os
import re
import threading
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.browser import BELOW, DESKTOP, MODELS, PATIENCE, WHERE, expect, launched

SCREENSHOTS = os.environ.get("SCREENSHOTS")
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server with two models; the same application is mounted below BELOW."""
    uvicorn: Any = pytest.importorskip("uvicorn", reason=WHERE)
    from bitvit.serve import app

    application: Any = app(dict(MODELS))

    async def mounted(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        below = str(scope.get("path", "")).startswith(BELOW)
        await application({**scope, "root_path": BELOW} if below else scope, receive, send)

    running = uvicorn.Server(uvicorn.Config(mounted, port=0, log_level="error"))
    thread = threading.Thread(target=lambda: asyncio.run(running.serve()))
    thread.start()
    while not running.started:
        assert thread.is_alive()
        thread.join(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/"
    running.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Any, server: str, request: pytest.FixtureRequest) -> Iterator[Open]:
    """open_page(address="", **options): the page in a browser of its own, watched until the test ends."""
    contexts, faults = [], []
    origins = {urlsplit(server).netloc, urlsplit(server).netloc.replace("127.0.0.1", "elsewhere.test")}

    def heard(message: Any) -> None:
        # A browser logs any answer that is an error; that there is one is what some tests are about.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            faults.append(message.text)

    def asked(asking: Any) -> None:
        url = urlsplit(asking.url)
        if url.scheme not in ("blob", "data") and url.netloc not in origins:
            faults.append(f"asked {asking.url}")

    def open_page(address: str = server, *, script: str = "", **options: Any) -> Any:
        context = browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce", **options})
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("console", heard)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", asked)
        # Choosers are caught from now on: Playwright begins to when somebody listens, but does not wait until it does.
        page.on("filechooser", lambda _: None)
        if script:
            page.add_init_script(script)
        page.goto(address)
        expect(page.locator("#facts")).not_to_be_empty()
        return page

    yield open_page
    for number, context in enumerate(contexts):
        if SCREENSHOTS:
            name = re.sub(r"\W+", "-", f"{request.node.name.removeprefix('test_')} {number}")
            context.pages[0].screenshot(path=Path(SCREENSHOTS) / f"{name}.png", full_page=True)
        context.close()
    assert faults == []


@pytest.fixture
def page(open_page: Open) -> Any:
    return open_page()
