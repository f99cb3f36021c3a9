"""What tests of the page share: images to give it, what it shows, and what it should.

Playwright is imported when it is used: without it these tests are skipped.
"""

import contextlib
import importlib
import io
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitvit import Classifier
from tests.support.paths import WEIGHTS

__all__ = [
    "BELOW", "DESKTOP", "MODELS", "PATIENCE", "PHONE", "SAMPLES", "WHERE",
    "answer_of", "encoded", "expect", "expected_classes", "give", "launched", "photo", "pixels_of", "settled",
    "shown_classes", "upload", "violations",
]  # fmt: skip

MODELS = {"cifar": WEIGHTS / "bhvit-cifar10.safetensors", "digits": WEIGHTS / "bhvit-digits.safetensors"}
BELOW = "/below/it"  # where the same application is mounted once more
SAMPLES = sorted((WEIGHTS / "samples").glob("*.png"))
PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1400, "height": 900}
PATIENCE = 20_000  # milliseconds
WHERE = "tools/page/check says what is needed"
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
    "--host-resolver-rules=MAP elsewhere.test 127.0.0.1",  # a name that is not localhost: no secure context
]


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """Playwright's browser; the test is skipped where there is none."""
    sync_api: Any = pytest.importorskip("playwright.sync_api", reason=WHERE)
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip(f"no Chromium: {WHERE}")
    sync_api.expect.set_options(timeout=PATIENCE)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


def expect(locator: Any) -> Any:
    """Playwright's assertions, which wait until they hold."""
    return importlib.import_module("playwright.sync_api").expect(locator)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width: int = 120, height: int = 80) -> bytes:
    """A JPEG with something in it."""
    across, down = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 4, height))
    planes = [np.sin(across), np.cos(down), np.sin(across * down)]
    return encoded(Image.fromarray((127 + 120 * np.stack(planes, axis=-1)).astype(np.uint8)), "JPEG", quality=90)


def upload(name: str, data: bytes) -> dict[str, Any]:
    return {"name": name, "mimeType": "application/octet-stream", "buffer": data}


def give(page: Any, *uploads: dict[str, Any]) -> None:
    page.set_input_files("#files", list(uploads))


def settled(page: Any, count: int) -> None:
    """Wait until there are `count` cards, all with their result or error."""
    expect(page.locator("article")).to_have_count(count)
    expect(page.locator('article[aria-busy="false"]')).to_have_count(count)


def shown_classes(page: Any) -> list[tuple[str, str]]:
    rows = page.locator(".classes li")
    return list(
        zip(rows.locator(".label").all_text_contents(), rows.locator(".share").all_text_contents(), strict=True)
    )


def expected_classes(data: bytes, model: str = "cifar") -> list[tuple[str, str]]:
    found = Classifier(MODELS[model])(data)
    shares = ["< 0.1 %" if one["score"] < 0.0005 else f"{100 * one['score']:.1f} %" for one in found]
    return [(one["label"], share) for one, share in zip(found, shares, strict=True)]


def answer_of(server: str, data: bytes, **parameters: object) -> Any:
    """What /explain answers, without the page; of an error, its text."""
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    request = urllib.request.Request(f"{server}explain?{query}", data, {"Content-Type": "application/octet-stream"})
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return json.load(error)["error"]


def pixels_of(locator: Any) -> Any:
    """uint8 [H, W, 3]: how it looks."""
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB"))


def violations(page: Any) -> list[tuple[str, list[str]]]:
    """What axe finds wrong with a page as it is now: rules, and the elements that break them."""
    axe: Any = pytest.importorskip("axe_playwright_python", reason=WHERE)
    page.evaluate(files(axe).joinpath("axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run().then(({ violations }) => violations)")
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]
