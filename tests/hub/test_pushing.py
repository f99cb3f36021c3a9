"""Publishing, against a hub on this machine."""

import dataclasses
from pathlib import Path

import pytest

from bitvit.errors import HubError
from bitvit.hub.fetching import fetch
from bitvit.hub.pushing import prepare
from tests.support.hub import TOKEN, Hub

# The client's upload of large files uses an argument that its HTTP library has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def logged_in(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


def test_what_is_pushed_is_what_is_fetched(logged_in: Hub, tiny: Path) -> None:
    publication = prepare(tiny, "me/digits", private=True, message="First")
    pushed = publication.push()
    repository = logged_in.repositories["me/digits"]
    files = repository.commits[repository.references["main"]]
    assert files == {
        ".gitattributes": b"",
        "model.safetensors": tiny.read_bytes(),
        "README.md": publication.card.encode(),
    }
    assert repository.private
    assert pushed.name == f"hf://me/digits@{repository.references['main']}"
    assert pushed.url.endswith(f"/me/digits/commit/{repository.references['main']}")
    assert not pushed.kept_card
    found = fetch(pushed.name)
    assert (found.path.read_bytes(), found.sha256()) == (tiny.read_bytes(), publication.sha256)
    assert logged_in.tokens["localhost"] == {""}  # where the model was uploaded to


def test_a_readme_is_kept_unless_a_card_is_given(logged_in: Hub, tiny: Path, tmp_path: Path) -> None:
    logged_in.add("me/digits", {"README.md": b"mine"})
    repository = logged_in.repositories["me/digits"]
    assert prepare(tiny, "me/digits").push().kept_card
    files = repository.commits[repository.references["main"]]
    assert (files["README.md"], files["model.safetensors"]) == (b"mine", tiny.read_bytes())
    (tmp_path / "card.md").write_text("---\nlicense: mit\n---\nmy card")
    assert not prepare(tiny, "me/digits", card=tmp_path / "card.md").push().kept_card
    assert repository.commits[repository.references["main"]]["README.md"] == b"---\nlicense: mit\n---\nmy card"


def test_a_branch_is_made_and_main_left_alone(logged_in: Hub, tiny: Path) -> None:
    before = logged_in.add("me/digits", {"README.md": b"mine"})
    for _ in range(2):
        pushed = prepare(tiny, "me/digits", branch="my/branch").push()
    references = logged_in.repositories["me/digits"].references
    assert references["main"] == before
    assert pushed.name == f"hf://me/digits@{references['my/branch']}"
    assert fetch("hf://me/digits@my%2Fbranch").commit == references["my/branch"]


def test_what_is_refused_uploads_nothing(logged_in: Hub, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = logged_in.add("me/open", {})
    publication = prepare(tiny, "me/open", private=True)
    with pytest.raises(HubError, match="hf://me/open: is there already and public, so --private would not hold"):
        publication.push()
    with pytest.raises(HubError, match=r"hf://strangers/digits: http://\S+ forbids it to this token \(.*rights"):
        dataclasses.replace(publication, repository="strangers/digits").push()
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    with pytest.raises(HubError, match=r"hf://me/open: .*log in with `hf auth login`, or set HF_TOKEN"):
        dataclasses.replace(publication, private=False).push()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=r"hf://me/new: http://\S+ lets nobody write without a token; log in with"):
        dataclasses.replace(publication, repository="me/new").push()
    assert list(logged_in.repositories["me/open"].commits) == [before]
    assert logged_in.large == {}
