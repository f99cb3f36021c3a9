"""The state file: what is stopped goes on, and its figures are those of an uninterrupted evaluation."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bitvit.errors import BitvitError, ImageError
from bitvit.evaluation import Outputs, Progress, compare, evaluate, spill, state
from bitvit.evaluation.state import Computed, StateFile
from tests.support.evaluations import same


class Stop(BaseException):
    """Like Ctrl-C, at a certain place."""


def stop_after(done: int) -> Callable[[Progress], None]:
    def watch(progress: Progress) -> None:
        if progress.done >= done:
            raise Stop

    return watch


@pytest.mark.parametrize("large", [spill.LARGE, 0])
def test_resumed_is_the_same_as_uninterrupted(
    large: int, model: Path, noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill, "LARGE", large)
    (noise / "1" / "bad.png").write_bytes(b"x")
    whole = evaluate(model, noise, on_error="skip")
    kept = tmp_path / "state"
    for done in (7, 23):
        outputs = Outputs(state=kept, resume=True, progress=stop_after(done))
        with pytest.raises(Stop):
            evaluate(model, noise, on_error="skip", batch_size=4, outputs=outputs)
        assert kept.exists()
    seen: list[Progress] = []
    outputs = Outputs(state=kept, resume=True, progress=seen.append)
    resumed = evaluate(model, noise, on_error="skip", batch_size=5, outputs=outputs)
    assert seen[0].done == 24
    assert seen[-1].failed == 1
    assert seen[-1].accuracy == whole.top1
    assert same(resumed, whole)
    assert not kept.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["noise"]


def test_images_that_exif_would_turn_are_counted_once(model: Path, noise: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    for path in sorted(noise.rglob("*.png"))[::3]:
        with Image.open(path) as image:
            image.save(path, exif=exif)
    whole = evaluate(model, noise)
    assert len(whole.turned) == 14
    outputs = Outputs(state=tmp_path / "state", progress=stop_after(20))
    with pytest.raises(Stop):
        evaluate(model, noise, batch_size=4, outputs=outputs)
    outputs = Outputs(state=tmp_path / "state", resume=True)
    with pytest.raises(
        BitvitError, match=r"is of another evaluation: .* classes or --exif \(exif=\), or another version"
    ):
        evaluate(model, noise, exif=True, outputs=outputs)
    assert evaluate(model, noise, outputs=outputs).turned == whole.turned


def test_resume_after_a_bad_image_was_mended(model: Path, noise: Path, tmp_path: Path) -> None:
    whole = evaluate(model, noise)
    bad = noise / "2" / "02.png"
    good = bad.read_bytes()
    bad.write_bytes(b"x")
    with pytest.raises(ImageError, match=r"02\.png: not an image"):
        evaluate(model, noise, batch_size=6, outputs=Outputs(state=tmp_path))
    (kept,) = tmp_path.glob("bitvit-evaluate-*.state")
    with np.load(kept) as archive:
        done = len(archive["logits0"])
    bad.write_bytes(good)
    seen: list[Progress] = []
    outputs = Outputs(state=tmp_path, resume=True, progress=seen.append)
    assert same(evaluate(model, noise, outputs=outputs), whole)
    assert seen[0].done == done > 0
    assert not kept.exists()


@pytest.mark.parametrize(("unit", "done"), [(0, 16), (1, 16), (2, 16), (0, 32)])
def test_several_models_resume(unit: int, done: int, model: Path, noise: Path, tmp_path: Path, other: Path) -> None:
    """Stopped while the first, or the last, of two that share images was a batch ahead; or in the third's turn."""
    models = [model, other, model]
    whole = compare(models, noise)
    seen: list[Progress] = []
    order = (0, 2, 1)

    def stop(progress: Progress) -> None:
        if (progress.unit, progress.done) == (order[unit], done):
            raise Stop

    with pytest.raises(Stop):
        compare(models, noise, outputs=Outputs(state=tmp_path, progress=stop))
    resumed = compare(models, noise, outputs=Outputs(state=tmp_path, resume=True, progress=seen.append))
    assert [(p.unit, p.done) for p in seen[:3]] == {
        (0, 16): [(0, 16), (2, 0), (2, 16)],
        (1, 16): [(0, 16), (2, 16), (0, 32)],
        (2, 16): [(0, 40), (2, 40), (1, 16)],
        (0, 32): [(0, 32), (2, 16), (2, 32)],
    }[unit, done]
    assert all(map(same, resumed.reports, whole.reports))
    assert list(tmp_path.glob("*.state")) == []


def test_one_of_several_models_has_come_further(model: Path, noise: Path, tmp_path: Path) -> None:
    """As with another batch size than the stopped evaluation had."""
    whole = compare([model, model], noise)
    with pytest.raises(Stop):
        compare([model, model], noise, batch_size=16, outputs=Outputs(state=tmp_path, progress=stop_after(32)))
    resumed = compare([model, model], noise, batch_size=5, outputs=Outputs(state=tmp_path, resume=True))
    assert all(map(same, resumed.reports, whole.reports))


