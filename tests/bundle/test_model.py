"""A bundle in Python: the same bits, where no Numba is and no memory may become executable; and what is refused."""

import copy
import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import bitvit
from bitvit.bundle.manifest import LIBRARY, MANIFEST, as_text
from bitvit.bundle.model import BundledModel, load_bundle
from bitvit.errors import BitvitError, ModelFileError
from tests.support.command import run
from tests.support.paths import ROOT

ALONE = """
import ctypes, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("numba", "llvmlite", "safetensors", "typer", "click", "rich"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
strict = sys.argv[3] == "strict"
assert not strict or ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0  # PR_SET_MDWE
import bitvit, numpy as np
classify = bitvit.Classifier(sys.argv[1])
print(classify.logits(list(np.load(sys.argv[2]))).tobytes().hex())
"""


@pytest.fixture(scope="module")
def images(tiny: Path) -> "NDArray[np.uint8]":
    crop = bitvit.load(tiny).preprocessing.crop
    return np.random.default_rng(0).integers(0, 256, (7, crop, crop, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def expected(tiny: Path, images: "NDArray[np.uint8]") -> "NDArray[np.float32]":
    return bitvit.load(tiny, threads=1).of_bytes(list(images))


def test_bits_are_those_of_the_model_file(
    bundle: Path, tiny: Path, images: "NDArray[np.uint8]", expected: "NDArray[np.float32]"
) -> None:
    model, original = load_bundle(bundle), bitvit.load(tiny)
    assert (model.config, model.preprocessing, model.labels) == (
        original.config,
        original.preprocessing,
        original.labels,
    )
    planes = np.stack([model.preprocessing.planes(image) for image in images])
    assert np.array_equal(model(planes), expected)
    assert np.array_equal(model.of_bytes(list(images)), expected)
    assert np.array_equal(model.of_bytes(list(images), alone=True), expected)
    mirrored = np.ascontiguousarray(images[:, :, ::-1])[:, :, ::-1]
    assert np.array_equal(model.of_bytes([mirrored[0], images[1], mirrored[2]]), expected[:3])
    assert model(planes[:0]).shape == (0, expected.shape[1])
    assert f"kernels for {model.level}, " in repr(model)


def test_load_and_classifier_take_the_folder(bundle: Path, tiny: Path, images: "NDArray[np.uint8]") -> None:
    photos = [Image.fromarray(image) for image in images]
    assert isinstance(bitvit.load(bundle), BundledModel)
    for threads in (1, 2):
        classify = bitvit.Classifier(bundle, threads=threads, batch_size=2)
        assert classify(photos) == bitvit.Classifier(tiny, threads=threads)(photos)


def test_batch_classifier_takes_the_folder(bundle: Path, tiny: Path, images: "NDArray[np.uint8]") -> None:
    """Which stays where it is: what travels is its path, and what its bundle.json must be."""
    batch = {"image": [*images, None], "path": [f"{k}.png" for k in range(len(images) + 1)]}
    classify = bitvit.BatchClassifier(bundle, top_k=2)
    travelled = pickle.dumps(classify)
    assert len(travelled) < 1000
    assert pickle.loads(travelled)(batch) == bitvit.BatchClassifier(tiny, top_k=2)(batch)
    assert isinstance(classify.source.model(1), BundledModel)


def test_batch_classifier_wants_the_same_bundle(copied: Path) -> None:
    classify = bitvit.BatchClassifier(copied, threads=3)
    manifest = json.loads((copied / MANIFEST).read_text(encoding="utf-8"))
    del manifest["checksum"]
    (copied / MANIFEST).write_text(as_text({**manifest, "version": "0"}), encoding="utf-8")
    with pytest.raises(ModelFileError, match="is not the model that was asked for: its sha256 is"):
        classify({"image": [np.zeros((8, 8, 3), np.uint8)]})
    shutil.rmtree(copied)
    with pytest.raises(ModelFileError, match="copied: does not exist"):
        classify({"image": [np.zeros((8, 8, 3), np.uint8)]})


def test_the_command_line_takes_the_folder(
    bundle: Path, tiny: Path, tmp_path: Path, images: "NDArray[np.uint8]"
) -> None:
    Image.fromarray(images[0]).save(tmp_path / "image.png")
    answers = [run("classify", model, tmp_path / "image.png", "--format", "csv") for model in (bundle, tiny)]
    assert answers[0] == answers[1]
    assert answers[0][0].count("\n") > 1


def test_many_threads_at_once(bundle: Path, images: "NDArray[np.uint8]", expected: "NDArray[np.float32]") -> None:
    model = load_bundle(bundle)
    with ThreadPoolExecutor(6) as pool:
        found = [*pool.map(lambda i: model.of_bytes([images[i % 7]], alone=i % 3 == 0)[0], range(60))]
    assert all(np.array_equal(row, expected[i % 7]) for i, row in enumerate(found))


def test_pickles_and_copies(bundle: Path, images: "NDArray[np.uint8]", expected: "NDArray[np.float32]") -> None:
    model = load_bundle(bundle, threads=1)
    for other in (pickle.loads(pickle.dumps(model)), copy.copy(model), copy.deepcopy(model)):
        assert other.threads == 1
        assert np.array_equal(other.of_bytes(list(images)), expected)


def test_a_pickle_of_another_bundle_is_refused(copied: Path) -> None:
    data = pickle.dumps(load_bundle(copied))
    edit(copied / MANIFEST, lambda fields: fields["model"].update(source_sha256="another"))
    with pytest.raises(ModelFileError, match="is not the bundle that was pickled"):
        pickle.loads(data)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_has_threads_of_its_own(
    bundle: Path, images: "NDArray[np.uint8]", expected: "NDArray[np.float32]"
) -> None:
    model = load_bundle(bundle)
    model.of_bytes(list(images))

    def compare() -> None:
        sys.exit(0 if np.array_equal(model.of_bytes(list(images)), expected) else 1)

    child = multiprocessing.get_context("fork").Process(target=compare)
    child.start()
    child.join(60)
    assert child.exitcode == 0


def test_threads_end_with_the_model(bundle: Path) -> None:
    def threads() -> set[str]:
        return {task.name for task in Path("/proc/self/task").iterdir()}

    before = threads()  # some may be other tests', and end meanwhile
    models = [load_bundle(bundle) for _ in range(3)]
    added = threads() - before
    assert len(added) == 3 * (models[0].threads - 1)
    models.clear()
    assert threads() & added == set()


def has_mdwe() -> bool:
    done = subprocess.run(
        [sys.executable, "-c", "import ctypes, sys; sys.exit(ctypes.CDLL(None).prctl(65, 1, 0, 0, 0))"], check=False
    )
    return done.returncode == 0


@pytest.mark.parametrize("how", ["plain", "strict"])
def test_neither_numba_nor_executable_memory_is_needed(
    how: str, bundle: Path, tmp_path: Path, images: "NDArray[np.uint8]", expected: "NDArray[np.float32]"
) -> None:
    """strict: memory may not become executable, as under systemd's MemoryDenyWriteExecute=yes."""
    if how == "strict" and not has_mdwe():
        pytest.skip("needs PR_SET_MDWE of Linux 6.3")
    np.save(tmp_path / "images.npy", images)
    environment = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}  # and no home
    command = [sys.executable, "-c", ALONE, str(bundle), str(tmp_path / "images.npy"), how]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == expected.tobytes().hex()
    assert [path.name for path in tmp_path.iterdir()] == ["images.npy"]


# ------------------------------------------------------------------------------------------------------------- refused
def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the fields, with a checksum that fits."""
    fields = json.loads(path.read_text(encoding="utf-8"))
    del fields["checksum"]
    change(fields)
    path.write_text(as_text(fields), encoding="utf-8")


def swap(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: flip(f / LIBRARY),
            rf"{LIBRARY}: changed since it was written: .* bytes of sha256 .* copy the folder",
        ),
        (lambda f: flip(f / "weights.bin"), r"weights.bin: changed since it was written"),
        (lambda f: (f / "weights.bin").write_bytes(b"short"), r"weights.bin: 5 bytes, expected \d+; write it again"),
        (lambda f: (f / "weights.bin").unlink(), "cannot be loaded: No such file or directory; write it again"),
        (lambda f: (f / MANIFEST).unlink(), f"is a folder without {MANIFEST}; expected a packed model"),
        (
            lambda f: (f / MANIFEST).write_text("{"),
            f"{MANIFEST}: is damaged or of another version .FormatError: broken JSON",
        ),
        (lambda f: flip(f / MANIFEST), f"{MANIFEST}: is damaged or of another version"),
        (lambda f: swap(f / MANIFEST, '"crop": 32', '"crop": 33'), f"{MANIFEST}: is damaged .*its checksum is another"),
        (lambda f: edit(f / MANIFEST, lambda x: x.update(format=2)), "format 2, this bitvit reads format 1"),
        (lambda f: edit(f / MANIFEST, lambda x: x.pop("levels")), f"{MANIFEST}: is damaged .*levels"),
        (lambda f: edit(f / MANIFEST, lambda x: x.update(library="/tmp/other.so")), "the library is '/tmp/other.so'"),
        (lambda f: edit(f / MANIFEST, lambda x: x.update(library=None)), "write it again with bitvit bundle --python"),
        (lambda f: edit(f / MANIFEST, lambda x: x.update(outputs=-1)), "-1 is not a number of bytes"),
        (
            lambda f: edit(f / MANIFEST, lambda x: x["model"]["preprocessing"].update(mean=[10**400] * 3)),
            "a number of 401",
        ),
        (
            lambda f: edit(f / MANIFEST, lambda x: x.update(target="riscv64-linux")),
            "is for riscv64-linux, this is linux",
        ),
        (
            lambda f: (f / LIBRARY).chmod(0o775),
            f"{LIBRARY}: others may write to it, .* a bundle is code that gets exec",
        ),
        (lambda f: f.chmod(0o777), "copied: others may write to it, which chmod go-w would end; a bundle is code"),
    ],
)
def test_damaged_and_foreign_bundles(damage: Callable[[Path], object], message: str, copied: Path) -> None:
    damage(copied)
    with pytest.raises(ModelFileError, match=message):
        bitvit.load(copied)


def test_a_link_in_place_of_the_library(copied: Path) -> None:
    shutil.move(copied / LIBRARY, copied / "other.so")
    (copied / LIBRARY).symlink_to("other.so")
    with pytest.raises(ModelFileError, match="is neither a folder nor a file; a bundle is code"):
        bitvit.load(copied)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_files_of_another_user(copied: Path) -> None:
    os.chown(copied / LIBRARY, 54321, 54321)
    with pytest.raises(ModelFileError, match="belongs to user 54321, neither to this one"):
        bitvit.load(copied)


def test_what_a_bundle_cannot_do(bundle: Path, images: "NDArray[np.uint8]") -> None:
    model = load_bundle(bundle)
    with pytest.raises(BitvitError, match="can be neither traced nor profiled; load the packed model"):
        model.runner  # noqa: B018
    with pytest.raises(TypeError, match="explain needs a packed model"):
        bitvit.Classifier(bundle).explain(images[0])
    with pytest.raises(ValueError, match=r"pixels have shape \(1, 3, 5, 5\), expected"):
        model(np.zeros((1, 3, 5, 5)))
    with pytest.raises(ValueError, match="threads is 0, expected a whole number of at least 1"):
        bitvit.load(bundle, threads=0)
    with pytest.raises(ModelFileError, match=r"has kernels for .*; none is not there or cannot be run here"):
        BundledModel(bundle, level="none")


def test_a_bundle_is_evaluated_as_its_model_is(bundle: Path, tiny: Path, images: "NDArray[np.uint8]") -> None:
    data = ([Image.fromarray(image) for image in images], [0, 1, 2, 0, 1, 2, 0])
    found, expected = bitvit.evaluate(bundle, data), bitvit.evaluate(tiny, data)
    assert np.array_equal(found.confusion, expected.confusion)
    assert found.model_sha256 == hashlib.sha256((bundle / "bundle.json").read_bytes()).hexdigest()
