"""Every function that takes a packed model's path takes a name of the Hub too."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bitvit
from bitvit.bundle.writing import write_bundle
from bitvit.cli.parquet import classify_parquet
from bitvit.errors import BitvitError
from bitvit.model import functions_of
from bitvit.modelfile import digest
from bitvit.serve.registry import Registry
from bitvit.summary import summarize
from bitvit.verify.verifying import verify
from tests.support import golden_data
from tests.support.hub import Hub
from tests.support.parquet_files import write_images
from tests.support.paths import ROOT

NAME = "hf://me/digits"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """In a folder of images with a folder for each class."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    for folder in ("0", "1"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "images" / folder / "a.png")
    return tmp_path / "images" / "0" / "a.png"


@pytest.fixture
def published(hub: Hub, tiny: Path) -> Hub:
    hub.add("me/digits", {"model.safetensors": tiny.read_bytes()})
    return hub


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_models_and_classifiers(published: Hub, tiny: Path, image: Path) -> None:
    size = bitvit.load(tiny).config.image_size
    pixels = np.random.default_rng(1).standard_normal((2, 3, size, size)).astype(np.float32)
    np.testing.assert_array_equal(bitvit.load(NAME)(pixels), bitvit.load(tiny)(pixels))
    expected = bitvit.Classifier(tiny)(image)
    assert bitvit.Classifier(NAME)(image) == expected
    assert bitvit.Classifier(Path(NAME))(image) == expected  # in which one slash is left
    answer = bitvit.BatchClassifier(NAME)({"image": [image.read_bytes()]})
    assert (answer["index"], answer["error"]) == ([expected[0]["index"]], [None])
    served = Registry.of(NAME)
    assert [one.name for one in served] == ["digits"]
    served.reload("digits")
    assert f"GET /large/{sha256_of(tiny)}" in published.requests


@pytest.mark.usefixtures("published")
def test_rows_of_parquet(tiny: Path, tmp_path: Path, image: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    write_images(tmp_path / "images.parquet", [image.read_bytes()])
    options: dict[str, Any] = {"top_k": 1, "column": None, "keep": [], "options": {"threads": 1}}
    for resume in (False, True):
        place = str(tmp_path / "images.parquet")
        classify_parquet(Path(NAME), [place], str(tmp_path / "out"), resume=resume, **options)
    table = parquet.ParquetFile(tmp_path / "out" / "images.parquet")
    assert json.loads(table.schema_arrow.metadata[b"bitvit"])["model"] == digest(tiny.read_bytes())
    found = table.read().to_pylist()
    assert [(row["label"], row["error"]) for row in found] == [(bitvit.Classifier(NAME)(image)[0]["label"], None)]


def test_evaluation_names_the_model_as_it_was_named(published: Hub, tiny: Path, image: Path) -> None:
    classes = {"0": 0, "1": 1}
    report = bitvit.evaluate(Path(NAME), image.parents[1], classes=classes)
    assert (report.model, report.model_sha256) == (NAME, sha256_of(tiny))
    assert report.top1 == bitvit.evaluate(tiny, image.parents[1], classes=classes).top1
    assert published.requests


def test_tools_for_models(published: Hub, tiny: Path, tmp_path: Path) -> None:
    assert summarize(NAME).binary_weights == summarize(tiny).binary_weights
    assert functions_of(NAME) == functions_of(tiny)
    with pytest.raises(BitvitError, match="no-such-machine"):  # the model is read before
        write_bundle(NAME, tmp_path / "bundle", target="no-such-machine")
    report = bitvit.bench.measure(NAME, threads=[1], modes=["latency"], iterations=1, warmup=1, startup=False)
    assert report.results
    assert published.requests


def test_checkpoints_are_named_with_their_file(hub: Hub, packed: Callable[[str], Path], tmp_path: Path) -> None:
    source = packed("micro96_somefp")
    checkpoint = source.with_suffix(".checkpoint.safetensors")
    hub.add("me/digits", {"trained.safetensors": checkpoint.read_bytes(), "model.safetensors": source.read_bytes()})
    config = dict(golden_data.load_case("micro96_somefp").config)
    out = tmp_path / "out.safetensors"
    bitvit.convert(f"{NAME}/trained.safetensors", out, config=config)
    assert out.read_bytes() == source.read_bytes()
    assert verify(NAME, checkpoint, config=config).passed


def test_a_command_obeys_the_environment(published: Hub, image: Path, tmp_path: Path) -> None:
    """In processes of their own: one that downloads, one that may not."""
    environment = {**os.environ, "HF_ENDPOINT": published.endpoint, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "bitvit", "classify"]

    def run(model: object, **more: str) -> "subprocess.CompletedProcess[str]":
        env = {**environment, **more}
        arguments = [*command, str(model), str(image)]
        return subprocess.run(arguments, env=env, cwd=ROOT, capture_output=True, text=True, check=False)

    found = run(NAME)
    assert (found.returncode, found.stderr, found.stdout.count("%")) == (0, "", 3)
    assert list((tmp_path / "home").rglob("model.safetensors"))
    missing = run("hf://me/never", HF_HUB_OFFLINE="1")
    assert (missing.returncode, missing.stdout, missing.stderr.count("\n")) == (1, "", 1)
    assert missing.stderr.startswith("Error: hf://me/never: HF_HUB_OFFLINE is set, and it is not in the cache ")
