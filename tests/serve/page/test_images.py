"""How images come into the page, and what it says of those that it cannot have classified."""

import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from bitvit import Classifier
from tests.support.browser import (
    MODELS,
    SAMPLES,
    answer_of,
    encoded,
    expect,
    expected_classes,
    give,
    photo,
    pixels_of,
    settled,
    shown_classes,
    upload,
)

Open = Callable[..., Any]


def transfer(page: Any, name: str, data: bytes) -> Any:
    """A DataTransfer in the page that holds a file."""
    script = """([name, bytes]) => {
      const held = new DataTransfer();
      held.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
      return held;
    }"""
    return page.evaluate_handle(script, [name, list(data)])


def test_choose(page: Any) -> None:
    data = photo()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose images").click()
    assert chooser.value.is_multiple()
    chooser.value.set_files([upload("waves.jpg", data)])
    settled(page, 1)
    expected = expected_classes(data)
    assert shown_classes(page) == expected
    expect(page.get_by_role("heading", name="waves.jpg")).to_be_visible()
    widths = page.locator(".bar span").evaluate_all("spans => spans.map(span => parseFloat(span.style.width))")
    scores = [100 * one["score"] for one in Classifier(MODELS["cifar"])(data)]
    assert widths == pytest.approx(scores, abs=1e-3)
    assert page.locator(".times dt").all_text_contents() == ["decode", "prepare", "network", "round trip"]
    times = [float(text.removesuffix(" ms")) for text in page.locator(".times dd").all_text_contents()]
    assert 0 < sum(times[:3]) <= times[3] + 0.3  # each is rounded
    label, share = expected[0]
    expect(page.get_by_role("status")).to_have_text(f"waves.jpg: {label}, {share}")


def test_several_are_sent_in_order_and_two_at_a_time(page: Any) -> None:
    page.evaluate("""() => {
      Object.assign(window, { sent: [], open: 0, most: 0, texts: [] });
      const { fetch } = window;
      window.fetch = (url, options) => {
        window.sent.push(options.body.name);
        window.most = Math.max(window.most, ++window.open);
        return fetch(url, options).finally(() => window.open--);
      };
      const text = document.getElementById("queue-text");
      new MutationObserver(() => window.texts.push(text.textContent)).observe(text, { childList: true });
    }""")
    give(page, *(upload(path.name, path.read_bytes()) for path in SAMPLES))
    settled(page, len(SAMPLES))
    assert page.locator("h3").all_text_contents() == [path.name for path in SAMPLES]
    assert page.evaluate("window.sent") == [path.name for path in SAMPLES]
    assert page.evaluate("window.most") == 2
    best = [Classifier(MODELS["cifar"])(path)[0]["label"] for path in SAMPLES]
    assert page.locator(".classes li:first-child .label").all_text_contents() == best
    count = len(SAMPLES)
    assert [f"{done} of {count} images done." in page.evaluate("window.texts") for done in range(count)] == [
        True
    ] * count
    expect(page.locator("#queue-text")).to_have_text(f"{count} images")
    expect(page.get_by_role("status")).to_have_text(f"{count} images classified")
    give(page, upload("later.jpg", photo()))  # above those before it
    settled(page, count + 1)
    expect(page.locator("h3").first).to_have_text("later.jpg")


def test_drop(page: Any) -> None:
    data = SAMPLES[0].read_bytes()
    held = transfer(page, "dropped.png", data)
    page.dispatch_event("footer", "dragover", {"dataTransfer": held})
    assert "Drop to classify" in page.evaluate("getComputedStyle(document.body, '::after').content")
    page.dispatch_event("footer", "drop", {"dataTransfer": held})
    settled(page, 1)
    assert page.evaluate("getComputedStyle(document.body, '::after').content") == "none"
    assert shown_classes(page) == expected_classes(data)
    page.dispatch_event("footer", "drop", {"dataTransfer": page.evaluate_handle("new DataTransfer()")})
    expect(page.get_by_role("alert")).to_contain_text("What was dropped is not a file")


def test_paste(page: Any) -> None:
    paste = """held => document.body.dispatchEvent(
      new ClipboardEvent("paste", { clipboardData: held, bubbles: true, cancelable: true }))"""
    page.evaluate(paste, page.evaluate_handle("new DataTransfer()"))
    expect(page.locator("#notice-text")).to_have_text("There is no image on the clipboard.")
    data = SAMPLES[1].read_bytes()
    page.evaluate(paste, transfer(page, "pasted.png", data))
    settled(page, 1)
    assert shown_classes(page) == expected_classes(data)
    expect(page.locator("#notice")).to_be_hidden()


