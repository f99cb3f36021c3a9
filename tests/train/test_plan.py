"""The folder of a run: what may be in it, and what a run leaves that was killed while it began."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs PyTorch")

from bitvit.train import plan as plans
from bitvit.train.plan import Plan, RunFolder
from bitvit.train.settings import Network, Settings, TrainingError

PLAN = Plan({"--epochs": "3"}, "digest", Settings(network=Network()))


class KilledError(BaseException):
    pass


def killed(*_: object) -> None:
    raise KilledError


def test_a_plan_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    RunFolder.open(folder).begin(PLAN)
    assert RunFolder.open(folder).kept == PLAN
    assert [path.name for path in folder.iterdir()] == ["plan.json"]


def test_a_folder_that_holds_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(TrainingError, match="is there already and is not the folder of a training"):
        RunFolder.open(tmp_path)


def test_a_run_that_was_killed_while_it_wrote_its_plan_begins_anew(tmp_path: Path) -> None:
    (tmp_path / ".bitvit.0123456789abcdef").write_text('{"argum')
    RunFolder.open(tmp_path).begin(PLAN)
    assert RunFolder.open(tmp_path).kept == PLAN


def test_a_run_that_was_killed_while_it_replaced_another_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RunFolder.open(tmp_path).begin(PLAN)
    (tmp_path / "result.json").write_text("{}")
    assert RunFolder.open(tmp_path).finished
    with monkeypatch.context() as patch:
        patch.setattr(plans, "write_bytes", killed)
        with pytest.raises(KilledError):
            RunFolder.open(tmp_path).begin(PLAN)
    assert not RunFolder.open(tmp_path).finished
    RunFolder.open(tmp_path).begin(PLAN)
    assert RunFolder.open(tmp_path).kept == PLAN
