"""What is chosen for a set of images."""

import pytest

from bitvit.train.choosing import MOST_EPOCHS, Facts, Wishes, choose, choose_teacher, needed_epochs, resolution
from bitvit.train.settings import Settings, TrainingError

PHOTOGRAPHS = Facts(960, ["bricks", "leaves", "pebbles", "planks"], 120)


def speed(factor: float = 1.0):  # type: ignore[no-untyped-def]
    """A machine on which a pixel of a channel takes the same time everywhere; and what it was asked for."""
    asked: list[tuple[int, int]] = []

    def seconds(settings: Settings) -> float:
        network = settings.network
        asked.append((network.image_size, network.widths[0]))
        return factor * network.image_size**2 * network.widths[0] * 1e-8

    return seconds, asked


@pytest.mark.parametrize(("side", "expected"), [(8, 32), (28, 48), (32, 64), (60, 48), (100, 96), (2000, 224)])
def test_the_input_is_no_larger_than_images_are_worth(side: int, expected: int) -> None:
    assert resolution(side) == expected


def test_a_slow_machine_or_few_minutes_give_a_smaller_input() -> None:
    sizes = []
    for factor, minutes in ((0.1, 10.0), (3.0, 10.0), (3.0, 1.0), (300.0, 1.0)):
        found = choose(PHOTOGRAPHS, Wishes(minutes=minutes), speed(factor)[0])
        sizes.append((found.network.image_size, found.network.widths[0]))
        assert found.minutes == minutes
        assert found.epochs == MOST_EPOCHS
        found.network.config(4)  # a network that there is
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0][0] == 96
    assert sizes[-1] == (64, 16)  # photographs keep that much


def test_many_images_get_a_wider_network() -> None:
    widths = [
        choose(Facts(count, ["a", "b"], 64), Wishes(minutes=600), speed(0.01)[0]).network.widths[0]
        for count in (1000, 10000, 50000)
    ]
    assert widths == [32, 48, 64]
    assert needed_epochs(1000) > needed_epochs(10000) > needed_epochs(50000) >= 12


def test_wishes_are_obeyed() -> None:
    seconds, asked = speed()
    wishes = Wishes(size=96, window=1, width=16, epochs=7, batch_size=24, seed=3)
    found = choose(PHOTOGRAPHS, wishes, seconds)
    assert (found.network.image_size, found.network.window_size, found.network.widths) == (96, 1, (16, 32, 64, 128))
    assert (found.epochs, found.batch_size, found.seed, found.minutes) == (7, 24, 3, 0)
    assert asked == []
    assert choose(PHOTOGRAPHS, Wishes(epochs=7, minutes=2), seconds).minutes == 2
    with pytest.raises(TrainingError, match="--width 12: expected a multiple of 8"):
        choose(PHOTOGRAPHS, Wishes(size=32, width=12), seconds)


@pytest.mark.parametrize(
    ("labels", "flip"),
    [
        (["cat", "dog"], True),
        (["0", "1", "2"], False),
        (["digit 7", "digit_12", "letter a"], False),
        (["turn_left", "turn-right"], False),
        (["leftover", "x"], True),
    ],
)
def test_signs_are_not_mirrored(labels: list[str], flip: bool) -> None:
    assert choose(Facts(500, labels, 100), Wishes(size=32), speed()[0]).augment.flip == flip


def test_photographs_are_varied_more_than_small_images() -> None:
    small = choose(Facts(500, ["a cat", "a dog"], 32), Wishes(size=32), speed()[0]).augment
    large = choose(PHOTOGRAPHS, Wishes(size=96), speed()[0]).augment
    assert (small.rotate, small.zoom, small.cutout) == (0, 0, 0)
    assert large.rotate
    assert large.shift == 12
    assert 0 < small.colour < large.colour
    assert choose(Facts(500, ["1", "2"], 32), Wishes(size=32), speed()[0]).augment.colour == 0


def test_a_teacher_is_trained_where_there_is_time() -> None:
    student = choose(PHOTOGRAPHS, Wishes(size=96, minutes=10), speed()[0])
    found = choose_teacher(PHOTOGRAPHS, student, speed(0.1)[0])
    assert found is not None
    assert (found.network.kind, found.network.image_size, found.minutes) == ("teacher", 64, 2)
    assert choose_teacher(PHOTOGRAPHS, student, speed(1e4)[0]) is None
    slower = choose_teacher(PHOTOGRAPHS, student, speed(20.0)[0])
    assert slower is not None
    assert slower.network.image_size < 64


def test_a_number_of_epochs_gives_one_for_the_teacher() -> None:
    seconds, asked = speed()
    found = choose_teacher(PHOTOGRAPHS, choose(PHOTOGRAPHS, Wishes(size=32, width=16, epochs=10), seconds), seconds)
    assert found is not None
    assert (found.epochs, found.minutes) == (5, 0)
    assert asked == []
