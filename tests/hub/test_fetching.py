"""hf:// names against a hub on this machine: which file is taken, when the network is asked, and what goes wrong."""

import hashlib
import logging
from pathlib import Path

import pytest
from safetensors.numpy import save

from bitvit.errors import HubError
from bitvit.hub.fetching import fetch
from tests.support.hub import TOKEN, Hub
from tools.fuzz.seeds import CONFIGS, write_packed


@pytest.fixture
def data(tiny: Path) -> bytes:
    return tiny.read_bytes()


@pytest.fixture
def other(tmp_path: Path) -> bytes:
    """Of another packed model."""
    write_packed(tmp_path / "other.safetensors", CONFIGS[1])
    return (tmp_path / "other.safetensors").read_bytes()


def test_the_only_packed_model_is_taken_and_told(hub: Hub, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    commit = hub.add("me/digits", {"model.safetensors": data, "README.md": b"a card"})
    with caplog.at_level(logging.INFO, "bitvit"):
        found = fetch("hf://me/digits")
    digest = hashlib.sha256(data).hexdigest()
    assert (found.path.read_bytes(), found.commit, found.sha256()) == (data, commit, digest)
    assert str(found.name) == "hf://me/digits/model.safetensors"
    told = [record.getMessage() for record in caplog.records if record.name == "bitvit"]
    assert told == [f"hf://me/digits/model.safetensors: commit {commit}, sha256 {digest}"]


def test_of_several_files_the_one_with_the_mark_is_taken(hub: Hub, data: bytes, other: bytes) -> None:
    checkpoint = save({}, metadata={"format": "pt"})
    files = {"model.safetensors": checkpoint, "packed/small.safetensors": data, "damaged.safetensors": b"no header"}
    hub.add("me/digits", files)
    assert fetch("hf://me/digits").path.read_bytes() == data
    assert f"GET /large/{hashlib.sha256(checkpoint).hexdigest()}" in hub.requests  # its header
    assert not list(fetch("hf://me/digits").path.parents[1].glob("*.safetensors"))  # no more than that
    hub.repositories["me/digits"].commit({"large.safetensors": other})
    with pytest.raises(HubError) as error:
        fetch("hf://me/digits")
    assert str(error.value) == (
        "hf://me/digits: 2 packed models in the repository: large.safetensors, packed/small.safetensors; put the name "
        "of one behind, as hf://me/digits/large.safetensors"
    )
    assert fetch("hf://me/digits/large.safetensors").path.read_bytes() == other


def test_no_packed_model_is_an_error_that_lists_what_there_is(hub: Hub) -> None:
    hub.add("me/digits", {"checkpoint.pth": b"...", "README.md": b""})
    with pytest.raises(
        HubError, match=r"no packed model in the repository, which has checkpoint.pth, README.md|README"
    ):
        fetch("hf://me/digits")
    with pytest.raises(HubError, match=r"names no file, which has README.md, checkpoint.pth; put its name behind"):
        fetch("hf://me/digits", packed=False)
    assert fetch("hf://me/digits/checkpoint.pth", packed=False).path.read_bytes() == b"..."
    hub.add("me/many", {f"{number}.safetensors": b"" for number in range(17)})
    with pytest.raises(HubError, match=r"has 17 \.safetensors files; put the name of one behind"):
        fetch("hf://me/many")


def test_a_commit_in_the_cache_needs_no_network(hub: Hub, data: bytes, other: bytes) -> None:
    first = hub.add("me/digits", {"model.safetensors": data})
    second = hub.repositories["me/digits"].commit({"model.safetensors": other})
    assert fetch(f"hf://me/digits@{first}").path.read_bytes() == data
    assert fetch(f"hf://me/digits@{second}/model.safetensors").path.read_bytes() == other
    hub.requests.clear()
    for name in (f"hf://me/digits@{first}", f"hf://me/digits@{first}/model.safetensors"):
        assert fetch(name).path.read_bytes() == data
    assert hub.requests == []


def test_a_branch_is_asked_for_and_else_the_last_known(
    hub: Hub, data: bytes, other: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    hub.add("me/digits", {"model.safetensors": data})
    hub.repositories["me/digits"].references["v1"] = hub.repositories["me/digits"].references["main"]
    for name in ("hf://me/digits", "hf://me/digits@v1"):
        assert fetch(name).path.read_bytes() == data
    newer = hub.repositories["me/digits"].commit({"model.safetensors": other})
    assert fetch("hf://me/digits").path.read_bytes() == other

    def last_known() -> None:
        found = fetch("hf://me/digits")
        assert (found.path.read_bytes(), found.commit) == (other, newer)
        assert fetch("hf://me/digits@v1/model.safetensors").path.read_bytes() == data

    hub.broken = True
    last_known()
    hub.broken = False
    hub.requests.clear()
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        last_known()
        assert hub.requests == []
        with pytest.raises(HubError, match=r"me/never: HF_HUB_OFFLINE is set, and it is not in the cache .*; unset it"):
            fetch("hf://me/never")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    last_known()
    with pytest.raises(
        HubError, match=r"http://127.0.0.1:9 cannot be reached \(ConnectError: .*, and it is not in the"
    ):
        fetch("hf://me/never")


def test_the_token_is_for_the_hub_alone(hub: Hub, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("me/secret", {"model.safetensors": data, "other.safetensors": b""}, private=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch("hf://me/secret").path.read_bytes() == data
    assert f"Bearer {TOKEN}" in hub.tokens["127.0.0.1"]
    assert hub.tokens["localhost"] == {""}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hf://me/nothing", r"no such repository at http://\S+, or it is private; check the name, or log in with"),
        ("hf://me/secret", r"no such repository at http://\S+, or it is private; check the name, or log in with"),
        ("hf://me/gated", r"its owners let only those in whom they know; ask them on its page at http://\S+, then"),
        ("hf://me/digits@v9", r"the repository has no such branch, tag or commit; check what is behind the @"),
        (f"hf://me/digits@{'0' * 40}", r"the repository has no such branch, tag or commit; check what is behind"),
        ("hf://me/digits/no.pth", r"no such file in the repository, which has model.safetensors; check the name"),
        ("hf://me/empty", r"no packed model in the repository, which is empty; a checkpoint"),
    ],
)
def test_what_goes_wrong_is_told_in_a_line(hub: Hub, data: bytes, name: str, told: str) -> None:
    hub.add("me/digits", {"model.safetensors": data})
    hub.add("me/secret", {"model.safetensors": data}, private=True)
    hub.add("me/gated", {"model.safetensors": data}, gated=True)
    hub.add("me/empty", {})
    with pytest.raises(HubError, match=f"^{name}: {told}") as error:
        fetch(name)
    assert "\n" not in str(error.value)


def test_a_token_that_is_refused_and_a_hub_that_is_out_of_order(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    with pytest.raises(HubError, match=r"me/digits: http://\S+ refuses the token; log in with `hf auth login`, or set"):
        fetch("hf://me/digits")
    hub.broken = True
    with pytest.raises(HubError, match=r"me/digits: http://\S+ answers 500 \(.*\); try again later"):
        fetch("hf://me/digits")
