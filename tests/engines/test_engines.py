"""The programs of docs/scaling.md on the engines themselves, as many of them as are installed.

`python -m tools.engines` installs each in an environment of its own and runs this there.
"""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from bitvit.batches import BatchClassifier
from tests.support.engine_jobs import busy_worker, ended, program, run, started
from tests.support.paths import ROOT
from tools.engines.data import answers_of, faults_of, pngs, write_images

MODEL = ROOT / "weights" / "bhvit-cifar10.safetensors"
ROWS, FILES, DAMAGED = 600, 12, 24
NO_FAULT = {"lost": 0, "doubled": 0, "others": 0}
ENGINES = (("Ray Data", "ray"), ("Daft", "daft"), ("Spark", "pyspark"), ("Dask", "dask"))


def workplace(folder: Path, rows: int) -> Any:
    """A folder as the page's programs want it; returns the rows that they must write."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    shutil.copy(MODEL, folder / "model.safetensors")
    write_images(folder / "images", pngs(50), rows, files=FILES, damaged=range(5, rows, rows // DAMAGED))
    return BatchClassifier(MODEL)(parquet.read_table(folder / "images"))


@pytest.mark.parametrize(("heading", "package"), ENGINES)
def test_the_page_is_right(heading: str, package: str, tmp_path: Path) -> None:
    """More files than there are cores, and damaged images in between: each row is answered once, rightly."""
    pytest.importorskip(package, reason=f"needs {heading}")
    expected = workplace(tmp_path, ROWS)
    assert expected["error"].null_count == ROWS - DAMAGED
    assert run(program(heading), tmp_path) == 0, (tmp_path / "log").read_text()
    answers = answers_of(tmp_path / "answers")
    assert faults_of(answers, expected) == NO_FAULT
    assert {field.name: str(field.type).removeprefix("large_") for field in answers.schema} == {
        "path": "string", "label": "string", "index": "int64", "score": "double", "error": "string",
    }  # fmt: skip


def test_spark_by_way_of_pandas(tmp_path: Path) -> None:
    pytest.importorskip("pyspark", reason="needs Spark")
    expected = workplace(tmp_path, ROWS)
    text = program("Spark").replace("mapInArrow", "mapInPandas")
    assert run(text, tmp_path) == 0, (tmp_path / "log").read_text()
    assert faults_of(answers_of(tmp_path / "answers"), expected) == NO_FAULT


@pytest.mark.parametrize(
    ("heading", "package", "worker", "seconds", "variables", "succeeds"),
    [
        ("Ray Data", "ray", r"^ray::MapBatches", 0.2, {}, True),
        ("Spark", "pyspark", r"pyspark.daemon", 2.0, {"PYSPARK_SUBMIT_ARGS": "--master local[2] pyspark-shell"}, False),
        (
            "Spark",
            "pyspark",
            r"pyspark.daemon",
            2.0,
            {"PYSPARK_SUBMIT_ARGS": "--master local[2,4] --conf spark.sql.files.maxPartitionBytes=4m pyspark-shell"},
            True,
        ),
        ("Dask", "dask", r"multiprocessing.spawn", 4.0, {}, True),
    ],
    ids=["ray", "spark", "spark-retries", "dask"],
)
def test_a_worker_is_killed(
    heading: str, package: str, worker: str, seconds: float, variables: dict[str, str], succeeds: bool, tmp_path: Path
) -> None:
    """In the middle of its work: either all rows are answered once, or the job says that it has failed."""
    pytest.importorskip(package, reason=f"needs {heading}")
    expected = workplace(tmp_path, 20_000)
    job = started(program(heading), tmp_path, **variables)
    os.kill(busy_worker(job, worker, seconds), signal.SIGKILL)
    code = ended(job)
    assert (code == 0) == succeeds, (tmp_path / "log").read_text()
    if succeeds:
        assert faults_of(answers_of(tmp_path / "answers"), expected) == NO_FAULT
    else:
        assert not (tmp_path / "answers" / "_SUCCESS").exists()


def test_hugging_faces_data_sets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs datasets")
    expected = workplace(tmp_path, ROWS)
    assert run(program("Hugging Face datasets"), tmp_path, HF_HOME=str(tmp_path)) == 0, (tmp_path / "log").read_text()
    answers = answers_of(tmp_path / "answers")
    assert faults_of(answers, expected) == NO_FAULT
    assert datasets.Dataset(answers).features["error"].dtype in ("string", "large_string")


def test_processes_without_an_engine(tmp_path: Path) -> None:
    expected = workplace(tmp_path, ROWS)
    assert run(program("Processes without an engine"), tmp_path) == 0, (tmp_path / "log").read_text()
    assert faults_of(answers_of(tmp_path / "answers"), expected) == NO_FAULT
