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


ARM = TRIPLE.startswith(("aarch64", "arm64"))
WASM = TRIPLE.startswith("wasm")


def _counts_by_dot_products() -> bool:
    """Whether 64-bit ARM sums the bytes' counts of a lane by `udot`, so that a lane's popcount ends in one addition.

    LLVM knows that of a processor by its name; its list of features of the one that it runs on leaves it out.
    """
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    words = "<4 x i32>"
    code = f"define {words} @f({words} %x) {{\n%y = call {words} @llvm.ctpop.v4i32({words} %x)\nret {words} %y\n}}\n"
    module = llvm.parse_assembly(f"{code}declare {words} @llvm.ctpop.v4i32({words})")
    machine = llvm.Target.from_triple(TRIPLE).create_target_machine(cpu=CPU, features=FEATURES)
    return "udot" in machine.emit_assembly(module)


LANES = 16 if target_has("avx512f") else 8  # 32-bit lanes of one vector: at most two registers of any target
LOOKUP = target_has("avx2") and not target_has("avx512f")  # binary products by tables, see kernels/lookup.py
OUTPUTS = 32 if LOOKUP else LANES  # of a panel of binary weights
TILE_ROWS = 7  # rows of a register tile; divides 49, 196, 784 and 3136, the token counts of a 224-pixel image
TAIL_ROWS = 2  # rows of the tiles behind the last whole one: a float product's four accumulators hide an fma's latency
PAIR_ROWS = 4 if ARM else TILE_ROWS if LANES == 16 else 6  # of a tile two panels wide
DOT_PRODUCTS = ARM and _counts_by_dot_products()
