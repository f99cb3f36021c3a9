"""The page for everyone: by keyboard, on a phone, in the dark, read aloud."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.browser import (
    DESKTOP,
    PHONE,
    SAMPLES,
    expect,
    give,
    photo,
    settled,
    upload,
    violations,
)

Open = Callable[..., Any]


def test_keyboard_alone(page: Any) -> None:
    give(page, *(upload(path.name, path.read_bytes()) for path in SAMPLES[:2]))
    settled(page, 2)
    page.evaluate("document.activeElement.blur()")
    reached: list[tuple[str, ...]] = []
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


def test_dark_and_light(page: Any) -> None:
    def colours(scheme: str) -> list[int]:
        """How light text and ground are, each 0 … 765."""
        page.emulate_media(color_scheme=scheme)
        found = page.evaluate("""() => {
          const { color, backgroundColor } = getComputedStyle(document.body);
          return [color, backgroundColor];
        }""")
        return [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in found]

    ink, paper = colours("light")
    assert paper - ink > 500
    ink, paper = colours("dark")
    assert ink - paper > 500


def test_nothing_moves_for_those_who_do_not_want_it(page: Any) -> None:
    give(page, upload("waves.jpg", photo()))
    settled(page, 1)

    def moves(choice: str) -> bool:
        page.emulate_media(reduced_motion=choice)
        return bool(
            page.locator(".bar span").first.evaluate("bar => getComputedStyle(bar).transitionDuration !== '0s'")
        )

    assert moves("no-preference")
    assert not moves("reduce")


@pytest.mark.parametrize(("scheme", "viewport"), [("light", PHONE), ("dark", DESKTOP)], ids=["light", "dark"])
def test_axe_finds_nothing(open_page: Open, scheme: str, viewport: dict[str, int]) -> None:
    page = open_page(color_scheme=scheme, viewport=viewport)
    assert violations(page) == []
    give(page, upload("waves.jpg", photo()), upload("notes.txt", b"not an image"))
    settled(page, 2)
    page.get_by_role("button", name="Heat maps").click()
    expect(page.locator(".seen:visible")).to_have_count(1)
    assert violations(page) == []
    page.get_by_role("button", name="Use the camera").click()
    expect(page.get_by_role("button", name="Take a photo")).to_be_enabled()
    assert violations(page) == []
    page.keyboard.press("Escape")
    page.evaluate("document.querySelector('#cards img').removeAttribute('alt')")
    assert [rule for rule, _ in violations(page)] == ["image-alt"]  # so it does look
