"""Variants of images."""

import pytest

torch = pytest.importorskip("torch")

from bitvit.train import augment  # noqa: E402
from bitvit.train.settings import Augment  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch has its own


def test_variants_do_not_depend_on_the_batch() -> None:
    pixels = torch.randint(0, 256, (10, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for way in (Augment(shift=3, flip=True, cutout=4), Augment(shift=2, rotate=10, zoom=0.1)):
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


def test_mixup_blends_images_and_classes_alike() -> None:
    pixels, shares = torch.eye(6).view(6, 1, 1, 6), torch.eye(6)
    torch.manual_seed(4)
    mixed, classes = augment.mixup(pixels, shares, 0.7)
    assert torch.allclose(mixed.view(6, 6), classes)  # image k is 1 at k, as its class is
    assert torch.allclose(classes.sum(1), torch.ones(6))
    assert int((classes.amax(1) < 1).sum()) > 0
    torch.manual_seed(4)
    assert augment.mixup(pixels, shares, 0.7)[0].equal(mixed)
