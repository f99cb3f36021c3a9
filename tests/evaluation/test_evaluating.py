"""evaluate and compare: from images to a report, with a model whose answers are known and with a packed one."""

import io
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import bitvit
from bitvit.errors import BitvitError, ConfigError, ImageError
from bitvit.evaluation import Outputs, compare, evaluate
from bitvit.modelfile import load_model_file
from tests.support.colours import IMAGES, LABELS, RED, Colours
from tests.support.paths import ROOT
from tests.support.uploads import Arrayable, Row


def test_report_of_a_folder(folder: Path) -> None:
    report = evaluate(Colours(), folder)
    assert report.images == 5
    assert report.top1 == 0.8
    assert report.top5 is None
    assert [(c.name, c.images, c.recall) for c in report.classes] == [
        ("red", 2, 1),
        ("green", 1, 1),
        ("blue", 2, 0.5),
    ]
    assert report.classes[2].mistaken_for == "green"
    assert np.asarray(report.confusion).tolist() == [[2, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert report.loss == pytest.approx(-np.log(np.exp(10) / (np.exp(10) + 2)) * 0.8 + 0.2 * (10 + 9.0798e-5), rel=1e-4)
    assert [Path(path).name for path in report.paths] == ["3.png", "4.png", "2.png", "0.png", "1.png"]
    assert report.targets.tolist() == [2, 2, 1, 0, 0]
    assert report.logits.dtype == np.float32
    assert report.probabilities.sum(axis=1) == pytest.approx(1)
    assert (report.model, report.model_sha256, report.data) == ("Colours", None, str(folder))
    assert report.notes == ("classes are matched by the model's class names",)
    assert report.seconds > 0
    assert bitvit.evaluate is evaluate


def test_arrays_and_tables_give_the_same(folder: Path) -> None:
    expected = evaluate(Colours(), folder)
    stacked = evaluate(Colours(), (np.stack(IMAGES), np.array([0, 0, 1, 2, 2])))
    rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted(folder.rglob("*.png"))]
    (folder / "labels.csv").write_text("path,label\n" + "\n".join(rows))
    table = evaluate(Colours(), folder / "labels.csv")
    for other in (stacked, table):
        assert (other.top1, other.roc_auc) == (expected.top1, expected.roc_auc)
        assert other.loss == pytest.approx(expected.loss)
        assert other.confusion.cells() == expected.confusion.cells()
    assert np.array_equal(table.logits, expected.logits)


def test_grey_arrays() -> None:
    grey = np.zeros((3, 32, 32), np.uint8)
    assert evaluate(Colours(), (grey, [0, 0, 1])).top1 == pytest.approx(2 / 3)


def encoded(image: NDArray[np.uint8], orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", exif=exif)
    return file.getvalue()


def test_images_of_every_kind() -> None:
    files = [encoded(image) for image in IMAGES]
    choices: list[Any] = [
        files,
        [io.BytesIO(data) for data in files],
        tuple(map(bytearray, files)),
        (io.BytesIO(data) for data in files),
        [Arrayable(image) for image in IMAGES],
        Arrayable(np.stack(IMAGES)),
    ]
    for images in choices:
        assert evaluate(Colours(), (images, LABELS)).top1 == 0.8


def test_a_column_of_a_table_goes_by_position(folder: Path) -> None:
    """As labels do, whatever its index says."""
    paths = [str(folder / label / f"{number}.png") for number, label in enumerate(LABELS)]
    report = evaluate(Colours(), (Row(paths), np.array(LABELS)))  # type: ignore[arg-type]
    assert report.top1 == 0.8
    assert report.paths == tuple(paths)


class Member(io.BytesIO):
    """A member of an archive: all of them share its file, in which each is found before it is read."""

    reading = 0

    def read(self, size: int | None = -1) -> bytes:
        Member.reading += 1
        time.sleep(0.005)  # the place where another thread would move the file
        alone = Member.reading == 1
        Member.reading -= 1
        return super().read(size) if alone else b"of another member"


def test_open_files_are_read_one_by_one() -> None:
    members = [Member(encoded(image)) for image in IMAGES * 4]
    assert evaluate(Colours(), (members, LABELS * 4), decoders=8).top1 == 0.8


@pytest.mark.parametrize(
    "images", [b"\x89PNG", "photo.png", io.BytesIO(), {"a": 1}, 5], ids=lambda it: type(it).__name__
)
def test_one_image_is_no_list_of_them(images: Any) -> None:
    with pytest.raises(
        ImageError, match=f"(data: a single image|images: is) of type {type(images).__name__}, expected a"
    ):
        evaluate(Colours(), (images, [1]))


def test_orientation_is_ignored_and_counted_or_obeyed(tmp_path: Path) -> None:
    for number in range(6):
        place = tmp_path / ("red", "blue")[number % 2] / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(encoded(RED, 6 if number in (1, 4) else 1))
    report = evaluate(Colours(), tmp_path)
    assert sorted(Path(path).name for path in report.turned) == ["1.png", "4.png"]
    assert report.to_dict()["turned"] == 2
    obeyed = evaluate(Colours(), tmp_path, exif=True)
    assert obeyed.turned == ()
    assert [one.turned for one in compare([Colours(), Colours()], tmp_path).reports] == [report.turned] * 2


def test_a_class_map() -> None:
    names = ["r", "r", "g", "b", "b"]
    assert evaluate(Colours(), (IMAGES, names), classes=["r", "g", "b"]).top1 == 0.8
    assert evaluate(Colours(), (IMAGES, names), classes={"r": "red", "g": 1, "b": "green"}).top1 == 0.8
    with pytest.raises(ConfigError, match=r"arrays: the model does not know 3 of its 3 classes: 'b'"):
        evaluate(Colours(), (IMAGES, names))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "list"}, "on_error is 'list', expected 'fail' or 'skip'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"outputs": Outputs(state="state")}, "state: needs models that are given by path"),
        ({"outputs": Outputs(resume=True)}, "resume: needs a state, the file or folder to go on from"),
    ],
)
def test_impossible_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(Colours(), (IMAGES, LABELS), **options)
    with pytest.raises(ValueError, match=message):
        compare([Colours()], (IMAGES, LABELS), **options)


