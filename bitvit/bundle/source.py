"""The C code of a bundle: what is the same for every model, from the folder c, and what a model adds."""

import importlib.resources
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bitvit.bundle.level import Program, Step
from bitvit.bundle.targets import Level
from bitvit.kernels.catalog import SCHEDULING
from bitvit.modelfile import ModelFile
from bitvit.program import ALIGN
from bitvit.version import __version__

__all__ = ["FIXED", "Built", "generated", "template"]

FIXED = ("bitvit_model.c", "bitvit_program.h", "weights.S", "example.c", "Makefile", "CMakeLists.txt")
"""Files that are the same in every bundle."""


@dataclass(frozen=True)
class Built:
    """A level that is compiled, and where its weights are in weights.bin."""

    level: Level
    program: Program
    weights_at: int
    weights_bytes: int
    code_bytes: int


def template(name: str, values: Mapping[str, object] | None = None, *, folder: str = "c") -> str:
    """A file of a folder beside this module, with values in place of @NAMES@."""
    text = (importlib.resources.files("bitvit.bundle") / folder / name).read_text(encoding="utf-8")
    for key, value in (values or {}).items():
        text = text.replace(f"@{key}@", str(value))
    return text


def generated(file: ModelFile, target: str, built: Sequence[Built], weights_bytes: int) -> dict[str, str]:
    """The C files that a model adds, by name."""
    facts = {
        "TARGET": target,
        "IMAGE_SIZE": file.config.image_size,
        "CROP_SIZE": file.preprocessing.crop,
        "OUTPUTS": built[0].program["outputs"],
        "POOLED": "" if file.config.num_classes else ", or the pooled features where there are none",
        "LEVEL": built[-1].level.cpu,
    }
    program = "\n".join(_program(file, target, built, weights_bytes))
    return {"bitvit_model.h": template("bitvit_model.h", facts), "bitvit_program.c": program + "\n"}


def _program(file: ModelFile, target: str, built: Sequence[Built], weights_bytes: int) -> Iterator[str]:
    preprocessing = file.preprocessing
    yield f"/* Written by bitvit {__version__} for {target}. */"
    yield '#include "bitvit_program.h"'
    yield ""
    for item in built:
        yield from _level(item)
    yield "const bitvit_program bitvit_programs[] = {"
    for item in built:
        yield from _entry(item)
    yield "};"
    yield f"const int bitvit_program_count = {len(built)};"
    yield ""
    yield f"const size_t bitvit_weights_size = {weights_bytes};"
    yield f"const int bitvit_pad = {preprocessing.pad};"
    yield f"const int bitvit_floats_only = {int(file.config.image_norm)};"
    yield "const float bitvit_table[3][256] = {"
    for channel in preprocessing.table():
        yield "    {"
        values = [f"{float(value).hex()}f" for value in channel]
        yield from (f"        {', '.join(values[start : start + 6])}," for start in range(0, 256, 6))
        yield "    },"
    yield "};"
    names = [str(number) for number in range(file.config.num_classes)] if file.labels is None else file.labels
    yield "const char *const bitvit_labels[] = {"
    yield from (f"    {_literal(name)}," for name in names)
    yield "    0};"
    yield f"const int bitvit_label_count = {len(names)};"
    yield f"const char bitvit_written_by[] = {_literal(__version__)};"


def _level(item: Built) -> Iterator[str]:
    """The declarations and steps of a level."""
    suffix, scheduling = item.level.suffix, {function.name for function in SCHEDULING}
    types = {"lead_batch": "bitvit_batch", "help_batch": "bitvit_batch"}
    yield f"/* {'-' * 80} {item.level.cpu}: {', '.join(item.level.features) or 'any processor'} */"
    yield "#pragma GCC visibility push(hidden)"
    for kernel in item.program["kernels"]:
        kind = types.get(kernel, f"bitvit_{kernel}") if kernel in scheduling else "bitvit_kernel"
        yield f"extern {kind} bitvit_{kernel}_{suffix};"
    yield "#pragma GCC visibility pop"
    yield ""
    for number, step in enumerate(item.program["steps"]):
        yield from _arguments(number, step, suffix)
    yield f"static const bitvit_step steps_{suffix}[] = {{"
    for number, step in enumerate(item.program["steps"]):
        yield f"    {{bitvit_{step['kernel']}_{suffix}, {suffix}_{number}, {step['pieces']}}},"
    yield "};"
    yield ""


def _arguments(number: int, step: Step, suffix: str) -> Iterator[str]:
    """The record of a step, each number behind its name."""
    yield f"static const int64_t {suffix}_{number}[] = {{ /* {step['layer']}: {step['kernel']} */"
    line = "   "
    for name, value in step["arguments"].items():
        word = f" /* {name} */ {value},"
        if len(line) + len(word) > 118:
            yield line
            line = "   "
        line += word
    yield line
    yield "};"


def _entry(item: Built) -> Iterator[str]:
    suffix, program = item.level.suffix, item.program
    functions = (function.name for function in SCHEDULING)
    yield f"    {{{_literal(item.level.cpu)}, {{{', '.join(f'{word:#x}' for word in item.level.needs)}}},"
    yield f"     steps_{suffix}, {len(program['steps'])}, {item.weights_at}, {item.weights_bytes},"
    yield f"     {_bytes(program['state_units'])}, {_bytes(program['scratch_units'])}, {program['output_at']},"
    yield f"     {', '.join(f'bitvit_{name}_{suffix}' for name in functions)}}},"


def _bytes(units: int) -> int:
    """Of an arena, whole cache lines."""
    return 4 * -(-units // ALIGN) * ALIGN


_PLAIN = frozenset(b" !#$%&'()*+,-./:;<=>@[]^_`{|}~")


def _literal(text: str) -> str:
    """A C string of UTF-8; all but letters, digits and a few signs as octal numbers."""
    return '"' + "".join(map(_character, text.encode())) + '"'


def _character(byte: int) -> str:
    letter = chr(byte)
    return letter if byte in _PLAIN or (letter.isascii() and letter.isalnum()) else f"\\{byte:03o}"
