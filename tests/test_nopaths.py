"""Texts that are given where a path stands."""

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from bitvit.nopaths import is_encoded, no_path, path_text


def image_in(form: str) -> str:
    file = io.BytesIO()
    Image.effect_noise((16, 16), 50).convert("RGB").save(file, form)
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_base64_of_an_image_is_known(form: str) -> None:
    text = image_in(form)
    broken = "\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    for given in (text, f"data:image/{form.lower()};base64,{text}", broken, text.replace("+", "-").replace("/", "_")):
        assert is_encoded(given)
        assert "base64.b64decode(text)" in str(no_path(given))
        assert len(path_text(given)) < 120


def test_base64_of_anything_is_known_by_its_length() -> None:
    text = base64.b64encode(bytes(3_000_000)).decode()
    assert is_encoded(text)
    assert path_text(text) == f"'{text[:76]}... (4,000,000 characters)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("https://example.org/cat.jpg", "is a URL, expected a path; download the file first"),
        ("https:/example.org/cat.jpg", "is a URL"),
        ("s3://bucket/" + 500 * "x", "is a URL"),
        ("file:///tmp/cat.jpg", "leave out file://"),
        ("~/cat.jpg", "os.path.expanduser"),
    ],
)
def test_what_looks_like_a_path_to_other_programs(text: str, said: str) -> None:
    assert said in str(no_path(text))


@pytest.mark.parametrize(
    "text",
    ["cat.jpg", "C:/cat.jpg", "a:b.jpg", "/9j", "photos", "/data/" + 100 * "images2020/" + "x", "x" * 300, "", "iVBOR"],
)
def test_a_path_is_only_a_path(text: str) -> None:
    assert no_path(text) is None
    assert not is_encoded(text)


def test_paths_in_messages() -> None:
    assert path_text(Path("a/b c.jpg")) == "a/b c.jpg"
    assert path_text("x/" * 200) == "x/" * 200
    assert path_text("") == "'' (0 characters)"
    assert path_text("é/" * 600).endswith("... (1,200 characters)")