def test_one_model_and_several_are_not_mixed_up() -> None:
    with pytest.raises(TypeError, match="model: is a list, expected one model; compare measures several"):
        evaluate([Colours()], (IMAGES, LABELS))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="models: is one path, expected a list of models; evaluate measures one"):
        compare("model.safetensors", (IMAGES, LABELS))
    with pytest.raises(ValueError, match="models: an empty list, expected at least one model"):
        compare([], (IMAGES, LABELS))


@pytest.mark.parametrize("name", ["folds", "output", "path_column"])
def test_unknown_options(name: str) -> None:
    options: dict[str, Any] = {name: True}
    with pytest.raises(TypeError, match=f"no such option: '{name}'; expected 'classes', 'subset', .*'outputs'"):
        evaluate(Colours(), (IMAGES, LABELS), **options)


def test_several_models() -> None:
    class Blind(Colours):
        def __call__(self, pixels: Any, /) -> Any:
            return super().__call__(pixels) * [1, 1, 0]

    result = compare([Colours(), Blind()], (IMAGES, LABELS))
    assert [report.top1 for report in result.reports] == [0.8, 0.6]
    assert result.mean["top1"] == pytest.approx(0.7)
    assert result.spread["top1"] == pytest.approx(0.1 * 2**0.5)
    assert result.mean["top5"] is None
    assert compare([Colours()], (IMAGES, LABELS)).spread["top1"] is None


def test_folds(tmp_path: Path) -> None:
    rows = ["path,label,fold"]
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{label},{number // 3}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    result = compare([Colours(), Colours()], tmp_path / "labels.csv", folds=True)
    assert [(report.images, report.top1) for report in result.reports] == [(3, 1), (2, 0.5)]
    assert result.reports[1].data == f"{tmp_path / 'labels.csv'} fold 1"
    with pytest.raises(ConfigError, match=r"2 folds for 3 models, expected one for each: '.*fold 0', '.*fold 1'"):
        compare([Colours()] * 3, tmp_path / "labels.csv", folds=True)


def test_a_list_of_data() -> None:
    result = compare([Colours(), Colours()], [(IMAGES[:2], LABELS[:2]), (IMAGES[2:], LABELS[2:])])
    assert [report.images for report in result.reports] == [2, 3]
    with pytest.raises(ConfigError, match="1 data set for 2 models, expected one for each: 'arrays'"):
        compare([Colours(), Colours()], [(IMAGES, LABELS)])


def test_outputs_that_cannot_be_written_are_found_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Colours()
    (tmp_path / "file").touch()
    choices = [
        (Outputs(predictions=tmp_path / "answers.txt"), r"predictions are written as .csv, .jsonl, .parquet"),
        (Outputs(predictions=tmp_path / "no" / "answers.csv"), "name a file in an existing folder"),
        (Outputs(report=tmp_path / "file"), "file: cannot be made: File exists"),
    ]
    for outputs, message in choices:
        with pytest.raises(BitvitError, match=message):
            evaluate(model, (IMAGES, LABELS), outputs=outputs)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(BitvitError, match=r"writing .*answers.parquet needs pyarrow"):
        evaluate(model, (IMAGES, LABELS), outputs=Outputs(predictions=tmp_path / "answers.parquet"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BitvitError, match=r"confusion matrix needs matplotlib, which is not installed: .* pip install"):
        evaluate(model, (IMAGES, LABELS), outputs=Outputs(report=tmp_path / "report"))
    assert model.batches == []


def test_importing_bitvit_needs_none_of_this() -> None:
    code = "import sys, bitvit; print([m for m in ('sklearn', 'matplotlib', 'llvmlite', 'numba') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_a_packed_model(model: Path, noise: Path) -> None:
    report = evaluate(model, noise, threads=1)
    expected = bitvit.Classifier(model).logits([Path(path) for path in report.paths])
    assert np.array_equal(report.logits, expected)
    assert report.targets.tolist() == [int(Path(path).parent.name) for path in report.paths]
    assert report.model_sha256 is not None
    assert len(report.model_sha256) == 64
    assert load_model_file(model).config.num_classes == len(report.classes)
