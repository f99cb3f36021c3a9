"""Who runs which piece: atomics, and the functions that a team's members run.

All arguments are int64, most of them addresses. `table` is `steps` records STEP, `job` a record JOB (catalog.py);
`const`, `state` and `scratch` are the arenas. `cells` are shared counters a cache line apart:

    GATE     bit 0 is open, the rest counts the helpers inside (in twos)
    EPOCH    images begun, when all members share each
    DONE     pieces done (one image by all) or images claimed (whole images by each)
    STALLED  1 once the leader has waited too long for a helper's piece: its core has other work
    CLAIMS…  [step][range] pieces claimed; then for each helper whether it lingers for the next image

Pieces are rows of a map from the top down, so the pieces of a step are split into ranges, and a member takes those of
its own range first: it then finds in its core's cache what it wrote a step before. A line from another core takes
0.05 µs where the two share a cache, and five times that where they do not.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from bitvit.kernels.catalog import CLAIMS, DONE, EPOCH, GATE, IMAGE, INSIDE, JOB, LINE, OPEN, STALLED, STEP
from bitvit.kernels.inline import inline
from bitvit.kernels.simd import I8, I32, I64, floats_at_address, record, words_at_address
from bitvit.kernels.target import TRIPLE

SPINS = 2000  # polls before a waiting thread offers its core to others
STALL = 8000  # polls, some 0.2 ms, before the leader does without its helpers; a piece takes about 0.02 ms
LINGER = 8000  # polls, some 0.2 ms, that a helper waits for the next image before it sleeps: waking it takes 0.05 ms
STEP_BYTES, IMAGE_BYTES = STEP.itemsize, IMAGE.itemsize
ON_X86, ON_ARM = TRIPLE.startswith(("x86_64", "i686")), TRIPLE.startswith(("aarch64", "arm64"))


def _cell(builder: Any, cells: Any, cell: Any) -> Any:
    return builder.gep(builder.inttoptr(cells, I64.as_pointer()), [builder.mul(cell, ir.Constant(I64, LINE))])


@intrinsic
def atomic_add(typingctx, cells, cell, value):
    """Add to a counter; returns what it was before."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("add", _cell(builder, args[0], args[1]), args[2], "seq_cst")

    return types.int64(types.int64, types.int64, types.int64), codegen


@intrinsic
def atomic_load(typingctx, cells, cell):
    """Read a counter; what its writers wrote before is visible.

    seq_cst, since `acquire` may come before an earlier write of another counter: a helper that lingers no more must
    not look for the next image before that can be seen.
    """

    def codegen(context, builder, sig, args):
        return builder.load_atomic(_cell(builder, *args), "seq_cst", 8)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def atomic_store(typingctx, cells, cell, value):
    """Write a counter; what was written before is visible to its readers."""

    def codegen(context, builder, sig, args):
        builder.store_atomic(args[2], _cell(builder, args[0], args[1]), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def pointer(typingctx, address):
    """A memory address as `record` takes it."""

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], I8.as_pointer())

    return types.voidptr(types.int64), codegen


