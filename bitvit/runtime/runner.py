"""Running a program: a team of threads, images one by one or in batches.

A team is the caller and helper threads that run the same C function (kernels/schedule.py), for which ctypes lets go of
Python's lock. No Numba threading layer is involved, so two callers, a fork or a nested pool can neither abort nor
deadlock it: a caller that finds the team busy works alone, a forked child starts helpers of its own. A helper that
wakes up late finds the gate closed and goes back to sleep; nobody waits for it. Results do not depend on who computed
what: every element is summed in one fixed order.

An exception may come between any two lines, as Ctrl-C does in an interactive session. A call that it ends may leave the
gate open and helpers inside, who read the caller's pixels; so whoever opens the gate sees to it that it is closed.
"""

import contextlib
import ctypes
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

import numpy as np
from numpy.typing import NDArray

from bitvit.jit import loader
from bitvit.kernels import catalog
from bitvit.program import ADDRESS_CELL, Program, aligned_zeros
from bitvit.system import available_threads

CFunction = Callable[..., int | None]  # of ctypes


class Call:
    """A call of a C function. Arrays are passed by address, and live as long as the call may be made."""

    def __init__(self, function: CFunction, *arguments: int | NDArray[Any]) -> None:
        self._function, self._arrays = function, arguments
        self._arguments = [a if isinstance(a, int) else a.ctypes.data for a in arguments]

    def __call__(self) -> int | None:
        return self._function(*self._arguments)


# ------------------------------------------------------------------------------------------------------ threads
def _current_cpu() -> Callable[[], int] | None:
    """sched_getcpu of the C library, where it and thread affinity exist."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    try:
        return ctypes.CDLL(None).sched_getcpu
    except (OSError, AttributeError):
        return None


def _interruptions() -> int:
    """How often this thread was taken off its core for the sake of others, where the platform tells."""
    if resource is None or not hasattr(resource, "RUSAGE_THREAD"):
        return 0
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


class Workspace:
    """Arenas of one thread that computes images alone or leads a team."""

    def __init__(self, program: Program) -> None:
        self.state = aligned_zeros(program.state_size)
        self.scratch = aligned_zeros(program.scratch_size)

    def set_image(self, image: NDArray[np.float32]) -> None:
        """Where the stem reads its pixels: float32 [3, S, S], C-contiguous; must outlive the run."""
        address = np.array([image.ctypes.data], np.uint64).view(np.uint32)
        self.state[ADDRESS_CELL : ADDRESS_CELL + 2] = address

    def clear(self) -> None:
        """Forget NaN or infinity that an image left behind in pad lanes."""
        self.state[:] = 0
        self.scratch[:] = 0


class _Helper:
    """A daemon thread that waits for a job and then plays its part in it."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._idle = True
        self._cpus: set[int] | None = None
        self._thread = threading.Thread(target=self._serve, name="bitvit", daemon=True)
        self._thread.start()

    def place(self, cpus: set[int] | None) -> None:
        """Let it run on these CPUs alone; None where that cannot be said."""
        if cpus is not None and cpus != self._cpus and self._thread.native_id is not None:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(self._thread.native_id, cpus)
                self._cpus = cpus

    def post(self, call: Call) -> None:
        """Hand over a job, unless the helper has not even woken up for the last one."""
        if self._idle:
            try:
                self._idle = False
                self._jobs.put(call)
            except BaseException:
                self._idle = True  # perhaps it has no job to become idle after
                raise

    def _serve(self) -> None:
        while True:
            call = self._jobs.get()
            self._idle = True
            call()
            del call  # the arenas of a model that is no longer used


MOST_REST = 64  # calls


class Turn:
    """Leading a team, for as long as it lives: an exception that ends its call ends it too."""

    _token: object = None

    def __init__(self, free: list[object]) -> None:
        self._free = free
        self._token = free.pop()

    def __del__(self) -> None:
        if self._token is not None:
            self._free.append(self._token)


