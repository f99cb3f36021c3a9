"""Processors that a bundle can have kernels for: which of LLVM's features they have, and how a program finds them.

LLVM knows what each processor has, but llvmlite has no way to ask. Its inliner tells: it inlines a function into
another only if that one's processor has all features of the first one's. So a function for the processor is called by
one for the same processor without a feature: if the call stays, the processor has the feature.
"""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bitvit.errors import BitvitError
from bitvit.llvm import llvm
from bitvit.messages import plural, shown

__all__ = [
    "DEFAULT_CPUS",
    "WASM",
    "Architecture",
    "Level",
    "architecture_of",
    "default_target",
    "describe",
    "levels_of",
]

_OS = "linux"  # where these libraries are built, and their features found


@dataclass(frozen=True)
class Architecture:
    """What the bits of `bitvit_program.needs` mean, in the order in which find_features of c/bitvit_model.c has them.

    places: by feature of LLVM that may show in kernels, number of the bit, 64 to a word.
    saved: by feature, bits of a last word, which say that the system saves its registers.
    unchecked: features that a program cannot look for, so that a processor with one of them is refused.
    least: features without which kernels would call the library of mathematical functions.
    machine: as platform.machine() calls it.
    team: whether several threads may compute an image together.
    """

    machine: str
    places: Mapping[str, int]
    saved: Mapping[str, int]
    unchecked: tuple[str, ...]
    least: tuple[str, ...] = ()
    team: bool = True


def _from(start: int, **bits: int) -> dict[str, int]:
    """Features by their bits of a word that begins at `start`."""
    return {name.replace("__", "-").replace("_", "."): start + bit for name, bit in bits.items()}


_AVX = 0x6  # of XCR0: registers of SSE and AVX
_AVX512 = 0xE6

_X86 = Architecture(
    "x86_64",
    {
        # cpuid 1 ecx, 7 ebx
        **_from(0, sse3=0, ssse3=9, fma=12, sse4_1=19, sse4_2=20, movbe=22, popcnt=23, avx=28, f16c=29),
        **_from(32, bmi=3, avx2=5, bmi2=8, avx512f=16, avx512dq=17, avx512ifma=21, avx512cd=28, avx512bw=30),
        **_from(32, avx512vl=31),
        # 7 ecx, 7 edx
        **_from(64, avx512vbmi=1, avx512vbmi2=6, gfni=8, vpclmulqdq=10, avx512vnni=11, avx512bitalg=12),
        **_from(64, avx512vpopcntdq=14),
        **_from(96, avx512fp16=23),
        # 7.1 eax, 0x80000001 ecx
        **_from(128, avxvnni=4, avx512bf16=5, avxifma=23),
        **_from(160, lzcnt=5, xop=11, fma4=16, tbm=21),
    },
    {"avx": _AVX, "avx512f": _AVX512},
    ("avx10.1", "avx10.2", "egpr", "ndd", "avxneconvert", "avxvnniint8", "avxvnniint16"),
    ("sse4.1",),
)

_ARM = Architecture(
    "aarch64",
    {
        # AT_HWCAP, AT_HWCAP2
        **_from(0, lse=8, fullfp16=10, rdm=12, jsconv=13, complxnum=14, rcpc=15, sha3=17, dotprod=20, sve=22),
        **_from(0, fp16fml=23, lse2=25, rcpc__immo=26, flagm=27, sb=29),
        **_from(64, sve2=1, altnzcv=7, fptoint=8, i8mm=13, bf16=14, cssc=34, sve2p1=36, mops=43, rcpc3=46, lse128=47),
    },
    {},
    ("lut", "faminmax", "fp8", "cpa"),
)

WASM = Architecture("wasm32", {"simd128": 0}, {}, (), team=False)

_ARCHITECTURES = {"x86_64": _X86, "aarch64": _ARM}

DEFAULT_CPUS = {"x86_64": ("x86-64-v2", "x86-64-v3", "x86-64-v4"), "aarch64": ("generic", "cortex-a76")}


