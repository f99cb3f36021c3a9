"""model.wasm: a model as one WebAssembly module, and the page that runs it in a browser.

The kernels and `run_steps` are objects as for any other target. A last object, made here, holds what they work on: the
table of steps, weights, arenas, and two functions without arguments that compute an image. wasm-ld, LLVM's linker, puts
them together.
"""

import base64
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitvit.bundle.linking import command_of
from bitvit.bundle.source import Built, template
from bitvit.bundle.targets import WASM, Level
from bitvit.errors import BitvitError
from bitvit.kernels.catalog import IMAGE, run_steps
from bitvit.llvm import llvm
from bitvit.modelfile import ModelFile
from bitvit.version import __version__

__all__ = ["LEVEL", "MODULE", "TRIPLE", "linker", "write_module", "write_page"]

MODULE, SCRIPT, PAGE = "model.wasm", "bitvit.js", "index.html"

TRIPLE = "wasm32-unknown-unknown"
LEVEL = Level("generic", ("simd128",), WASM)

STACK = 1 << 20  # bytes; kernels keep tiles there
LINKER = "WASM_LD"  # environment variable
VERSIONS = range(40, 13, -1)  # of LLVM, whose linkers Debian gives names such as wasm-ld-19

_RUN_STEPS = f"bitvit_{run_steps.name}_{LEVEL.suffix}"


def linker() -> list[str]:
    """The command of LLVM's linker for WebAssembly: $WASM_LD, else wasm-ld. Raises BitvitError if there is none."""
    chosen = command_of(LINKER)
    names = chosen[:1] or ["wasm-ld", *(f"wasm-ld-{version}" for version in VERSIONS)]
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise BitvitError(
            f"there is no {names[0]!r}, LLVM's linker for WebAssembly; install it (Debian: apt install lld), or let "
            f"{LINKER} name it"
        )
    return [str(Path(found).absolute()), *chosen[1:]]


