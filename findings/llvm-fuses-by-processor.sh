#!/usr/bin/env bash
# On 64-bit ARM, LLVM's highest code generation level decides by the processor's name whether a product and a sum are
# rounded once or twice.
#
# Every such processor has `fmla`, and `contract` on both operations allows it. So one expects that code from the same
# LLVM IR rounds alike whichever processor it is tuned for, as it does at levels 1 and 2, which fuse wherever they may.
# At level 3 (a JIT's usual choice) fusing is left to a later pass, which asks the model of the processor whether it is
# quicker: for x*y + c and x*y + p/q on vectors of four floats, Apple's cores get fmul and fadd and most others fmla;
# a Cortex-A53 differs from both. For x = y = 1 + 2^-12, x*y - 1 is 2^-11 + 2^-24 if fused, and 2^-11 if not. Who tunes
# for the machine at hand has answers that depend on the machine.
#
# Run by hand, with a package index at hand; nothing is executed for ARM, so any processor will do. Exit code 0: as told
# above, with the version below.
set -euo pipefail

LLVMLITE=0.50.0
PYTHON=${PYTHON:-python3}

place=$(mktemp --directory)
trap 'rm -rf "$place"' EXIT
cd "$place"

"$PYTHON" -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check "llvmlite==$LLVMLITE"

cat >fuse.py <<'END'
import re

import llvmlite
import llvmlite.binding as llvm

VECTOR = "<4 x float>"
ONE = f"<{', '.join(['float -1.0'] * 4)}>"
CODE = f"""
define {VECTOR} @quotient({VECTOR} %x, {VECTOR} %y, {VECTOR} %p, {VECTOR} %q) {{
  %late = fdiv {VECTOR} %p, %q
  %product = fmul contract {VECTOR} %x, %y
  %sum = fadd contract {VECTOR} %product, %late
  ret {VECTOR} %sum
}}
define {VECTOR} @constant({VECTOR} %x, {VECTOR} %y) {{
  %product = fmul contract {VECTOR} %x, %y
  %sum = fadd contract {VECTOR} %product, {ONE}
  ret {VECTOR} %sum
}}
"""
TRIPLE = "aarch64-unknown-linux-gnu"

llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()


def roundings(processor, level):
    """Of each function: 1 if it has an fmla, 2 if it has an fmul and an fadd."""
    machine = llvm.Target.from_triple(TRIPLE).create_target_machine(cpu=processor, opt=level)
    assembly = machine.emit_assembly(llvm.parse_assembly(CODE))
    bodies = re.split(r"\n(?=quotient:|constant:)", assembly)[1:]
    assert len(bodies) == 2
    return tuple(1 if "fmla" in body else 2 for body in bodies)


print("llvmlite", llvmlite.__version__, "LLVM", ".".join(map(str, llvm.llvm_version_info)))
print("roundings of x*y + p/q and of x*y - 1")
expected = {"cortex-a53": (2, 1), "cortex-a76": (1, 1), "neoverse-v1": (1, 1), "apple-m1": (2, 2)}
seen = {}
for processor in expected:
    found = {level: roundings(processor, level) for level in (1, 2, 3)}
    print(f"  {processor:12}", *(f"level {level}: {pair[0]}, {pair[1]}  " for level, pair in found.items()))
    assert found[1] == found[2] == (1, 1), "levels 1 and 2 no longer fuse all"
    seen[processor] = found[3]
assert seen == expected, "level 3 decides otherwise now"
END
environment/bin/python fuse.py
