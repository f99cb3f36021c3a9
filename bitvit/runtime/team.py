"""A team: the thread that calls, which leads, and helper threads that wait for it.

Members run the same C function (kernels/schedule.py), for which ctypes lets go of Python's lock. No Numba threading
layer is involved, so two callers, a fork or a nested pool can neither abort nor deadlock it: a caller that finds the
team busy works alone, and a forked child starts helpers of its own. A helper that wakes up late finds the gate of its
function closed and goes back to sleep; nobody waits for it. So a team may lack helpers too: where no thread is to be
had, its leader computes with those that there are, or alone.

Helpers end with their team. A thread knows its desk but not the helper, so that a team that nobody uses any more is
gone at once, and its helpers with it; a reference to each, whose callback is C code that no exception can interrupt,
then puts itself on the desk.

An exception may come between any two lines, as Ctrl-C does in an interactive session. It never costs the team its
leader's place: a lease ends with the object.
"""

import contextlib
import ctypes
import functools
import math
import os
import sys
import threading
import time
import weakref
from _queue import SimpleQueue  # that of queue may be gevent's, which is not for threads of the system
from collections.abc import Callable

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

import numpy as np
from numpy.typing import NDArray

from bitvit.runtime.calls import Call
from bitvit.runtime.policy import RestPolicy

__all__ = ["RETRY", "GreenThreadError", "Helper", "Lease", "Team", "interruptions"]

START_PATIENCE = 1.0  # seconds that a new helper has to tell its thread; until it has, it is not pinned
RETRY = 1.0  # seconds from a helper that could not be started to the next attempt


def interruptions() -> int:
    """How often this thread has been taken off its core for the sake of others; 0 where the platform does not tell."""
    if resource is None or not hasattr(resource, "RUSAGE_THREAD"):
        return 0
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def _find_current_cpu() -> Callable[[], int] | None:
    """sched_getcpu of the C library, where it and thread affinity exist."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    try:
        return ctypes.CDLL(None).sched_getcpu
    except (OSError, AttributeError):
        return None


class GreenThreadError(RuntimeError):
    """Threads are green ones, as gevent and eventlet make them: a helper would run on its caller's thread, after it."""


class _Desk:
    """What a helper's thread knows of it."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[Call | weakref.ref[Helper]] = SimpleQueue()
        self.owner: weakref.ref[Helper] | None = None  # among the calls, once there is no such helper any more
        self.starter = threading.get_native_id()
        self.thread: int | None = None  # the helper's, as the kernel numbers threads
        self.told = threading.Event()


class Helper:
    """A daemon thread that waits for a call and then makes it; it ends when the object does.

    Raises RuntimeError if no thread is to be had, as under a limit of processes or while the interpreter ends;
    GreenThreadError if it would not be one.
    """

    def __init__(self) -> None:
        if sys.is_finalizing():  # a new thread would never get Python's lock, and its start would be waited for
            raise RuntimeError("no thread can be started any more")
        self._cpus: set[int] | None = None
        self._desk = desk = _Desk()
        desk.owner = weakref.ref(self, desk.calls.put)
        threading.Thread(target=_serve, args=(desk,), name="bitvit", daemon=True).start()
        desk.told.wait(timeout=START_PATIENCE)
        if desk.thread == desk.starter:
            raise GreenThreadError("threads are green ones")

    def pin(self, cpus: set[int] | None) -> None:
        """Let it run on these CPUs alone; None where that cannot be said."""
        thread = self._desk.thread
        if cpus is not None and cpus != self._cpus and thread is not None and thread != self._desk.starter:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(thread, cpus)
                self._cpus = cpus

    def post(self, call: Call) -> None:
        """Hand over a call, unless the helper has not even woken up for the last one.

        The queue itself tells: an exception between two lines could part it from whatever else remembered.
        """
        if self._desk.calls.empty():
            self._desk.calls.put(call)


def _serve(desk: _Desk) -> None:
    """What a helper's thread does."""
    desk.thread = threading.get_native_id()
    desk.told.set()
    if desk.thread == desk.starter:  # to wait here would stop everybody on this thread
        return
    while True:
        call = desk.calls.get()
        if isinstance(call, weakref.ref):
            return
        call()
        del call  # it holds the arenas of a model that nobody may use any more


