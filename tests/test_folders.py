"""Images in folders: which are found, through links too, and what is left out."""

import os
from pathlib import Path

import pytest

from bitvit.errors import ImageError
from bitvit.folders import MOST_VISITS, UNREAD, find_images, list_images
from bitvit.images import EXTENSIONS

linking = pytest.mark.skipif(os.name == "nt", reason="links need rights there")


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(folder: Path, recursive: bool = True) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in list_images(folder, recursive=recursive)]


def test_folder_lists_its_images_sorted(tmp_path: Path) -> None:
    make(tmp_path, "b.JPG", "a.png", "notes.txt", ".c.png", "deep/d.webp", "deep/er/e.tiff", ".hidden/f.png")
    assert names(tmp_path, recursive=False) == ["a.png", "b.JPG"]
    assert names(tmp_path) == ["a.png", "b.JPG", "deep/d.webp", "deep/er/e.tiff"]


def test_folder_without_images(tmp_path: Path) -> None:
    make(tmp_path, "deep/a.txt")
    with pytest.raises(
        ImageError, match=r"no images in this folder \(\.jpg .*\); --recursive \(.*\) searches the 1 folder below$"
    ):
        list_images(tmp_path)
    with pytest.raises(ImageError, match=r"no images in this folder \(\.jpg .*\)$"):
        list_images(tmp_path, recursive=True)
    make(tmp_path, "deep/a.HEIC", "b.avif")
    with pytest.raises(ImageError, match=r"; left out: 2 files of formats that are not read \(1 .avif, 1 .heic; save"):
        list_images(tmp_path, recursive=True)


def test_folder_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="nothing: cannot be read: No such file or directory; check the folder"):
        list_images(tmp_path / "nothing")


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.heic", "c/d.HEIC", "c/e.avif", ".f.png", "c/._g.jpg", ".git/h.png", "notes.txt")
    found = find_images(tmp_path, recursive=True)
    assert (dict(found.unread), found.hidden, found.hidden_folders) == ({".heic": 2, ".avif": 1}, 2, 1)
    assert found.left_out() == (
        "3 files of formats that are not read (1 .avif, 2 .heic; save them as JPEG or PNG), 2 hidden images, "
        "1 hidden folder"
    )
    assert find_images(tmp_path, recursive=False).left_out() == (
        "1 file of formats that are not read (1 .heic; save them as JPEG or PNG), 1 hidden image"
    )
    assert find_images(make(tmp_path / "plain", "a.png", "b.txt"), recursive=True).left_out() == ""


def test_no_format_is_both_read_and_not_read() -> None:
    assert UNREAD.isdisjoint(EXTENSIONS)
    assert all(ending.startswith(".") and ending == ending.lower() for ending in UNREAD)


@linking
def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    make(tmp_path, "shard/1.png", "shard/deep/2.png", "data/a.png")
    (tmp_path / "data" / "linked").symlink_to("../shard")
    (tmp_path / "data" / "image.png").symlink_to("../shard/1.png")
    assert names(tmp_path / "data") == ["a.png", "image.png", "linked/1.png", "linked/deep/2.png"]
    assert find_images(tmp_path / "data", recursive=True).left_out() == ""
    assert names(tmp_path / "data", recursive=False) == ["a.png", "image.png"]


@linking
def test_the_same_folder_linked_twice_is_taken_twice(tmp_path: Path) -> None:
    """As ImageFolder has it: what is there under two names is there twice."""
    make(tmp_path, "shard/1.png")
    for name in ("first", "second"):
        (tmp_path / name).symlink_to("shard")
    assert names(tmp_path) == ["first/1.png", "second/1.png", "shard/1.png"]


@linking
@pytest.mark.parametrize("target", [".", "..", "../..", "../../data", "/"])
def test_links_back_are_not_followed(target: str, tmp_path: Path) -> None:
    make(tmp_path, "data/deep/a.png")
    (tmp_path / "data" / "deep" / "back").symlink_to(target)
    assert names(tmp_path / "data") == ["deep/a.png"]
    assert find_images(tmp_path / "data", recursive=True).left_out() == "1 link back to a folder above"


@linking
def test_folders_that_link_to_each_other(tmp_path: Path) -> None:
    make(tmp_path, "data/a/1.png", "data/b/2.png")
    (tmp_path / "data" / "a" / "to-b").symlink_to("../b")
    (tmp_path / "data" / "b" / "to-a").symlink_to("../a")
    assert names(tmp_path / "data") == ["a/1.png", "a/to-b/2.png", "b/2.png", "b/to-a/1.png"]
    assert find_images(tmp_path / "data", recursive=True).loops == 2


@linking
def test_folders_that_are_linked_in_a_great_many_ways(tmp_path: Path) -> None:
    """Each of 40 folders has two links to the next: 2 ** 40 ways to the last."""
    for level in range(40):
        (tmp_path / f"store{level}").mkdir()
        for name in ("a", "b"):
            (tmp_path / f"store{level}" / name).symlink_to(f"../store{level + 1}")
    make(tmp_path, "store40/1.png")
    with pytest.raises(ImageError) as caught:
        list_images(tmp_path / "store0", recursive=True)
    assert f"store0: links in it lead to the folder {tmp_path.resolve()}/store" in str(caught.value)
    assert "in more than 100 ways, the last as" in str(caught.value)
    assert str(caught.value).endswith("; remove links, or name a folder further down")
    assert len(names(tmp_path / "store35")) == 2**5
    for number in range(MOST_VISITS):
        make(tmp_path, "once/2.png", f"data/{number}/3.png")
        (tmp_path / "data" / str(number) / "link").symlink_to("../../once")
    assert len(names(tmp_path / "data")) == 2 * MOST_VISITS


@linking
def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    make(tmp_path, "a.png")
    (tmp_path / "shard").symlink_to("gone")
    (tmp_path / "b.png").symlink_to("gone.png")  # is listed, as any image that cannot be opened
    (tmp_path / "itself").symlink_to("itself")
    assert names(tmp_path) == ["a.png", "b.png"]
    assert find_images(tmp_path, recursive=True).left_out() == "2 broken links"


def test_deep_folders(tmp_path: Path) -> None:
    place = tmp_path
    for _ in range(100):
        place /= "deep"
    make(place, "a.png")
    assert len(names(tmp_path)) == 1
