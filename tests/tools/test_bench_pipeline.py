"""Whole jobs timed with two builds: what is compared, and that different answers are no speed."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from bitvit.errors import BitvitError
from tests.support.paths import ROOT
from tools import bench_pipeline
from tools.bench_pipeline import Job, Run, compare, jobs, make_photos, make_small, table


def test_images_are_made_in_folders_of_classes(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 5)
    make_small(tmp_path / "small", 5)
    for kind, suffix, size in (("photos", ".jpg", (500, 375)), ("small", ".png", (32, 32))):
        found = sorted((tmp_path / kind).rglob(f"*{suffix}"))
        assert len(found) == 5
        assert {path.parent.name for path in found} == {f"class {number}" for number in range(4)}
        for path in found:
            with Image.open(path) as image:
                assert image.size == size
    assert (tmp_path / "photos/class 0/00000.jpg").read_bytes() != (tmp_path / "photos/class 0/00004.jpg").read_bytes()


def test_jobs_run_and_are_compared(tmp_path: Path) -> None:
    """This build against itself; then one whose answers differ."""
    todo = jobs(ROOT / "weights/bhvit-digits.safetensors", None, tmp_path, 4, 1)
    assert [job.arguments[0] for job in todo] == ["classify", "evaluate", "classify"]
    row = compare(sys.executable, sys.executable, todo[2], rounds=1)
    assert row["images"] == 1
    assert row["wall"]["ratio"] == row["wall"]["new"] / row["wall"]["old"]
    assert row["peak"]["new"] > 10
    result = {"results": [row], "cpu": "a CPU", "instructions": "AVX2", "threads": 1, "rounds": 1, "date": "2026-01-02"}
    lines = table(result).splitlines()
    assert lines[2].startswith("| classify, one of the photographs | ")
    assert lines[-1] == "a CPU (AVX2), 1 threads, medians of 1 rounds; 2026-01-02."


def test_other_answers_and_failures_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job("a job", ("classify", "no.safetensors", "no.png"), 1)
    with pytest.raises(BitvitError, match=r"no\.safetensors: does not exist"):
        bench_pipeline.run(sys.executable, job)
    monkeypatch.setattr(bench_pipeline, "run", lambda python, _job: Run(1.0, 1.0, 1.0, python.encode()))
    with pytest.raises(BitvitError, match="a job: the two builds answer differently"):
        compare("old", "new", job, rounds=1)