class Team:
    """Helpers for one caller at a time.

    A team pays only if every member has a core. In a crowded call one had not: the leader waited for a helper or was
    itself interrupted, and it took longer than an image computed alone. After two in a row the next calls do without
    helpers: 2, then 4, up to MOST_REST while it goes on. They also tell how long an image takes alone.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._current_cpu = _current_cpu()
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._free: list[object] = ["the lead"]  # empty while somebody has it
        self._helpers: list[_Helper] = []
        self._narrowed: tuple[int, set[int]] | None = None  # a leader's thread, and its CPUs before
        self._crowded = self._resting = 0
        self._alone = 0.0  # seconds of an image without helpers, as far as it is known

    def take_turn(self) -> Turn | None:
        """The lead; None if another thread has it: the caller had better work alone."""
        if self._pid != os.getpid():  # forked: the helpers stayed behind, and another thread may lead for ever
            self._start()
        try:
            return Turn(self._free)
        except IndexError:
            return None

    def rests(self) -> bool:
        """Whether the leader had better work alone, and `note_alone` how long it took."""
        rests = self._resting > 0
        if rests:
            self._resting -= 1
        return rests

    def note_alone(self, seconds: float) -> None:
        """How long an image took without helpers."""
        self._alone = seconds

    def run(self, calls: list[Call], lingering: NDArray[np.int64] | None = None) -> None:
        """Make the first call here and each of the others on a helper.

        The first returns whether it waited too long for a helper, or None where nobody waits for pieces of others.
        lingering: for each helper, not 0 if its last such call has not ended and takes part by itself.

        Linux often wakes a helper on the very CPU that its caller keeps busy, so for the time of the run the caller
        stays where it is and the helpers go elsewhere.
        """
        self._widen()
        here, others = self._split_cpus()
        lead = calls[0]
        while len(self._helpers) < len(calls) - 1:
            self._helpers.append(_Helper())
        for i, (helper, call) in enumerate(zip(self._helpers, calls[1:], strict=False)):
            helper.place(others)
            if lingering is None or not lingering[i]:
                helper.post(call)
        start, interruptions = time.perf_counter(), _interruptions()
        if here is None:
            stalled = lead()
        else:
            try:
                self._narrowed = threading.get_native_id(), os.sched_getaffinity(0)
                os.sched_setaffinity(0, here)
                stalled = lead()
            finally:
                self._widen()
        if stalled is not None:
            slow = time.perf_counter() - start > self._alone
            self._plan_rest(slow and (bool(stalled) or _interruptions() > interruptions))

    def _widen(self) -> None:
        """Let a leader run again where it could before its call, perhaps one that an exception kept from doing so."""
        if self._narrowed is not None:
            thread, cpus = self._narrowed
            with contextlib.suppress(OSError):  # it has ended
                os.sched_setaffinity(thread, cpus)
            self._narrowed = None

    def _plan_rest(self, crowded: bool) -> None:
        self._crowded = self._crowded + 1 if crowded else 0
        self._resting = min(MOST_REST, 1 << (self._crowded - 1)) if self._crowded > 1 else 0

    def _split_cpus(self) -> tuple[set[int] | None, set[int] | None]:
        if self._current_cpu is None:
            return None, None
        allowed, here = os.sched_getaffinity(0), self._current_cpu()
        others = allowed - {here}
        return ({here}, others) if others and here in allowed else (None, None)


def _new_cells(lines: int) -> NDArray[np.int64]:
    """Counters for the functions of kernels/schedule.py, all 0."""
    return aligned_zeros(2 * lines * catalog.LINE).view(np.int64)


_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_int64, *[ctypes.c_void_p] * 4)


def c_function(function: catalog.Scheduling) -> CFunction:
    """A scheduling or measuring function, to be called with addresses and counts."""
    arguments = [ctypes.c_int64] * function.arguments
    return ctypes.CFUNCTYPE(ctypes.c_int64 if function.returns else None, *arguments)(*loader.addresses([function]))


class _Image(NamedTuple):
    """What a team's members call for an image that they share; the gate is shut between images."""

    open: Call
    calls: list[Call]  # the leader's first
    lingering: NDArray[np.int64]  # one a helper
    gate: NDArray[np.int64]  # its cell

    def is_open(self) -> bool:
        return bool(self.gate[0] & catalog.OPEN)


