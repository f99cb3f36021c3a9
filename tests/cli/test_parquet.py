"""bitvit classify and evaluate on Parquet files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bitvit.classify import Classifier
from bitvit.cli.console import SOME_FAILED
from bitvit.parquet import Images
from tests.support.command import run, words
from tests.support.parquet_files import png, write_images
from tests.support.paths import ROOT
from tests.support.patience import patience

arrow: Any = pytest.importorskip("pyarrow", reason="needs pyarrow")
parquet: Any = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Seven images in two files."""
    write_images(tmp_path / "tables" / "a.parquet", [png(n) for n in range(5)], label=[0, 1, 2, 0, 1])
    write_images(tmp_path / "tables" / "below" / "b.parquet", [png(5), png(6)], label=[2, 2])
    return tmp_path / "tables"


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = parquet.ParquetFile(path).read().to_pylist()
    return found


def files_in(folder: Path) -> list[str]:
    """Those that begin with a dot included: nothing half-written is left."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# ----------------------------------------------------------------------------------------------------------- classify
def test_each_file_gives_one_of_predictions(model: Path, tables: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "deep"
    assert run("classify", model, tables, "-o", out, "-k", "1", "--keep", "number") == ("", "")
    assert files_in(out) == ["a.parquet", "below/b.parquet"]
    best = Classifier(model)([png(n) for n in range(7)], top_k=1)
    found = rows(out / "a.parquet") + rows(out / "below" / "b.parquet")
    places = [(tables / "a.parquet", n) for n in range(5)] + [(tables / "below" / "b.parquet", n) for n in range(2)]
    assert found == [
        {"number": row, "file": str(path), "row": row, **prediction, "error": None}
        for (path, row), (prediction,) in zip(places, best, strict=True)
    ]


def test_several_classes_are_lists_and_columns_may_be_renamed(model: Path, tables: Path, tmp_path: Path) -> None:
    run("classify", model, tables / "a.parquet", "-o", tmp_path / "out", "-k", "3", "--keep", "label=truth", "-b", "2")
    found = rows(tmp_path / "out" / "a.parquet")
    expected = Classifier(model)([png(n) for n in range(5)], top_k=3)
    assert [row["truth"] for row in found] == [0, 1, 2, 0, 1]
    for key in ("label", "index", "score"):
        assert [row[key] for row in found] == [[dict(one)[key] for one in best] for best in expected]


@pytest.mark.parametrize("good", [0, 2])
def test_damaged_rows_are_errors_with_their_row(good: int, model: Path, tmp_path: Path) -> None:
    """The types of the columns are the same if there is no good one."""
    images = [*(png(n) for n in range(good)), None, png(0)[:100], b"text"]
    write_images(tmp_path / "a.parquet", images)
    stdout, stderr = run("classify", model, tmp_path / "a.parquet", "-o", tmp_path / "out", code=SOME_FAILED)
    assert stdout == ""
    *reasons, last = stderr.splitlines()
    place = f"{tmp_path / 'a.parquet'} row "
    assert [reason.startswith(f"Error: {place}{good + n}: ") for n, reason in enumerate(reasons)] == [True] * 3
    assert last == f"Error: 3 of {len(images)} images could not be read"
    found = rows(tmp_path / "out" / "a.parquet")
    assert [row["error"] is None for row in found] == [True] * good + [False] * 3
    assert [f"Error: {row['error']}" for row in found[good:]] == reasons
    assert [(row["row"], row["label"]) for row in found[good:]] == [(good + n, None) for n in range(3)]
    types = [str(kind) for kind in parquet.read_schema(tmp_path / "out" / "a.parquet").types]
    assert types == [
        "string", "int64", "list<element: string>", "list<element: int64>", "list<element: double>", "string",
    ]  # fmt: skip


def test_a_job_goes_on_after_the_files_that_are_done(model: Path, tables: Path, tmp_path: Path) -> None:
    write_images(tables / "c.parquet", [b"text", png(1)])
    out = tmp_path / "out"
    command = ["classify", model, tables, "-o", out]
    run(*command, code=SOME_FAILED)
    whole = {name: rows(out / name) for name in files_in(out)}
    (out / "below" / "b.parquet").unlink()
    before = (out / "a.parquet").stat().st_mtime_ns
    _, stderr = run(*command, "--resume", code=SOME_FAILED)
    assert stderr == "Note: 2 of 3 files had been done before\nError: 1 of 9 images could not be read\n"
    assert (out / "a.parquet").stat().st_mtime_ns == before
    assert {name: rows(out / name) for name in files_in(out)} == whole
    run(*command, code=SOME_FAILED)
    assert (out / "a.parquet").stat().st_mtime_ns > before, "without --resume it starts afresh"


def test_another_job_is_not_gone_on_with(model: Path, tables: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["classify", model, tables / "a.parquet", "-o", out, "--resume"]
    run(*command)
    for options in (["-k", "2"], ["--keep", "number"], ["--exif"], ["--path-column", "image"]):
        _, stderr = run(*command, *options, code=1)
        assert f"{out / 'a.parquet'}: is of another job: another model, other options, another version" in stderr
    write_images(tables / "a.parquet", [png(9)])
    assert "a.parquet has changed" in run(*command, code=1)[1]
    parquet.write_table(arrow.table({"error": ["x"]}), out / "a.parquet")
    assert "is of another job" in run(*command, code=1)[1]


def test_a_damaged_file_stops_the_job_and_leaves_nothing_of_itself(model: Path, tables: Path, tmp_path: Path) -> None:
    """Its footer is whole, the header of a page is not."""
    path = tables / "b.parquet"
    write_images(path, [png(n) for n in range(4)], group_rows=2)
    column = parquet.read_metadata(path).row_group(1).column(1)
    assert column.path_in_schema == "image.bytes"
    data = bytearray(path.read_bytes())
    data[column.data_page_offset : column.data_page_offset + 20] = b"\xff" * 20
    path.write_bytes(data)
    out = tmp_path / "out"
    _, stderr = run("classify", model, tables, "-o", out, code=1)
    error, note = stderr.splitlines()[-2:]
    assert error.startswith(f"Error: {path}: cannot be read as Parquet: ")
    assert note == f"Note: stopped after 1 of 3 files, kept in {out}: the same command with --resume goes on"
    assert files_in(out) == ["a.parquet"]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_an_interrupt_leaves_whole_files(model: Path, tmp_path: Path) -> None:
    tables, out = tmp_path / "tables", tmp_path / "out"
    write_images(tables / "a.parquet", [png(1)])
    write_images(tables / "b.parquet", [png(2)] * 2500, group_rows=1000)
    command = [sys.executable, "-m", "bitvit", "classify", str(model), str(tables), "-o", str(out), "-t", "1"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + patience(60)
    while not ((out / "a.parquet").exists() and list(out.glob(".bitvit.*"))):  # it is at the second file
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=patience(60))
    assert (process.returncode, files_in(out)) == (130, ["a.parquet"])
    assert stderr == f"Note: stopped after 1 of 2 files, kept in {out}: the same command with --resume goes on\n"


def test_what_a_killed_run_has_left_is_swept(model: Path, tables: Path, tmp_path: Path) -> None:
    """Not what another run leaves of other files in the same folder."""
    many, out = tmp_path / "many", tmp_path / "out"
    left: list[str] = []
    for name in ("a", "b"):
        write_images(many / f"{name}.parquet", [png(0)] * 3000, group_rows=100)
        command = [
            sys.executable,
            "-m",
            "bitvit",
            "classify",
            str(model),
            str(many / f"{name}.parquet"),
            "-o",
            str(out),
        ]
        deadline = time.monotonic() + patience(60)
        with subprocess.Popen(command, cwd=ROOT) as job:
            while set(files_in(out)) <= set(left):
                assert job.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.002)
            job.kill()
        left += set(files_in(out)) - set(left)
    of_a, of_b = left
    assert [name[:8] for name in left] == [".bitvit."] * 2
    run("classify", model, tables / "a.parquet", "-o", out)
    assert files_in(out) == [of_b, "a.parquet"]
    assert of_a != of_b


def test_what_is_kept_is_written_a_part_at_a_time(
    model: Path, tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory does not hold a file's columns."""
    monkeypatch.setattr("bitvit.parquet.ROWS", 2)
    monkeypatch.setattr("bitvit.parquetjob.GROUP_BYTES", 1)
    run("classify", model, tables / "a.parquet", "-o", tmp_path / "out", "--keep", "image")
    written = parquet.ParquetFile(tmp_path / "out" / "a.parquet")
    groups = [written.metadata.row_group(group).num_rows for group in range(written.num_row_groups)]
    assert (groups, [cell["bytes"] for cell in written.read().column("image").to_pylist()]) == (
        [2, 1, 2],
        [png(n) for n in range(5)],
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["TABLES"], "need --output FOLDER, which gets a file of predictions for each"),
        (["TABLES", "-o", "FILE"], "is a file; name a folder"),
        (["TABLES", "FILE", "-o", "OUT"], "is not Parquet, as others are; classify the two kinds one after the other"),
        (["TABLES", "-o", "OUT", "-f", "csv"], "leave out --format, --explain and --recursive"),
        (["TABLES", "-o", "TABLES"], "predictions would replace the images' files; name another folder"),
        (["TABLES", "TABLES", "-o", "OUT"], "would be written more than once; name one folder at a time"),
        (["TABLES", "-o", "OUT", "--keep", "label"], "under another name, as in --keep label=true_label"),
        (["TABLES", "-o", "OUT", "--keep", "no"], "a.parquet: --keep: no column 'no'; its columns: "),
        (["TABLES", "-o", "OUT", "--path-column", "number"], "column 'number' is int64, expected one of bytes"),
        (["TABLES", "-o", "FILE/out"], "cannot be written: "),
        (["FILE", "--keep", "a"], "--path-column, --keep and --resume are for Parquet files of images"),
    ],
)
def test_mistakes(arguments: list[str], message: str, model: Path, tables: Path, tmp_path: Path) -> None:
    names = {"TABLES": tables, "FILE": tmp_path / "image.png", "OUT": tmp_path / "out"}
    names["FILE"].write_bytes(png(0))
    given = [str(names.get(word.split("/")[0], word)) + word[len(word.split("/")[0]) :] for word in arguments]
    stdout, stderr = run("classify", model, *given, code=1)
    assert (stdout, stderr.count("\n")) == ("", 1)
    assert message in words(stderr)
    assert not list(tmp_path.rglob("out/**/*.*"))


