"""python -m tools.train: public data sets, by settings that were chosen by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitvit.images import open_image
from tests.support.paths import TOOLS

torch = pytest.importorskip("torch")

from bitvit.train import augment, data  # noqa: E402
from bitvit.train.settings import read_settings  # noqa: E402
from tests.support.training import small, squares  # noqa: E402
from tools.train import ablation, sets  # noqa: E402
from tools.train.__main__ import main  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch has its own


def test_pixels_are_the_engines() -> None:
    """An image of the set, normalised here, is bit for bit what the packed model's preprocessing makes of it."""
    images, _, held_out = _digits()
    loaded = data.load(sets.read_source("digits", None), "digits", 96)
    first = int(np.flatnonzero(held_out)[0])
    mine = augment.normalise(loaded.test.pixels[:1], loaded.preprocessing.mean, loaded.preprocessing.std)
    expected = loaded.preprocessing(open_image(images[first]))
    np.testing.assert_array_equal(mine[0].numpy(), expected)
    assert (len(loaded.train), len(loaded.test)) == (1198, 599)


def _digits() -> Any:
    pytest.importorskip("sklearn")
    return sets.digits_images()


def test_original_files_are_read(tmp_path: Path) -> None:
    records = np.arange(5 * 2 * 3073, dtype=np.uint32).astype(np.uint8).reshape(5, 2, 3073)
    records[:, :, 0] = np.arange(10).reshape(5, 2)
    for k in range(5):
        (tmp_path / f"data_batch_{k + 1}.bin").write_bytes(records[k].tobytes())
    (tmp_path / "test_batch.bin").write_bytes(records[0].tobytes())
    loaded = data.load(sets.read_source("cifar10", tmp_path), "cifar10", 32)
    assert loaded.train.labels.tolist() == list(range(10))
    assert (
        loaded.train.pixels[3, 5, 7].tolist() == records.reshape(10, 3073)[3, 1:].reshape(3, 32, 32)[:, 5, 7].tolist()
    )


def test_small_grey_images_get_a_border(tmp_path: Path) -> None:
    grey = np.full((4, 28, 28), 200, np.uint8)
    np.savez(tmp_path / "fashion_mnist.npz", train_x=grey, train_y=np.arange(4), test_x=grey, test_y=np.arange(4))
    loaded = data.load(sets.read_source("fashion", tmp_path), "fashion", 32)
    assert (loaded.preprocessing.pad, loaded.preprocessing.crop) == (2, 28)
    assert loaded.test.pixels[0, 1].max() == 0
    assert loaded.test.pixels[0, 2, 2:30].min() == 200


def test_command_trains_on_a_public_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = squares()
    grey = drawn.train.pixels[:, :28, :28, 0].numpy()
    labels = drawn.train.labels.numpy()
    np.savez(tmp_path / "fashion_mnist.npz", train_x=grey, train_y=labels, test_x=grey, test_y=labels)
    (tmp_path / "config.json").write_text(json.dumps(small().to_dict()))
    arguments = ["--data", "fashion", "--data-folder", str(tmp_path), "--out", str(tmp_path / "out")]
    arguments += ["--config", str(tmp_path / "config.json"), "--set", "epochs=1", "--device", "cpu"]
    assert main(arguments) == 0, capsys.readouterr().err
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert made >= {
        "state.pt",
        "settings.json",
        "log.csv",
        "model.safetensors",
        "config.json",
        "result.json",
        "CARD.md",
    }
    assert main(arguments) == 0  # a finished run is resumed at its end
    assert main([*arguments, "--set", "seed=3"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("path", sorted((TOOLS / "train" / "configs").glob("*.json")))
def test_configs_of_the_project_are_valid(path: Path) -> None:
    settings = read_settings(path)
    if settings.network.kind == "bhvit":
        settings.network.config(10)


def test_every_row_of_the_ablation_differs_from_the_first() -> None:
    rows = [ablation.variant(small(), name, seed=4) for name in ablation.VARIANTS]
    assert {row.seed for row in rows} == {4}
    assert len({row.digest() for row in rows}) == len(ablation.VARIANTS)


def test_the_ablations_table_has_each_seed_and_their_mean() -> None:
    rows = [{"top1": 80.0, "flips": 0.25}, {"top1": 81.0, "flips": 0.75}]
    first, _, last = ablation.table({"everything": rows}, [3, 7]).splitlines()
    assert first == "| variant | seed 3 | seed 7 | mean top-1 | flips at the end |"
    assert last == "| everything | 80.00 | 81.00 | 80.50 % | 50.00 % |"
