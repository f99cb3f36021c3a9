"""bitvit classify --watch: each file once, when it is complete, and after a restart."""

import csv
import errno
import functools
import io
import itertools
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitvit.classify import Classifier
from bitvit.cli.watch import PATIENCE, Journal, State, Watcher, watch
from bitvit.errors import BitvitError, ImageError
from bitvit.predictions import Prediction
from tests.support.command import run
from tests.support.patience import patience

BEST: list[Prediction] = [
    {"label": "cat", "index": 1, "score": 0.75},
    {"label": 'a "dog",\n', "index": 0, "score": 0.2},
]


class Scene:
    """A folder that is watched, by a clock of its own."""

    def __init__(self, folder: Path, *, recursive: bool = False) -> None:
        self.folder, self.now = folder, 100.0
        folder.mkdir(exist_ok=True)
        self.watcher = Watcher([str(folder)], recursive=recursive, done={}, clock=lambda: self.now)

    def put(self, name: str, data: bytes, modified: int = 1) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=(modified, modified))

    def look(self, *, failed: bool = False) -> list[str]:
        """Names of the files that are ready, each of which is then classified; those that fail only if that stays."""
        self.now += 1
        found = []
        for path, state in self.watcher.look():
            if self.watcher.is_final(path, failed):
                self.watcher.done[path] = state
            found.append(Path(path).relative_to(self.folder).as_posix())
        return found


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "in")


def test_a_file_is_taken_once_and_when_it_no_longer_grows(scene: Scene) -> None:
    scene.put("a.png", b"1", 5)
    assert scene.look() == []
    scene.put("a.png", b"12", 5)
    assert scene.look() == []
    scene.put("a.png", b"21", 6)  # as long, but later
    assert scene.look() == []
    scene.put("b.png", b"1", 3)
    assert [scene.look(), scene.look(), scene.look()] == [["a.png"], ["b.png"], []]


def test_files_are_taken_in_the_order_in_which_they_were_written(scene: Scene) -> None:
    for name, modified in (("b.png", 2), ("a.png", 3), ("c.png", 1), ("d.txt", 1), (".e.png", 1), ("f.png.part", 1)):
        scene.put(name, b"1", modified)
    assert [scene.look(), scene.look()] == [[], ["c.png", "b.png", "a.png"]]


def test_a_file_that_is_written_anew_is_new(scene: Scene) -> None:
    scene.put("a.png", b"1", 1)
    assert [scene.look(), scene.look(), scene.look()] == [[], ["a.png"], []]
    scene.put("a.png", b"1", 2)
    assert [scene.look(), scene.look(), scene.look()] == [[], ["a.png"], []]


def test_folders_below_are_searched_if_asked_to(tmp_path: Path) -> None:
    for recursive in (False, True):
        scene = Scene(tmp_path / "in", recursive=recursive)
        scene.put("below/a.png", b"1")
        assert [scene.look(), scene.look()] == [[], ["below/a.png"] if recursive else []]


def test_a_file_that_cannot_be_read_is_given_time(scene: Scene) -> None:
    scene.put("a.png", b"half", 1)
    assert [scene.look(), scene.look(failed=True)] == [[], ["a.png"]]
    assert not scene.watcher.done
    assert scene.look() == []  # not at every look
    scene.put("a.png", b"half and half", 2)
    assert [scene.look(), scene.look()] == [[], ["a.png"]]
    assert list(scene.watcher.done.values()) == [(13, 2)]


def test_a_file_that_stays_unreadable_is_an_error_once(scene: Scene) -> None:
    scene.put("a.png", b"no image")
    tries = [scene.look(failed=True) for _ in range(int(4 * PATIENCE))]
    assert [name for found in tries for name in found] == ["a.png", "a.png"]
    assert tries.index(["a.png"], 2) - tries.index(["a.png"]) == PATIENCE
    assert len(scene.watcher.done) == 1


