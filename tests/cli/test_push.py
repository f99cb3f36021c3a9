"""bitvit push: what it shows, what it asks, and that --dry-run needs neither network nor huggingface_hub."""

import io
import sys
from pathlib import Path

import pytest

from bitvit.cli.push import push
from tests.support.command import Terminal, run
from tests.support.hub import TOKEN, Hub


def test_dry_run_prints_plan_and_card(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # not installed
    stdout, stderr = run("push", tiny, "me/digits", "--dry-run", "--license", "mit", "--private", "-m", "First")
    assert stderr == ""
    plan, card = stdout.split("nothing is uploaded (--dry-run); the card:\n\n")
    assert plan.startswith("to hf://me/digits, branch main (private):\n  model.safetensors  ")
    assert f"{tiny.stat().st_size:,} bytes, sha256 " in plan
    assert "  message            First\n" in plan
    assert card.startswith("---\nlicense: mit\nlibrary_name: bitvit\n")
    assert card.endswith("bitvit classify hf://me/digits photo.jpg\n```\n")


def test_a_missing_package_is_told_with_the_command(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    needs = "the Hugging Face Hub needs huggingface_hub, which is not installed: "
    for arguments in (("push", tiny, "me/digits"), ("inspect", "hf://me/digits"), ("classify", "hf://me/digits", tiny)):
        _, error = run(*arguments, code=1)
        assert error.startswith(f"Error: hf://me/digits: {needs}")
        assert error.endswith(" -m pip install 'bitvit[hub]'\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("digits",), "'digits': 'digits' is no name of an owner or a repository"),
        (("me/digits", "--revision", "a..b"), "'a..b' is no name of a branch"),
        (("me/digits", "--license", "My own"), "--license: 'My own' is no identifier of a licence"),
        (("me/digits", "--card", "no.md"), "no.md: no such file"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments: tuple[str, ...], told: str, tiny: Path) -> None:
    _, error = run("push", tiny, *arguments, code=1)
    assert error.startswith(f"Error: {told}")
    assert error.count("\n") == 1


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_terminal_is_asked_and_a_script_is_not(
    hub: Hub, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    with pytest.raises(SystemExit) as ended:
        push(tiny, "me/digits")
    assert ended.value.code == 1
    assert hub.repositories == {}
    assert "nothing is uploaded" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", Terminal(""))
    push(tiny, "me/digits", yes=True)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    push(tiny, "me/digits")
    stdout, stderr = capsys.readouterr()
    repository = hub.repositories["me/digits"]
    assert f"this very model: hf://me/digits@{repository.references['main']}\n" in stdout
    assert "the repository's README.md is kept as it is; --card FILE replaces it" in stderr


def test_inspect_shows_where_a_model_comes_from(hub: Hub, tiny: Path) -> None:
    commit = hub.add("me/digits", {"model.safetensors": tiny.read_bytes()})
    stdout, _ = run("inspect", "hf://me/digits@main")
    facts = {line[:22].strip(): line[22:] for line in stdout.splitlines()}
    assert (facts["repository"], facts["revision"], facts["commit"]) == ("me/digits", "main", commit)
    assert (facts["file"], len(facts["file sha256"])) == ("model.safetensors", 64)
    assert '"hub": null' in run("inspect", tiny, "-f", "json")[0]
    assert f'"commit": "{commit}"' in run("inspect", "hf://me/digits", "-f", "json")[0]
    assert "unchanged, its bytes match" in run("inspect", f"hf://me/digits@{commit}", "--check")[0]
