"""The page, used in a real browser against a real server; `tools/page/check` runs this and says what it needs.

Each page that a test opens is watched: it must ask no other server, break no policy and log no error.
"""

import asyncio
import contextlib
import io
import json
import re
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, MutableMapping
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from bitvit import Classifier
from tests.support.paths import WEIGHTS

sync_api: Any = pytest.importorskip("playwright.sync_api", reason="needs playwright: see tools/page/check")
uvicorn: Any = pytest.importorskip("uvicorn")
axe_package = pytest.importorskip("axe_playwright_python", reason="needs axe: see tools/page/check")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("needs Chromium: see tools/page/check", allow_module_level=True)

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
    "--host-resolver-rules=MAP elsewhere.test 127.0.0.1",  # a name that is not localhost: no secure context
]
MODELS = {"cifar": WEIGHTS / "bhvit-cifar10.safetensors", "digits": WEIGHTS / "bhvit-digits.safetensors"}
BELOW = "/below/it"
SAMPLES = sorted((WEIGHTS / "samples").glob("*.png"))
PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1400, "height": 900}
PATIENCE = 20_000  # milliseconds
Open = Callable[..., Any]
expect = sync_api.expect


# ------------------------------------------------------------------------------------------------ server and browser
@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server with two models; the same application is mounted below BELOW."""
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
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, server: str) -> Iterator[Open]:
    """open_page(address="", **options): the page in a browser of its own, watched until the test ends."""
    contexts, faults = [], []
    origins = {urlsplit(server).netloc, urlsplit(server).netloc.replace("127.0.0.1", "elsewhere.test")}

    def heard(message: Any) -> None:
        # A browser logs any answer that is an error; that there is one is what some tests are about.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            faults.append(message.text)

    def asked(request: Any) -> None:
        url = urlsplit(request.url)
        if url.scheme not in ("blob", "data") and url.netloc not in origins:
            faults.append(f"asked {request.url}")

    def open_page(address: str = server, *, script: str = "", **options: Any) -> Any:
        context = browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce", **options})
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("console", heard)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", asked)
        if script:
            page.add_init_script(script)
        page.goto(address)
        expect(page.locator("#facts")).not_to_be_empty()
        return page

    expect.set_options(timeout=PATIENCE)
    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def page(open_page: Open) -> Any:
    return open_page()


# ------------------------------------------------------------------------------------------------------------ helpers
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


def answer_of(server: str, data: bytes, **parameters: Any) -> Any:
    """What /explain answers, without the page; of an error, its text."""
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    request = urllib.request.Request(f"{server}explain?{query}", data, {"Content-Type": "application/octet-stream"})
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return json.load(error)["error"]


def transfer(page: Any, name: str, data: bytes) -> Any:
    """A DataTransfer in the page that holds a file."""
    script = """([name, bytes]) => {
      const held = new DataTransfer();
      held.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
      return held;
    }"""
    return page.evaluate_handle(script, [name, list(data)])


def pixels_of(locator: Any) -> Any:
    """uint8 [H, W, 3]: how it looks."""
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB"))


# ------------------------------------------------------------------------------------------------- how images come in
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
    sent, open_now, most = [], set(), [0]

    def asked(request: Any) -> None:
        if "/explain" in request.url:
            sent.append(request.post_data_buffer)
            open_now.add(request)
            most[0] = max(most[0], len(open_now))

    page.on("request", asked)
    page.on("requestfinished", lambda request: open_now.discard(request))
    page.evaluate("""() => {
      window.texts = [];
      const text = document.getElementById("queue-text");
      new MutationObserver(() => window.texts.push(text.textContent)).observe(text, { childList: true });
    }""")
    give(page, *(upload(path.name, path.read_bytes()) for path in SAMPLES))
    settled(page, len(SAMPLES))
    assert page.locator("h3").all_text_contents() == [path.name for path in SAMPLES]
    assert sent == [path.read_bytes() for path in SAMPLES]
    assert most[0] == 2
    best = [Classifier(MODELS["cifar"])(path)[0]["label"] for path in SAMPLES]
    assert page.locator(".classes li:first-child .label").all_text_contents() == best
    count = len(SAMPLES)
    assert [f"{done} of {count} images done." in page.evaluate("texts") for done in range(count)] == [True] * count
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
    expect(page.get_by_role("alert")).to_have_text("There is no image on the clipboard.")
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


# --------------------------------------------------------------------------------------------------- what goes wrong
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
    expect(page.locator("#queue-text")).to_contain_text("The server is busy: next try in")
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


# ------------------------------------------------------------------------------------------------ heat map and models
def test_heat_map(page: Any, server: str) -> None:
    data = photo(300, 160)
    page.select_option("#model", "digits")  # its grid has more cells
    give(page, upload("waves.jpg", data))
    settled(page, 1)
    toggle = page.get_by_role("button", name="Heat map", exact=True)
    expect(toggle).to_have_attribute("aria-pressed", "false")
    expect(page.locator(".seen")).to_be_hidden()
    toggle.click()
    expect(page.locator(".seen")).to_be_visible()
    expect(toggle).to_have_attribute("aria-pressed", "true")

    heat = answer_of(server, data, model="digits", heat=1)["heat"]
    grid = np.array(heat["grid"])
    drawn = page.locator(".seen canvas").evaluate(
        "canvas => [canvas.width, ...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.width).data]"
    )
    colours = np.array(drawn[1:]).reshape(drawn[0], drawn[0], 4)
    cell = drawn[0] / len(grid)
    centres = (np.arange(len(grid)) * cell + cell / 2).astype(int)
    light = colours[centres][:, centres, :3].sum(axis=2)  # inferno grows lighter all the way
    order = np.argsort(grid, axis=None)
    assert light.ravel()[order[-1]] > light.ravel()[order[0]] + 50
    assert np.corrcoef(light.ravel(), grid.ravel())[0, 1] > 0.9

    seen, view = page.locator(".seen").bounding_box(), page.locator(".view").bounding_box()
    assert view["width"] / view["height"] == pytest.approx(300 / 160, rel=0.01)
    corner = [(seen["x"] - view["x"]) / view["width"], (seen["y"] - view["y"]) / view["height"]]
    size = [seen["width"] / view["width"], seen["height"] / view["height"]]
    left, top, right, bottom = heat["box"]
    assert [*corner, *size] == pytest.approx([left, top, right - left, bottom - top], abs=0.01)
    expect(page.locator("figcaption")).to_contain_text("cropped off")
    ratio = max(2.0, grid.max() / grid.mean())
    expect(page.locator(".most")).to_have_text(f"{ratio:.1f} × the mean")
    expect(page.get_by_role("img", name="Heat map over what the network saw: brightest at the")).to_be_visible()
    toggle.click()
    expect(page.locator(".seen")).to_be_hidden()


def test_heat_maps_of_all(page: Any) -> None:
    give(page, *(upload(path.name, path.read_bytes()) for path in SAMPLES[:3]))
    settled(page, 3)
    page.get_by_role("button", name="Heat maps").click()
    expect(page.locator(".seen:visible")).to_have_count(3)
    give(page, upload("later.jpg", photo()))  # with it from the beginning
    expect(page.locator(".seen:visible")).to_have_count(4)
    page.get_by_role("button", name="Heat maps").click()
    expect(page.locator(".seen:visible")).to_have_count(0)


def test_a_model_without_heat_maps(page: Any) -> None:
    def without_heat(route: Any) -> None:
        answer = route.fetch().json()
        answer.pop("heat", None)
        route.fulfill(json=answer)

    page.route("**/explain?*", without_heat)
    give(page, upload("waves.jpg", photo()))
    settled(page, 1)
    page.get_by_role("button", name="Heat map", exact=True).click()
    expect(page.get_by_text("This model has no heat maps.")).to_be_visible()
    expect(page.locator(".classes li")).to_have_count(5)


def test_images_are_shown_as_the_network_sees_them(page: Any) -> None:
    """Not turned by their EXIF data."""
    image = Image.new("RGB", (160, 80), "blue")
    image.paste("red", (0, 0, 80, 80))
    exif = Image.Exif()
    exif[0x0112] = 6
    give(page, upload("turned.jpg", encoded(image, "JPEG", exif=exif)))
    settled(page, 1)
    seen = pixels_of(page.locator(".view"))
    height, width = seen.shape[:2]
    assert width / height == pytest.approx(2, rel=0.02)
    assert seen[height // 2, width // 4].argmax() == 0
    assert seen[height // 2, 3 * width // 4].argmax() == 2


def test_choice_of_the_model(page: Any) -> None:
    data = photo()
    expect(page.locator("#facts")).to_have_text("10 classes, 48 × 48 pixels")
    give(page, upload("waves.jpg", data))
    settled(page, 1)
    page.get_by_label("Model").select_option("digits")
    expect(page.locator("#facts")).to_have_text("10 classes, 96 × 96 pixels")
    expect(page.locator(".label").first).to_have_text(expected_classes(data, "digits")[0][0])
    settled(page, 1)
    assert shown_classes(page) == expected_classes(data, "digits")


def test_one_model_is_named_and_none_is_chosen(page: Any) -> None:
    def one(route: Any) -> None:
        answer = route.fetch().json()
        route.fulfill(json={**answer, "models": answer["models"][:1]})

    page.route("**/models", one)
    page.reload()
    expect(page.locator("#facts")).to_have_text("cifar: 10 classes, 48 × 48 pixels")
    expect(page.locator("#model")).to_be_hidden()


def test_models_that_cannot_be_had(page: Any) -> None:
    page.route("**/models", lambda route: route.fulfill(status=500, json={"error": "no models today"}))
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("no models today")
    give(page, upload("waves.jpg", photo()))
    expect(page.locator(".state")).to_have_text("Waiting")
    page.unroute("**/models")
    page.get_by_role("button", name="Try again").click()
    settled(page, 1)
    expect(page.locator("#notice")).to_be_hidden()


@pytest.mark.parametrize("slash", ["", "/"])
def test_below_a_path(open_page: Open, server: str, slash: str) -> None:
    page = open_page(server.rstrip("/") + BELOW + slash)
    asked = []
    page.on("request", lambda request: asked.append(urlsplit(request.url)))
    give(page, upload("waves.jpg", photo()))
    settled(page, 1)
    expect(page.locator(".classes li")).to_have_count(5)
    explained = next(url for url in asked if url.scheme == "http")
    assert explained.path == f"{BELOW}/explain"
    assert parse_qs(explained.query) == {"model": ["cifar"], "top_k": ["5"], "heat": ["0"]}
    expect(page.locator("#address")).to_have_text(f"{server.rstrip('/')}{BELOW}/classify")


# ------------------------------------------------------------------------------------------------------ who it is for
def test_keyboard_alone(page: Any) -> None:
    give(page, *(upload(path.name, path.read_bytes()) for path in SAMPLES[:2]))
    settled(page, 2)
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        state = page.evaluate("""() => {
          const { activeElement: at } = document;
          const name = at.ariaLabel || at.labels?.[0]?.textContent || at.textContent.trim();
          return [name, getComputedStyle(at).outlineStyle];
        }""")
        if state[0] in [name for name, _ in reached[:1]] or page.evaluate("document.activeElement === document.body"):
            break
        reached.append(tuple(state))
    first, second = (f"Remove {path.name}" for path in SAMPLES[:2])
    names = [
        "Model",
        "Choose images",
        "Use the camera",
        "Heat maps",
        "Clear all",
        first,
        "Heat map",
        second,
        "Heat map",
    ]
    assert reached == [(name, "solid") for name in names]

    page.get_by_role("button", name="Heat map", exact=True).first.focus()
    page.keyboard.press("Space")
    expect(page.locator(".seen:visible")).to_have_count(1)
    page.get_by_role("button", name=first).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name=second)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Choose images")).to_be_focused()
    expect(page.locator("#results")).to_be_hidden()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([upload("again.jpg", photo())])
    settled(page, 1)


def test_remove_and_clear(page: Any) -> None:
    give(page, *(upload(path.name, path.read_bytes()) for path in SAMPLES[:4]))
    page.get_by_role("button", name=f"Remove {SAMPLES[1].name}").click()  # it may wait or be under way
    settled(page, 3)
    assert page.locator("h3").all_text_contents() == [SAMPLES[0].name, SAMPLES[2].name, SAMPLES[3].name]
    page.get_by_role("button", name="Clear all").click()
    expect(page.locator("article")).to_have_count(0)
    expect(page.locator("#results")).to_be_hidden()
    expect(page.get_by_role("status")).to_have_text("All images removed")


@pytest.mark.parametrize("width", [320, 360, 1400])
def test_nothing_is_wider_than_the_window(open_page: Open, width: int) -> None:
    page = open_page(viewport={**PHONE, "width": width})
    give(
        page, upload("a" * 200 + ".jpg", photo(900, 20)), upload("b.txt", b"\0" * 200), upload("c.jpg", photo(20, 900))
    )
    settled(page, 3)
    page.get_by_role("button", name="Heat maps").click()
    expect(page.locator(".seen:visible")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for card in page.locator("article").all():
        box = card.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


def test_dark_and_light_and_motion(open_page: Open) -> None:
    def colours(**options: Any) -> list[int]:
        page = open_page(**options)
        found = page.evaluate("""() => {
          const { color, backgroundColor } = getComputedStyle(document.body);
          return [color, backgroundColor];
        }""")
        return [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in found]

    ink, paper = colours(color_scheme="light")
    assert paper - ink > 500
    ink, paper = colours(color_scheme="dark")
    assert ink - paper > 500

    def moves(choice: str) -> bool:
        page = open_page(reduced_motion=choice)
        give(page, upload("waves.jpg", photo()))
        settled(page, 1)
        return bool(
            page.locator(".bar span").first.evaluate("bar => getComputedStyle(bar).transitionDuration !== '0s'")
        )

    assert moves("no-preference")
    assert not moves("reduce")


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_page: Open, scheme: str, viewport: dict[str, int]) -> None:
    page = open_page(color_scheme=scheme, viewport=viewport)
    page.evaluate(files(axe_package).joinpath("axe.min.js").read_text(encoding="utf-8"))

    def violations() -> list[tuple[str, list[str]]]:
        found = page.evaluate("axe.run().then(({ violations }) => violations)")
        return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]

    assert violations() == []
    give(page, upload("waves.jpg", photo()), upload("notes.txt", b"not an image"))
    settled(page, 2)
    page.get_by_role("button", name="Heat maps").click()
    expect(page.locator(".seen:visible")).to_have_count(1)
    assert violations() == []
    page.get_by_role("button", name="Use the camera").click()
    expect(page.get_by_role("button", name="Take a photo")).to_be_enabled()
    assert violations() == []
    with contextlib.suppress(AssertionError):  # and it does find what is wrong
        page.evaluate("document.querySelector('h1').textContent = ''")
        assert violations() == []
        pytest.fail("axe saw no empty heading")
