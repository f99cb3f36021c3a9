"""tools/train/sets.py and images.py, which need no PyTorch: data sets as files that `bitvit evaluate` reads."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bitvit
from bitvit.errors import BitvitError
from tests.support.paths import ROOT
from tools.train import images, sets


def fashion(folder: Path) -> None:
    """A set of four images, of the classes 0 to 3."""
    grey = np.arange(4 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(4, 28, 28)
    np.savez(folder / "fashion_mnist.npz", train_x=grey, train_y=np.arange(4), test_x=grey[::-1], test_y=np.arange(4))


def test_images_are_written_without_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fashion(tmp_path)
    out = tmp_path / "images"
    assert images.main(["--data", "fashion", "--data-folder", str(tmp_path), "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith("4 images")
    assert sorted(p.name for p in out.iterdir()) == ["Dress", "Pullover", "T-shirt_top", "Trouser"]
    source = sets.read_source("fashion", tmp_path)
    for number, (image, label) in enumerate(source.test):
        (path,) = out.glob(f"*/{number:05}.png")
        assert path.parent.name == source.labels[label].replace("/", "_")
        with Image.open(path) as stored:
            assert np.array_equal(np.asarray(stored.convert("L")), image)


def test_the_training_split_is_written_on_request(tmp_path: Path) -> None:
    fashion(tmp_path)
    assert images.write_images("fashion", tmp_path, tmp_path / "out", "train") == 4
    source = sets.read_source("fashion", tmp_path)
    with Image.open(tmp_path / "out" / "Trouser" / "00001.png") as stored:
        assert np.array_equal(np.asarray(stored.convert("L")), source.train[1][0])


def test_bitvit_evaluates_what_is_written(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn: pip install 'bitvit[dev]'")
    assert images.write_images("digits", None, tmp_path) == 599
    report = bitvit.evaluate(ROOT / "weights" / "bhvit-digits.safetensors", tmp_path)
    assert report.images == 599
    assert report.top1 >= 0.98


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "cifar10"], "needs --data-folder"),
        (["--data", "fashion", "--data-folder", "nowhere"], "cannot be read"),
    ],
)
def test_what_is_missing_is_named(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert images.main([*arguments, "--out", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


def test_unknown_sets_are_named() -> None:
    with pytest.raises(BitvitError, match="unknown, expected one of digits, cifar10"):
        sets.read_source("mnist", None)
