"""What the commands share: output that is never left half-written, names escaped for the terminal."""

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from bitvit.classify import Classifier
from bitvit.cli import console
from bitvit.predictions import Prediction
from tests.support.command import run


def test_the_output_file_holds_what_stdout_would(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.csv"
    out.write_text("old")
    assert run("classify", model, images, "-f", "csv", "-o", out)[0] == ""
    assert out.read_text() == run("classify", model, images, "-f", "csv")[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "results.csv"]


def test_output_file_is_written_though_an_image_is_bad(model: Path, images: Path, tmp_path: Path) -> None:
    run("classify", model, "no.png", images, "-f", "json", "-o", tmp_path / "out.json", code=3)
    assert len(json.loads((tmp_path / "out.json").read_text())) == 4


def test_output_file_is_never_half_written(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_self: Classifier, _images: object, _top_k: int) -> Iterator[list[Prediction]]:
        yield [{"label": "cat", "index": 0, "score": 1.0}]
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, "attempt", interrupted)
    out = tmp_path / "out.jsonl"
    out.write_text("old")
    run("classify", model, images, "-f", "jsonl", "-o", out, code=130)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out.jsonl"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "is a folder; name a file to write"), ("no/out.csv", "cannot be written: No such file or directory; choose")],
)
def test_output_that_cannot_be_written_is_named(
    name: str, message: str, model: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / name
    _, stderr = run("classify", model, images, "-o", out, code=1)
    assert stderr.startswith(f"Error: {out}: {message}")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_full_while_results_come_is_told_with_the_file(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, **_options: object) -> BinaryIO:
        return open("/dev/full", "wb")  # noqa: PTH123

    monkeypatch.setattr(console, "replacing", full)
    out = tmp_path / "out.csv"
    _, error = run("classify", model, images, "-f", "csv", "-o", out, code=1)
    assert error.splitlines()[-1].startswith(f"Error: {out}: cannot be written: No space left on device; ")


@pytest.mark.parametrize("problem", [OSError(errno.EIO, "Input/output error", "photos"), BrokenPipeError()])
def test_errors_that_are_not_the_outputs_are_not_called_that(problem: OSError, tmp_path: Path) -> None:
    def half_written() -> None:
        with console.output(tmp_path / "out.csv") as stream:
            stream.write("half")
            raise problem

    with pytest.raises(type(problem)) as raised:
        half_written()
    assert raised.value is problem
    assert not list(tmp_path.iterdir())


def test_output_to_a_device_does_not_replace_it(model: Path, images: Path) -> None:
    run("classify", model, images, "-o", os.devnull)
    assert not Path(os.devnull).is_file()


def test_output_through_a_link_keeps_the_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with console.output(tmp_path / "link") as stream:
        stream.write("text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "text"


def test_output_file_may_be_read_by_others_as_usual(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    with console.output(tmp_path / "file"):
        pass
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual").stat().st_mode
