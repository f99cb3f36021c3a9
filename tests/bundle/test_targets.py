"""Which processors there are, what they have, and how a program looks for it."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from bitvit.bundle.processes import Process
from bitvit.bundle.targets import DEFAULT_CPUS, Level, architecture_of, describe, levels_of
from bitvit.errors import BitvitError

X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
CPUS = {
    X86: ("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", "znver4", "no such"),
    ARM: ("generic", "cortex-a76", "neoverse-v1", "neoverse-n2"),
}


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    """By target: what LLVM knows."""
    functions = (describe.__module__, describe.__name__)
    with Process(functions, (X86, CPUS[X86])) as x86, Process(functions, (ARM, CPUS[ARM])) as arm:
        return {X86: json.loads(x86.result()), ARM: json.loads(arm.result())}


def level(described: dict[str, Any], triple: str, cpu: str) -> Level:
    (found,) = levels_of(triple, [cpu], described[triple])
    return found


def test_features_of_x86(described: dict[str, Any]) -> None:
    """The psABI says which."""
    second = {"sse3", "ssse3", "sse4.1", "sse4.2", "popcnt"}
    third = second | {"avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"}
    fourth = third | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
    for cpu, expected in zip(DEFAULT_CPUS["x86_64"], (second, third, fourth), strict=True):
        assert set(level(described, X86, cpu).features) == expected
    assert {"avx512vpopcntdq", "avx512bitalg", "gfni"} <= set(level(described, X86, "znver4").features)


def test_features_of_arm(described: dict[str, Any]) -> None:
    """Arm's manuals say which."""
    assert level(described, ARM, "generic").features == ()
    assert set(level(described, ARM, "cortex-a76").features) == {"dotprod", "fullfp16", "lse", "rcpc", "rdm"}
    assert "sve" in level(described, ARM, "neoverse-v1").features
    assert {"sve", "sve2", "i8mm"} <= set(level(described, ARM, "neoverse-n2").features)


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ((), (0, 0, 0, 0)),
        (("sse3", "popcnt"), (1 << 0 | 1 << 23, 0, 0, 0)),
        (("avx", "avx2", "lzcnt"), (1 << 28 | 1 << 37, 0, 1 << 37, 0b110)),
        (("avx512f", "avx512vpopcntdq", "avx512fp16"), (1 << 48, 1 << 14 | 1 << 55, 0, 0b11100110)),
    ],
)
def test_words_are_those_of_cpuid(features: Sequence[str], words: Sequence[int]) -> None:
    """Leaf 1 ecx, 7 ebx; 7 ecx, 7 edx; 7.1 eax, 0x80000001 ecx; XCR0."""
    assert Level("any", tuple(features), architecture_of(X86)).needs == words


def test_words_are_those_of_the_kernel() -> None:
    """HWCAP_ATOMICS, HWCAP_ASIMDDP; HWCAP2_SVE2, HWCAP2_I8MM."""
    found = Level("any", ("lse", "dotprod", "sve2", "i8mm"), architecture_of(ARM))
    assert found.needs == (1 << 8 | 1 << 20, 1 << 1 | 1 << 13, 0, 0)


def test_the_most_demanding_comes_first(described: dict[str, Any]) -> None:
    asked = ["x86-64-v2", "znver4", "x86-64-v3"]
    assert [found.cpu for found in levels_of(X86, asked, described[X86])] == ["znver4", "x86-64-v3", "x86-64-v2"]


def test_names_for_c_and_for_llvm() -> None:
    found = Level("x86-64-v2", ("sse3",), architecture_of(X86))
    assert found.suffix == "x86_64_v2"
    assert "+sse3" in found.flags.split(",")
    assert "-avx512f" in found.flags.split(",")


@pytest.mark.parametrize(
    ("cpus", "message"),
    [
        (["x86-64"], "'x86-64': lacks sse4.1, without which .* name a later processor, such as x86-64-v2"),
        (["no such"], "'no such': LLVM knows no such processor of x86_64-unknown-linux-gnu; there are, for example, "),
        (["x86-64-v2"] * 2, "2 processors, but two of them are the same: x86-64-v2, x86-64-v2"),
    ],
)
def test_processors_that_are_refused(cpus: list[str], message: str, described: dict[str, Any]) -> None:
    with pytest.raises(BitvitError, match=message):
        levels_of(X86, cpus, described[X86])


def test_a_feature_that_cannot_be_looked_for_is_refused() -> None:
    made_up = {"known": ["new"], "cpus": {"new": ["new", ["sse4.1", "avx10.1"]]}}
    with pytest.raises(BitvitError, match=r"has avx10.1, which a bundle cannot check when it is loaded"):
        levels_of(X86, ["new"], made_up)


@pytest.mark.parametrize(
    ("triple", "message"),
    [
        ("vax-dec-ultrix", "'vax-dec-ultrix': LLVM does not know it"),
        ("x86_64-pc-windows-msvc", "bundles are made for 64-bit Linux on x86-64 and ARM"),
        ("riscv64-unknown-linux-gnu", "bundles are made for 64-bit Linux on x86-64 and ARM"),
    ],
)
def test_targets_that_are_refused(triple: str, message: str) -> None:
    with pytest.raises(BitvitError, match=message):
        architecture_of(triple)
