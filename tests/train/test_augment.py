"""Variants of images."""

import pytest

torch = pytest.importorskip("torch")

from bitvit.train import augment  # noqa: E402
from bitvit.train.settings import Augment  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch has its own


def test_variants_do_not_depend_on_the_batch() -> None:
    pixels = torch.randint(0, 256, (10, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for way in (Augment(shift=3, flip=True, cutout=4), Augment(shift=2, rotate=10, zoom=0.1), Augment(colour=0.3)):
        variants = augment.Variants.draw(way, 10, 7, 1)
        whole = variants(pixels, torch.arange(10))
        some = torch.tensor([7, 2, 5])
        assert variants(pixels, some).equal(whole[some])
        assert not whole.equal(pixels)
        assert not augment.Variants.draw(way, 10, 7, 2)(pixels, torch.arange(10)).equal(whole)
    assert augment.Variants.draw(Augment(), 10, 7, 1)(pixels, torch.arange(10)).equal(pixels)


def test_shift_reflects_and_flip_mirrors() -> None:
    pixels = torch.arange(5, dtype=torch.uint8).view(1, 1, 5, 1).expand(1, 5, 5, 3)
    index, no, yes = torch.tensor([0]), torch.tensor([False]), torch.tensor([True])
    zero, two = torch.tensor([0]), torch.tensor([2])
    assert augment.shifted(pixels, index, zero, two, no)[0, 0, :, 0].tolist() == [2, 3, 4, 3, 2]
    assert augment.shifted(pixels, index, zero, -two, no)[0, 0, :, 0].tolist() == [2, 1, 0, 1, 2]
    assert augment.shifted(pixels, index, zero, zero, yes)[0, 0, :, 0].tolist() == [4, 3, 2, 1, 0]


def test_colours_are_those_of_an_image_as_a_whole() -> None:
    """All pixels of a channel by one affine map, of which a number of the image's own tells brightness and contrast."""
    pixels = torch.randint(60, 130, (50, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    changed = augment.Variants.draw(Augment(colour=0.2), 50, 3)(pixels, torch.arange(50))
    slopes = []
    for image, other in zip(pixels.double(), changed.double(), strict=True):
        for channel in range(3):
            x, y = image[..., channel].flatten(), other[..., channel].flatten()
            slope = float(((x - x.mean()) * (y - y.mean())).mean() / ((x - x.mean()) ** 2).mean())
            assert float((y - (y.mean() + slope * (x - x.mean()))).abs().max()) < 1
            slopes.append(slope)
    assert 0.8 * 0.8 * 0.9 <= min(slopes) < 0.8
    assert 1.2 < max(slopes) <= 1.2 * 1.2 * 1.1
    assert len({round(slope, 3) for slope in slopes}) > 100


def test_mixup_blends_images_and_classes_alike() -> None:
    pixels, shares = torch.eye(6).view(6, 1, 1, 6), torch.eye(6)
    torch.manual_seed(4)
    mixed, classes = augment.mixup(pixels, shares, 0.7)
    assert torch.allclose(mixed.view(6, 6), classes)  # image k is 1 at k, as its class is
    assert torch.allclose(classes.sum(1), torch.ones(6))
    assert int((classes.amax(1) < 1).sum()) > 0
    torch.manual_seed(4)
    assert augment.mixup(pixels, shares, 0.7)[0].equal(mixed)
