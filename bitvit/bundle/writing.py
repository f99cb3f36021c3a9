"""Writing a bundle: a model file -> a folder, there as a whole or not at all."""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitvit.bundle import wasm
from bitvit.bundle.level import Program, object_name, write_level
from bitvit.bundle.linking import compiler_for, link_library
from bitvit.bundle.manifest import FORMAT, LIBRARY, MANIFEST, WEIGHTS, as_text
from bitvit.bundle.processes import Process
from bitvit.bundle.source import FIXED, Built, generated, template
from bitvit.bundle.targets import DEFAULT_CPUS, Level, architecture_of, default_target, describe, levels_of
from bitvit.errors import BitvitError
from bitvit.hub import local_path
from bitvit.jit.checks import compiler
from bitvit.modelfile import ModelFile, load_model_file
from bitvit.system import available_threads
from bitvit.tensorfile import parse_json
from bitvit.version import __version__

__all__ = ["BundleReport", "LevelReport", "write_bundle"]

PAGE = 4096  # bytes: where the weights of a level begin

_FOR_ALL = 0o022  # write permissions that a folder with code does not have, whatever the umask is


@dataclass(frozen=True)
class LevelReport:
    """What a level takes."""

    cpu: str
    features: tuple[str, ...]
    code_bytes: int
    """Of its object files."""
    weights_bytes: int
    working_bytes: int
    """That a thread needs."""


@dataclass(frozen=True)
class BundleReport:
    """A bundle that has been written."""

    folder: Path
    target: str
    levels: tuple[LevelReport, ...]
    weights_bytes: int
    """Of weights.bin: levels whose weights are in the same order share them."""
    library_bytes: int | None
    """Of the library for Python."""
    module_bytes: int | None = None
    """Of model.wasm, with the weights."""


def write_bundle(
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    target: str | None = None,
    cpus: Sequence[str] = (),
    python: bool = False,
) -> BundleReport:
    """Write a packed model as C code, kernels and weights; with a library for Python if asked for.

    folder: to be made; it may be there if it is empty. target: LLVM's triple; default: this machine's. cpus: LLVM's
    names of processors, or "native", of which the best that a processor can run is chosen when the model is loaded;
    default: DEFAULT_CPUS. Equal arguments give equal bytes, those of the library too if the C compiler is the same.
    The target wasm32 gives a WebAssembly module and a page for browsers in place of C code; it has neither cpus nor
    Python.

    Raises ModelFileError for what is not a packed model; BitvitError for a target or processor that LLVM does not know,
    for a folder that is not empty or cannot be made, and where Numba, a C compiler or space is lacking.
    """
    file = load_model_file(local_path(model))
    triple = target or default_target()
    if triple in ("wasm32", wasm.TRIPLE):
        return _write_for_web(file, Path(folder), cpus, python)
    asked = list(cpus) or list(DEFAULT_CPUS[architecture_of(triple).machine])
    command = compiler_for(triple) if python else []
    compiler()  # which says what is wrong with Numba
    with Process((describe.__module__, describe.__name__), (triple, asked)) as process:
        levels = levels_of(triple, asked, parse_json(process.result()))
    with _new_folder(Path(folder)) as place:
        built = _compile(file, levels, triple, place)
        objects = sorted(str(path.relative_to(place)) for path in place.glob("objects/*/*.o"))
        weights_bytes = (place / WEIGHTS).stat().st_size
        for name in FIXED:
            (place / name).write_text(template(name), encoding="utf-8")
        for name, text in generated(file, triple, built, weights_bytes).items():
            (place / name).write_text(text, encoding="utf-8")
        if python:
            link_library(place, objects, command)
        (place / "README.md").write_text(_readme(file, triple, built, weights_bytes), encoding="utf-8")
        (place / MANIFEST).write_text(as_text(_fields(file, triple, built, place)), encoding="utf-8")
        library_bytes = (place / LIBRARY).stat().st_size if python else None
    return BundleReport(Path(folder), triple, tuple(map(_report, built)), weights_bytes, library_bytes)


