"""Texts that are given where a path stands."""

import base64
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import bitvit
from bitvit.bundle.writing import write_bundle
from bitvit.errors import BitvitError
from bitvit.labels import read_labels
from bitvit.nopaths import is_encoded, no_path, path_text
from bitvit.verify.verifying import verify


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


@pytest.mark.parametrize("name", [300 * "A", 1_000_000 * "A", "a/" + 3000 * "b"])
def test_a_long_text_in_place_of_any_path_is_an_error_that_can_be_read(name: str, tiny: Path, tmp_path: Path) -> None:
    classify = bitvit.Classifier(tiny)
    image = Image.new("RGB", (32, 32))
    report = bitvit.evaluate(classify.model, ([image], [0]))
    calls: list[Callable[[], object]] = [
        lambda: bitvit.load(name),
        lambda: bitvit.Classifier(name),
        lambda: bitvit.BatchClassifier(name),
        lambda: classify(name),
        lambda: bitvit.evaluate(name, ([image], [0])),
        lambda: bitvit.evaluate(classify.model, name),
        lambda: bitvit.convert(name, tmp_path / "out.safetensors"),
        lambda: verify(name, tiny),
        lambda: write_bundle(name, tmp_path / "out"),
        lambda: write_bundle(tiny, name),
        lambda: report.save(name),
        lambda: report.save_predictions(f"{name}.csv"),
        lambda: classify.explain(image).save(f"{name}.png"),
        lambda: read_labels(name),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(BitvitError) as error:
            call()
        assert len(str(error.value)) < 1500, number
    assert list(tmp_path.iterdir()) == []


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
