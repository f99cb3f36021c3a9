"""Models by name, and loading them again."""

import gc
import io
import shutil
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.exceptions import HTTPException

import bitvit
from bitvit.errors import BitvitError, ModelFileError
from bitvit.serve.registry import Registry


def test_a_model_is_called_by_its_file(tiny: Path, classifier: bitvit.Classifier) -> None:
    assert [served.name for served in Registry.of(tiny)] == ["tiny"]
    assert [served.name for served in Registry.of(classifier)] == ["bhvit-cifar10"]
    both = Registry.of({"b": tiny, "a": classifier})
    assert ([served.name for served in both], both.default.name) == (["b", "a"], "b")
    assert Registry.of(tiny).default.classifier.model.threads == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["", "a/b", ".", "..", "a\nb", "x" * 101])
def test_a_name_must_do_in_paths_and_logs(name: str, tiny: Path) -> None:
    with pytest.raises(ValueError, match="expected a name of 1 to 100 printable characters without a slash"):
        Registry({name: tiny})
    with pytest.raises(ValueError, match="no model to serve"):
        Registry({})


def test_orientation_is_obeyed_if_asked_for(tiny: Path) -> None:
    """A Classifier says so itself; after a reload, too."""
    file, tag = io.BytesIO(), Image.Exif()
    tag[0x0112] = 3  # upside down
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16] = 255
    Image.fromarray(pixels).save(file, "PNG", exif=tag)
    for exif, first_row in ((False, 255), (True, 0)):
        registry = Registry.of({"m": tiny}, exif=exif)
        registry.reload("m")
        assert registry.default.crop(file.getvalue())[0, 0, 0] == first_row
    given = bitvit.Classifier(tiny, exif=True)
    assert Registry.of({"a": given}).default.crop(file.getvalue())[0, 0, 0] == 0


def test_a_name_that_is_not_there(tiny: Path) -> None:
    with pytest.raises(HTTPException, match="no model is called 'x'; there are: tiny") as error:
        Registry.of(tiny).named("x")
    assert error.value.status_code == 404


def test_a_file_is_read_again_and_the_old_model_goes(
    tiny: Path, cifar_file: Path, tmp_path: Path, classifier: bitvit.Classifier
) -> None:
    live = tmp_path / "live.safetensors"
    shutil.copy(tiny, live)
    registry = Registry.of(live)
    old = registry.default
    gone = weakref.ref(old.classifier.model)
    threads = threading.active_count()
    shutil.copy(cifar_file, tmp_path / "new")
    (tmp_path / "new").replace(live)
    registry.reload("live")
    pixels = np.zeros((1, 3, 48, 48), np.float32)
    assert registry.default.of_pixels(pixels).tobytes() == classifier.model(pixels).tobytes()
    assert old.size != registry.default.size  # who holds the old one may go on with it
    del old
    gc.collect()
    assert gone() is None
    assert threading.active_count() <= threads  # fewer, where other tests' threads have ended meanwhile


def test_a_file_that_cannot_be_used_changes_nothing(tiny: Path, tmp_path: Path, classifier: bitvit.Classifier) -> None:
    live = tmp_path / "live.safetensors"
    shutil.copy(tiny, live)
    registry = Registry({"live": live, "other": classifier})
    before = registry.default
    live.write_bytes(b"nothing")
    with pytest.raises(ModelFileError):
        registry.reload("live")
    assert registry.default is before
    with pytest.raises(BitvitError, match="other: was given as a Classifier"):
        registry.reload("other")