def test_the_state_is_saved_now_and_then(
    model: Path, noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(state, "SAVE_PAUSE", 0.0)
    sizes: list[int] = []

    def watch(progress: Progress) -> None:
        assert progress.state == tmp_path / "state"
        sizes.append(progress.state.stat().st_size if progress.state.exists() else 0)

    evaluate(model, noise, batch_size=8, outputs=Outputs(state=tmp_path / "state", progress=watch))
    assert sizes == sorted(sizes)
    assert len(set(sizes)) >= 3


def test_a_state_that_cannot_be_written(model: Path, noise: Path, tmp_path: Path) -> None:
    with pytest.raises(BitvitError, match="state: cannot be written; name a state in a folder"):
        evaluate(model, noise, outputs=Outputs(state=tmp_path / "no" / "state"))


def test_nothing_to_resume(model: Path, noise: Path, tmp_path: Path) -> None:
    assert evaluate(model, noise, outputs=Outputs(state=tmp_path, resume=True)).images == 40


def test_the_state_of_another_evaluation(model: Path, noise: Path, tmp_path: Path) -> None:
    kept = tmp_path / "state"
    again = Outputs(state=kept, resume=True)
    with pytest.raises(Stop):
        evaluate(model, noise, outputs=Outputs(state=kept, progress=stop_after(10)))
    (noise / "0" / "new.png").write_bytes((noise / "0" / "00.png").read_bytes())
    with pytest.raises(BitvitError, match="state: is of another evaluation: other models, images, classes or --exif"):
        evaluate(model, noise, outputs=again)
    kept.write_bytes(kept.read_bytes()[:-100])
    with pytest.raises(BitvitError, match="state: is not a state file, or damaged"):
        evaluate(model, noise, outputs=again)


# ------------------------------------------------------------------------------------------------ the file by itself
def computed(done: int = 0) -> state.Computed:
    """Of five images and two classes."""
    logits = np.arange(10, dtype=np.float32).reshape(5, 2) * (done > 0)
    return state.Computed(logits, np.array([2, 0, 1, 4, 3]), done)


def test_what_is_done_survives(tmp_path: Path) -> None:
    parts = [computed(done=3), computed()]
    parts[0].failed, parts[0].seconds = {1: "damaged", 4: "not there yet"}, 1.5
    state.StateFile(tmp_path / "state", "job", parts).save()
    loaded = [computed(), computed()]
    state.StateFile(tmp_path / "state", "job", loaded).load()
    assert [part.done for part in loaded] == [3, 0]
    assert loaded[0].logits.tolist() == [[0, 1], [2, 3], [4, 5], [0, 0], [0, 0]]
    assert (loaded[0].failed, loaded[0].seconds) == ({1: "damaged"}, 1.5)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (np.zeros((3, 2), np.float64), r"its logits are float64 \(3, 2\)"),
        (np.zeros((2, 2), np.float32), r"its logits are float32 \(2, 2\)"),
        (np.zeros((3, 4), np.float32), r"its logits are float32 \(3, 4\)"),
        (np.asfortranarray(np.ones((3, 2), np.float32)), r"its logits are float32 \(3, 2\)"),
    ],
)
@pytest.mark.parametrize("change", [0, 1, -8])
def test_logits_that_do_not_fit(rows: NDArray[np.generic], reason: str, change: int, tmp_path: Path) -> None:
    header = {"job": "job", "units": [{"done": 3, "seconds": 1, "failed": {}, "turned": []}]}
    if change:
        rows, reason = np.zeros((3, 2), np.float32), "longer than they say" if change > 0 else "cannot reshape|buffer"
    files = [io.BytesIO(), io.BytesIO()]
    np.save(files[0], np.frombuffer(json.dumps(header).encode(), np.uint8))
    np.save(files[1], rows)
    logits = files[1].getvalue() + b"x" if change > 0 else files[1].getvalue()[: change or None]
    (tmp_path / "state").write_bytes(archive({"header.npy": files[0].getvalue(), "logits0.npy": logits}))
    with pytest.raises(BitvitError, match=rf"state: is not a state file, or damaged \(.*({reason})"):
        state.StateFile(tmp_path / "state", "job", [computed()]).load()


def test_nothing_done_leaves_no_file(tmp_path: Path) -> None:
    state.StateFile(tmp_path, "job", [computed()]).save()
    assert list(tmp_path.iterdir()) == []


def test_in_a_folder_the_file_has_the_name_of_the_job(tmp_path: Path) -> None:
    file = state.StateFile(tmp_path, "0123456789", [computed(done=1)])
    file.save()
    assert file.path == tmp_path / "bitvit-evaluate-01234567.state"
    assert file.path.exists()
    file.remove()
    assert list(tmp_path.iterdir()) == []


def test_no_place_keeps_nothing() -> None:
    file = state.StateFile(None, "", [computed(done=1)])
    file.save()
    file.remove()
    assert file.path is None


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def described(text: str) -> bytes:
    """A .npy with this description."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


BYTES = "{'descr': '|u1', 'fortran_order': False, 'shape': (%d,)}\n"


@pytest.mark.parametrize(
    "data",
    [
        archive({"header.npy": described("(((")}),
        archive({"header.npy": described("-" * 3000 + "1")}),
        archive({"header.npy": described(BYTES % 1000000000000)}),
        archive({"header.npy": described(BYTES % 20000) + b"[" * 20000}),
        archive({"header.npy": described(BYTES % 2) + b"{}"}, zipfile.ZIP_DEFLATED),
        archive({"header.npy": described(BYTES % 2) + b"{}"}).replace(
            b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x63"
        ),
    ],
    ids=["brackets", "signs", "memory", "depth", "compressed", "method"],
)
def test_states_that_are_none(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "job.state").write_bytes(data)
    part = Computed(np.zeros((4, 3), np.float32), np.arange(4))
    with pytest.raises(BitvitError, match=r"job.state: is not a state file, or damaged \(.*start afresh"):
        StateFile(tmp_path / "job.state", "0" * 64, [part]).load()