def write_module(
    file: ModelFile, built: Built, folder: Path, objects: Sequence[Path], weights: Path, command: Sequence[str]
) -> None:
    """Link a model's objects to model.wasm in the folder. command: the linker's. Raises BitvitError if that fails."""
    exports = ["about", "planes", "logits", "table", "run_planes"]
    if not file.config.image_norm:  # whose first kernel takes floats alone
        exports += ["bytes", "run_bytes"]
    rest = folder / "model.o"
    rest.write_bytes(_object("\n".join(_code(file, built, weights.read_bytes()))))
    line = [
        *command, "--no-entry", "--gc-sections", "--strip-all", "--stack-first", "-z", f"stack-size={STACK}",
        *(f"--export=bitvit_{name}" for name in exports), "-o", MODULE, rest.name, *map(str, objects),
    ]  # fmt: skip
    done = subprocess.run(
        line, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode != 0:
        raise BitvitError(
            f"{command[0]} cannot link {MODULE}: {' | '.join(done.stderr.splitlines()[:3])[:500]}; let {LINKER} name "
            "a wasm-ld of LLVM 17 or later"
        )
    rest.unlink()
    module = folder / MODULE
    module.chmod(module.stat().st_mode & ~0o111)  # nobody runs it as a program


# --------------------------------------------------------------------------------------------------------- LLVM code
def _about(file: ModelFile, built: Built) -> dict[str, Any]:
    """What `bitvit_about` tells."""
    return {
        "version": __version__,
        "config": file.config.to_dict(),
        "preprocessing": file.preprocessing.to_dict(),
        "labels": None if file.labels is None else list(file.labels),
        "outputs": built.program["outputs"],
    }


def _code(file: ModelFile, built: Built, weights: bytes) -> Iterator[str]:
    """The LLVM code of the last object. Addresses have 32 bits, and 64 where kernels read one as an int64."""
    program, crop, size = built.program, file.preprocessing.crop, file.config.image_size
    pixels, outputs = 3 * size * size, program["outputs"]
    state, scratch = (4 * program[name] for name in ("state_units", "scratch_units"))
    yield f'target triple = "{TRIPLE}"'
    for kernel in dict.fromkeys(step["kernel"] for step in program["steps"]):
        yield f"declare void @bitvit_{kernel}_{LEVEL.suffix}(i64, ptr, ptr, ptr, ptr)"
    yield f"declare void @{_RUN_STEPS}(i64, i64, i64, i64, i64)"
    yield "declare void @llvm.memcpy.p0.p0.i32(ptr, ptr, i32, i1)"
    yield "declare void @llvm.memset.p0.i32(ptr, i8, i32, i1)"

    for number, step in enumerate(program["steps"]):
        values = ", ".join(f"i64 {value}" for value in step["arguments"].values())
        yield f"@arguments_{number} = internal constant [{len(step['arguments'])} x i64] [{values}]"
    record = "{ptr, i32, ptr, i32, i64}"
    yield f"@steps = internal constant [{len(program['steps'])} x {record}] ["
    rows = [
        f"{record} {{ptr @bitvit_{step['kernel']}_{LEVEL.suffix}, i32 0, ptr @arguments_{number}, i32 0, "
        f"i64 {step['pieces']}}}"
        for number, step in enumerate(program["steps"])
    ]
    yield ",\n".join(rows) + "]"

    table = [f"i32 {value}" for value in file.preprocessing.table().view(np.uint32).ravel()]
    yield f"@bitvit_table = constant [{len(table)} x i32] [{', '.join(table)}], align 64"
    yield _text("bitvit_about", json.dumps(_about(file, built), sort_keys=True).encode() + b"\0", 1)
    yield _text("weights", weights, 64, "internal ")
    yield _room("bitvit_bytes", 4 * crop * crop)
    yield _room("bitvit_planes", 4 * pixels)
    yield _room("bitvit_logits", 4 * outputs)
    yield _room("state", state, "internal ")
    yield _room("scratch", scratch, "internal ")

    image = "{ptr, i32, i64, i64, i64, i64, ptr, i32}"  # IMAGE
    yield (
        f"@of_bytes = internal constant {image} {{ptr @bitvit_bytes, i32 0, i64 {4 * crop}, i64 4, i64 {crop}, "
        f"i64 {file.preprocessing.pad}, ptr @bitvit_table, i32 0}}"
    )
    yield (
        f"@of_planes = internal constant {image} {{ptr @bitvit_planes, i32 0, i64 0, i64 0, i64 0, i64 0, ptr null, "
        "i32 0}"
    )
    run = [
        f"call void @{_RUN_STEPS}(i64 ptrtoint (ptr @steps to i64), i64 {len(program['steps'])}, "
        "i64 ptrtoint (ptr @weights to i64), i64 ptrtoint (ptr @state to i64), i64 ptrtoint (ptr @scratch to i64))",
        f"%output = getelementptr i8, ptr @state, i32 {4 * program['output_at']}",
        f"call void @llvm.memcpy.p0.p0.i32(ptr @bitvit_logits, ptr %output, i32 {4 * outputs}, i1 false)",
    ]
    describe = f"call void @llvm.memcpy.p0.p0.i32(ptr @state, ptr @%s, i32 {IMAGE.itemsize}, i1 false)"
    yield "define void @bitvit_run_bytes() {"
    yield describe % "of_bytes"
    yield from run
    yield "ret void }"
    yield "define void @bitvit_run_planes() {"
    yield describe % "of_planes"
    yield from run
    # What is not a number would stay in lanes that are multiplied by 0.
    yield f"call void @llvm.memset.p0.i32(ptr @state, i8 0, i32 {state}, i1 false)"
    yield f"call void @llvm.memset.p0.i32(ptr @scratch, i8 0, i32 {scratch}, i1 false)"
    yield "ret void }"


def _room(name: str, size: int, linkage: str = "") -> str:
    return f"@{name} = {linkage}global [{size} x i8] zeroinitializer, align 64"


def _text(name: str, data: bytes, align: int, linkage: str = "") -> str:
    letters = data.hex("\\")
    return f'@{name} = {linkage}constant [{len(data)} x i8] c"\\{letters}", align {align}'


def _object(code: str) -> bytes:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(TRIPLE).create_target_machine(
        cpu=LEVEL.cpu, features=LEVEL.flags, reloc="static", codemodel="default"
    )
    module = llvm.parse_assembly(code)
    module.data_layout = str(machine.target_data)
    made: bytes = machine.emit_object(module)
    return made


# ----------------------------------------------------------------------------------------------------------- the page
def write_page(file: ModelFile, built: Built, folder: Path) -> None:
    """Write bitvit.js, README.md and, where there are classes to show, index.html beside model.wasm."""
    module, script = (folder / MODULE).read_bytes(), template(SCRIPT, folder="web")
    (folder / SCRIPT).write_text(script, encoding="utf-8")
    if file.config.num_classes:
        script += template("page.js", folder="web")
        page = {"POLICY": _policy(script), "SCRIPT": script, "MODULE": base64.b64encode(module).decode()}
        (folder / PAGE).write_text(template(PAGE, page, folder="web"), encoding="utf-8")
    readme = template("README.md", _facts(file, built, module), folder="web")
    (folder / "README.md").write_text(readme, encoding="utf-8")


def _policy(script: str) -> str:
    """The page's Content-Security-Policy: this script and no request."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    sources = f"'sha256-{digest}' 'wasm-unsafe-eval'"
    return f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src blob:"


def _facts(file: ModelFile, built: Built, module: bytes) -> dict[str, object]:
    """What README.md says of a model."""
    crop, call, page, bytes_row = file.preprocessing.crop, "logits(image)", "", ""
    if file.config.num_classes:
        call = "classify(image, 5)"
        page = f"| `{PAGE}` | a page that classifies images, all in one file: open it |\n"
    if not file.config.image_norm:
        bytes_row = (
            f"| `bitvit_bytes`, `bitvit_run_bytes()` | address of uint8 [{crop}][{crop}][4], R, G, B and a byte "
            "that is left out; what computes their logits |\n"
        )
    return {
        "VERSION": __version__,
        "OUTPUTS": built.program["outputs"],
        "CROP_SIZE": crop,
        "IMAGE_SIZE": file.config.image_size,
        "MODULE_BYTES": f"{len(module):,}",
        "CODE_BYTES": f"{built.code_bytes:,}",
        "CALL": call,
        "PAGE": page,
        "RUN_BYTES": bytes_row,
    }
