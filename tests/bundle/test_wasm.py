"""bitvit bundle --target wasm32: the module has the engine's bits, its script Pillow's, and the page shows them.

What runs it needs LLVM's linker, Node and Chromium: `tools/page/check` says what to install.
"""

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from numpy.typing import NDArray
from PIL import Image

import bitvit
from bitvit.bundle import wasm
from bitvit.bundle.source import Built
from bitvit.bundle.writing import write_bundle
from bitvit.errors import BitvitError, ModelFileError
from bitvit.kernels.catalog import CLASSIFY
from bitvit.kernels.target import ELSEWHERE
from bitvit.modelfile import load_model_file
from bitvit.preprocess import Preprocessing
from tests.support.browser import (
    DESKTOP,
    PATIENCE,
    PHONE,
    WHERE,
    encoded,
    expect,
    give,
    launched,
    photo,
    upload,
    violations,
)
from tests.support.crosscompiled import compiled, run_python
from tests.support.paths import TESTS, WEIGHTS
from tools.fuzz.seeds import CONFIGS, write_packed

DIGITS = WEIGHTS / "bhvit-digits.safetensors"
Ask = Callable[..., Any]


def test_kernels_read_their_arguments_where_they_are() -> None:
    """Numba's `carray` is laid out for the machine that it runs on: kernels would read from address 0."""
    variables = {ELSEWHERE: f"{wasm.TRIPLE} {wasm.LEVEL.cpu} {wasm.LEVEL.flags}"}
    (code,) = compiled([], ["classify"], **variables).assembly.values()
    place = CLASSIFY.fields["bias"][1]  # type: ignore[index]
    assert re.search(rf"local\.get\s+1\n\s+i32\.load\s+{place}\b", code)