def _write_for_web(file: ModelFile, folder: Path, cpus: Sequence[str], python: bool) -> BundleReport:
    if cpus or python:
        option = "--cpu" if cpus else "--python"
        raise BitvitError(f"{option}: is not for wasm32, whose one module runs wherever WebAssembly does; leave it out")
    command = wasm.linker()
    compiler()
    with _new_folder(folder) as place:
        (built,) = _compile(file, [wasm.LEVEL], wasm.TRIPLE, place)
        objects = sorted(path.relative_to(place) for path in place.glob("objects/*/*.o"))
        wasm.write_module(file, built, place, objects, place / WEIGHTS, command)
        shutil.rmtree(place / "objects")
        (place / WEIGHTS).unlink()
        wasm.write_page(file, built, place)
        fields = {"format": FORMAT, "version": __version__, "target": wasm.TRIPLE, "model": _model(file)}
        (place / MANIFEST).write_text(as_text({**fields, "files": _files(place)}), encoding="utf-8")
        size = (place / wasm.MODULE).stat().st_size
    return BundleReport(folder, wasm.TRIPLE, (_report(built),), built.weights_bytes, None, size)


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside the one to be made, which takes its name at the end; after an exception nothing is left."""
    remedy = "name a folder that is not there yet, where you may write, on a disk with space"
    try:
        if folder.is_symlink() or (folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))):
            raise BitvitError(f"{folder}: is there already; remove it, or name another folder")
        target = folder.absolute()
        place = target.with_name(f".bitvit.{secrets.token_hex(8)}")
        place.mkdir(0o755)
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise BitvitError(f"{folder}: cannot be made: {reason}; {remedy}") from None
    try:
        yield place
        for path in (place, *place.rglob("*")):
            path.chmod(path.stat().st_mode & ~_FOR_ALL)
        place.replace(target)
    except OSError as problem:
        raise BitvitError(f"{folder}: cannot be written: {problem.strerror or problem}; {remedy}") from None
    finally:
        shutil.rmtree(place, ignore_errors=True)


# ---------------------------------------------------------------------------------------------------------- compiling
def _compile(file: ModelFile, levels: Sequence[Level], triple: str, place: Path) -> list[Built]:
    """Compile all levels, as many at a time as there are cores; leaves objects and weights.bin in the folder."""
    parts = 2 if len(levels) == 1 else 1
    jobs = [(level, part) for level in levels for part in range(parts)]
    cores = max(1, available_threads())
    printed: dict[str, str] = {}
    for start in range(0, len(jobs), cores):
        with contextlib.ExitStack() as stack:
            running = [
                (level, part, stack.enter_context(_start(file, level, triple, place, part, parts)))
                for level, part in jobs[start : start + cores]
            ]
            for level, part, process in running:
                result = process.result()
                if part == 0:
                    printed[level.cpu] = result
    built, sections, size = [], dict[bytes, int](), 0
    with (place / WEIGHTS).open("xb") as out:
        for level in levels:
            folder = place / "objects" / level.cpu
            part_file = folder / WEIGHTS
            weights = part_file.read_bytes()
            part_file.unlink()
            digest = hashlib.sha256(weights).digest()
            if digest not in sections:
                sections[digest] = size
                out.write(weights + bytes(-len(weights) % PAGE))
                size = out.tell()
            program: Program = parse_json(printed[level.cpu])
            code = sum((folder / object_name(name, level.suffix)).stat().st_size for name in program["kernels"])
            built.append(Built(level, program, sections[digest], len(weights), code))
    return built


def _start(file: ModelFile, level: Level, triple: str, place: Path, part: int, parts: int) -> Process:
    folder = place / "objects" / level.cpu
    folder.mkdir(parents=True, exist_ok=True)
    team = level.architecture.team
    arguments = [str(file.path.absolute()), file.digest, str(folder), level.suffix, team, part, parts]
    function = write_level.__module__, write_level.__name__
    return Process(function, arguments, target=f"{triple} {level.cpu} {level.flags}")


# --------------------------------------------------------------------------------------------------------- describing
def _report(built: Built) -> LevelReport:
    return LevelReport(
        built.level.cpu, built.level.features, built.code_bytes, built.weights_bytes, _working_bytes(built)
    )


def _working_bytes(built: Built) -> int:
    return 4 * (built.program["state_units"] + built.program["scratch_units"])


def _fields(file: ModelFile, triple: str, built: Sequence[Built], place: Path) -> dict[str, Any]:
    """What bundle.json holds."""
    weights = np.memmap(place / WEIGHTS, np.uint8, "r")
    levels = [
        {
            "cpu": item.level.cpu,
            "features": list(item.level.features),
            "code_bytes": item.code_bytes,
            "state_bytes": 4 * item.program["state_units"],
            "scratch_bytes": 4 * item.program["scratch_units"],
            "weights": {
                "offset": item.weights_at,
                "bytes": item.weights_bytes,
                "sha256": _sha256(weights[item.weights_at : item.weights_at + item.weights_bytes]),
            },
        }
        for item in built
    ]
    return {
        "format": FORMAT,
        "version": __version__,
        "target": triple,
        "model": _model(file),
        "levels": levels,
        "outputs": built[0].program["outputs"],
        "files": _files(place),
        "library": LIBRARY if (place / LIBRARY).exists() else None,
    }


def _model(file: ModelFile) -> dict[str, Any]:
    return {
        "config": file.config.to_dict(),
        "preprocessing": file.preprocessing.to_dict(),
        "labels": None if file.labels is None else list(file.labels),
        "source_sha256": file.source_sha256,
        "digest": file.digest,
    }


def _files(place: Path) -> dict[str, Any]:
    """Bytes and sha256 of all files, by name."""
    return {
        path.relative_to(place).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path.read_bytes())}
        for path in sorted(place.rglob("*"))
        if path.is_file()
    }


def _sha256(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()


def _readme(file: ModelFile, triple: str, built: Sequence[Built], weights_bytes: int) -> str:
    rows = [
        f"| {item.level.cpu} | {len(item.program['kernels'])} | {item.code_bytes:,} | {item.weights_bytes:,} | "
        f"{_working_bytes(item):,} | {', '.join(item.level.features) or 'none'} |"
        for item in built
    ]
    values = {
        "TARGET": triple,
        "VERSION": __version__,
        "CROP_SIZE": file.preprocessing.crop,
        "CLASSES": file.config.num_classes,
        "LEVELS": "\n".join(rows),
        "WEIGHTS": f"{weights_bytes:,}",
    }
    return template("README.md", values)
