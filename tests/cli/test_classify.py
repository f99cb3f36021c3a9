"""bitvit classify: its formats, its arguments, its files."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile
from rich.console import Console

from bitvit.classify import Classifier
from bitvit.cli.classify import QUICKLY_DONE
from tests.support.command import Terminal, run, words
from tests.support.paths import ROOT
from tests.support.patience import patience


def test_the_table_has_the_best_classes_of_each_image(model: Path, images: Path) -> None:
    stdout, stderr = run("classify", model, images / "a.png", images / "b.jpg", "--top-k", "2")
    lines = stdout.splitlines()
    assert [lines[0], lines[3]] == [str(images / "a.png"), str(images / "b.jpg")]
    best = Classifier(model)(images / "a.png", top_k=1)[0]
    assert lines[1] == f"  {100 * best['score']:6.2f} %  {best['label']}"
    assert len(lines) == 6
    assert stderr == ""


def test_json_and_jsonl_have_the_predictions(model: Path, images: Path) -> None:
    expected = [
        {"path": str(images / name), "predictions": Classifier(model)(images / name, top_k=3)}
        for name in ("a.png", "b.jpg", "c.webp")
    ]
    assert json.loads(run("classify", model, images, "-k", "3", "--format", "json")[0]) == expected
    lines = run("classify", model, images, "-k", "3", "--format", "jsonl")[0].splitlines()
    assert [json.loads(line) for line in lines] == expected


@pytest.mark.parametrize(("name", "form"), [("a.csv", "csv"), ("a.JSON", "json"), ("a.jsonl", "jsonl"), ("a", "table")])
def test_the_output_says_the_format(name: str, form: str, model: Path, images: Path, tmp_path: Path) -> None:
    image, out = images / "a.png", tmp_path / name
    expected = run("classify", model, image, "--format", form)[0]
    run("classify", model, image, "-o", out)
    assert out.read_text() == expected
    run("classify", model, image, "-o", out, "--format", "csv")
    assert out.read_text().startswith("path,rank,label")


def test_csv_has_a_row_for_each_rank(model: Path, images: Path) -> None:
    stdout, _ = run("classify", model, images / "a.png", "--format", "csv", "-k", "2")
    rows = list(csv.DictReader(io.StringIO(stdout)))
    assert list(rows[0]) == ["path", "rank", "label", "index", "score"]
    found = [(row["path"], row["rank"], row["label"], int(row["index"]), float(row["score"])) for row in rows]
    first, second = Classifier(model)(images / "a.png", top_k=2)
    path = str(images / "a.png")
    assert found == [
        (path, "1", first["label"], first["index"], first["score"]),
        (path, "2", second["label"], second["index"], second["score"]),
    ]


@pytest.mark.parametrize("options", [("--batch-size", 1), ("--batch-size", 3), ("--threads", 1)])
def test_results_do_not_depend_on_batch_size_and_threads(options: Sequence[object], model: Path, images: Path) -> None:
    assert run("classify", model, images, "-f", "jsonl", *options) == run("classify", model, images, "-f", "jsonl")


def test_folders_stand_for_the_images_in_them(model: Path, images: Path) -> None:
    def names(*options: object) -> list[str]:
        lines = run("classify", model, *options, "-f", "jsonl")[0].splitlines()
        return [Path(json.loads(line)["path"]).name for line in lines]

    assert names(images) == ["a.png", "b.jpg", "c.webp"]
    assert names(images, "--recursive") == ["a.png", "b.jpg", "d.png", "c.webp"]
    assert names(images / "below", images) == ["d.png", "a.png", "b.jpg", "c.webp"]


def test_what_is_left_out_of_a_folder_is_said(model: Path, images: Path) -> None:
    for name in ("e.heic", "below/f.avif", "below/.g.png"):
        (images / name).touch()
    (images / "below" / "back").symlink_to("..")
    _, stderr = run("classify", model, images, "-r")
    assert stderr == (
        f"Note: {images}: left out: 2 files of formats that are not read (1 .avif, 1 .heic; save them as JPEG or PNG), "
        "1 hidden image, 1 link back to a folder above\n"
    )


def test_an_image_comes_from_stdin(model: Path, images: Path) -> None:
    stdout, _ = run("classify", model, "-", "-f", "jsonl", stdin=(images / "a.png").read_bytes())
    expected = {"path": "-", "predictions": Classifier(model)(images / "a.png")}
    assert json.loads(stdout) == expected


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "image 0: stdin is empty; redirect an image to it\n"),
        (b"<html>", "image 0: 'stdin': not an image that can be read"),
    ],
)
def test_a_bad_image_on_stdin(data: bytes, said: str, model: Path, images: Path) -> None:
    stdout, stderr = run("classify", model, "-", images / "a.png", "-f", "jsonl", stdin=data, code=3)
    assert stderr.startswith(f"Error: {said}")
    assert [list(json.loads(line)) for line in stdout.splitlines()] == [["path", "error"], ["path", "predictions"]]


def closed(redirection: str, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    """A finished `bitvit classify` whose standard descriptors a shell has closed."""
    command = [
        "sh",
        "-c",
        f'"$@" {redirection}',
        "sh",
        sys.executable,
        "-m",
        "bitvit",
        "classify",
        *map(str, arguments),
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, timeout=patience(120), check=False)


@pytest.mark.skipif(os.name == "nt", reason="shell")
def test_closed_descriptors(model: Path, images: Path, tmp_path: Path) -> None:
    """As a cron job or a service may have them; no file that is opened meanwhile may take their places."""
    arguments, out = (model, images / "a.png", "-f", "csv"), tmp_path / "out.csv"
    expected = run("classify", *arguments)[0]
    done = closed("<&- >&- 2>&-", *arguments, "-o", out)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert out.read_text() == expected
    done = closed(">&-", *arguments)
    assert (done.returncode, done.stderr) == (
        1,
        b"Error: stdout is closed; name an output file, or redirect stdout to one\n",
    )
    done = closed("2>&-", *arguments)
    assert (done.returncode, done.stdout.decode()) == (0, expected)


@pytest.mark.skipif(os.name == "nt", reason="shell")
@pytest.mark.parametrize(
    ("redirection", "said"), [("<&-", "stdin is closed"), (f"0>{os.devnull}", "stdin cannot be read: ")]
)
def test_stdin_that_cannot_be_read(redirection: str, said: str, model: Path, images: Path) -> None:
    done = closed(redirection, model, images / "a.png", "-", "-f", "csv")
    assert done.returncode == 3
    assert done.stdout.decode() == run("classify", model, images / "a.png", "-f", "csv")[0]
    assert done.stderr.decode().splitlines()[0].startswith(f"Error: image 1: {said}")


def test_stdin_is_read_only_once(model: Path) -> None:
    _, stderr = run("classify", model, "-", "-", code=1)
    assert stderr == "Error: -: named twice, but stdin can be read only once\n"


def test_bad_images_are_reported_and_the_others_go_on(model: Path, images: Path) -> None:
    (images / "bad.png").write_bytes(b"<html>")
    stdout, stderr = run("classify", model, "no.png", images, "-f", "json", code=3)
    records = json.loads(stdout)
    assert [Path(record["path"]).name for record in records] == ["no.png", "a.png", "b.jpg", "bad.png", "c.webp"]
    assert [record.get("error") for record in records[:2]] == ["no.png: no such file; check the path", None]
    assert "not an image that can be read" in records[3]["error"]
    assert stderr.splitlines()[0] == "Error: no.png: no such file; check the path"
    assert stderr.splitlines()[-1] == "Error: 2 of 5 images could not be read"


def test_too_little_memory_stops(model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(ImageFile.ImageFile, "load", refuse)
        _, stderr = run("classify", model, images / "a.png", "-o", tmp_path / "out.csv", "-f", "csv", code=1)
    assert stderr.startswith(
        f"Error: {images / 'a.png'}: too little memory to decode an image of 15,600 pixels; the image is not at"
    )
    assert not (tmp_path / "out.csv").exists()
    monkeypatch.setattr(Image.Image, "resize", refuse)
    _, stderr = run("classify", model, images / "a.png", code=1)
    assert stderr == (
        "Error: too little memory; allow the process more, or use a smaller --batch-size or fewer --threads\n"
    )


@pytest.mark.parametrize("form", ["table", "csv"])
def test_bad_images_are_left_out_of_tables(form: str, model: Path, images: Path) -> None:
    stdout, _ = run("classify", model, "no.png", images / "a.png", "-f", form, code=3)
    assert "no.png" not in stdout
    assert "a.png" in stdout


def test_only_bad_images_give_a_list_of_errors(model: Path) -> None:
    assert run("classify", model, "no.png", "-f", "json", code=3)[0] == (
        '[\n{"path": "no.png", "error": "no.png: no such file; check the path"}\n]\n'
    )


def test_a_folder_without_images_is_named(model: Path, tmp_path: Path) -> None:
    _, stderr = run("classify", model, tmp_path, code=1)
    assert "no images in this folder" in stderr


def test_a_missing_model_is_named(images: Path) -> None:
    _, stderr = run("classify", "no.safetensors", images / "a.png", code=1)
    assert stderr.startswith("Error: no.safetensors: does not exist; expected a packed model")


def test_a_checkpoint_in_place_of_a_model_is_refused(checkpoint: Path, images: Path) -> None:
    _, stderr = run("classify", checkpoint, images / "a.png", code=1)
    assert "not a packed model" in stderr


def test_arguments_in_another_order_are_told(model: Path, images: Path) -> None:
    _, stderr = run("classify", images / "b.jpg", model, code=1)
    expected = (
        "is a JPEG image, expected a packed model written by bitvit convert; name the model first; images, where they "
        "are wanted, come after it"
    )
    assert stderr == f"Error: {images / 'b.jpg'}: {expected}\n"


@pytest.mark.parametrize("options", [("--top-k", 0), ("--batch-size", 0), ("--threads", 0), ("--format", "xml")])
def test_wrong_usage_is_explained(options: Sequence[object], model: Path, images: Path) -> None:
    _, stderr = run("classify", model, images, *options, code=2)
    assert f"Invalid value for '{options[0]}'" in words(stderr)


def test_no_images_are_wrong_usage(model: Path) -> None:
    assert "Missing argument" in words(run("classify", model, code=2)[1])


def test_explain_draws_each_image_and_changes_no_prediction(model: Path, images: Path, tmp_path: Path) -> None:
    (images / "a.jpg").write_bytes((images / "b.jpg").read_bytes())
    (images / "bad.png").write_bytes(b"<html>")
    out = tmp_path / "heat" / "maps"
    stdin = (images / "a.png").read_bytes()
    stdout, stderr = run("classify", model, images, "-", "-f", "jsonl", "--explain", out, code=3, stdin=stdin)
    numbered = f"Note: {images / 'a.png'}: its heat map is {out / 'a-2.png'}, as a.png is taken"
    assert numbered in stderr.splitlines()
    lines = [line for line in stderr.splitlines() if line != numbered]
    assert (stdout, "\n".join(lines) + "\n") == run("classify", model, images, "-", "-f", "jsonl", code=3, stdin=stdin)
    assert sorted(path.name for path in out.iterdir()) == ["a-2.png", "a.png", "b.png", "c.png", "stdin.png"]
    with Image.open(out / "a-2.png") as drawn, Image.open(out / "stdin.png") as same:
        assert min(drawn.size) > 448  # legible
        assert np.array_equal(np.asarray(drawn), np.asarray(same))
    _, stderr = run("classify", model, images / "b.jpg", "--explain", images / "a.png", code=1)
    assert stderr.startswith(f"Error: {images / 'a.png'}: cannot be made")


@pytest.mark.parametrize("explained", [False, True])
def test_images_that_exif_would_turn_are_counted(explained: bool, model: Path, images: Path, tmp_path: Path) -> None:
    options = ["--explain", tmp_path / "maps"] if explained else []
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(images / "a.png") as image:
        image.transpose(Image.Transpose.ROTATE_180).save(images / "turned.png", exif=exif)
    (images / "bad.png").write_bytes(b"<html>")
    arguments = ("classify", model, images, "-f", "jsonl", *options)
    stdout, stderr = run(*arguments, code=3)
    note, last = stderr.splitlines()[1:]
    assert note.startswith("Note: 1 of 5 images would be turned by its EXIF data, which is ignored, as in the training")
    assert note.endswith("code; --exif obeys it")
    assert last == "Error: 1 of 5 images could not be read"

    def predictions(text: str, name: str) -> object:
        records = {Path(record["path"]).name: record for record in map(json.loads, text.splitlines())}
        return records[name]["predictions"]

    assert predictions(stdout, "turned.png") != predictions(stdout, "a.png")
    stdout, stderr = run(*arguments, "--exif", code=3)
    assert "EXIF" not in stderr
    assert predictions(stdout, "turned.png") == predictions(stdout, "a.png")


def test_no_image_is_replaced_by_its_heat_map(model: Path, images: Path) -> None:
    before = {name: (images / name).read_bytes() for name in ("a.png", "b.jpg")}
    _, stderr = run("classify", model, images / "b.jpg", images / "a.png", "--explain", images)
    assert stderr == f"Note: {images / 'a.png'}: its heat map is {images / 'a-2.png'}, as a.png is taken\n"
    assert before == {name: (images / name).read_bytes() for name in before}
    assert {"a-2.png", "b.png"} < {path.name for path in images.iterdir()}


def test_heat_maps_of_names_that_differ_by_case(model: Path, images: Path, tmp_path: Path) -> None:
    (images / "A.JPG").write_bytes((images / "b.jpg").read_bytes())
    run("classify", model, images / "A.JPG", images / "a.png", "--explain", tmp_path / "heat")
    assert sorted(path.name for path in (tmp_path / "heat").iterdir()) == ["A.png", "a-2.png"]


def test_names_are_escaped_for_the_terminal(model: Path, images: Path) -> None:
    strange = images / "\x1b[31mred.png"
    (images / "a.png").rename(strange)
    stdout, _ = run("classify", model, strange)
    assert stdout.splitlines()[0] == f"{images}/\\x1b[31mred.png"
    assert json.loads(run("classify", model, strange, "-f", "jsonl")[0])["path"] == str(strange)


@pytest.mark.parametrize(
    ("count", "terminal", "shown"),
    [(QUICKLY_DONE + 1, True, True), (QUICKLY_DONE, True, False), (QUICKLY_DONE + 1, False, False)],
)
def test_a_progress_bar_is_for_many_images_on_a_terminal(
    count: int, terminal: bool, shown: bool, model: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Terminal() if terminal else io.StringIO()
    console = Console(file=screen, force_terminal=True)  # as FORCE_COLOR has it
    monkeypatch.setattr(sys.modules["bitvit.cli.classify"], "stderr_console", lambda: console)
    run("classify", model, *[images / "a.png"] * count)
    assert (f"{count}/{count}" in screen.getvalue()) is shown
    assert shown or not screen.getvalue()
