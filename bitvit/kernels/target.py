"""The processor that kernels are compiled for: this one, or what NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say.

A process that writes code for another machine has BITVIT_TARGET set, to "TRIPLE CPU FEATURES"; it runs no kernels.
"""

import os

from bitvit.llvm import llvm

ELSEWHERE = "BITVIT_TARGET"  # environment variable


def _host() -> tuple[str, str, str]:
    cpu = os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES", "" if cpu == "generic" else None)
    try:
        features = llvm.get_host_cpu_features().flatten() if features is None else features
    except RuntimeError:  # LLVM does not know how to ask this processor
        features = ""
    return llvm.get_process_triple(), cpu, features


def _target() -> tuple[str, str, str]:
    triple, _, processor = os.environ.get(ELSEWHERE, "").partition(" ")
    cpu, _, features = processor.partition(" ")
    return (triple, cpu, features) if cpu else _host()


TRIPLE, CPU, FEATURES = _target()  # of the features: "+avx2,-fma,…"
_FEATURES = frozenset(FEATURES.split(","))


def target_has(feature: str) -> bool:
    """Whether the processor has a feature, as LLVM names it."""
    return f"+{feature}" in _FEATURES


LANES = 16 if target_has("avx512f") else 8  # 32-bit lanes of one vector: at most two registers of any target
MANY_REGISTERS = target_has("avx512f")
LOOKUP = target_has("avx2") and not target_has("avx512f")  # binary products by tables, see kernels/lookup.py
OUTPUTS = 32 if LOOKUP else LANES  # of a panel of binary weights
TILE_ROWS = 7  # rows of a register tile; divides 49, 196, 784 and 3136, the token counts of a 224-pixel image
TAIL_ROWS = 2  # rows of the tiles behind the last whole one: a float product's four accumulators hide an fma's latency