def test_camera(page: Any) -> None:
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take a photo").click()  # enabled once there is a picture
    settled(page, 1)
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert page.evaluate("document.getElementById('preview').srcObject") is None
    expect(page.locator("h3")).to_have_text(re.compile(r"^camera .*\.jpg$"))
    seen = pixels_of(page.locator(".view"))
    assert seen[:, :, 1].mean() > 2 * seen[:, :, [0, 2]].mean()  # Chromium's fake camera is green
    page.get_by_role("button", name="Use the camera").click()
    expect(page.get_by_role("button", name="Take a photo")).to_be_enabled()
    page.keyboard.press("Escape")
    assert page.evaluate("document.getElementById('preview').srcObject") is None


@pytest.mark.parametrize("place", ["no camera", "no secure context"])
def test_without_a_camera(open_page: Open, server: str, place: str) -> None:
    script = "navigator.mediaDevices.enumerateDevices = async () => []" if place == "no camera" else ""
    page = open_page(server if script else server.replace("127.0.0.1", "elsewhere.test"), script=script)
    give(page, upload("waves.jpg", photo()))
    settled(page, 1)
    expect(page.locator(".classes li")).to_have_count(5)
    expect(page.locator("#use-camera")).to_be_hidden()


def test_a_camera_that_is_refused(open_page: Open) -> None:
    script = "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('Permission denied') }"
    page = open_page(script=script)
    page.get_by_role("button", name="Use the camera").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_have_text(
        "The camera cannot be used (Permission denied)."
    )
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_role("button", name="Use the camera")).to_be_focused()


# -------------------------------------------------------------------------------------------------- what goes wrong
def test_images_that_cannot_be_read(page: Any, server: str) -> None:
    bad = {"damaged.jpg": photo()[:1500], "notes.txt": b"not an image", "empty.png": b""}
    give(page, *(upload(name, data) for name, data in bad.items()))
    settled(page, 3)
    texts = page.locator(".error:visible").all_text_contents()
    assert texts == [answer_of(server, data, model="cifar") for data in bad.values()]
    assert "cannot be decoded" in texts[0]
    assert "not an image" in texts[1]
    expect(page.locator(".classes:visible, .again:visible, .heat:visible")).to_have_count(0)
    expect(page.locator(".unseen:visible").first).to_have_text("This browser cannot show the image.")
    expect(page.get_by_role("status")).to_have_text("0 images classified, 3 not")


def test_a_format_that_only_the_server_reads(page: Any) -> None:
    data = encoded(Image.open(io.BytesIO(photo())), "TIFF")
    give(page, upload("scan.tif", data))
    settled(page, 1)
    assert shown_classes(page) == expected_classes(data)
    expect(page.locator(".unseen")).to_be_visible()


def test_names_are_text(page: Any) -> None:
    name = "<img src=x onerror=alert(1)>.png"
    give(page, upload(name, b"nothing"))
    settled(page, 1)
    expect(page.locator("h3")).to_have_text(name)
    expect(page.get_by_role("button", name=f"Remove {name}")).to_be_visible()
    expect(page.locator("img")).to_have_count(1)


def test_a_busy_server_is_asked_again(page: Any) -> None:
    refusals = iter([{"status": 503, "headers": {"Retry-After": "1"}, "json": {"error": "busy"}}] * 2)

    def answer(route: Any) -> None:
        refusal = next(refusals, None)
        route.continue_() if refusal is None else route.fulfill(**refusal)

    page.route("**/explain?*", answer)
    data = photo()
    give(page, upload("waves.jpg", data))
    expect(page.locator("#queue-text")).to_contain_text("The server is busy, and will be asked again soon.")
    settled(page, 1)
    assert shown_classes(page) == expected_classes(data)


def test_an_unreachable_server(page: Any) -> None:
    page.route("**/explain?*", lambda route: route.abort())
    give(page, upload("waves.jpg", photo()))
    expect(page.locator(".answer .error")).to_contain_text("The server cannot be reached")
    page.unroute("**/explain?*")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".classes li")).to_have_count(5)
    expect(page.locator(".answer .error")).to_be_hidden()


def test_a_heat_map_that_fails_leaves_the_classes(page: Any) -> None:
    give(page, upload("waves.jpg", photo()))
    settled(page, 1)
    page.route("**/explain?*heat=1", lambda route: route.fulfill(status=500, json={"error": "no attention today"}))
    page.get_by_role("button", name="Heat map", exact=True).click()
    expect(page.locator(".answer .error")).to_have_text("no attention today")
    expect(page.locator(".classes li")).to_have_count(5)
    page.unroute("**/explain?*heat=1")
    page.get_by_role("button", name="Heat map", exact=True).click()
    expect(page.locator(".seen")).to_be_visible()
    expect(page.locator(".answer .error")).to_be_hidden()
