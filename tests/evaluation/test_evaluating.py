"""evaluate: from images to a report, with a model whose answers are known and with a packed one."""

import csv
import dataclasses
import importlib.util
import io
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bitvit
from bitvit import evaluate as exported
from bitvit.classify import Classifier
from bitvit.errors import BitvitError, ConfigError, ImageError
from bitvit.evaluation.evaluating import EvalReport, Progress, evaluate
from bitvit.evaluation.prefetch import prefetch
from bitvit.modelfile import load_model_file, save_model_file
from bitvit.preprocess import Preprocessing
from tests.support.colours import Colours, patch
from tests.support.paths import ROOT

pytest.importorskip("sklearn", reason="needs scikit-learn: pip install 'bitvit[evaluate]'")
needs_drawing = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")

RED, GREEN, BLUE = patch(255, 0, 0), patch(0, 255, 0), patch(0, 0, 255)
IMAGES, LABELS = [RED, RED, GREEN, BLUE, GREEN], ["red", "red", "green", "blue", "blue"]  # 4 of 5 are right


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """IMAGES as a folder for each class."""
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "data" / label / f"{number}.png")
    return tmp_path / "data"


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """40 images of class 0 to 3, for a packed model of 96 x 96 pixels."""
    rng = np.random.default_rng(0)
    for number in range(40):
        place = tmp_path / "noise" / str(number % 4)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (100, 110, 3), np.uint8)).save(place / f"{number:02}.png")
    return tmp_path / "noise"


@pytest.fixture
def model(packed: Callable[[str], Path]) -> Path:
    return packed("micro96_somefp")


