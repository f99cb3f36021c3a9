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
APART = "--master {} --conf spark.sql.files.maxPartitionBytes=4m pyspark-shell"  # a partition for each file
ENGINES = (("Ray Data", "ray"), ("Daft", "daft"), ("Spark", "pyspark"), ("Dask", "dask"))


def workplace(folder: Path, rows: int) -> Any:
    """A folder as the page's programs want it; returns the rows that they must write, each image classified once."""
    arrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    shutil.copy(MODEL, folder / "model.safetensors")
    write_images(folder / "images", pngs(50), rows, files=FILES, damaged=range(5, rows, rows // DAMAGED))
    table = parquet.read_table(folder / "images")
    cells = table["image"].to_pylist()
    distinct = list(dict.fromkeys(cells))
    found = arrow.Table.from_pydict(BatchClassifier(MODEL)({"image": distinct})).to_pylist()
    answers = dict(zip(distinct, found, strict=True))
    expected = [{"path": path, **answers[cell]} for path, cell in zip(table["path"].to_pylist(), cells, strict=True)]
    for row in expected:
        row["error"] = row["error"] and f"{row['path']}: {row['error']}"
    return arrow.Table.from_pylist(expected)


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


def test_spark_by_way_of_pandas_in_more_partitions_than_cores(tmp_path: Path) -> None:
    pytest.importorskip("pyspark", reason="needs Spark")
    expected = workplace(tmp_path, ROWS)
    text = program("Spark").replace("mapInArrow", "mapInPandas")
    assert run(text, tmp_path, PYSPARK_SUBMIT_ARGS=APART.format("local[2]")) == 0, (tmp_path / "log").read_text()
    assert len([*(tmp_path / "answers").glob("part-*.parquet")]) == FILES
    assert faults_of(answers_of(tmp_path / "answers"), expected) == NO_FAULT


def in_processes(text: str) -> str:
    """Daft's program with functions in processes of their own."""
    return text.replace("daft.func.batch(", "daft.func.batch(use_process=True, ")


@pytest.mark.parametrize(
    ("heading", "package", "worker", "seconds", "variables", "message"),
    [
        ("Ray Data", "ray", r"^ray::MapBatches", 0.2, {}, ""),
        ("Daft", "daft", r"daft.execution.udf_worker", 2.0, {}, "UDF process"),
        ("Spark", "pyspark", r"pyspark.daemon", 2.0, {"PYSPARK_SUBMIT_ARGS": APART.format("local[2]")}, "Job aborted"),
        ("Spark", "pyspark", r"pyspark.daemon", 2.0, {"PYSPARK_SUBMIT_ARGS": APART.format("local[2,4]")}, ""),
        ("Dask", "dask", r"multiprocessing.spawn", 4.0, {}, ""),
    ],
    ids=["ray", "daft", "spark", "spark-retries", "dask"],
)
def test_a_worker_is_killed(
    heading: str, package: str, worker: str, seconds: float, variables: dict[str, str], message: str, tmp_path: Path
) -> None:
    """In the middle of its work: either all rows are answered once, or the job fails, with a message."""
    pytest.importorskip(package, reason=f"needs {heading}")
    expected = workplace(tmp_path, 20_000)
    job = started(in_processes(program(heading)), tmp_path, **variables)
    os.kill(busy_worker(job, worker, seconds), signal.SIGKILL)
    code, log = ended(job), (tmp_path / "log").read_text()
    if message:
        assert code != 0
        assert message in log
        assert not (tmp_path / "answers" / "_SUCCESS").exists()  # Spark's mark
    else:
        assert code == 0, log
        assert faults_of(answers_of(tmp_path / "answers"), expected) == NO_FAULT


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
