"""Folders of images: which are trained on and which are held out, and what is wrong with a folder."""

from pathlib import Path

import pytest
from PIL import Image

from bitvit.train.imagefolder import digest_of, read_folder
from bitvit.train.settings import TrainingError
from bitvit.train.source import Raw


def fill(folder: Path, count: int, name: str = "{}.png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / name.format(number))


def names(raw: Raw, root: Path) -> list[tuple[str, int]]:
    return [(path.relative_to(root).as_posix(), label) for path, label in raw]


def test_a_share_of_each_class_is_held_out(tmp_path: Path) -> None:
    fill(tmp_path / "dog", 20)
    fill(tmp_path / "cat", 10)
    source = read_folder(tmp_path, 0.3, seed=1)
    assert source.labels == ["cat", "dog"]
    assert [sum(label == k for _, label in source.test) for k in (0, 1)] == [3, 6]
    assert [sum(label == k for _, label in source.train) for k in (0, 1)] == [7, 14]
    assert not {path for path, _ in source.train} & {path for path, _ in source.test}
    again, other = read_folder(tmp_path, 0.3, seed=1), read_folder(tmp_path, 0.3, seed=2)
    assert again.test == source.test
    assert other.test != source.test
    assert "30 % of each class held out, chosen with seed 1" in source.origin


@pytest.mark.parametrize(
    ("others", "held"), [(("val", "test"), "val"), (("test",), "test"), (("Validation",), "Validation")]
)
def test_folders_say_which_images_are_held_out(others: tuple[str, ...], held: str, tmp_path: Path) -> None:
    for part in ("train", *others):
        fill(tmp_path / part / "a", 3)
        fill(tmp_path / part / "b", 2)
    source = read_folder(tmp_path)
    assert len(source.train) == 5
    assert {name.split("/")[0] for name, _ in names(source.test, tmp_path)} == {held}
    assert any("test/ is not looked at" in note for note in source.notes) == (len(others) == 2)


def test_train_alone_is_split(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fill(tmp_path / "train" / name, 10)
    source = read_folder(tmp_path)
    assert (len(source.train), len(source.test)) == (16, 4)
    assert "of train/ held out" in source.origin


def test_odd_names_and_nested_folders(tmp_path: Path) -> None:
    fill(tmp_path / "zoë & co. [1]" / "2024" / "may", 6, "photo {} .PNG")
    fill(tmp_path / "train tracks", 6)
    fill(tmp_path / ".hidden", 6)
    fill(tmp_path, 2)
    source = read_folder(tmp_path)
    assert source.labels == ["train tracks", "zoë & co. [1]"]
    assert len(source.train) + len(source.test) == 12
    assert any("2 images beside the folders" in note for note in source.notes)


def test_decomposed_letters_are_composed(tmp_path: Path) -> None:
    for name in ("Mo\u0308we", "a"):
        fill(tmp_path / name, 5)
    assert read_folder(tmp_path).labels == ["M\u00f6we", "a"]


def test_a_class_without_held_out_images_is_noted(tmp_path: Path) -> None:
    for part, classes in (("train", "ab"), ("val", "a")):
        for name in classes:
            fill(tmp_path / part / name, 2)
    assert any("without images in val/: 'b'" in note for note in read_folder(tmp_path).notes)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({}, "holds no folders, expected a folder for each of at least two classes"),
        ({"cat": 6}, "only 'cat', expected a folder for each of at least two classes"),
        ({"cat": 6, "dog": 4}, r"too few images in 1 class: 'dog' has 4; expected at least 5"),
        ({"cat": 0, "dog": 0}, r"no images in its 2 folders \(.jpg"),
        ({"val/cat": 3, "test/cat": 3}, "holds val, test, but no train"),
        ({"train/cat": 3, "train/dog": 3, "val/cow": 3}, "val: 'cow' is not a class of .*train"),
        ({"train/cat": 3, "train/dog": 0, "val/cat": 3}, "dog: holds no image"),
    ],
)
def test_what_is_wrong_with_a_folder(folders: dict[str, int], message: str, tmp_path: Path) -> None:
    for name, count in folders.items():
        fill(tmp_path / name, count)
    with pytest.raises(TrainingError, match=message):
        read_folder(tmp_path)


def test_files_and_missing_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="file: is a file, expected a folder"):
        read_folder(tmp_path / "file")
    with pytest.raises(TrainingError, match="nothing: cannot be read: No such file"):
        read_folder(tmp_path / "nothing")


def test_the_digest_tells_other_images(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fill(tmp_path / name, 5)
    before = digest_of(read_folder(tmp_path))
    assert digest_of(read_folder(tmp_path)) == before
    Image.new("RGB", (90, 90)).save(tmp_path / "a" / "0.png")
    assert digest_of(read_folder(tmp_path)) != before
