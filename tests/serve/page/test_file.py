"""The page as a file: what stands in it, and the policy that it is sent with."""

import json
import mimetypes
import re
from collections import Counter
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from bitvit.explain import COLOURS
from bitvit.images import EXTENSIONS

TEXT = files("bitvit.serve").joinpath("page.html").read_text(encoding="utf-8")
VOID = {"meta", "link", "input", "img"}
NAMESPACE = "http://www.w3.org/2000/svg"  # of the icon; a name, which nobody asks for


class Elements(HTMLParser):
    """All elements with their attributes, and the text of each; AssertionError where one is not closed in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))


@pytest.fixture(scope="module")
def elements() -> Elements:
    parser = Elements()
    parser.feed(TEXT)
    parser.close()
    return parser


def content(elements: Elements, tag: str) -> str:
    """What stands in the one element of that name."""
    assert [name for name, _ in elements.found].count(tag) == 1
    return "".join(text for name, text in elements.texts if name == tag)


def test_it_is_whole(elements: Elements) -> None:
    assert TEXT.startswith("<!doctype html>\n")
    assert elements.open == []
    ids = Counter(attributes["id"] for _, attributes in elements.found if "id" in attributes)
    assert set(ids.values()) == {1}
    used = set(re.findall(r'find\("([\w-]+)"\)', content(elements, "script")))
    pointers = {"for", "aria-labelledby"}
    used |= {value for _, attributes in elements.found for name, value in attributes.items() if name in pointers}
    assert used - set(ids) == set()
    classes = {name for _, attributes in elements.found for name in attributes.get("class", "").split()}
    sought = set(re.findall(r'part\("\.([\w-]+)', content(elements, "script")))
    assert sought - classes == set()


def test_its_names_for_those_who_do_not_see_it(elements: Elements) -> None:
    assert ("html", {"lang": "en"}) in elements.found
    tags = [tag for tag, _ in elements.found]
    assert (tags.count("main"), tags.count("h1")) == (1, 1)
    buttons = [attributes for tag, attributes in elements.found if tag == "button"]
    assert {attributes["type"] for attributes in buttons} == {"button"}
    assert any(attributes.get("role") == "status" for _, attributes in elements.found)


def test_it_asks_nobody_else() -> None:
    assert re.findall(r"https?:[^\s'\"]*|(?<=[\"'(])//[^\s\"')]+", TEXT) == [NAMESPACE]


def test_it_needs_no_more_than_its_policy_allows(elements: Elements) -> None:
    names = {name for _, attributes in elements.found for name in attributes}
    assert {name for name in names if name == "style" or name.startswith("on")} == set()
    script = content(elements, "script")
    unsafe = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setAttribute\(\"style"
    assert re.findall(unsafe, script) == []
    assert "import(" not in script
    assert re.findall(r"url\(|@import", content(elements, "style")) == []


def test_it_offers_the_formats_that_are_read(elements: Elements) -> None:
    offered = next(attributes["accept"] for _, attributes in elements.found if "accept" in attributes).split(",")
    kinds = {extension: mimetypes.guess_type(f"a{extension}")[0] for extension in EXTENSIONS if extension != ".jfif"}
    missing = [extension for extension, kind in kinds.items() if extension not in offered and kind not in offered]
    assert missing == []


def test_its_colours_are_those_of_explain(elements: Elements) -> None:
    found = re.search(r"COLOURS = (\[\[.*\]\]);", content(elements, "script"))
    assert found is not None
    assert [[int(channel) for channel in colour] for colour in COLOURS.tolist()] == json.loads(found[1])
