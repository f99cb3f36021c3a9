"""Who runs which piece: atomics, and the nogil functions that a team's members run.

`table` is int64 [steps][address of the step function, address of its arguments, pieces]; arenas are addresses. Shared
counters are int64 cells a cache line apart:

    cell 0  gate: bit 0 is open, the rest counts the helpers inside (in twos)
    cell 1  pieces done (one image by all) or images claimed (whole images by each)
    cell 2  1 once the leader has waited too long for a helper's piece: its core has other work
    cell 3… pieces claimed of step 0, 1, …

`runtime` compiles the functions without a leading underscore.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from bitvit.kernels.simd import I8, I32, I64, floats_at_address
from bitvit.kernels.step import inline

LINE = 8  # int64 cells of a cache line
SPINS = 2000  # polls before a waiting thread offers its core to others
STALL = 8000  # polls, some 0.2 ms, before the leader does without its helpers; a piece takes about 0.02 ms
GATE, DONE, STALLED, CLAIMS = 0, 1, 2, 3
OPEN, INSIDE = 1, 2


def _cell(context: Any, builder: Any, array_type: Any, array: Any, line: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [builder.mul(line, ir.Constant(I64, LINE))])


@intrinsic
def atomic_add(typingctx, cells, line, value):
    """Add to a counter; returns what it was before."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("add", _cell(context, builder, sig.args[0], args[0], args[1]), args[2], "acq_rel")

    return types.int64(cells, types.intp, types.int64), codegen


@intrinsic
def atomic_load(typingctx, cells, line):
    """Read a counter; what its writers wrote before is visible."""

    def codegen(context, builder, sig, args):
        return builder.load_atomic(_cell(context, builder, sig.args[0], *args), "acquire", 8)

    return types.int64(cells, types.intp), codegen


@intrinsic
def atomic_store(typingctx, cells, line, value):
    """Write a counter; what was written before is visible to its readers."""

    def codegen(context, builder, sig, args):
        builder.store_atomic(args[2], _cell(context, builder, sig.args[0], args[0], args[1]), "release", 8)
        return context.get_dummy_value()

    return types.void(cells, types.intp, types.int64), codegen


@intrinsic
def pause(typingctx):
    """Tell the core that this is a spin loop, where the target has an intrinsic for it."""

    def codegen(context, builder, sig, args):
        triple = builder.module.triple
        if triple.startswith(("x86_64", "i686")):
            name, arguments = "llvm.x86.sse2.pause", []
        elif triple.startswith(("aarch64", "arm64")):
            name, arguments = "llvm.aarch64.hint", [ir.Constant(I32, 1)]  # yield
        else:
            return context.get_dummy_value()
        fn = ir.FunctionType(ir.VoidType(), [a.type for a in arguments])
        builder.call(cgutils.get_or_insert_function(builder.module, fn, name), arguments)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def offer_core(typingctx):
    """sched_yield(), where the platform has it."""

    def codegen(context, builder, sig, args):
        if "windows" not in builder.module.triple:
            fn = cgutils.get_or_insert_function(builder.module, ir.FunctionType(I32, []), "sched_yield")
            builder.call(fn, [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def call_step(typingctx, function, piece, arguments, const, state, scratch):
    """Call a step function by its address; the last four are addresses too."""

    def codegen(context, builder, sig, args):
        pointer = I8.as_pointer()
        fn = ir.FunctionType(ir.VoidType(), [I64] + [pointer] * 4)
        pointers = [builder.inttoptr(a, pointer) for a in args[2:]]
        builder.call(builder.inttoptr(args[0], fn.as_pointer()), [args[1], *pointers])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), codegen


@intrinsic
def store_at_address(typingctx, address, value):
    """Write an int64 at a memory address."""

    def codegen(context, builder, sig, args):
        builder.store(args[1], builder.inttoptr(args[0], I64.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


def run_steps(table, const, state, scratch):
    """All pieces of all steps by one thread."""
    for s in range(table.shape[0]):
        for piece in range(table[s, 2]):
            call_step(table[s, 0], piece, table[s, 1], const, state, scratch)


_run_alone = inline(run_steps)


@inline
def _run_image(table, const, state, scratch, cells, leads):
    """One member's share of one image: claim pieces of a step until none is left, wait until all are done, go on.

    A helper whose core has other work would hold every step up for a time slice. So when the leader has waited for one
    that long, helpers claim no more pieces of this image.
    """
    total = np.int64(0)
    for s in range(table.shape[0]):
        pieces = table[s, 2]
        while True:
            if not leads and atomic_load(cells, STALLED):
                return
            piece = atomic_add(cells, CLAIMS + s, 1)
            if piece >= pieces:
                break
            call_step(table[s, 0], piece, table[s, 1], const, state, scratch)
            atomic_add(cells, DONE, 1)
        total += pieces
        spins = 0
        while atomic_load(cells, DONE) < total:
            pause()
            spins += 1
            if spins > SPINS:
                offer_core()
            if spins == STALL and leads:
                atomic_store(cells, STALLED, 1)


@inline
def _run_batch(table, const, state, scratch, cells, job):
    """Whole images, claimed one by one.

    job: int64 (image address, bytes an image, images, output offset in state, output address, floats an output).
    """
    while True:
        i = atomic_add(cells, DONE, 1)
        if i >= job[2]:
            return
        store_at_address(state, job[0] + i * job[1])
        _run_alone(table, const, state, scratch)
        result = floats_at_address(state + 4 * job[3])
        out = floats_at_address(job[4] + 4 * i * job[5])
        for k in range(job[5]):
            out[k] = result[k]


@inline
def _close(cells):
    """Close the gate and wait for the helpers inside, who have no more work to claim."""
    atomic_add(cells, GATE, -OPEN)
    spins = 0
    while atomic_load(cells, GATE) != 0:
        pause()
        spins += 1
        if spins > SPINS:
            offer_core()


def lead_image(table, const, state, scratch, cells):
    """The caller's part of an image that the team shares; its address is in the state already.

    Returns whether it had to wait too long for a helper.
    """
    for line in range(DONE, CLAIMS + table.shape[0]):
        atomic_store(cells, line, 0)
    atomic_add(cells, GATE, OPEN)
    _run_image(table, const, state, scratch, cells, True)
    _close(cells)
    return atomic_load(cells, STALLED)


def help_image(table, const, state, scratch, cells):
    """A helper's part of an image, if the gate is still open."""
    if atomic_add(cells, GATE, INSIDE) & OPEN:
        _run_image(table, const, state, scratch, cells, False)
    atomic_add(cells, GATE, -INSIDE)


def lead_batch(table, const, state, scratch, cells, job):
    """The caller's part of a batch; with no helpers, all of it."""
    atomic_store(cells, DONE, 0)
    atomic_add(cells, GATE, OPEN)
    _run_batch(table, const, state, scratch, cells, job)
    _close(cells)


def help_batch(table, const, state, scratch, cells, job):
    """A helper's part of a batch, if the gate is still open."""
    if atomic_add(cells, GATE, INSIDE) & OPEN:
        _run_batch(table, const, state, scratch, cells, job)
    atomic_add(cells, GATE, -INSIDE)
