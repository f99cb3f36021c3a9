"""Heat maps, the choice of the model, and where the page is mounted."""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from tests.support.browser import (
    BELOW,
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
