"""Parquet files in a bucket of a server that speaks S3's protocol, if moto is there.

`python -m tools.engines s3` installs it and runs this.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.command import shell
from tests.support.parquet_files import png, write_images
from tests.support.paths import ROOT, WEIGHTS

pytest.importorskip("moto.server", reason="needs moto")
arrow: Any = pytest.importorskip("pyarrow", reason="needs pyarrow")
parquet: Any = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
file_systems: Any = pytest.importorskip("pyarrow.fs", reason="needs pyarrow")

MODEL = WEIGHTS / "bhvit-digits.safetensors"
DIGITS = tuple("0123456789")
ROWS, FILES = 30, 3
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
ENVIRONMENT = {**os.environ, **KEYS, "AWS_EC2_METADATA_DISABLED": "true"}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """host:port."""
    from moto.server import ThreadedMotoServer  # type: ignore[import-not-found,unused-ignore]

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"{host}:{port}"
    running.stop()


class Bucket:
    """A bucket with images, and the same ones in a folder."""

    def __init__(self, server: str, name: str, folder: Path) -> None:
        self.server, self.name, self.local = server, name, folder / "images"
        self.system = file_systems.S3FileSystem(
            access_key="key", secret_key="secret", region="us-east-1", scheme="http",
            endpoint_override=server, allow_bucket_creation=True,
        )  # fmt: skip
        self.system.create_dir(name)
        for part in range(FILES):
            images = [png(number) for number in range(part * ROWS, (part + 1) * ROWS)]
            images[3] = images[3][: 50 + part]
            labels = [number % 10 for number in range(ROWS)]
            write_images(self.local / f"part-{part}.parquet", images, 8, DIGITS, label=labels)
        file_systems.copy_files(str(self.local), f"{name}/images", destination_filesystem=self.system)

    def at(self, place: str) -> str:
        """An address."""
        return f"s3://{self.name}/{place}?endpoint_override={self.server}&scheme=http"

    def files(self, place: str) -> dict[str, int]:
        """Names, and when each was written in nanoseconds."""
        selector = file_systems.FileSelector(f"{self.name}/{place}", recursive=True, allow_not_found=True)
        return {file.base_name: file.mtime_ns for file in self.system.get_file_info(selector) if file.is_file}

    def rows(self, place: str) -> list[dict[str, Any]]:
        with self.system.open_input_file(f"{self.name}/{place}") as file:
            found: list[dict[str, Any]] = parquet.ParquetFile(file).read().to_pylist()
        return found


@pytest.fixture
def bucket(server: str, tmp_path: Path) -> Bucket:
    return Bucket(server, f"bucket-{abs(hash(tmp_path.name))}", tmp_path)


def placed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without where the images were."""
    found = []
    for row in rows:
        name = urlsplit(row["file"]).path.rpartition("/")[2]
        error = row["error"] and row["error"].replace(row["file"], name)
        found.append({**row, "file": name, "error": error})
    return found


def test_predictions_are_those_of_a_folder(bucket: Bucket, tmp_path: Path) -> None:
    """From bucket to bucket, and from a bucket to a folder."""
    options = "--top-k", "1", "--keep", "number"
    here = shell("classify", MODEL, bucket.local, "-o", tmp_path / "here", *options)
    there = shell("classify", MODEL, bucket.at("images"), "-o", bucket.at("out"), *options, env=ENVIRONMENT)
    mixed = shell("classify", MODEL, bucket.at("images"), "-o", tmp_path / "mixed", *options, env=ENVIRONMENT)
    assert here.returncode == there.returncode == mixed.returncode == 3, there.stderr.decode()
    assert there.stderr.decode().count("row 3: ") == FILES
    assert sorted(bucket.files("out")) == [f"part-{part}.parquet" for part in range(FILES)]
    for part in range(FILES):
        name = f"part-{part}.parquet"
        expected = placed(parquet.ParquetFile(tmp_path / "here" / name).read().to_pylist())
        assert sum(row["error"] is not None for row in expected) == 1
        assert placed(bucket.rows(f"out/{name}")) == expected
        assert placed(parquet.ParquetFile(tmp_path / "mixed" / name).read().to_pylist()) == expected


def test_a_killed_job_goes_on(bucket: Bucket) -> None:
    """What was complete is left alone, and nothing half-written is there meanwhile."""
    command = "classify", MODEL, bucket.at("images"), "-o", bucket.at("out"), "--resume", "-k", "1", "-t", "1"
    arguments = [sys.executable, "-m", "bitvit", *map(str, command)]
    with subprocess.Popen(arguments, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as job:
        while not any(name.startswith("part") for name in bucket.files("out")) and job.poll() is None:
            pass
        job.send_signal(signal.SIGKILL)
    complete = {name: when for name, when in bucket.files("out").items() if name.startswith("part")}
    assert all(len(bucket.rows(f"out/{name}")) == ROWS for name in complete)
    again = shell(*command, env=ENVIRONMENT)
    assert again.returncode == 3, again.stderr.decode()
    found = bucket.files("out")
    assert sorted(found) == [f"part-{part}.parquet" for part in range(FILES)]
    assert complete
    assert {name: found[name] for name in complete} == complete
    assert all(len(bucket.rows(f"out/{name}")) == ROWS for name in found)


def test_evaluate(bucket: Bucket) -> None:
    reports: list[str] = []
    for place in (str(bucket.local), bucket.at("images")):
        done = shell("evaluate", MODEL, place, "-f", "json", "--on-error", "skip", env=ENVIRONMENT)
        assert done.returncode == 3, done.stderr.decode()
        folder = place.partition("?")[0]
        text = done.stdout.decode().replace(place, "images").replace(folder, "images")
        reports.append(re.sub(r'seconds": [0-9.e-]+', "", text))
    assert "top1" in reports[0]
    assert reports[0] == reports[1]


@pytest.mark.parametrize("place", ["images", "images/*.parquet", "images/part-1.parquet"])
def test_what_is_not_there_is_told_in_a_line(place: str, server: str, bucket: Bucket, tmp_path: Path) -> None:
    address = f"?endpoint_override={server}&scheme=http"
    nowhere = "?endpoint_override=127.0.0.1:9&scheme=http&connect_timeout=1"
    for where in (f"s3://no-such-{bucket.name}/{place}{address}", f"s3://{bucket.name}/{place}{nowhere}"):
        done = shell("classify", MODEL, where, "-o", tmp_path / "out", env=ENVIRONMENT, input=b"")
        text = done.stderr.decode()
        assert done.returncode == 1, text
        assert text.startswith("Error: s3://")
        assert len(text.splitlines()) == 1
        assert not (tmp_path / "out").exists()