# ------------------------------------------------------------------------------------------------------------- refused
@pytest.mark.parametrize(
    ("options", "message"),
    [({"cpus": ["generic"]}, "--cpu: is not for wasm32"), ({"python": True}, "--python: is not for wasm32")],
)
def test_options_that_have_no_meaning(options: dict[str, Any], message: str, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(BitvitError, match=message):
        write_bundle(tiny, tmp_path / "out", target="wasm32", **options)
    assert list(tmp_path.iterdir()) == []


def test_another_kind_of_wasm(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(BitvitError, match=r"wasm64-unknown-unknown.*expected .* or wasm32"):
        write_bundle(tiny, tmp_path / "out", target="wasm64-unknown-unknown")


def test_no_linker(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(BitvitError, match=r"there is no 'wasm-ld', .*apt install lld.*, or let WASM_LD name it"):
        write_bundle(tiny, tmp_path / "out", target="wasm32")
    monkeypatch.setenv("WASM_LD", "no-such-linker --verbose")
    with pytest.raises(BitvitError, match="there is no 'no-such-linker'"):
        write_bundle(tiny, tmp_path / "out", target="wasm32")
    monkeypatch.setenv("WASM_LD", "wasm-ld '")
    with pytest.raises(BitvitError, match="WASM_LD: No closing quotation; expected a command"):
        write_bundle(tiny, tmp_path / "out", target="wasm32")


# ------------------------------------------------------------------------------------------------------------- in Node
@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        wasm.linker()
    except BitvitError:
        pytest.skip(f"no wasm-ld: {WHERE}")
    folder = tmp_path_factory.mktemp("web") / "digits"
    write_bundle(DIGITS, folder, target="wasm32")
    return folder


@pytest.fixture(scope="module")
def ask(web: Path, tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """ask(name, ...): what wasm.mjs answers."""
    node = shutil.which("node")
    if node is None:
        pytest.skip(f"no Node: {WHERE}")
    folder = tmp_path_factory.mktemp("node")
    shutil.copy(web / "model.wasm", folder)
    shutil.copy(web / "bitvit.js", folder / "bitvit.mjs")

    def ask(*request: object) -> Any:
        command = [node, str(TESTS / "bundle" / "wasm.mjs"), str(folder)]
        done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return ask


def text_of(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()


def image_of(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """As ImageData is."""
    alpha = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    data = text_of(np.concatenate([pixels, alpha], axis=2))
    return {"data": data, "width": pixels.shape[1], "height": pixels.shape[0]}


def random_image(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Without fused products, which WebAssembly has not: x86-64-v2 has neither.
_REFERENCE = """
import sys
import numpy as np
import bitvit
model = bitvit.load(sys.argv[1], threads=1)
np.save(sys.argv[3], model(np.load(sys.argv[2])))
"""


def reference(planes: NDArray[np.float32], folder: Path) -> NDArray[np.float32]:
    np.save(folder / "planes.npy", planes)
    places = [str(folder / name) for name in ("planes.npy", "logits.npy")]
    run_python(_REFERENCE, str(DIGITS), *places, NUMBA_CPU_NAME="nehalem", NUMBA_CPU_FEATURES="+sse4.2,+popcnt")
    found: NDArray[np.float32] = np.load(places[1])
    return found


def test_it_imports_nothing(ask: Ask) -> None:
    names = ["about", "bytes", "logits", "planes", "run_bytes", "run_planes", "table"]
    assert ask("interface") == [[], [*(f"bitvit_{name}" for name in names), "memory"]]


def test_logits_have_the_engines_bits(ask: Ask, tmp_path: Path) -> None:
    preprocessing = bitvit.load(DIGITS).preprocessing
    side = preprocessing.crop
    crops = [random_image(seed, side, side) for seed in range(4)]
    planes = np.stack([preprocessing.planes(crop) for crop in crops])
    expected = reference(planes, tmp_path).view(np.uint32).tolist()
    # `resize` is the crop's side here, so that these images are taken as they are.
    assert preprocessing.resize == side
    assert ask("logits", [image_of(crop) for crop in crops]) == expected
    unusable = np.full_like(planes[0], np.nan)
    found = ask("planes", [text_of(one) for one in (planes[0], unusable, *planes)])
    assert [found[0], *found[2:]] == [expected[0], *expected]


# The last ones are resized in the other order, where each rounds.
SIZES = [(1, 1), (1, 9), (7, 7), (8, 33), (96, 96), (97, 96), (130, 400), (300, 301), (375, 500), (64, 640)]


@pytest.mark.parametrize(("resize", "crop"), [(96, 96), (109, 96), (36, 32), (8, 7)])
def test_images_are_resized_and_cropped_as_by_pillow(resize: int, crop: int, ask: Ask) -> None:
    preprocessing = Preprocessing(crop, resize, crop, 0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    images = [random_image(number, *size) for number, size in enumerate(SIZES)]
    images += [image.transpose(1, 0, 2).copy() for image in images]
    if int(PIL.__version__.partition(".")[0]) < 13:
        images = images[: len(SIZES)]  # tall ones had the order of wide ones
    found = ask("cropped", [image_of(image) for image in images], preprocessing.to_dict())
    for image, data in zip(images, found, strict=True):
        seen = np.frombuffer(base64.b64decode(data), np.uint8).reshape(crop, crop, 4)
        np.testing.assert_array_equal(seen[:, :, :3], preprocessing.cropped(Image.fromarray(image)))


def test_classes_are_those_of_a_classifier(ask: Ask) -> None:
    images = [np.asarray(Image.open(path).convert("RGB")) for path in sorted((WEIGHTS / "samples-digits").iterdir())]
    expected = bitvit.Classifier(DIGITS)(images, top_k=3)
    for found, wanted in zip(ask("classify", [image_of(image) for image in images], 3), expected, strict=True):
        assert [(one["label"], one["index"]) for one in found] == [(one["label"], one["index"]) for one in wanted]
        assert [one["score"] for one in found] == pytest.approx([one["score"] for one in wanted], rel=1e-5)


def test_an_image_that_is_not_as_it_says(ask: Ask) -> None:
    image = image_of(random_image(0, 3, 3))
    assert ask("error", {**image, "width": 4}) == "RangeError: an image of 4 x 3 pixels in 36 bytes"
    assert ask("error", {**image, "height": 0}) == "RangeError: an image of 3 x 0 pixels in 36 bytes"


def test_a_response_without_the_module(ask: Ask) -> None:
    assert ask("missing") == "Error: : HTTP status 404"


def test_what_is_written(web: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes again, all listed, by a linker named from the working folder and with another umask."""
    listed = json.loads((web / "bundle.json").read_text(encoding="utf-8"))["files"]
    names = {path.name for path in web.iterdir()}
    assert names == {"README.md", "bitvit.js", "bundle.json", "index.html", "model.wasm"} == {*listed, "bundle.json"}
    assert not re.search(r"@\w+@", (web / "README.md").read_text(encoding="utf-8"))
    (tmp_path / "wasm-ld").symlink_to(wasm.linker()[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WASM_LD", "./wasm-ld")
    before = os.umask(0o077)
    try:
        write_bundle(DIGITS, tmp_path / "again", target="wasm32-unknown-unknown")
    finally:
        os.umask(before)
    for name in names:
        assert (web / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
        assert (tmp_path / "again" / name).stat().st_mode & 0o777 == 0o600


def test_a_network_without_classes(tmp_path: Path) -> None:
    write_packed(tmp_path / "model.safetensors", next(config for config in CONFIGS if not config.num_classes))
    file = load_model_file(tmp_path / "model.safetensors")
    (tmp_path / "model.wasm").write_bytes(b"module")
    program: Any = {"outputs": file.config.hidden_sizes[-1]}
    wasm.write_page(file, Built(wasm.LEVEL, program, 0, 0, 0), tmp_path)
    assert not (tmp_path / "index.html").exists()
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "index.html" not in readme
    assert "model.logits(image)" in readme
    assert "model.classify" not in readme


def test_python_does_not_load_it(web: Path) -> None:
    with pytest.raises(ModelFileError, match=r"digits: is a bundle for WebAssembly.*--python"):
        bitvit.load(web)


@pytest.mark.usefixtures("web")
def test_a_linker_that_fails_leaves_nothing(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WASM_LD", f"{wasm.linker()[0]} --no-such-option")
    with pytest.raises(BitvitError, match=r"cannot link model\.wasm: .*no-such-option"):
        write_bundle(tiny, tmp_path / "out", target="wasm32")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------- in Chromium
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture
def open_page(web: Path, browser: Any) -> Iterator[Callable[..., Any]]:
    """open_page(**options): the page, opened from the disk; it must ask for nothing and log nothing."""
    contexts, faults = [], []

    def open_page(**options: Any) -> Any:
        context = browser.new_context(**{"viewport": DESKTOP, **options})
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request", lambda asked: faults.append(asked.url) if not asked.url.startswith(("file:", "blob:")) else None
        )
        page.goto((web / "index.html").as_uri())
        expect(page.locator("#facts")).to_contain_text("10 classes; sees 96 x 96 pixels")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def shown(page: Any, number: int = 0) -> list[tuple[str, str]]:
    rows = page.locator(".card").nth(number).locator("ol li")
    expect(rows).to_have_count(5)
    labels, shares = (rows.locator(name).all_text_contents() for name in (".label", ".share"))
    return list(zip(labels, shares, strict=True))


def expected_of(data: bytes) -> list[tuple[str, str]]:
    return [(one["label"], f"{100 * one['score']:.1f} %") for one in bitvit.Classifier(DIGITS)(data)]


def test_the_page_classifies(open_page: Callable[..., Any]) -> None:
    page = open_page()
    turned = Image.open(min((WEIGHTS / "samples-digits").iterdir())).convert("RGB").rotate(90)
    exif = Image.Exif()
    exif[0x0112] = 6  # which calls for a quarter turn, as the training code does not make it
    images = {
        "wide.png": encoded(Image.fromarray(random_image(1, 130, 400))),
        "small.png": encoded(Image.fromarray(random_image(2, 9, 14))),
        **{f"turned.{kind}": encoded(turned, kind, exif=exif, lossless=True) for kind in ("png", "webp")},
    }
    give(page, *(upload(name, data) for name, data in images.items()))
    expect(page.locator(".card")).to_have_count(len(images))
    for number, data in enumerate(reversed(images.values())):  # the last one on top
        assert shown(page, number) == expected_of(data)
    expect(page.locator("#status")).to_contain_text("turned.webp: ")


def test_a_photograph_is_not_turned(open_page: Callable[..., Any]) -> None:
    """Browsers decode a JPEG a little differently, so shares may differ in their last digits."""
    page = open_page()
    digit = Image.open(min((WEIGHTS / "samples-digits").iterdir())).convert("RGB").resize((480, 480)).rotate(90)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(digit, "JPEG", quality=95, exif=exif)
    at = data.index(b"\xff\xe1")
    give(page, upload("turned.jpg", data), upload("filled.jpg", data[:at] + b"\xff\xff" + data[at:]))
    expected = expected_of(data)
    for number in range(2):
        found = shown(page, number)
        assert [label for label, _ in found[:2]] == [label for label, _ in expected[:2]]
        assert float(found[0][1].split()[0]) == pytest.approx(float(expected[0][1].split()[0]), abs=3)


def test_images_larger_than_a_canvas(open_page: Callable[..., Any]) -> None:
    """Browsers draw nothing in a canvas of more than 65535 pixels a side, and say nothing; tiles have seams."""
    page = open_page()
    images = [np.full((70_000, 30, 3), 255, np.uint8), random_image(3, 45, 50).repeat(50, axis=0).repeat(50, axis=1)]
    data = [encoded(Image.fromarray(image)) for image in images]
    give(page, *(upload(f"{number}.png", one) for number, one in enumerate(data)))
    expect(page.locator(".card")).to_have_count(2)
    assert [shown(page, 1), shown(page, 0)] == [expected_of(one) for one in data]


def test_transparent_pixels(open_page: Callable[..., Any]) -> None:
    """Their colours are lost in a browser, and kept by Pillow, so that answers may differ; the page says so."""
    page = open_page()
    pixels = random_image(4, 96, 96)
    alpha = np.full((96, 96, 1), 255, np.uint8)
    opaque = encoded(Image.fromarray(np.concatenate([pixels, alpha], axis=2)))
    alpha[50, 50] = 0
    see_through = encoded(Image.fromarray(np.concatenate([pixels, alpha], axis=2)))
    give(page, upload("opaque.png", opaque), upload("see-through.png", see_through))
    expect(page.locator(".card .note").nth(0)).to_contain_text("transparent pixels lose their colours")
    expect(page.locator(".card .note").nth(1)).to_have_text(re.compile("classified in [0-9]+ ms$"))
    assert shown(page, 1) == expected_of(opaque)


def test_what_is_no_image(open_page: Callable[..., Any]) -> None:
    page = open_page()
    give(page, upload("notes.txt", b"text"), upload("waves.jpg", photo()))
    expect(page.locator(".error")).to_have_text("This browser cannot decode the file as an image.")
    assert len(shown(page)) == 5  # of the image behind it


@pytest.mark.parametrize(("scheme", "viewport"), [("light", PHONE), ("dark", DESKTOP)], ids=["light", "dark"])
def test_axe_finds_nothing_on_it(open_page: Callable[..., Any], scheme: str, viewport: dict[str, int]) -> None:
    page = open_page(color_scheme=scheme, viewport=viewport)
    give(page, upload("notes.txt", b"text"), upload("waves.jpg", photo()))
    expect(page.locator("ol li")).to_have_count(5)
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"wasm-{scheme}.png", full_page=True)