def test_without_pyarrow(model: Path, tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pyarrow", "pyarrow.fs", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    for command in (["classify", model, tables, "-o", tmp_path / "out"], ["evaluate", model, tables]):
        _, stderr = run(*command, code=1)
        assert f"Error: reading {tables} needs pyarrow, which is not installed: " in stderr
        assert stderr.count("\n") == 1
        assert stderr.endswith("-m pip install 'bitvit[parquet]'\n")


# ----------------------------------------------------------------------------------------------------------- evaluate
@pytest.fixture
def names(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of the model's classes; the current folder, where states are kept, is an empty one."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return list(Classifier(tiny).labels)


def evaluated(model: Path, data: object, *options: object) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(run("evaluate", model, data, "--format", "json", *options)[0])
    return report


@pytest.mark.parametrize("kind", ["text", "number", "Hugging Face"])
def test_the_figures_are_those_of_the_same_images_in_folders(
    kind: str, tiny: Path, names: list[str], tmp_path: Path
) -> None:
    for number in range(8):
        folder = tmp_path / "folders" / names[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(png(number))
    table = tmp_path / "table"
    for name, numbers in (("a.parquet", range(5)), ("b.parquet", range(5, 8))):
        cells = [names[n % 2] if kind == "text" else 1 - n % 2 if kind == "Hugging Face" else n % 2 for n in numbers]
        column = "label" if kind == "Hugging Face" else "target"
        columns: dict[str, Any] = {column: cells}
        write_images(table / name, [png(n) for n in numbers], group_rows=2, names=names[1::-1], **columns)
    expected, found = evaluated(tiny, tmp_path / "folders"), evaluated(tiny, f"file://{table}")
    assert found["images"] == 8
    for figure in ("images", "top1", "balanced_accuracy"):
        assert found[figure] == expected[figure]
    assert found["loss"] == pytest.approx(expected["loss"])


def test_a_damaged_row_is_left_out_and_named(tiny: Path, names: list[str], tmp_path: Path) -> None:
    write_images(tmp_path / "a.parquet", [png(0), b"text", png(2), None], target=[names[0]] * 4)
    _, stderr = run("evaluate", tiny, tmp_path / "a.parquet", "--on-error", "list", code=SOME_FAILED)
    for row in (1, 3):
        assert f"Error: {tmp_path / 'a.parquet'} row {row}: " in stderr
    assert "2 of 4 images could not be read" in stderr


def test_an_evaluation_goes_on_at_the_row_where_it_stopped(
    tiny: Path, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    write_images(path, [png(n) for n in range(12)], target=[names[n % 2] for n in range(12)])
    expected = evaluated(tiny, path)
    read: list[int] = []
    original = Images.__getitem__

    def read_or_stop(self: Images, place: Any) -> Any:
        if stop_at == place:
            raise KeyboardInterrupt
        read.append(place)
        return original(self, place)

    monkeypatch.setattr(Images, "__getitem__", read_or_stop)
    stop_at = 10
    command = ["evaluate", tiny, path, "-b", "2", "--decoders", "1", "--format", "json"]
    _, stderr = run(*command, code=130)
    done = int(stderr.split("stopped after ")[1].split(" of 12 images")[0])
    assert 0 < done < 12
    stop_at, read[:] = -1, []
    stdout, stderr = run(*command, "--resume")
    assert f"resumed after {done} of 12 images" in stderr
    assert read == list(range(done, 12))
    again = json.loads(stdout)
    assert (again["top1"], again["loss"]) == (expected["top1"], expected["loss"])


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        ({"label": [0, -1]}, [], "a.parquet row 1: 'label' is -1, expected a number from 0 to 2; rows without a label"),
        ({"target": ["cat", None]}, [], "a.parquet row 1: 'target' is None, expected a class name or a whole number"),
        ({"target": [0.5, 1.5]}, [], "a.parquet row 0: 'target' is 0.5, expected a class name or a whole number"),
        ({}, [], "no column label or class or target; say which with --label-column"),
        ({"target": [0, 1]}, ["--folds"], "folds of Parquet files are not told apart"),
    ],
)
@pytest.mark.usefixtures("names")
def test_labels_that_cannot_be_used(
    cells: dict[str, Any], options: list[str], message: str, tiny: Path, tmp_path: Path
) -> None:
    write_images(tmp_path / "a.parquet", [png(0), png(1)], **cells)
    _, stderr = run("evaluate", tiny, tmp_path / "a.parquet", *options, code=1)
    assert message in stderr
    assert stderr.count("\n") == 1
