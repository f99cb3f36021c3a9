"""ModelSource: what travels, what is refused, and that a process loads a model once."""

import pickle
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bitvit.errors import ConfigError, ModelFileError
from bitvit.modelsource import KEPT, ModelSource
from tools.fuzz.seeds import CONFIGS, config, write_packed


def test_one_model_in_a_process_by_content_and_threads(tiny: Path, tmp_path: Path) -> None:
    source = ModelSource.read(tiny, by_path=False)
    model = source.model(1)
    assert pickle.loads(pickle.dumps(source)).model(1) is model
    copied = tmp_path / "copied.safetensors"
    shutil.copy(tiny, copied)
    assert ModelSource.read(copied, by_path=True).model(1) is model
    assert source.model(2) is not model
    write_packed(copied, CONFIGS[1])  # another model where one was
    other = ModelSource.read(copied, by_path=False).model(1)
    assert other is not model
    pixels = np.zeros((1, 3, model.config.image_size, model.config.image_size), np.float32)
    assert source.model(1) is model
    assert source.model(1)(pixels).shape == (1, model.config.num_classes)


def test_threads_that_ask_at_once_get_one_model(tmp_path: Path) -> None:
    """As Daft's do, whose runner has a thread for each core."""
    place = tmp_path / "model.safetensors"
    write_packed(place, config(num_classes=7))  # which no other test has loaded
    source = ModelSource.read(place, by_path=False)
    at_once = threading.Barrier(4)

    def loaded(_: int) -> object:
        at_once.wait(60)
        return source.model(1)

    with ThreadPoolExecutor(4) as pool:
        assert len({id(model) for model in pool.map(loaded, range(4))}) == 1


def test_no_more_models_are_kept_than_are_said_to_be(tiny: Path) -> None:
    source = ModelSource.read(tiny, by_path=False)
    first = source.model(1)
    for threads in range(2, KEPT + 1):
        source.model(threads)
    assert source.model(1) is first  # used, so another is the oldest
    source.model(KEPT + 1)
    assert source.model(1) is first
    source.model(2)
    for threads in range(3, KEPT + 3):
        source.model(threads)
    assert source.model(1) is not first


def test_bytes_need_no_file_and_a_path_needs_the_same(tiny: Path, tmp_path: Path) -> None:
    place = tmp_path / "model.safetensors"
    shutil.copy(tiny, place)
    write_packed(place, CONFIGS[1])
    by_bytes, by_path = (ModelSource.read(place, by_path=by_path) for by_path in (False, True))
    assert len(pickle.dumps(by_path)) < 1000 < len(pickle.dumps(by_bytes))
    write_packed(place, CONFIGS[3])
    with pytest.raises(ModelFileError, match=r"model.safetensors: is not the model that was asked for: its sha256 is"):
        by_path.model(1)
    place.unlink()
    with pytest.raises(ModelFileError, match=r"model.safetensors: does not exist; expected a packed model"):
        by_path.model(1)
    assert by_bytes.model(1).config.image_size
    assert by_path.model(1) is by_bytes.model(1)  # it is here by now, wherever it came from


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="does not exist"):
        ModelSource.read(tmp_path / "no.safetensors", by_path=False)
    with pytest.raises(ModelFileError, match="the model's path is empty"):
        ModelSource.read("", by_path=False)
    with pytest.raises(ModelFileError, match=r"is a folder without bundle.json"):
        ModelSource.read(tmp_path, by_path=False)
    with pytest.raises(TypeError, match="model: is of type int, expected the path of a packed model or of a bundle"):
        ModelSource.read(7, by_path=False)  # type: ignore[arg-type]
    write_packed(tmp_path / "features.safetensors", CONFIGS[2])
    with pytest.raises(ConfigError, match=r"features.safetensors: the model has no classifier \(0 classes\)"):
        ModelSource.read(tmp_path / "features.safetensors", by_path=False)
