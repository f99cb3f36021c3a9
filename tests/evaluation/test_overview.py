"""Reports at a glance."""

import io
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
from PIL import Image

from bitvit.evaluation import compare, evaluate
from bitvit.evaluation.overview import MANY, WORST
from tests.support.colours import IMAGES, LABELS, Colours
from tests.support.evaluations import in_a_notebook

EVIL = "<script>alert('&')</script>"


class Tags(HTMLParser):
    """Counts tags, and checks that each is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        assert not attrs
        self.open.append(tag)
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_report_is_a_few_lines() -> None:
    report = evaluate(Colours(), ([*IMAGES, b"x"], [*LABELS, "red"]), on_error="skip")
    assert repr(report).splitlines() == [
        "EvalReport of Colours on arrays: 5 images of 3 classes",
        "  top-1 80.00 %, top-5 –, loss 2.0001, balanced accuracy 83.33 %, macro F1 0.7778, ROC-AUC 0.8750, "
        "calibration error 0.1999",
        "  1 image could not be read",
        "  note: classes are matched by the model's class names",
    ]


def test_images_that_are_not_turned_are_counted() -> None:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 3
    Image.fromarray(IMAGES[0]).save(file, "PNG", exif=exif)
    said = "1 image would be turned by EXIF data, which is ignored; exif=True obeys it"
    choices: list[Any] = [*IMAGES, file.getvalue()]
    images = (choices, [*LABELS, "red"])
    report = evaluate(Colours(), images)
    assert f"  {said}" in repr(report).splitlines()
    assert said in in_a_notebook(report)
    assert "EXIF" not in repr(evaluate(Colours(), images, exif=True))


def test_its_html_has_its_figures_and_is_escaped() -> None:
    report = evaluate(Colours(labels=("red", EVIL, "blue")), (IMAGES, [0, 0, 1, 2, 2]))
    text = in_a_notebook(report)
    assert set(Tags(text).seen) == {"div", "p", "b", "table", "thead", "tbody", "tr", "th", "td"}
    assert "<td>80.00 %</td>" in text
    assert "<td>&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;</td>" in text


def test_many_classes_and_images_make_no_long_text() -> None:
    class Many(Colours):
        def __call__(self, pixels: Any, /) -> Any:
            return np.repeat(super().__call__(pixels), 20, axis=1)

    report = evaluate(Many(labels=None, classes=60), (IMAGES * 50, [0, 0, 20, 40, 40] * 50))
    assert len(repr(report)) < 500
    html = in_a_notebook(report)
    assert Tags(html).seen.count("tr") <= 3 + 8 + WORST
    assert f"The 3 classes with the lowest recall, of {len(report.classes)}:" in html
    assert len(report.classes) > MANY


def test_a_comparison() -> None:
    result = compare([Colours(), Colours()], (IMAGES, LABELS))
    assert repr(result).splitlines() == [
        "Comparison of 2 models",
        *["  Colours on arrays: 5 images of 3 classes, top-1 80.00 %"] * 2,
        "  mean: top-1 80.00 %",
    ]
    html = in_a_notebook(result)
    assert Tags(html).seen.count("tr") == 1 + 2 + 2
    assert re.search(r"<td>standard deviation</td><td></td><td></td><td>0.00 %</td>", html)
    assert repr(compare([Colours()] * 12, (IMAGES, LABELS))).splitlines()[-2] == "  and 2 more"
