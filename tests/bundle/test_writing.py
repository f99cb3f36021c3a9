"""What a bundle's folder holds, and that the library built from it gives bitvit's own bits."""

import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bitvit
from bitvit.bundle.level import object_name, write_level
from bitvit.bundle.manifest import LIBRARY, MANIFEST
from bitvit.bundle.processes import Process
from bitvit.bundle.targets import default_target, describe, levels_of
from bitvit.bundle.writing import write_bundle
from bitvit.errors import BitvitError, ModelFileError
from bitvit.model import functions_of
from bitvit.modelfile import load_model_file
from bitvit.runtime.policy import RestPolicy
from tests.support.paths import TESTS, TOOLS

COUNT = 3


def manifest_of(folder: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return fields


def test_every_file_is_listed_with_its_sha256(bundle: Path) -> None:
    listed = manifest_of(bundle)["files"]
    found = {
        path.relative_to(bundle).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in bundle.rglob("*")
        if path.is_file() and path.name != MANIFEST
    }
    assert listed == found
    assert {"bitvit_model.h", "bitvit_model.c", "Makefile", "CMakeLists.txt", "README.md", LIBRARY} <= listed.keys()


def test_only_kernels_that_the_model_needs(bundle: Path, tiny: Path) -> None:
    names = {path.name.split(".")[0] for path in bundle.glob("objects/*/*.o")}
    suffix = "".join(letter if letter.isalnum() else "_" for letter in manifest_of(bundle)["levels"][0]["cpu"])
    assert names == {f"{function.name}_{suffix}" for function in functions_of(tiny)}


def test_a_kernel_that_is_compiled_again_has_the_same_bytes(bundle: Path, tiny: Path, tmp_path: Path) -> None:
    """In another process; `python -m tools.bundle --only again` compares whole bundles, which takes minutes."""
    triple = default_target()
    with Process((describe.__module__, describe.__name__), (triple, ["native"])) as process:
        (level,) = levels_of(triple, ["native"], json.loads(process.result()))
    names = [function.name for function in functions_of(tiny)]
    arguments = [
        str(tiny),
        load_model_file(tiny).digest,
        str(tmp_path),
        level.suffix,
        True,
        names.index("pool"),
        len(names),
    ]
    with Process(
        (write_level.__module__, write_level.__name__), arguments, target=f"{triple} {level.cpu} {level.flags}"
    ) as process:
        process.result()
    (made,) = tmp_path.iterdir()
    assert made.read_bytes() == (bundle / "objects" / level.cpu / object_name("pool", level.suffix)).read_bytes()


def test_nobody_else_may_write_to_it(bundle: Path) -> None:
    for path in (bundle, *bundle.rglob("*")):
        assert not path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def test_sizes(bundle: Path) -> None:
    """All but the weights, 300 kB a level."""
    (level,) = manifest_of(bundle)["levels"]
    code, weights = level["code_bytes"], level["weights"]["bytes"]
    assert (bundle / LIBRARY).stat().st_size <= 300_000
    assert code == sum(path.stat().st_size for path in bundle.glob("objects/*/*.o")) <= 300_000
    assert weights <= (bundle / "weights.bin").stat().st_size < weights + 4096
    assert f"| {code:,} | {weights:,} |" in (bundle / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def built(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which `make` has been run, with check.c linked to it."""
    copy = Path(shutil.copytree(bundle, tmp_path_factory.mktemp("built") / "bundle"))
    if shutil.which("make") is None:
        pytest.skip("needs make")
    strict = ["-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    check = ["cc", *strict, "-I.", "-o", "check", str(TOOLS / "bundle" / "check.c"), "libbitvit_model.a", "-pthread"]
    for command in (["make", f"CFLAGS={' '.join(strict)}"], check):
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return copy


def test_every_way_to_call_the_library_gives_bitvits_bits(built: Path, tiny: Path, tmp_path: Path) -> None:
    model = bitvit.load(tiny, threads=1)
    crop = model.preprocessing.crop
    crops = np.random.default_rng(0).integers(0, 256, (COUNT, crop, crop, 3), dtype=np.uint8)
    planes = np.stack([model.preprocessing.planes(image) for image in crops])
    crops.tofile(tmp_path / "bytes")
    planes.tofile(tmp_path / "planes")
    places = [str(tmp_path / name) for name in ("planes", "bytes", "logits")]
    command = [str(built / "check"), *places[:2], str(COUNT), places[2]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{bitvit.__version__}\n"
    assert (tmp_path / "logits").read_bytes() == model(planes).tobytes()


def test_a_team_rests_as_that_of_python(built: Path) -> None:
    """2,000 images, now with helpers and now without, whose times wander to either side of each other."""
    command = ["cc", "-I.", "-o", "policy", str(TESTS / "bundle" / "policy.c"), "bitvit_program.c", "weights.S"]
    objects = [str(path) for path in built.glob("objects/*/*.o")]
    done = subprocess.run([*command, *objects, "-pthread"], cwd=built, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    generator, policy = random.Random(0), RestPolicy()
    lines, expected = [], []
    for number in range(2000):
        seconds, disturbed = generator.uniform(0.5, 1.5), generator.random() < 0.3
        if number % 500 > 400:
            seconds /= 3  # so far ahead that it is seldom measured alone
        if policy.use_helpers():
            policy.computed_together(seconds, stalled=disturbed, interruptions=0)
            lines.append(f"{seconds!r} {int(disturbed)}")
        else:
            policy.computed_alone(seconds)
            lines.append(f"{seconds!r} -1")
        expected.append(policy.resting)
    said = subprocess.run([built / "policy"], input="\n".join(lines), capture_output=True, text=True).stdout
    assert list(map(int, said.split())) == expected
    assert len(set(expected)) > 5


def test_the_example_classifies_a_ppm(built: Path, tiny: Path, tmp_path: Path) -> None:
    model = bitvit.load(tiny, threads=1)
    crop = model.preprocessing.crop
    image = np.random.default_rng(1).integers(0, 256, (crop, crop, 3), dtype=np.uint8)
    (path := tmp_path / "image.ppm").write_bytes(f"P6\n# of a test\n{crop} {crop}\n255\n".encode() + image.tobytes())
    *lines, best = subprocess.run([built / "example", path, "2"], capture_output=True, text=True).stdout.splitlines()
    logits = model.of_bytes([image])[0]
    assert [float.fromhex(line.split()[-1]) for line in lines] == logits.tolist()
    assert model.labels is not None
    assert best.startswith(f"best: {model.labels[logits.argmax()]} (")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"P5\n1 1\n255\n.", "is not a binary PPM (P6)"),
        (b"P6\n1 1\n255\n...", "has 1 x 1 pixels up to 255, expected 32 x 32 up to 255"),
        (b"P6\n32 32\n255\n...", "is truncated"),
    ],
)
def test_the_example_says_what_is_wrong(content: bytes, message: str, built: Path, tmp_path: Path) -> None:
    (path := tmp_path / "image.ppm").write_bytes(content)
    done = subprocess.run([built / "example", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"{path}: {message}\n")


def test_the_library_calls_the_c_library_alone(built: Path) -> None:
    if shutil.which("nm") is None:
        pytest.skip("needs nm")
    from tools.bundle.__main__ import ALLOWED

    lines = subprocess.run(["nm", "-D", "-u", built / "libbitvit_model.so"], capture_output=True, text=True).stdout
    called = {line.split()[-1].split("@")[0] for line in lines.splitlines()}
    assert {"pthread_create", "calloc"} <= called <= ALLOWED


# ------------------------------------------------------------------------------------------------------------- refused
def test_a_folder_that_is_not_empty_is_kept(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("text")
    with pytest.raises(BitvitError, match="is there already; remove it, or name another folder"):
        write_bundle(tiny, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_that_cannot_be_made(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(BitvitError, match="cannot be made: No such file or directory; name a folder"):
        write_bundle(tiny, tmp_path / "no" / "folder")


def test_what_is_no_packed_model(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="does not exist"):
        write_bundle(tmp_path / "no.safetensors", tmp_path / "out")


def test_no_compiler(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    with pytest.raises(BitvitError, match="there is no C compiler 'no-such-compiler' to link the library"):
        write_bundle(tiny, tmp_path / "out", python=True)
    monkeypatch.setenv("CC", "gcc '-m64")
    with pytest.raises(BitvitError, match="CC: No closing quotation; expected a command"):
        write_bundle(tiny, tmp_path / "out", python=True)
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(BitvitError, match="Debian: apt install gcc"):
        write_bundle(tiny, tmp_path / "out", python=True)


def test_no_numba(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(BitvitError, match="Numba, which compiles the kernels, cannot be imported"):
        write_bundle(tiny, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_fails_leaves_nothing(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitvit.bundle.writing.write_level", os.path.join)  # which takes no numbers
    with pytest.raises(BitvitError, match="a process that compiles has failed: TypeError: join"):
        write_bundle(tiny, tmp_path / "out", cpus=["native"])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OnFullDisk(Process):
        def __init__(self, function: tuple[str, str], *arguments: Any, target: str = "") -> None:
            if target:
                raise OSError(28, "No space left on device")
            super().__init__(function, *arguments)

    monkeypatch.setattr("bitvit.bundle.writing.Process", OnFullDisk)
    with pytest.raises(BitvitError, match="out: cannot be written: No space left on device; name a folder"):
        write_bundle(tiny, tmp_path / "out", cpus=["native"])
    assert list(tmp_path.iterdir()) == []
