"""One model's part: which images and classes take part, what is decoded and computed, and how far it is."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ImageFile

from bitvit.classify import Classifier
from bitvit.errors import BitvitError, ConfigError, ImageError, ModelFileError
from bitvit.evaluation import Outputs, Progress, compare, evaluate, job
from bitvit.preprocess import Preprocessing
from tests.support.colours import BLUE, IMAGES, LABELS, RED, Colours
from tests.support.evaluations import same


def test_a_model_that_cannot_be_read_for_its_digest_is_named(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(tiny, tmp_path))

    def load_and_lose(model: Path, **options: Any) -> Classifier:
        classifier = Classifier(model, **options)
        path.unlink()
        return classifier

    monkeypatch.setattr(job, "Classifier", load_and_lose)
    with pytest.raises(ModelFileError, match=f"{path.name}: does not exist"):
        evaluate(path, (IMAGES, LABELS))


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
    assert np.asarray(report.confusion).tolist() == [[2, 0], [1, 1]]  # of (0, 10, 0) the first is taken
    assert "2 of the model's 3 classes take part: the best of them is taken" in report.notes
    assert "left out: 2 images of other classes; not the model's: 'hat'" in report.notes


def test_the_present_classes_as_a_subset() -> None:
    report = evaluate(Colours(), (IMAGES[2:], LABELS[2:]), subset="present")
    assert [c.name for c in report.classes] == ["green", "blue"]


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        (["hat"], "subset: 'hat' is not a class of the model"),
        (["red"], "1 class to choose from, expected at least two"),
        ([9], "subset: 9 is not a class"),
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


def test_what_is_found_so_far_is_of_all_classes() -> None:
    """Class after class, the first hundred would all be right, and the others wrong."""
    seen: list[Progress] = []
    report = evaluate(Colours(), ([RED] * 200, ["red"] * 100 + ["blue"] * 100), outputs=Outputs(progress=seen.append))
    assert [p.accuracy for p in seen[3:]] == pytest.approx([0.5] * len(seen[3:]), abs=0.15)
    assert report.targets.tolist() == [0] * 100 + [2] * 100


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


@pytest.mark.parametrize("exception", [MemoryError(), OSError("out of memory error when reading image file")])
def test_too_little_memory_is_no_bad_image(exception: Exception, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left out, the image would be missing in the accuracy, though there is nothing wrong with it."""

    def fail(*_args: object) -> None:
        raise exception

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(BitvitError, match=r"\.png: too little memory to decode an image of 1,024 pixels") as caught:
        evaluate(Colours(), folder, on_error="skip")
    assert not isinstance(caught.value, ImageError)


def test_nothing_but_bad_images() -> None:
    with pytest.raises(ImageError, match="none of the 2 images could be read; the first: image 0: 1 byte of data"):
        evaluate(Colours(), ([b"x", b"y"], ["red", "blue"]), on_error="skip")


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
    result = compare(models, (IMAGES, LABELS), batch_size=2)
    assert sorted(decoded) == sorted([*range(5), *range(5)])  # once for the alike, once for the other
    assert [model.batches for model in models] == [[2, 2, 1]] * 3
    for report, model in zip(result.reports, models, strict=True):
        assert same(report, evaluate(model, (IMAGES, LABELS)))
    decoded.clear()
    compare([Colours(), Colours()], [(IMAGES[:2], LABELS[:2]), (IMAGES[2:], LABELS[2:])])
    assert len(decoded) == 5  # of two data sets nothing is shared


def test_models_that_share_images_share_their_failures() -> None:
    images: list[Any] = [*IMAGES, b"x"]
    labels, models = [*LABELS, "red"], [Colours(), Colours()]
    result = compare(models, (images, labels), on_error="skip", batch_size=4)
    assert [[failure.path for failure in report.failures] for report in result.reports] == [["image 5"]] * 2
    assert [report.top1 for report in result.reports] == [0.8] * 2
    seen: list[Progress] = []
    with pytest.raises(ImageError, match="image 5: 1 byte of data"):
        compare(models, (images, labels), batch_size=4, outputs=Outputs(progress=seen.append))
    last = {progress.unit: progress.done for progress in seen}
    assert last[0] == last[1]  # all models are through the images before it


def test_progress() -> None:
    seen: list[Progress] = []
    images: list[Any] = [*IMAGES, b"x"]
    evaluate(
        Colours(), (images, [*LABELS, "red"]), batch_size=2, on_error="skip", outputs=Outputs(progress=seen.append)
    )
    assert [p.done for p in seen] == [0, 2, 4, 6]
    assert (seen[-1].correct, seen[-1].failed) == (4, 1)
    assert all(p.correct <= q.correct <= p.correct + 2 for p, q in itertools.pairwise(seen))
    assert (seen[0].accuracy, seen[-1].accuracy) == (None, 0.8)
    assert {p.total for p in seen} == {6}


def test_progress_of_models_that_share_images() -> None:
    seen: list[Progress] = []
    compare([Colours(), Halves(), Colours()], (IMAGES, LABELS), batch_size=3, outputs=Outputs(progress=seen.append))
    assert [(p.unit, p.done) for p in seen] == [
        *((0, 0), (2, 0), (0, 3), (2, 3), (0, 5), (2, 5)),
        *((1, 0), (1, 3), (1, 5)),
    ]
    assert [p.accuracy for p in seen if p.done == 5] == [0.8] * 3
    assert [p.overall for p in seen] == [(n, 15) for n in (0, 0, 3, 6, 8, 10, 10, 13, 15)]
