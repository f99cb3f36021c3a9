"""Sets of images in memory."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitvit.preprocess import Preprocessing

torch = pytest.importorskip("torch")

from bitvit.train.data import LEAST_STD, measured, prepare  # noqa: E402
from bitvit.train.source import Source  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch has its own


def source(*images: object) -> Source:
    pairs = [(image, number % 2) for number, image in enumerate(images)]
    return Source(train=pairs, test=pairs[:1], labels=["a", "b"], origin="drawn")


def test_pixels_are_the_preprocessings_and_faults_are_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (40, 60, 3), dtype=np.uint8) for _ in range(3)]
    (tmp_path / "text.jpg").write_text("no image")
    way = Preprocessing.for_image_size(32, resize=28, pad=2)
    read: list[int] = []
    data, faults = prepare(source(arrays[0], tmp_path / "text.jpg", *arrays[1:]), "set", way, lambda: read.append(1))
    assert len(read) == 5
    assert [fault.split(": ")[0] for fault in faults] == [str(tmp_path / "text.jpg")]
    assert data.train.labels.tolist() == [0, 0, 1]
    for pixels, array in zip(data.train.pixels.numpy(), arrays, strict=True):
        assert np.array_equal(pixels[2:30, 2:30], way.cropped(Image.fromarray(array)))
        assert pixels[:2].max() == 0


def test_mean_and_deviation_are_those_of_the_training_pixels() -> None:
    rng = np.random.default_rng(1)
    arrays = [rng.integers(20, 90 + 50 * k, (32, 32, 3), dtype=np.uint8) for k in range(3)]
    way = Preprocessing.for_image_size(36, resize=32, pad=2)
    found = measured(prepare(source(*arrays), "set", way)[0]).preprocessing
    pixels = np.stack(arrays) / 255
    np.testing.assert_allclose(found.mean, pixels.mean((0, 1, 2)), atol=6e-5)
    np.testing.assert_allclose(found.std, pixels.std((0, 1, 2)), atol=6e-5)
    assert found.pad == 2


def test_images_of_one_colour_can_be_normalised() -> None:
    grey = np.full((32, 32), 51, np.uint8)
    found = measured(prepare(source(grey), "set", Preprocessing.for_image_size(32, resize=32))[0]).preprocessing
    assert found.mean == (0.2, 0.2, 0.2)
    assert found.std == (LEAST_STD,) * 3