@dataclass(frozen=True)
class Level:
    """Kernels for one kind of processor."""

    cpu: str
    """LLVM's name."""
    features: tuple[str, ...]
    """That a processor must have, of those in Architecture.places."""
    architecture: Architecture

    @property
    def suffix(self) -> str:
        """The name as a part of C names."""
        return "".join(letter if letter.isalnum() else "_" for letter in self.cpu)

    @property
    def flags(self) -> str:
        """The features as LLVM takes them, with those that the processor is not to have."""
        return ",".join(f"{'+' if name in self.features else '-'}{name}" for name in self.architecture.places)

    @property
    def needs(self) -> tuple[int, ...]:
        """The words of `bitvit_program.needs`."""
        words = [0, 0, 0, 0]
        for name in self.features:
            place = self.architecture.places[name]
            words[place // 64] |= 1 << place % 64
            words[3] |= self.architecture.saved.get(name, 0)
        return tuple(words)


def default_target() -> str:
    """This machine's."""
    triple: str = llvm.get_process_triple()
    return triple


def architecture_of(triple: str) -> Architecture:
    """Raises BitvitError for a target that there are no bundles for."""
    llvm.initialize_all_targets()
    try:
        llvm.Target.from_triple(triple)
    except RuntimeError as problem:
        raise BitvitError(
            f"--target {shown(triple)}: LLVM does not know it ({problem}); expected x86_64-unknown-linux-gnu, "
            "aarch64-unknown-linux-gnu or wasm32"
        ) from None
    name = triple.split("-", maxsplit=1)[0]
    if name not in _ARCHITECTURES or _OS not in triple:
        raise BitvitError(
            f"--target {shown(triple)}: bundles are made for 64-bit Linux on x86-64 and ARM, and for WebAssembly; "
            "expected x86_64-unknown-linux-gnu or aarch64-unknown-linux-gnu, or -musl for -gnu, or wasm32"
        )
    return _ARCHITECTURES[name]


def levels_of(triple: str, cpus: Sequence[str], described: Mapping[str, Any]) -> list[Level]:
    """The levels for processors of a target, the most demanding first. described: what `describe` has printed.

    Raises BitvitError for a processor that LLVM does not know, or that is named twice, and for one whose features a
    program cannot check.
    """
    architecture = architecture_of(triple)
    found = []
    for asked in cpus:
        cpu, features = described["cpus"].get(asked, (asked, None))
        if features is None:
            import difflib

            similar = difflib.get_close_matches(asked, described["known"], 5, 0.5) or described["known"][:5]
            raise BitvitError(
                f"--cpu {shown(asked)}: LLVM knows no such processor of {triple}; there are, for example, "
                f"{', '.join(similar)}"
            )
        unchecked = sorted(set(features) & set(architecture.unchecked))
        if unchecked:
            raise BitvitError(
                f"--cpu {shown(asked)}: has {', '.join(unchecked)}, which a bundle cannot check when it is loaded; "
                "name an older processor"
            )
        if lacking := [name for name in architecture.least if name not in features]:
            raise BitvitError(
                f"--cpu {shown(asked)}: lacks {', '.join(lacking)}, without which a bundle would not do with the C "
                f"library alone; name a later processor, such as {DEFAULT_CPUS[architecture.machine][0]}"
            )
        found.append(Level(cpu, tuple(name for name in architecture.places if name in features), architecture))
    names = [level.cpu for level in found]
    if len(set(names)) < len(names):
        raise BitvitError(f"--cpu: {plural(len(names), 'processor')}, but two of them are the same: {', '.join(names)}")
    return sorted(found, key=lambda level: (-len(level.features), level.cpu))


# ------------------------------------------------------------------------------------------ in a process of its own
def describe(triple: str, cpus: Sequence[str]) -> None:
    """Print, as JSON, {"known": names, "cpus": {asked: [name, features]}}; processors that are not known are left out.

    LLVM says on stderr which it knows, and prints there what it makes of a wrong one: so not in the user's process.
    """
    llvm.initialize_all_targets()
    target = llvm.Target.from_triple(triple)
    with _captured() as lines:
        target.create_target_machine(cpu="help")
    known = [line.split()[0] for line in lines if line.endswith(" processor.")]
    features = [*architecture_of(triple).places, *architecture_of(triple).unchecked]
    found = {}
    for asked in cpus:
        cpu, flags = asked, ""
        if asked == "native":
            cpu, flags = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
        if cpu in known:
            found[asked] = cpu, _present(target, triple, cpu, flags, features)
    json.dump({"known": known, "cpus": found}, sys.stdout)


def _present(target: Any, triple: str, cpu: str, flags: str, features: Sequence[str]) -> list[str]:
    """Those of the features that a processor has."""
    attributes = f'"target-cpu"="{cpu}" "target-features"="{flags}'
    lines = [
        f'target triple = "{triple}"',
        f'define internal i64 @all(i64 %x) {attributes}" {{\n %y = mul i64 %x, 3\n ret i64 %y\n}}',
    ]
    for number, name in enumerate(features):
        less = f'{attributes}{"," if flags else ""}-{name}"'
        lines.append(f"define i64 @less{number}(i64 %x) {less} {{\n %y = call i64 @all(i64 %x)\n ret i64 %y\n}}")
    module = llvm.parse_assembly("\n".join(lines))
    machine = target.create_target_machine(cpu=cpu, features=flags)
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    builder.getModulePassManager().run(module, builder)
    return [name for number, name in enumerate(features) if "@all(" in str(module.get_function(f"less{number}"))]


@contextlib.contextmanager
def _captured() -> Iterator[list[str]]:
    """The lines that C code writes to stderr in this context; there once it has ended."""
    lines: list[str] = []
    with tempfile.TemporaryFile("w+") as file:
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(before, 2)
            os.close(before)
        file.seek(0)
        lines += file.read().splitlines()