@pytest.fixture
def other(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with another normalisation."""
    file, path = load_model_file(model), tmp_path_factory.mktemp("other") / "other.safetensors"
    preprocessing = dataclasses.replace(file.preprocessing, mean=(0.5, 0.5, 0.5))
    sha256 = file.source_sha256
    save_model_file(
        path, file.tensors, config=file.config, preprocessing=preprocessing, labels=None, source_sha256=sha256
    )
    return path


# ------------------------------------------------------------------------------------------------------------- figures
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
    assert report.confusion.tolist() == [[2, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert report.loss == pytest.approx(-np.log(np.exp(10) / (np.exp(10) + 2)) * 0.8 + 0.2 * (10 + 9.0798e-5), rel=1e-4)
    assert [Path(path).name for path in report.paths] == ["3.png", "4.png", "2.png", "0.png", "1.png"]
    assert report.targets.tolist() == [2, 2, 1, 0, 0]
    assert report.logits.dtype == np.float32
    assert report.probabilities.sum(axis=1) == pytest.approx(1)
    assert (report.model, report.model_sha256, report.data) == ("Colours", None, str(folder))
    assert report.notes == ("classes are matched by the model's class names",)
    assert report.seconds > 0
    assert exported is evaluate


def test_arrays_and_tables_give_the_same(folder: Path) -> None:
    expected = evaluate(Colours(), folder)
    stacked = evaluate(Colours(), (np.stack(IMAGES), np.array([0, 0, 1, 2, 2])))
    rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted(folder.rglob("*.png"))]
    (folder / "labels.csv").write_text("path,label\n" + "\n".join(rows))
    table = evaluate(Colours(), folder / "labels.csv")
    for other in (stacked, table):
        assert (other.top1, other.roc_auc) == (expected.top1, expected.roc_auc)
        assert other.loss == pytest.approx(expected.loss)
        assert other.confusion.tolist() == expected.confusion.tolist()
    assert np.array_equal(table.logits, expected.logits)


def test_grey_arrays() -> None:
    grey = np.zeros((3, 32, 32), np.uint8)
    assert evaluate(Colours(), (grey, [0, 0, 1])).top1 == pytest.approx(2 / 3)


def test_a_class_map() -> None:
    names = ["r", "r", "g", "b", "b"]
    assert evaluate(Colours(), (IMAGES, names), classes=["r", "g", "b"]).top1 == 0.8
    assert evaluate(Colours(), (IMAGES, names), classes={"r": "red", "g": 1, "b": "green"}).top1 == 0.8
    with pytest.raises(ConfigError, match=r"arrays: 3 of its 3 classes are unknown to the model: 'b'"):
        evaluate(Colours(), (IMAGES, names))


def test_a_class_without_images_is_noted() -> None:
    report = evaluate(Colours(), (IMAGES[:3], LABELS[:3]))
    assert "1 of 3 classes have no images; an answer with one of them counts as wrong" in report.notes
    assert report.balanced_accuracy == 1


def test_a_subset_chooses_images_and_answers() -> None:
    report = evaluate(Colours(), ([*IMAGES, BLUE], [*LABELS, "hat"]), subset=["blue", 0])
    assert [(c.name, c.number) for c in report.classes] == [("red", 0), ("blue", 2)]
    assert report.images == 4
    assert report.logits.shape == (4, 2)
    assert report.targets.tolist() == [0, 0, 1, 1]
    assert report.confusion.tolist() == [[2, 0], [1, 1]]  # of (0, 10, 0) the first is taken
    assert "2 of the model's 3 classes take part: the best of them is taken" in report.notes
    assert "2 images of other classes are left out" in report.notes


def test_the_present_classes_as_a_subset() -> None:
    report = evaluate(Colours(), (IMAGES[2:], LABELS[2:]), subset="present")
    assert [c.name for c in report.classes] == ["green", "blue"]


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        (["hat"], "subset: 'hat' is no class of the model"),
        (["red"], "1 class to choose from, expected at least two"),
        ([9], "subset: 9 is no class"),
    ],
)
def test_wrong_subsets(subset: list[str | int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(Colours(), (IMAGES, LABELS), subset=subset)
    with pytest.raises(ConfigError, match="no image of the chosen classes"):
        evaluate(Colours(), (IMAGES[:2], LABELS[:2]), subset=["green", "blue"])


def test_a_model_that_answers_nan() -> None:
    class Broken(Colours):
        def __call__(self, pixels: Any, /) -> Any:
            return super().__call__(pixels) * np.nan

    with pytest.raises(BitvitError, match=r"Broken: its answer to image ., or one soon after it, is not finite"):
        evaluate(Broken(), (IMAGES, LABELS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "list"}, "on_error is 'list', expected 'fail' or 'skip'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"state": "state"}, "state: needs models that are given by path"),
        ({"resume": True}, "resume: needs state="),
    ],
)
def test_impossible_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(Colours(), (IMAGES, LABELS), **options)
    with pytest.raises(ValueError, match="an empty list"):
        evaluate([], (IMAGES, LABELS))


def test_what_is_found_so_far_is_of_all_classes() -> None:
    """Class after class, the first hundred would all be right, and the others wrong."""
    seen: list[Progress] = []
    report = evaluate(Colours(), ([RED] * 200, ["red"] * 100 + ["blue"] * 100), progress=seen.append)
    assert [p.accuracy for p in seen[3:]] == pytest.approx([0.5] * len(seen[3:]), abs=0.15)
    assert report.targets.tolist() == [0] * 100 + [2] * 100


# -------------------------------------------------------------------------------------------------------- bad images
def test_a_bad_image_is_an_error(folder: Path) -> None:
    (folder / "green" / "2.png").write_bytes(b"<html>")
    with pytest.raises(ImageError, match=r"2.png: not an image .*; or leave such images out with --on-error skip"):
        evaluate(Colours(), folder)


def test_bad_images_may_be_left_out(folder: Path) -> None:
    (folder / "green" / "2.png").write_bytes(b"<html>")
    (folder / "red" / "0.png").unlink()
    (folder / "red" / "0.png").symlink_to("nothing")
    model = Colours()
    report = evaluate(model, folder, on_error="skip", batch_size=2)
    assert report.images == 3
    assert report.top1 == pytest.approx(2 / 3)
    assert [Path(failure.path).name for failure in report.failures] == ["2.png", "0.png"]
    assert "no such file" in report.failures[1].reason
    assert [Path(path).name for path in report.paths] == ["3.png", "4.png", "1.png"]
    assert sum(model.batches) == 3
    assert max(model.batches) <= 2
    assert "1 of 3 classes" not in " ".join(report.notes)  # a note on the data, not on what could be read


def test_nothing_but_bad_images() -> None:
    with pytest.raises(ImageError, match="none of the 2 images could be read; the first: image 0: image of 1 bytes"):
        evaluate(Colours(), ([b"x", b"y"], ["red", "blue"]), on_error="skip")


# ----------------------------------------------------------------------------------------------------- several models
def test_several_models() -> None:
    class Blind(Colours):
        def __call__(self, pixels: Any, /) -> Any:
            return super().__call__(pixels) * [1, 1, 0]

    result = evaluate([Colours(), Blind()], (IMAGES, LABELS))
    assert [report.top1 for report in result.reports] == [0.8, 0.6]
    assert result.mean["top1"] == pytest.approx(0.7)
    assert result.spread["top1"] == pytest.approx(0.1 * 2**0.5)
    assert result.mean["top5"] is None
    assert evaluate([Colours()], (IMAGES, LABELS)).spread["top1"] is None


class Halves(Colours):
    """Prepares images otherwise: dimmed."""

    def __init__(self) -> None:
        super().__init__()
        self.preprocessing = Preprocessing.for_image_size(32, mean=(0, 0, 0), std=(2, 2, 2))


def test_models_that_prepare_alike_decode_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    original = Classifier.prepare

    def prepare(self: Classifier, number: int, image: Any) -> Any:
        decoded.append(number)
        return original(self, number, image)

    monkeypatch.setattr(Classifier, "prepare", prepare)
    models: list[Colours] = [Colours(), Halves(), Colours()]
    result = evaluate(models, (IMAGES, LABELS), batch_size=2)
    assert sorted(decoded) == sorted([*range(5), *range(5)])  # once for the alike, once for the other
    assert [model.batches for model in models] == [[2, 2, 1]] * 3
    for report, model in zip(result.reports, models, strict=True):
        assert same(report, evaluate(model, (IMAGES, LABELS)))
    decoded.clear()
    evaluate([Colours(), Colours()], [(IMAGES[:2], LABELS[:2]), (IMAGES[2:], LABELS[2:])])
    assert len(decoded) == 5  # of two data sets nothing is shared


def test_models_that_share_images_share_their_failures() -> None:
    images: list[Any] = [*IMAGES, b"x"]
    labels, models = [*LABELS, "red"], [Colours(), Colours()]
    result = evaluate(models, (images, labels), on_error="skip", batch_size=4)
    assert [[failure.path for failure in report.failures] for report in result.reports] == [["image 5"]] * 2
    assert [report.top1 for report in result.reports] == [0.8] * 2
    seen: list[Progress] = []
    with pytest.raises(ImageError, match="image 5: image of 1 bytes"):
        evaluate(models, (images, labels), batch_size=4, progress=seen.append)
    last = {progress.unit: progress.done for progress in seen}
    assert last[0] == last[1]  # all models are through the images before it


def test_progress_of_models_that_share_images() -> None:
    seen: list[Progress] = []
    evaluate([Colours(), Halves(), Colours()], (IMAGES, LABELS), batch_size=3, progress=seen.append)
    assert [(p.unit, p.done) for p in seen] == [
        *((0, 0), (2, 0), (0, 3), (2, 3), (0, 5), (2, 5)),
        *((1, 0), (1, 3), (1, 5)),
    ]
    assert [p.accuracy for p in seen if p.done == 5] == [0.8] * 3
    assert [p.overall for p in seen] == [(n, 15) for n in (0, 0, 3, 6, 8, 10, 10, 13, 15)]


def test_folds(tmp_path: Path) -> None:
    rows = ["path,label,fold"]
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{label},{number // 3}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    result = evaluate([Colours(), Colours()], tmp_path / "labels.csv", folds=True)
    assert [(report.images, report.top1) for report in result.reports] == [(3, 1), (2, 0.5)]
    assert result.reports[1].data == f"{tmp_path / 'labels.csv'} fold 1"
    with pytest.raises(ConfigError, match=r"2 folds for 3 models, expected one for each: .*fold 0, .*fold 1"):
        evaluate([Colours()] * 3, tmp_path / "labels.csv", folds=True)


def test_a_list_of_data() -> None:
    result = evaluate([Colours(), Colours()], [(IMAGES[:2], LABELS[:2]), (IMAGES[2:], LABELS[2:])])
    assert [report.images for report in result.reports] == [2, 3]
    with pytest.raises(ConfigError, match="1 data sets for 2 models"):
        evaluate([Colours(), Colours()], [(IMAGES, LABELS)])


# ----------------------------------------------------------------------------------------------- progress and resuming
def test_progress() -> None:
    seen: list[Progress] = []
    images: list[Any] = [*IMAGES, b"x"]
    evaluate(Colours(), (images, [*LABELS, "red"]), batch_size=2, on_error="skip", progress=seen.append)
    assert [p.done for p in seen] == [0, 2, 4, 6]
    assert (seen[-1].correct, seen[-1].failed) == (4, 1)
    assert all(p.correct <= q.correct <= p.correct + 2 for p, q in itertools.pairwise(seen))
    assert (seen[0].accuracy, seen[-1].accuracy) == (None, 0.8)
    assert {p.total for p in seen} == {6}


class Stop(BaseException):
    """Like Ctrl-C, at a certain place."""


def stop_after(done: int) -> Callable[[Progress], None]:
    def watch(progress: Progress) -> None:
        if progress.done >= done:
            raise Stop

    return watch


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def same(one: EvalReport, other: EvalReport) -> bool:
    ours, theirs = one.to_dict(), other.to_dict()
    del ours["seconds"], theirs["seconds"]
    return ours == theirs and one.paths == other.paths and np.array_equal(one.logits, other.logits)


def test_resumed_is_the_same_as_uninterrupted(model: Path, noise: Path, tmp_path: Path) -> None:
    (noise / "1" / "bad.png").write_bytes(b"x")
    whole = evaluate(model, noise, on_error="skip")
    state = tmp_path / "state"
    for done in (7, 23):
        with pytest.raises(Stop):
            evaluate(model, noise, on_error="skip", state=state, resume=True, batch_size=4, progress=stop_after(done))
        assert state.exists()
    seen: list[Progress] = []
    resumed = evaluate(model, noise, on_error="skip", state=state, resume=True, batch_size=5, progress=seen.append)
    assert seen[0].done == 24
    assert seen[-1].failed == 1
    assert seen[-1].accuracy == whole.top1
    assert same(resumed, whole)
    assert not state.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["noise"]


def test_resume_after_a_bad_image_was_mended(model: Path, noise: Path, tmp_path: Path) -> None:
    whole = evaluate(model, noise)
    bad = noise / "2" / "02.png"
    good = bad.read_bytes()
    bad.write_bytes(b"x")
    with pytest.raises(ImageError, match=r"02\.png: not an image"):
        evaluate(model, noise, state=tmp_path, batch_size=6)
    (state,) = tmp_path.glob("bitvit-evaluate-*.state")
    with np.load(state) as archive:
        done = len(archive["logits0"])
    bad.write_bytes(good)
    seen: list[Progress] = []
    assert same(evaluate(model, noise, state=tmp_path, resume=True, progress=seen.append), whole)
    assert seen[0].done == done > 0
    assert not state.exists()


@pytest.mark.parametrize(("unit", "done"), [(0, 16), (1, 16), (2, 16), (0, 32)])
def test_several_models_resume(unit: int, done: int, model: Path, noise: Path, tmp_path: Path, other: Path) -> None:
    """Stopped while the first, or the last, of two that share images was a batch ahead; or in the third's turn."""
    models = [model, other, model]
    whole = evaluate(models, noise)
    seen: list[Progress] = []
    order = (0, 2, 1)

    def stop(progress: Progress) -> None:
        if (progress.unit, progress.done) == (order[unit], done):
            raise Stop

    with pytest.raises(Stop):
        evaluate(models, noise, state=tmp_path, progress=stop)
    resumed = evaluate(models, noise, state=tmp_path, resume=True, progress=seen.append)
    assert [(p.unit, p.done) for p in seen[:3]] == {
        (0, 16): [(0, 16), (2, 0), (2, 16)],
        (1, 16): [(0, 16), (2, 16), (0, 32)],
        (2, 16): [(0, 40), (2, 40), (1, 16)],
        (0, 32): [(0, 32), (2, 16), (2, 32)],
    }[unit, done]
    assert all(map(same, resumed.reports, whole.reports))
    assert list(tmp_path.glob("*.state")) == []


def test_one_of_several_models_has_come_further(model: Path, noise: Path, tmp_path: Path) -> None:
    """As with another batch size than the stopped evaluation had."""
    whole = evaluate([model, model], noise)
    with pytest.raises(Stop):
        evaluate([model, model], noise, state=tmp_path, batch_size=16, progress=stop_after(32))
    resumed = evaluate([model, model], noise, state=tmp_path, batch_size=5, resume=True)
    assert all(map(same, resumed.reports, whole.reports))


def test_the_state_is_saved_now_and_then(
    model: Path, noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["bitvit.evaluation"], "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(sys.modules["bitvit.evaluation"], "SAVE_PAUSE", 0.0)
    sizes: list[int] = []

    def watch(progress: Progress) -> None:
        assert progress.state == tmp_path / "state"
        sizes.append(progress.state.stat().st_size if progress.state.exists() else 0)

    evaluate(model, noise, state=tmp_path / "state", batch_size=8, progress=watch)
    assert sizes == sorted(sizes)
    assert len(set(sizes)) >= 3


def test_a_state_that_cannot_be_written(model: Path, noise: Path, tmp_path: Path) -> None:
    with pytest.raises(BitvitError, match="state: cannot be written; name a place for the state"):
        evaluate(model, noise, state=tmp_path / "no" / "state")


def test_nothing_to_resume(model: Path, noise: Path, tmp_path: Path) -> None:
    assert evaluate(model, noise, state=tmp_path, resume=True).images == 40


def test_the_state_of_another_evaluation(model: Path, noise: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with pytest.raises(Stop):
        evaluate(model, noise, state=state, progress=stop_after(10))
    (noise / "0" / "new.png").write_bytes((noise / "0" / "00.png").read_bytes())
    with pytest.raises(BitvitError, match="state: was left by another evaluation: other models, images, classes"):
        evaluate(model, noise, state=state, resume=True)
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(BitvitError, match="state: is not a state file, or damaged"):
        evaluate(model, noise, state=state, resume=True)


# ----------------------------------------------------------------------------------------------------------- prefetch
def test_prefetch_keeps_the_order_and_its_bound() -> None:
    started: list[int] = []

    def prepare(item: int) -> int:
        started.append(item)
        time.sleep(0.002 * (item % 3))
        return item * item

    def items() -> Iterator[int]:
        yield from range(100)

    ready = prefetch(prepare, items(), workers=3, ahead=5)
    assert [next(ready) for _ in range(10)] == [n * n for n in range(10)]
    time.sleep(0.05)
    assert len(started) <= 10 + 5
    assert list(ready) == [n * n for n in range(10, 100)]


def test_prefetch_works_while_the_caller_does() -> None:
    second = threading.Event()

    def prepare(item: int) -> int:
        if item == 1:
            second.set()
        return item

    ready = prefetch(prepare, [0, 1], workers=1, ahead=2)
    assert next(ready) == 0
    assert second.wait(10)  # though nobody has asked for it


def test_prefetch_stops_when_closed() -> None:
    started: list[int] = []
    ready = prefetch(started.append, range(1000), workers=2, ahead=4)
    next(ready)
    ready.close()  # type: ignore[attr-defined]
    count = len(started)
    time.sleep(0.02)
    assert len(started) == count <= 6


# --------------------------------------------------------------------------------------------------------------- files
@needs_drawing
def test_saved_files(folder: Path, tmp_path: Path) -> None:
    (folder / "red" / "0.png").write_bytes(b"x")
    report = evaluate(Colours(), folder, on_error="skip", output=tmp_path / "out" / "deep")
    out = tmp_path / "out" / "deep"
    assert sorted(path.name for path in out.iterdir()) == [
        "calibration.png",
        "classes.csv",
        "confusion.csv",
        "confusion.png",
        "failures.csv",
        "report.json",
    ]
    saved = json.loads((out / "report.json").read_text())
    assert saved == json.loads(json.dumps(report.to_dict()))
    assert (saved["top1"], saved["images"], saved["versions"]["bitvit"]) == (0.75, 4, bitvit.__version__)
    rows = list(csv.reader(io.StringIO((out / "confusion.csv").read_text())))
    assert rows == [["true \\ answer", "red", "green", "blue"], ["red", "1", "0", "0"], ["green", "0", "1", "0"], [
        "blue", "0", "1", "1"]]  # fmt: skip
    classes = rows_of(out / "classes.csv")
    assert [(row["name"], row["images"], row["recall"]) for row in classes][2] == ("blue", "2", "0.5")
    assert rows_of(out / "failures.csv")[0]["path"].endswith("0.png")
    for name in ("confusion.png", "calibration.png"):
        with Image.open(out / name) as drawn:
            assert min(drawn.size) > 300
    (folder / "red" / "0.png").unlink()
    evaluate(Colours(), folder, output=out)
    assert not (out / "failures.csv").exists()


@needs_drawing
def test_saved_comparison(folder: Path, tmp_path: Path) -> None:
    evaluate([Colours(), Colours()], folder, output=tmp_path / "out")
    rows = rows_of(tmp_path / "out" / "summary.csv")
    assert [(row["model"], row["top1"]) for row in rows] == [
        ("Colours", "0.8"),
        ("Colours", "0.8"),
        ("mean", "0.8"),
        ("standard deviation", "0.0"),
    ]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["mean"]["top1"] == 0.8
    assert (tmp_path / "out" / "1-Colours" / "confusion.png").exists()


@needs_drawing
@pytest.mark.parametrize("count", [30, 120])
def test_drawings_of_many_classes(count: int, tmp_path: Path) -> None:
    class Many(Colours):
        def __call__(self, pixels: Any, /) -> Any:
            return np.random.default_rng(int(pixels[0, 0, 0, 0] * 255)).standard_normal((len(pixels), count))

    labels = tuple(f"${number}_{{" for number in range(count))
    evaluate(Many(labels, count), (IMAGES, [0, 1, 2, 3, 4]), output=tmp_path)
    with Image.open(tmp_path / "confusion.png") as drawn:
        assert 600 < drawn.width < 1600


def test_predictions(tmp_path: Path) -> None:
    images, labels = [RED, patch(255, 102, 0)], ["red", "green"]
    report = evaluate(Colours(), (images, labels), predictions=tmp_path / "answers.csv")
    first, second = rows_of(tmp_path / "answers.csv")
    assert (first["path"], first["label"], first["predicted"], first["correct"]) == ("image 0", "red", "red", "true")
    assert (second["label_index"], second["predicted_index"], second["correct"]) == ("1", "0", "false")
    powers = np.exp([10.0, 4.0, 0.0])
    assert float(second["score"]) == pytest.approx(powers[0] / powers.sum(), rel=1e-6)
    assert float(second["label_score"]) == pytest.approx(powers[1] / powers.sum(), rel=1e-6)
    assert second["label_rank"] == "2"
    report.save_predictions(tmp_path / "answers.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert lines[1] == {
        **{name: second[name] for name in ("model", "path", "label", "predicted")},
        "label_index": 1,
        "predicted_index": 0,
        "score": float(second["score"]),
        "correct": False,
        "label_score": float(second["label_score"]),
        "label_rank": 2,
    }


def test_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    evaluate(Colours(), (IMAGES, LABELS), predictions=tmp_path / "answers.parquet")
    table = parquet.read_table(tmp_path / "answers.parquet").to_pydict()
    assert table["correct"] == [True, True, True, True, False]
    assert table["predicted"][-1] == "green"


def test_outputs_that_cannot_be_written_are_found_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Colours()
    (tmp_path / "file").touch()
    choices: list[tuple[dict[str, Any], str]] = [
        ({"predictions": tmp_path / "answers.txt"}, r"predictions are written as .csv, .jsonl, .parquet"),
        ({"predictions": tmp_path / "no" / "answers.csv"}, "name a file in an existing folder"),
        ({"output": tmp_path / "file"}, "file: cannot be made: File exists"),
    ]
    for options, message in choices:
        with pytest.raises(BitvitError, match=message):
            evaluate(model, (IMAGES, LABELS), **options)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(BitvitError, match=r"writing .*answers.parquet needs pyarrow"):
        evaluate(model, (IMAGES, LABELS), predictions=tmp_path / "answers.parquet")
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(BitvitError, match="evaluate needs scikit-learn, which is not installed: pip install"):
        evaluate(model, (IMAGES, LABELS))
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