class Team:
    """Up to `size` threads, led by one caller at a time; helpers start when first needed.

    policy: makes the policy of each process. start_helper: starts a helper. interruptions: see the function.
    """

    def __init__(
        self,
        size: int,
        *,
        policy: Callable[[], RestPolicy] = RestPolicy,
        start_helper: Callable[[], Helper] = Helper,
        interruptions: Callable[[], int] = interruptions,
    ) -> None:
        self.size = size
        self._new_crew = functools.partial(_Crew, policy, start_helper, interruptions)
        self._crews: dict[int, _Crew] = {}

    def lease(self) -> "Lease | None":
        """The right to lead; None if another thread has it: the caller had better work alone."""
        return self._crew.lease()

    @property
    def policy(self) -> RestPolicy:
        """Of this process; for whoever has the lease."""
        return self._crew.policy

    def run(self, calls: list[Call], lingering: NDArray[np.int64] | None = None) -> None:
        """Make the first call here and each of the others on a helper; for whoever has the lease.

        The first returns whether it waited too long for a helper, or None where nobody waits for pieces of others.
        lingering: int64 [helpers], not 0 where the helper's last such call has not ended and takes part by itself.
        """
        self._crew.run(calls, lingering)

    @property
    def _crew(self) -> "_Crew":
        """Of this process. A forked child needs its own: the helpers stayed behind in the parent, where another thread
        may have had the lease. Threads that ask for it first at the same time agree on one, as setdefault is
        a single step to them."""
        process = os.getpid()
        return self._crews.get(process) or self._crews.setdefault(process, self._new_crew())


class Lease:
    """The right to lead a team, which lasts as long as the object: an exception that ends its call ends it too.

    So it should be known to one frame alone, as an exception's traceback keeps what its frames know. There is no lock:
    an exception between taking one and remembering it would leave it taken for ever. Here whatever nobody remembers is
    no more, and the next lease takes its place.
    """

    def __init__(self, crew: "weakref.ref[_Crew]") -> None:
        self._crew = crew

    def __del__(self) -> None:
        crew = self._crew()
        if crew is not None:
            crew.leases.append(Lease(self._crew))


class _Crew:
    """What a team is in one process: its helpers, its lease and its policy."""

    def __init__(
        self,
        policy: Callable[[], RestPolicy],
        start_helper: Callable[[], Helper],
        interruptions: Callable[[], int],
    ) -> None:
        self.policy = policy()
        self._start_helper, self._interruptions = start_helper, interruptions
        self._current_cpu = _find_current_cpu()
        self.leases = [Lease(weakref.ref(self))]  # one, or none while somebody leads
        self._helpers: list[Helper] = []
        self._next_start = 0.0  # when a helper may be started again; infinity: never
        self._pinned: tuple[int, set[int], set[int]] | None = None  # a leader's thread, its CPUs before, and now

    def lease(self) -> Lease | None:
        try:
            return self.leases.pop()
        except IndexError:
            return None

    def run(self, calls: list[Call], lingering: NDArray[np.int64] | None) -> None:
        """See Team.run.

        Linux often wakes a helper on the very CPU that its caller keeps busy, so for the time of the run the leader
        stays where it is and the helpers go elsewhere.
        """
        self._unpin()
        lead, *help_ = calls
        self._hire(len(help_))
        here, others = self._split_cpus() if self._helpers else (None, None)
        for i, (helper, call) in enumerate(zip(self._helpers, help_, strict=False)):
            helper.pin(others)
            if lingering is None or not lingering[i]:
                helper.post(call)
        start, before = time.perf_counter(), self._interruptions()
        if here is None:
            stalled = lead()
        else:
            try:
                self._pinned = threading.get_native_id(), os.sched_getaffinity(0), here
                os.sched_setaffinity(0, here)
                stalled = lead()
            finally:
                self._unpin()
        if stalled is not None:
            seconds = time.perf_counter() - start
            self.policy.computed_together(seconds, stalled=bool(stalled), interruptions=self._interruptions() - before)

    def _hire(self, count: int) -> None:
        """Start helpers until there are so many, or no more threads to be had."""
        while len(self._helpers) < count and time.monotonic() >= self._next_start:
            try:
                self._helpers.append(self._start_helper())
            except GreenThreadError:
                self._next_start = math.inf
            except (RuntimeError, MemoryError):
                self._next_start = time.monotonic() + RETRY

    def _unpin(self) -> None:
        """Let a leader run again where it could before its call, perhaps one that an exception kept from doing so.

        Unless somebody has placed its thread elsewhere meanwhile.
        """
        if self._pinned is not None:
            thread, before, here = self._pinned
            with contextlib.suppress(OSError):  # it has ended
                if os.sched_getaffinity(thread) == here:
                    os.sched_setaffinity(thread, before)
            self._pinned = None

    def _split_cpus(self) -> tuple[set[int] | None, set[int] | None]:
        """The CPU of the leader, and those of its helpers; None and None where it cannot be said, or there is one."""
        if self._current_cpu is None:
            return None, None
        allowed, here = os.sched_getaffinity(0), self._current_cpu()
        others = allowed - {here}
        return ({here}, others) if others and here in allowed else (None, None)