class Runner:
    """Runs one program on images, from any number of Python threads at once."""

    def __init__(self, program: Program, threads: int | None) -> None:
        self.program = program
        self.threads = max(1, min(threads or available_threads(), available_threads()))
        self._arguments = [np.array([step.arguments]) for step in program.steps]
        kernels = [step.kernel for step in program.steps]
        addresses = loader.addresses([*kernels, *catalog.SCHEDULING])
        self._table = np.array(
            [
                (address, record.ctypes.data, step.pieces)
                for address, record, step in zip(addresses, self._arguments, program.steps, strict=False)
            ],
            np.int64,
        )
        self._run_steps, self._open_image, self._lead_image, self._help_image, self._lead_batch, self._help_batch = map(
            c_function, catalog.SCHEDULING
        )
        self._team = Team(self.threads)
        self._image: _Image | None = None  # made when first needed
        self._pid = os.getpid()
        self._shared = [Workspace(program)]  # the leader's, then one a helper, made when first needed
        self._clean = True  # no call was ended by an exception
        self._pixels: NDArray[np.float32] | None = None  # what helpers read while the gate is open
        self._spare: list[tuple[Workspace, NDArray[np.int64], Call]] = []  # of callers who work alone, and their job

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """images: float32 [B, 3, S, S], C-contiguous; returns float32 [B, outputs]."""
        out = np.empty((len(images), self.program.outputs), np.float32)
        if self.threads == 1:
            self._alone(images, out)
            return out
        turn = self._team.take_turn()
        try:
            if turn is None:
                self._alone(images, out)
            elif self._team.rests():
                start = time.perf_counter()
                self._alone(images, out)
                self._team.note_alone((time.perf_counter() - start) / max(1, len(images)))
            else:
                self._together(images, out)
        finally:
            del turn
        return out

    def _alone(self, images: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        try:
            workspace, job, call = self._spare.pop()
        except IndexError:
            workspace, job = Workspace(self.program), np.zeros(6, np.int64)
            call = self._call(self._lead_batch, workspace.state, workspace.scratch, _new_cells(catalog.CLAIMS), job)
        job[:] = self._job(images, out)
        call()
        self._finish(out, [workspace])
        self._spare.append((workspace, job, call))

    def _together(self, images: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        if self._pid != os.getpid():  # forked: the parent's gate may have been open
            self._image, self._pid = None, os.getpid()
        while len(self._shared) < self.threads:
            self._shared.append(Workspace(self.program))
        if not self._clean:
            self._close_gate()
            for workspace in self._shared:
                workspace.clear()
        self._clean = False
        try:
            whole = len(images) // self.threads * self.threads if len(images) >= self.threads else 0
            if whole:
                self._images_apart(images[:whole], out[:whole])
            for i in range(whole, len(images)):
                self._image_together(images[i], out[i])
            self._finish(out, self._shared)
            self._clean, self._pixels = True, None
        finally:
            self._close_gate()

    def _close_gate(self) -> None:
        """Finish the image of a call that an exception ended."""
        if self._image is not None and self._image.is_open():
            self._image.calls[0]()

    def _images_apart(self, images: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Each member computes whole images."""
        job = np.array(self._job(images, out), np.int64)
        cells = _new_cells(catalog.CLAIMS)  # fresh ones: a helper late for an older batch must find its gate closed
        functions = [self._lead_batch] + [self._help_batch] * (len(self._shared) - 1)
        self._team.run(
            [self._call(f, w.state, w.scratch, cells, job) for f, w in zip(functions, self._shared, strict=True)]
        )

    def _image_together(self, image: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """All members share the pieces of one image."""
        state = self._shared[0].state
        if self._image is None:
            ranges = min(self.threads, catalog.MOST_RANGES)
            claims = ranges * len(self.program.steps)
            first = catalog.CLAIMS + claims  # of the helpers' own cells
            cells = _new_cells(first + self.threads)
            calls = [self._call(self._lead_image, state, self._shared[0].scratch, cells, ranges)]
            for i, workspace in enumerate(self._shared[1:]):
                home = (i + 1) * ranges // self.threads
                calls.append(self._call(self._help_image, state, workspace.scratch, cells, ranges, home, first + i))
            lingering = cells[first * catalog.LINE :: catalog.LINE][: len(calls) - 1]
            gate = cells[catalog.GATE * catalog.LINE :]
            self._image = _Image(Call(self._open_image, claims, cells), calls, lingering, gate)
        self._pixels = image
        self._shared[0].set_image(image)
        self._image.open()
        self._team.run(self._image.calls, self._image.lingering)
        start = self.program.output.offset
        out[:] = state[start : start + self.program.outputs].view(np.float32)

    def _call(self, function: CFunction, *arguments: int | NDArray[Any]) -> Call:
        return Call(function, self._table, len(self._table), self.program.const, *arguments)

    def run_steps(self, workspace: Workspace, first: int, last: int) -> None:
        """Compute steps first … last - 1 on this thread, for profiling and verification.

        What they read must be in the workspace's state: `workspace.set_image` for the stem.
        """
        table = self._table[first:last]
        Call(self._run_steps, table, len(table), self.program.const, workspace.state, workspace.scratch)()

    def timed_steps(self, workspace: Workspace, ticks: NDArray[np.int64]) -> Call:
        """A call that computes all steps on this thread, for profiling.

        ticks: int64 [steps + 1], gets the processor's clock before the first step and after each.
        """
        function = c_function(catalog.time_steps)
        return self._call(function, workspace.state, workspace.scratch, ticks)

    def run_piece(self, workspace: Workspace, step: int, piece: int) -> None:
        """Compute one piece of one step on this thread; its working memory is left in workspace.scratch."""
        address, arguments, _ = (int(v) for v in self._table[step])
        arenas = self.program.const, workspace.state, workspace.scratch
        Call(_KERNEL(address), piece, arguments, *arenas)()

    def _job(self, images: NDArray[np.float32], out: NDArray[np.float32]) -> tuple[int, ...]:
        """What lead_batch and help_batch read, see kernels/schedule.py."""
        size = images.strides[0] if len(images) else 0
        return images.ctypes.data, size, len(images), self.program.output.offset, out.ctypes.data, out.shape[1]

    def _finish(self, out: NDArray[np.float32], workspaces: list[Workspace]) -> None:
        """A NaN in an image would stay in pad lanes, which are multiplied by 0; so start the next one afresh."""
        if not np.isfinite(out).all():
            for workspace in workspaces:
                workspace.clear()
