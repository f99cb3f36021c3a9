"""hf://owner/name[@revision][/file]: what is read of it, and what is refused."""

from pathlib import Path

import pytest

from bitvit.errors import HubError
from bitvit.hub import is_hub_name, local_path, model_name, spelled
from bitvit.hub.names import HubName, check_branch, check_repository

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf://me/digits", ("me", "digits", None, None)),
        ("hf://me/digits@v1.0", ("me", "digits", "v1.0", None)),
        ("hf://me/my.model-2_b/model.safetensors", ("me", "my.model-2_b", None, "model.safetensors")),
        (f"hf://me/digits@{COMMIT}/small/a@b (1).pth", ("me", "digits", COMMIT, "small/a@b (1).pth")),
        ("hf://me/digits@refs/pr/7", ("me", "digits", "refs/pr/7", None)),
        ("hf://me/digits@refs/pr/7/a.pth", ("me", "digits", "refs/pr/7", "a.pth")),
        ("hf://me/digits@my%2Fbranch/a.pth", ("me", "digits", "my/branch", "a.pth")),
    ],
)
def test_what_is_read(text: str, parts: tuple[str, str, str | None, str | None]) -> None:
    name = HubName.parse(text)
    assert (name.owner, name.name, name.revision, name.file) == parts
    assert name.is_pinned is (parts[2] == COMMIT)
    assert str(name) == text
    assert HubName.parse(Path(text)) == name  # in which one slash is left
    assert is_hub_name(text)
    assert is_hub_name(Path(text))
    assert spelled(Path(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("hf://", "hf://me", "hf://me/", "hf:///digits", "hf:///me/digits", "hf://me/digits/", "hf://me/digits@"),
        *("hf://../digits", "hf://me/..", "hf://me/a..b", "hf://me/a--b", "hf://me/-a", "hf://me/a.", "hf://me/a.git"),
        *("hf://m e/digits", "hf://me/digíts", f"hf://me/{'a' * 97}", "hf://me/a\n", "hf://me/a?x=1", "hf://u:p@me/a"),
        *("hf://me/a@..", "hf://me/a@x..y", "hf://me/a@-x", "hf://me/a@%2Fetc", "hf://me/a@x%2F", "hf://me/a@x%00y"),
        *("hf://me/a/../b", "hf://me/a/b/../../c", "hf://me/a//b", "hf://me/a/.git/config", "hf://me/a/b\\c"),
        *("hf://me/a@refs/pr/../x", "hf://me/a@refs%2Fpr%2F..", "hf://me/a/x\0y", "hf://me/a/x%2Fy"),
    ],
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(HubError, match=r"expected hf://owner/name\[@revision\]\[/file\]") as error:
        HubName.parse(text)
    assert str(error.value).isprintable()
    with pytest.raises(HubError):  # before huggingface_hub is looked for
        local_path(text)


def test_other_paths_are_left_alone() -> None:
    for path in (
        "model.safetensors",
        Path("hf/model"),
        "HF://me/digits",
        "./hf://me/digits",
        "https://hf.co/me/digits",
    ):
        assert not is_hub_name(path)
        assert local_path(path) is path
    assert spelled(Path("a/b")) == "a/b"


def test_what_a_model_is_called() -> None:
    names = {
        "a/model-b.safetensors": "model-b",
        "hf://me/digits@v1.0": "digits",
        "hf://me/digits.v2": "digits.v2",
        "hf://me/digits@v1.0/small.safetensors": "small",
    }
    assert {path: model_name(path) for path in names} == names


def test_where_models_are_pushed_to() -> None:
    check_repository("me/digits")
    check_branch("my/branch")
    for repository in ("digits", "hf://me/digits", "me/a/b", "me/..", ""):
        with pytest.raises(HubError, match=r"is no name of an owner or a repository, .*; expected owner/name"):
            check_repository(repository)
    for branch in ("", "..", "a b", "/a", COMMIT):
        with pytest.raises(HubError, match="is no name of a branch; expected one such as main"):
            check_branch(branch)