@intrinsic
def pause(typingctx):
    """Tell the core that this is a spin loop, where the target has an intrinsic for it."""

    def codegen(context, builder, sig, args):
        if ON_X86:
            name, arguments = "llvm.x86.sse2.pause", []
        elif ON_ARM:
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
        if "windows" not in TRIPLE:
            fn = cgutils.get_or_insert_function(builder.module, ir.FunctionType(I32, []), "sched_yield")
            builder.call(fn, [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def clock(typingctx):
    """The processor's counter of time, in ticks of a length that does not change; 0 where there is none to be read."""

    def codegen(context, builder, sig, args):
        module = builder.module
        if ON_X86:
            fn = ir.FunctionType(I64, [])
            return builder.call(cgutils.get_or_insert_function(module, fn, "llvm.readcyclecounter"), [])
        if ON_ARM:  # readcyclecounter would read a register closed to programs
            register = module.add_metadata([ir.MetaDataString(module, "cntvct_el0")])
            fn = ir.FunctionType(I64, [ir.MetaDataType()])
            read = cgutils.get_or_insert_function(module, fn, "llvm.read_volatile_register.i64")
            return builder.call(read, [register])
        return ir.Constant(I64, 0)

    return types.int64(), codegen


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


@inline
def _step(table, s):
    """Step s: a record STEP."""
    return record(pointer(table + STEP_BYTES * s), STEP)


@inline
def _run_piece(step, piece, const, state, scratch):
    call_step(step.address, piece, step.arguments, const, state, scratch)


def run_steps(table, steps, const, state, scratch):
    """All pieces of all steps by one thread."""
    for s in range(steps):
        step = _step(table, s)
        for piece in range(step.pieces):
            _run_piece(step, piece, const, state, scratch)


_run_alone = inline(run_steps)


def time_steps(table, steps, const, state, scratch, ticks):
    """`run_steps` with the clock read before the first step and after each: ticks is int64 [steps + 1]."""
    store_at_address(ticks, clock())
    for s in range(steps):
        step = _step(table, s)
        for piece in range(step.pieces):
            _run_piece(step, piece, const, state, scratch)
        store_at_address(ticks + 8 * (s + 1), clock())


@inline
def _claim(cells, s, pieces, ranges, home):
    """A piece of step s that nobody has begun: of range `home`, or else of the next that has one; -1 if none has."""
    for k in range(ranges):
        r = home + k if home + k < ranges else home + k - ranges
        first, end = pieces * r // ranges, pieces * (r + 1) // ranges
        cell = CLAIMS + s * ranges + r
        if first + atomic_load(cells, cell) < end:
            piece = first + atomic_add(cells, cell, 1)
            if piece < end:
                return piece
    return np.int64(-1)


@inline
def _run_image(table, steps, const, state, scratch, cells, ranges, home, leads):
    """One member's share of one image: claim pieces of a step until none is left, wait until all are done, go on.

    A helper whose core has other work would hold every step up for a time slice. So when the leader has waited for one
    that long, helpers claim no more pieces of this image.
    """
    total = np.int64(0)
    for s in range(steps):
        step, done = _step(table, s), np.int64(0)
        pieces = step.pieces
        while leads or atomic_load(cells, STALLED) == 0:
            piece = _claim(cells, s, pieces, ranges, home)
            if piece < 0:
                break
            _run_piece(step, piece, const, state, scratch)
            done += 1
        if done > 0:
            atomic_add(cells, DONE, done)
        if not leads and atomic_load(cells, STALLED):
            return
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
def _run_batch(table, steps, const, state, scratch, cells, job):
    """Whole images, claimed one by one."""
    batch = record(pointer(job), JOB)
    while True:
        i = atomic_add(cells, DONE, 1)
        if i >= batch.count:
            return
        image, own = words_at_address(batch.images + i * IMAGE_BYTES), words_at_address(state)
        for k in range(IMAGE_BYTES // 4):
            own[k] = image[k]
        _run_alone(table, steps, const, state, scratch)
        result, outputs = floats_at_address(state + 4 * batch.output_offset), batch.outputs
        out = floats_at_address(batch.out + 4 * i * outputs)
        for k in range(outputs):
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


def open_image(claims, cells):
    """Begin an image that the team shares; its record is in the state already. Helpers that linger go to work.

    claims: cells of steps and ranges.
    """
    for cell in range(DONE, CLAIMS + claims):
        atomic_store(cells, cell, 0)
    atomic_add(cells, GATE, OPEN)
    atomic_add(cells, EPOCH, 1)


def lead_image(table, steps, const, state, scratch, cells, ranges):
    """The caller's part of an image, from range 0 on; returns whether it had to wait too long for a helper."""
    _run_image(table, steps, const, state, scratch, cells, ranges, np.int64(0), True)
    _close(cells)
    return atomic_load(cells, STALLED)


def help_image(table, steps, const, state, scratch, cells, ranges, home, lingers):
    """A helper's part of an image, if the gate is still open, and of the images that soon follow; `home` is its range.

    `lingers` is its own cell. Either the leader, having begun an image, sees that it is set, or the helper, having
    cleared it, sees that an image has begun: so a helper that is not woken is not asleep.
    """
    while True:
        image = atomic_load(cells, EPOCH)
        if atomic_add(cells, GATE, INSIDE) & OPEN:
            _run_image(table, steps, const, state, scratch, cells, ranges, home, False)
        atomic_add(cells, GATE, -INSIDE)
        atomic_add(cells, lingers, 1)
        spins = 0
        while atomic_load(cells, EPOCH) == image and spins < LINGER:
            pause()
            spins += 1
            if spins > SPINS:
                offer_core()
        atomic_add(cells, lingers, -1)
        if atomic_load(cells, EPOCH) == image:
            return


def lead_batch(table, steps, const, state, scratch, cells, job):
    """The caller's part of a batch; with no helpers, all of it."""
    atomic_store(cells, DONE, 0)
    atomic_add(cells, GATE, OPEN)
    _run_batch(table, steps, const, state, scratch, cells, job)
    _close(cells)


def help_batch(table, steps, const, state, scratch, cells, job):
    """A helper's part of a batch, if the gate is still open."""
    if atomic_add(cells, GATE, INSIDE) & OPEN:
        _run_batch(table, steps, const, state, scratch, cells, job)
    atomic_add(cells, GATE, -INSIDE)
