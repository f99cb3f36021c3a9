"""Image files on their way to predictions: which are measured, what is told of them, and that the times add up."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bitvit
from bitvit.bench import BenchReport, formats, pipeline
from bitvit.bench.pipeline import Spent, measure_images, work_alone
from bitvit.bench.report import ImageTimes, PipelineRun
from bitvit.errors import BenchError
from bitvit.model import BHViT
from tests.support.paths import ROOT

DIGITS = ROOT / "weights" / "bhvit-digits.safetensors"


@pytest.fixture(scope="module")
def digits() -> BHViT:
    return bitvit.load(DIGITS, threads=1)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Ten images of 60 x 50 pixels, and one that is damaged."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(11)]
    for path in paths[:10]:
        Image.fromarray(rng.integers(0, 256, (50, 60, 3), np.uint8)).save(path)
    paths[10].write_bytes(paths[0].read_bytes()[:200])
    return paths


def test_images_are_measured_and_a_damaged_one_is_named(digits: BHViT, files: list[Path]) -> None:
    found = measure_images([digits, bitvit.load(DIGITS, threads=2)], files, left_out=["here: 1 file"], seconds=0.06)
    assert (found.found, found.images, found.pixels) == (11, 10, 3000)
    assert found.file_bytes == sum(path.stat().st_size for path in files[:10]) / 10
    (failure,) = found.failures
    assert failure.startswith(f"{files[10]}: ")
    assert found.left_out == ["here: 1 file"]
    assert min(found.decode_ms, found.resize_ms, found.network_ms) > 0
    assert [run.threads for run in found.runs] == [1, 2]
    parts = found.decode_ms + found.resize_ms + found.network_ms
    for run in found.runs:
        assert run.other_ms == pytest.approx(run.cpu_ms - parts)
        assert run.share_of_bound == pytest.approx(parts * run.images_per_sec / (1e3 * run.threads))


def test_the_parts_are_those_of_all_images(digits: BHViT, files: list[Path]) -> None:
    spent = work_alone(digits, files, 4)
    assert spent.taken == 11
    assert list(spent.failures) == [files[10]]
    assert spent.pixels == 10 * 3000
    assert spent.total == spent.decode + spent.resize + spent.network


def test_of_many_images_some_are_taken(digits: BHViT, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert work_alone(digits, files * 3, 4, seconds=0.0, least=12).taken in range(12, 16)
    sizes: list[int] = []

    def answered(_: object, paths: list[Path]) -> tuple[float, float]:
        sizes.append(len(paths))
        return 1.0, 1.0

    monkeypatch.setattr(pipeline, "answered", answered)
    monkeypatch.setattr(pipeline, "work_alone", lambda *_, **__: Spent(0.1, 0.1, 0.1, taken=5))
    found = measure_images([digits], files[:10], seconds=9.0)
    assert (found.found, found.images) == (10, 5)
    assert sizes == [45, 45, 45]  # 5 images that take 0.3 s, as often as it takes less than 3 s


def test_without_an_image_there_is_nothing_to_measure(digits: BHViT, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="images is empty"):
        measure_images([digits], [])
    with pytest.raises(BenchError, match=r"none of the images could be read; the first: .*no.png: no such file"):
        measure_images([digits], [tmp_path / "no.png"])
    Image.new("RGB", (1, 60000)).save(tmp_path / "thin.png")
    with pytest.raises(BenchError, match=r"thin\.png: image of 1 x 60000 pixels is too long and thin"):
        measure_images([digits], [tmp_path / "thin.png"])


TIMES = ImageTimes(
    found=12,
    images=10,
    failures=["a.png: is empty", "b.png: is empty"],
    left_out=["photos: 1 hidden image"],
    file_bytes=50e3,
    pixels=2e5,
    decode_ms=1.0,
    resize_ms=2.0,
    network_ms=7.0,
    runs=[PipelineRun(2, 180.0, 10.5, 0.5, 0.9)],
    others=0.2,
)


def test_a_report_tells_of_images(report: BenchReport) -> None:
    told = dataclasses.replace(report, images=TIMES)
    assert BenchReport.from_dict(told.to_dict()) == told
    assert any("used 20% of its processors while images" in warning for warning in told.warnings)
    text = formats.markdown(told)
    assert "| 2 | 180 | 10.5 | 0.500 | 90% |" in text
    for words in (
        "read and decode 1.00 ms, resize and crop 2.00 ms, network, which normalises, 7.00 ms: 10.0 ms",
        "10 images of 12, on average 0.20 megapixels and 50 kB",
        "left out: 2 images that could not be read: ",
        "left out: photos: 1 hidden image",
    ):
        assert words in text


def test_small_images_are_counted_in_pixels_and_bytes(report: BenchReport) -> None:
    small = dataclasses.replace(TIMES, pixels=9216.0, file_bytes=1075.4)
    assert "on average 9,216 pixels and 1,075 bytes, in" in formats.markdown(dataclasses.replace(report, images=small))


def test_normalising_belongs_to_the_network(report: BenchReport) -> None:
    """But for older reports, and networks that normalise each image by itself."""
    times = report.preprocessing
    assert times is not None
    assert times.normalise_ms is None
    assert any("normalise within the network" in line for line in formats.facts(report))
    older = dataclasses.replace(report, preprocessing=dataclasses.replace(times, normalise_ms=0.25))
    assert any("normalise 0.25 ms" in line for line in formats.facts(older))
