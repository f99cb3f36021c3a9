"""The cells of a confusion matrix that are not 0."""

import numpy as np

from bitvit.evaluation.confusion import Confusion

TARGETS, ANSWERS = np.array([0, 0, 0, 2, 2, 1, 2]), np.array([1, 0, 1, 2, 0, 0, 0])


def test_cells_are_those_of_the_matrix() -> None:
    found = Confusion.of(TARGETS, ANSWERS, 4)
    matrix = np.zeros((4, 4), np.int64)
    np.add.at(matrix, (TARGETS, ANSWERS), 1)
    assert np.array_equal(np.asarray(found), matrix)
    assert np.asarray(found).dtype == np.int64
    assert np.asarray(found, dtype=np.float32).dtype == np.float32
    assert found.cells() == [[0, 0, 1], [0, 1, 2], [1, 0, 1], [2, 0, 2], [2, 2, 1]]


def test_mistakes_come_by_their_number() -> None:
    found = Confusion.of(TARGETS, ANSWERS, 4)
    assert found.mistakes() == [[0, 1, 2], [2, 0, 2], [1, 0, 1]]
    assert found.mistakes(1) == [[0, 1, 2]]
    assert Confusion.of(TARGETS, TARGETS, 4).mistakes() == []


def test_many_classes_take_no_more_than_the_images() -> None:
    size = 3_000_000_000  # whose square is just within int64
    found = Confusion.of(np.array([size - 1, 5]), np.array([size - 1, size - 2]), size)
    assert found.cells() == [[5, size - 2, 1], [size - 1, size - 1, 1]]