def test_a_folder_that_vanishes_is_waited_for(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.put("a.png", b"1")
    assert [scene.look(), scene.look()] == [[], ["a.png"]]
    away = scene.folder.with_name("away")
    scene.folder.rename(away)
    assert [scene.look() for _ in range(5)] == [[]] * 5
    away.rename(scene.folder)
    scene.put("b.png", b"1")
    assert [scene.look(), scene.look(), scene.look()] == [[], ["b.png"], []]
    warning, note = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"Warning: {scene.folder}: cannot be read: ")
    assert warning.endswith("waiting for it")
    assert note == f"Note: {scene.folder}: is there again"


@settings(deadline=None, max_examples=12)
@given(changes=st.lists(st.tuples(st.sampled_from(["a.png", "b.png"]), st.integers(0, 2)), max_size=12), data=st.data())
def test_each_state_that_lasts_is_taken_once(
    changes: list[tuple[str, int]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    scene = Scene(tmp_path_factory.mktemp("watched") / "in")
    now: dict[str, int] = {}
    taken: list[tuple[str, int]] = []
    for name, size in changes:
        scene.put(name, bytes(size))
        now[name] = size
        for _ in range(data.draw(st.integers(0, 2))):
            taken += [(found, now[found]) for found in scene.look()]
    for _ in range(2):
        taken += [(found, now[found]) for found in scene.look()]
    last = {name: [size for found, size in taken if found == name][-1:] for name in now}
    assert last == {name: [size] for name, size in now.items()}
    for name in now:  # never the same state twice in a row
        sizes = [size for found, size in taken if found == name]
        assert all(one != other for one, other in itertools.pairwise(sizes))


def test_the_loop_stops_after_the_image_at_hand(scene: Scene) -> None:
    for number in range(5):
        scene.put(f"{number}.png", b"1")
    noted: list[str] = []
    closed: list[int] = []
    slept: list[float] = []

    def attempt(paths: list[str]) -> Iterator[list[Prediction] | ImageError]:
        try:
            for path in paths:
                yield ImageError("damaged") if path.endswith("0.png") else BEST
        finally:
            closed.append(len(paths))

    def note(path: str, state: State, outcome: object) -> None:
        assert (state, outcome) == ((1, 1), BEST)
        noted.append(Path(path).name)

    watch(scene.watcher, attempt, note, lambda: len(noted) == 2, slept.append)
    assert (noted, closed, slept) == (["1.png", "2.png"], [5], [1.0])


# --------------------------------------------------------------------------------------------------------- journal
def filled(path: Path, form: str, rows: int = 2) -> Journal:
    journal = Journal(str(path), form, rows)
    journal.write('in/a "1",\n.png', (10, 20), BEST)
    journal.write("in/\udce9.png", (11, 2**62), BEST)
    return journal


KNOWN = {'in/a "1",\n.png': (10, 20), "in/\udce9.png": (11, 2**62)}


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_journal_knows_what_it_has(form: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    filled(path, form).close()
    before = path.read_bytes()
    again = Journal(str(path), form, 2)
    assert again.done == KNOWN
    again.write("in/c.png", (1, 2), ImageError("in/c.png: damaged"))
    again.close()
    assert path.read_bytes().startswith(before)
    if form == "csv":
        rows = list(csv.reader(io.StringIO(before.decode("utf-8", "surrogateescape"), newline="")))
        assert rows[:3] == [
            ["path", "rank", "label", "index", "score", "size", "mtime_ns"],
            ['in/a "1",\n.png', "1", "cat", "1", "0.75", "10", "20"],
            ['in/a "1",\n.png', "2", 'a "dog",\n', "0", "0.2", "10", "20"],
        ]
        assert path.read_bytes() == before
    else:
        first, _, last = map(json.loads, path.read_text().splitlines())
        assert first == {"path": 'in/a "1",\n.png', "size": 10, "mtime_ns": 20, "predictions": BEST}
        assert last == {"path": "in/c.png", "size": 1, "mtime_ns": 2, "error": "in/c.png: damaged"}


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_journal_goes_on_wherever_it_was_cut_off(form: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    journal = Journal(str(path), form, 2)
    for name in ("a.png", "b.png"):
        journal.write(name, (1, 2), [{**best, "label": "cat"} for best in BEST])
    journal.close()
    whole = path.read_bytes()
    ends = {end for match in re.finditer(b"\n", whole) for end in match.span()}
    for size in sorted(ends | set(range(0, len(whole), 9))):
        path.write_bytes(whole[:size])
        again = Journal(str(path), form, 2)
        for name in ("a.png", "b.png"):
            if name not in again.done:
                again.write(name, (1, 2), [{**best, "label": "cat"} for best in BEST])
        again.close()
        assert path.read_bytes() == whole, size


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize(
    "data", [b'{"path": "a.png", "predictions": []}\n', b"path,rank,label,index,score\n", b"\xff\n"]
)
def test_another_file_is_left_alone(form: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(data)
    with pytest.raises(BitvitError, match=f"out: is there, but not from --watch --format {form}; name another output"):
        Journal(str(path), form, 2)
    assert path.read_bytes() == data
    with pytest.raises(BitvitError, match="is a folder; name a file to write"):
        Journal(str(tmp_path), form, 2)
    with pytest.raises(BitvitError, match=r"cannot be written: .*; name another output file"):
        Journal(str(tmp_path / "no" / "out"), form, 2)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process")
def test_a_full_disk_leaves_no_half_result(tmp_path: Path) -> None:
    import resource

    journal = filled(tmp_path / "out", "jsonl")
    before = (tmp_path / "out").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as problem:
            journal.write("c.png", (1, 2), BEST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
        journal.close()
    assert problem.value.errno == errno.EFBIG
    assert (tmp_path / "out").read_bytes() == before


# --------------------------------------------------------------------------------------------------------- command
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--watch", "images"), "--watch writes results as they come, which table is not for; add --format jsonl or"),
        (("--watch", "images", "-f", "json"), "--watch writes results as they come, which json is not for"),
        (("--watch", "images/a.png", "-f", "csv"), "images/a.png: is not a folder; --watch wants folders"),
        (("--watch", "images", "-f", "csv", "--explain", "heat"), "--watch draws no heat maps; leave out --explain"),
    ],
)
def test_what_cannot_be_watched(
    arguments: tuple[str, ...], said: str, model: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images.parent)
    assert run("classify", model, *arguments, code=1)[1].startswith(f"Error: {said}")


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_watch_survives_a_restart(model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["bitvit.cli.watch"], "INTERVAL", 0.02)
    out = tmp_path / "out.jsonl"

    def lines() -> list[bytes]:
        return out.read_bytes().splitlines() if out.exists() else []

    def stopped_at(count: int, number: signal.Signals) -> str:
        end = time.monotonic() + patience(60)

        def stop() -> None:  # only once there is a result: nothing else takes the signal
            while len(lines()) < count and time.monotonic() < end:
                time.sleep(0.01)
            os.kill(os.getpid(), number)

        thread = threading.Thread(target=stop)
        thread.start()
        _, stderr = run("classify", model, "--watch", images, "-f", "jsonl", "-o", out, "-r")
        thread.join()
        return stderr

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert stopped_at(4, signal.SIGTERM) == "Note: stopped after 4 images\n"
    (images / "e.png").write_bytes((images / "a.png").read_bytes())
    assert stopped_at(5, signal.SIGINT) == "Note: stopped after 1 image\n"
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    records = [json.loads(line) for line in lines()]
    assert {Path(record["path"]).name for record in records[:4]} == {"a.png", "b.jpg", "c.webp", "d.png"}
    assert records[4]["path"] == str(images / "e.png")
    assert records[4]["predictions"] == Classifier(model)(images / "e.png")


def test_failures_of_a_watch_are_told(model: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["bitvit.cli.watch"]
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    (images / "bad.png").write_bytes(b"<html>")
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(module, "watch", functools.partial(watch, sleep=sleep))
    stdout, stderr = run("classify", model, images, "--watch", "-f", "csv", "-k", "1", code=3)
    assert [row["path"] for row in csv.DictReader(io.StringIO(stdout))] == [
        str(images / name) for name in ("a.png", "b.jpg", "c.webp")
    ]
    assert stderr.startswith(f"Error: {images / 'bad.png'}: not an image that can be read")
    assert stderr.endswith("\nNote: stopped after 4 images, 1 of which could not be read\n")
