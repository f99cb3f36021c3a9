"""tools/cores.py: which networks it times, on how many threads."""

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from tests.support.shapes import shape
from tools import cores


@pytest.mark.parametrize(
    ("available", "threads"),
    [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16]), (24, [1, 2, 4, 8, 16, 24])],
)
def test_threads_are_doubled(available: int, threads: list[int]) -> None:
    assert cores.counts(available) == threads


def test_networks_are_those_of_the_paper() -> None:
    """SPEC 2: some-fp, as published."""
    small, tiny = (cores.NETWORKS[name] for name in ("bhvit-small", "bhvit-tiny"))
    assert (small.depths, tiny.depths) == ((3, 4, 8, 4), (2, 2, 6, 2))
    assert small.intermediate_sizes == tiny.intermediate_sizes == (512, 1024, 1024, 2048)


def test_results_are_printed_and_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = Typer()
    app.command()(cores.main)
    monkeypatch.setattr(cores, "NETWORKS", {"bhvit-least": shape(32, 1, (8, 8, 8, 16), (1, 1, 2, 1))})
    monkeypatch.setattr(cores, "available_threads", lambda: 2)
    file = tmp_path / "results.json"
    done = CliRunner().invoke(app, ["--seconds", "0.02", "--record", str(file)])
    assert done.exit_code == 0, done.output
    rows = json.loads(file.read_text())["cores"]["results"]
    assert [(row["model"], row["threads"], row["batch"]) for row in rows] == [
        ("bhvit-least", threads, batch) for threads in (1, 2) for batch in (1, 16)
    ]
    assert done.output.count("| bhvit-least |") == 4
    (tmp_path / "broken.json").write_text("[]")
    assert CliRunner().invoke(app, ["--record", str(tmp_path / "broken.json")]).exit_code == 1
