"""Whole jobs timed with two builds: what is compared, and that different answers are no speed."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from bitvit.errors import BitvitError
from tests.support.paths import ROOT
from tools import bench_pipeline, pipeline_parts
from tools.bench_pipeline import Job, Run, jobs, make_photos, make_small, measure, pair, peak, table

DIGITS = ROOT / "weights" / "bhvit-digits.safetensors"


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


def test_jobs_are_measured_round_by_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    todo = jobs(DIGITS, DIGITS, tmp_path, 4, 2)
    assert [(job.arguments[0], job.images) for job in todo] == [
        *(("classify", 4), ("evaluate", 4), ("classify", 1)),
        *(("classify", 40), ("evaluate", 40), ("classify", 1)),
    ]
    asked: list[tuple[str, ...]] = []

    def run(python: str, *arguments: str) -> Run:
        asked.append((python, *arguments[2:3]))
        answer = json.dumps({"decode": 0.1, "resize": 0.2, "network": 0.3, "wall": 0.4, "outside": 0.1})
        return Run(2.0 if python == "old" else 1.0, 3.0, b"" if arguments[0] == "-m" else answer.encode(), b"")

    monkeypatch.setattr(bench_pipeline, "run", run)
    rows, parts = measure("old", "new", todo, rounds=2, threads=2)
    assert [row["job"] for row in rows] == [job.name for job in todo]
    assert all(row["wall"] == {"old": 2, "new": 1, "ratio": 0.5} and row["cpu"]["ratio"] == 1 for row in rows)
    assert [row["job"] for row in parts] == ["classify, 4 photographs", "classify, 40 small images"]
    assert parts[0]["decode_ms"] == pytest.approx(25)
    assert parts[0]["outside_ms"] == pytest.approx(25)
    assert parts[0]["share"] == pytest.approx(0.6 / 0.8)
    assert parts[0]["share_with_start"] == pytest.approx(0.6 / 2)
    first_round, second_round = asked[4:18], asked[18:]
    assert [python for python, _ in first_round[:3]] == ["new", "old", "new"]  # the parts come behind the pair
    assert [python for python, _ in second_round[:3]] == ["old", "new", "new"]


def test_a_job_runs_and_its_memory_is_measured(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 2)
    photo = tmp_path / "photos/class 0/00000.jpg"
    job = Job("a job", ("classify", str(DIGITS), str(photo), "-f", "csv", "--threads", "1"), 1)
    one, two = pair(sys.executable, sys.executable, job, 0)
    assert one.output == two.output
    assert one.output.startswith(b"path,rank,label,index,score\n")
    assert min(one.wall, one.cpu) > 0
    found = peak(sys.executable, DIGITS, tmp_path / "photos", 5, 1)
    assert found["images"] == 5
    assert 30 < found["peak"] < 1000
    assert list(tmp_path.iterdir()) == [tmp_path / "photos"]


def test_other_answers_and_failures_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job("a job", ("classify", "no.safetensors", "no.png"), 1)
    with pytest.raises(BitvitError, match=r"no\.png: no such file|no\.safetensors: does not exist"):
        pair(sys.executable, sys.executable, job, 0)
    monkeypatch.setattr(bench_pipeline, "run", lambda python, *_: Run(1.0, 1.0, python.encode(), b""))
    with pytest.raises(BitvitError, match="a job: the two builds answer differently"):
        pair("old", "new", job, 0)


def test_parts_and_threads_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(tmp_path, 6)
    found = pipeline_parts.parts(str(DIGITS), str(tmp_path), 1)
    assert found["images"] == 6
    assert min(found[name] for name in ("decode", "resize", "network", "wall")) > 0
    assert found["outside"] > 0
    monkeypatch.setattr(pipeline_parts, "CHUNKS", 2)
    monkeypatch.setattr(pipeline_parts, "CHUNK_SECONDS", 0.0)
    compared = pipeline_parts.threads_compared(str(DIGITS))
    assert [row["batch"] for row in compared] == [1, 16]
    assert min(min(row["one"], row["two"], row["ratio"]) for row in compared) > 0


def test_the_tables() -> None:
    figures = {"old": 2.0, "new": 1.0, "ratio": 0.5}
    result = {
        "results": [{"job": "classify, 4 photographs", "images": 4, "wall": figures, "cpu": figures}],
        "cpu": "a CPU",
        "instructions": "AVX2",
        "threads": 2,
        "rounds": 9,
        "date": "2026-01-02T03:04:05",
    }
    first = "| classify, 4 photographs | 1.00 | 0.50 x | 1.00 | 0.50 x |"
    last = "a CPU (AVX2), 2 threads, medians of 9 rounds; 2026-01-02."
    assert table(result).splitlines()[2:] == [first, "", last]
    parts = {"decode_ms": 1.0, "resize_ms": 2.0, "network_ms": 8.0, "outside_ms": 0.25}
    result["parts"] = [{"job": "classify, 4 photographs", **parts, "share": 0.97, "share_with_start": 0.9}]
    result["small"] = [{"model": "digits", "batch": 1, "one": 0.12, "two": 0.11, "ratio": 0.92}]
    result["memory"] = [{"images": 1000, "peak": 120.2}, {"images": 10000, "peak": 121.4}]
    lines = table(result).splitlines()
    assert first in lines
    assert "| classify, 4 photographs | 1.00 | 2.00 | 8.00 | 0.250 | 97% | 90% |" in lines
    assert "| digits | 1 | 0.120 | 0.110 | 0.92 x |" in lines
    assert "Most memory of classify: 120 MB over 1,000, 121 MB over 10,000 photographs." in lines
    assert lines[-1] == last
