"""Stored measurements, and the tables that are written from them."""

import json
from pathlib import Path
from typing import Any

import pytest

from bitvit.bench.machine import environment
from bitvit.bench.report import BenchReport, ModelFacts, Result
from bitvit.errors import BitvitError
from tools import benchmarks, speed
from tools.results import WIDTH, check_record, read_results, store

PEERS: dict[str, Any] = {
    "environment": {
        "date": "2026-01-02T03:04:05+00:00",
        "commit": "abc1234",
        "cpu": "Some CPU",
        "llvm_cpu": "znver5",
        "isa": ["avx2"],
        "cores": 4,
        "affinity": 2,
        "system": "Linux x86_64",
        "python": "3.12.1",
        "versions": {"numpy": "2.0"},
    },
    "network": "BHViT-small some-fp",
    "rounds": 50,
    "results": [
        {"network": network, "engine": engine, "threads": 2, "batch": 1, "median_ms": ms, "times_bitvit": ms / 5}
        for network, engine, ms in (
            ("BHViT-small some-fp", "bitvit", 5.0),
            ("BHViT-small some-fp", "PyTorch float32", 50.0),
            ("DeiT-Tiny", "OpenVINO INT8", 7.5),
        )
    ],
    "model_bytes": {"bitvit": 10_180_008, "PyTorch float32": 91_500_000},
}
PAGE = "# Title\n<!-- summary:start -->\nold\n<!-- summary:end -->\nbelow\n"


# ------------------------------------------------------------------------------------------------------------ storing
def test_a_result_replaces_the_one_of_its_name_alone(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    store(path, "speed", {"rows": [1]})
    store(path, "peers", PEERS)
    store(path, "speed", {"rows": [2, 3]})
    assert read_results(path) == {"speed": {"rows": [2, 3]}, "peers": PEERS}


def test_rows_stand_on_lines_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    store(path, "peers", PEERS)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert max(map(len, lines)) <= WIDTH + 1  # a comma
    rows = [line for line in lines if '"median_ms"' in line]
    assert [json.loads(row.strip(" ,")) for row in rows] == PEERS["results"]


def test_what_could_not_be_stored_is_refused_before_measuring(tmp_path: Path) -> None:
    check_record(None)
    check_record(tmp_path / "new.json")
    with pytest.raises(BitvitError, match=r"none.new.json: .* is not a folder; name a file in an existing one"):
        check_record(tmp_path / "none" / "new.json")
    for text, what in (("{", "is not JSON"), ("[]", "holds no object")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(BitvitError, match=rf"bad.json: {what}.*; expected stored measurements"):
            check_record(tmp_path / "bad.json")


# ------------------------------------------------------------------------------------------------------------- tables
def test_the_summary_has_the_engines_of_one_checkpoint() -> None:
    lines = benchmarks.summary_table(PEERS).splitlines()
    assert lines == [
        "| BHViT-small some-fp | 2 threads, 1 image | model size | same answers |",
        "|---|--:|--:|:-:|",
        "| **bitvit** | **5.00 ms** | **10 MB** | yes |",
        "| PyTorch float32 | 50.0 ms (10 x) | 92 MB | yes |",
        "",
        "Median time of a call, and how many times bitvit's it is. Some CPU (znver5, avx2), 2 of 4 cores, Linux x86_64;"
        " 2026-01-02.",
    ]


def test_speed_is_stored_as_it_was_measured() -> None:
    model = ModelFacts(
        name="tiny",
        path="tiny.safetensors",
        sha256="",
        file_bytes=1,
        weight_bytes=1,
        workspace_bytes=1,
        infer_img_size=32,
        num_classes=10,
        param_count=1.0,
        binary_macs=1,
        float_macs=1,
    )
    result = Result(
        mode="latency",
        threads=1,
        infer_batch_size=16,
        infer_samples_per_sec=1234.4,
        infer_step_time=1.4,
        std_ms=0.1,
        min_ms=1.0,
        p50_ms=1.358,
        p90_ms=None,
        p95_ms=None,
        p99_ms=None,
        max_ms=2.0,
        iterations=5,
        seconds=1.0,
        binary_gmacs_per_sec=1.0,
        limit_gmacs_per_sec=2.0,
        share_of_limit=0.5,
        spread=0.0,
        others=None,
    )
    report = BenchReport(
        model=model, environment=environment(), startup=None, preprocessing=None, results=[result], profile=None
    )
    stored = speed.record([report])
    assert json.loads(json.dumps(stored)) == stored
    assert "| tiny | 1 | 16 | 1.36 ms | 1.00 | – | 1234 |" in speed.table(stored)


def test_tables_stand_between_the_markers_of_a_page() -> None:
    page = benchmarks.with_tables(PAGE, {"peers": PEERS}, "page.md")
    assert page == PAGE.replace("old", benchmarks.summary_table(PEERS))
    assert benchmarks.with_tables(page, {"peers": PEERS}, "page.md") == page
    assert benchmarks.with_tables("no markers", {}, "page.md") == "no markers"


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<!-- summary:start -->\n", "expected pairs of start and end, each name once"),
        ("<!-- summary:end -->\n<!-- summary:start -->\n", "expected pairs"),
        (PAGE + PAGE, "expected pairs"),
        (PAGE.replace("summary", "sumary"), r"no results are stored for \['sumary'\]; there are \['peers'\]"),
        (PAGE.replace("summary", "speed"), r"no results are stored for \['speed'\]"),
    ],
    ids=["half", "order", "twice", "unknown", "not stored"],
)
def test_markers_that_do_not_fit_are_refused(page: str, message: str) -> None:
    with pytest.raises(BitvitError, match=rf"page.md: .*{message}"):
        benchmarks.with_tables(page, {"peers": PEERS}, "page.md")


def test_pages_are_written_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    store(tmp_path / "results.json", "peers", PEERS)
    monkeypatch.setattr(benchmarks, "PAGES", (page,))
    monkeypatch.setattr(benchmarks, "STORED", tmp_path / "results.json")
    outcomes = []
    for arguments in (["--check"], [], ["--check"]):
        monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
        outcomes.append(benchmarks.main())
    assert outcomes == [1, 0, 0]
    assert capsys.readouterr().out.splitlines() == ["out of date: page.md", "written: page.md", "out of date: nothing"]
    assert "**5.00 ms**" in page.read_text()
    (tmp_path / "results.json").unlink()
    assert benchmarks.main() == 1
    assert "results.json: no such file" in capsys.readouterr().err
