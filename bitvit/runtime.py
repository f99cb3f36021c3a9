"""Running a program: the cache of compiled kernels, a team of threads, images one by one or in batches.

A team is the caller and helper threads that run the same nogil function (kernels/schedule.py). No Numba threading
layer is involved, so two callers, a fork or a nested pool can neither abort nor deadlock it: a caller that finds the
team busy works alone, a forked child starts helpers of its own. A helper that wakes up late finds the gate closed and
goes back to sleep; nobody waits for it. Results do not depend on who computed what: every element is summed in one
fixed order.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib
import logging
import math
import os
import queue
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

import llvmlite
import numba
import numpy as np
from numba import cfunc, njit
from numpy.typing import NDArray

from bitvit.kernels import schedule
from bitvit.kernels.step import OPTIONS, SIGNATURE, Kernel
from bitvit.program import ADDRESS_CELL, Program, aligned_zeros

_log = logging.getLogger("bitvit")
_KERNELS = Path(__file__).parent / "kernels"
_CGROUP = Path("/sys/fs/cgroup")


# --------------------------------------------------------------------------------------------------- compiling
def cache_folder() -> Path | None:
    """The private folder of compiled kernels, or None if there is no safe place for one.

    Under NUMBA_CACHE_DIR, else XDG_CACHE_HOME, else ~/.cache. Its name holds a hash of the kernels' sources and of the
    versions that compile them, so an edit never meets a stale kernel. Cached code gets executed: a folder that others
    own or may write to is not used.
    """
    root = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(root) if root else Path.home() / ".cache") / "bitvit" / _fingerprint()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if hasattr(os, "getuid") and (status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022):
            return None
        return folder if os.access(folder, os.W_OK | os.X_OK) else None
    except (OSError, RuntimeError):
        return None


@functools.cache  # of the sources as this process found them; every kernel asks
def _fingerprint() -> str:
    versions = f"{sys.version} {numba.__version__} {llvmlite.__version__} {np.__version__}"
    digest = hashlib.sha256(versions.encode())
    for source in sorted(_KERNELS.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:24]


@contextlib.contextmanager
def _caching() -> Iterator[bool]:
    """Point Numba at the private folder while a function is declared; yields whether to cache."""
    folder, before = cache_folder(), numba.config.CACHE_DIR
    if folder is None:
        yield False
        return
    numba.config.CACHE_DIR = str(folder)
    try:
        yield True
    finally:
        numba.config.CACHE_DIR = before


_compiling = threading.RLock()
_compiled: dict[str, Any] = {}


def _once(name: str, declare: Callable[[bool], Any]) -> Any:
    """Declare a compiled function once a process, with a cache if there is a place for one."""
    with _compiling:
        if name not in _compiled:
            with _caching() as cache:
                try:
                    _compiled[name] = declare(cache)
                except (OSError, RuntimeError):  # the cache's place went away, or the source is not a plain file
                    if not cache:
                        raise
                    _compiled[name] = declare(False)
        return _compiled[name]


def is_cached(kernel: Kernel) -> bool:
    """Whether an earlier process has left the compiled kernel in the cache."""
    folder = cache_folder()
    return folder is not None and any(folder.glob(f"**/*.{kernel.name}-*.nbi"))


def all_kernels() -> list[Kernel]:
    """Every kernel of the package, whichever model needs it."""
    modules = [importlib.import_module(f"bitvit.kernels.{path.stem}") for path in sorted(_KERNELS.glob("*.py"))]
    kernels = {k.name: k for module in modules for k in vars(module).values() if isinstance(k, Kernel)}
    return list(kernels.values())


def compiled(kernel: Kernel) -> Any:
    """The C function of a kernel (a Numba CFunc), compiled or loaded from the cache."""
    if kernel.name not in _compiled and not is_cached(kernel):
        _log.info("compiling kernel %s", kernel.name)
    return _once(kernel.name, lambda cache: cfunc(SIGNATURE, cache=cache, **OPTIONS)(kernel.function))


_STEP = ctypes.CFUNCTYPE(None, ctypes.c_int64, *[ctypes.c_void_p] * 4)


def _nogil(function: Callable[..., Any], arguments: int, result: str = "void") -> Callable[..., Any]:
    """A scheduling function, compiled for the first `arguments` of (table, const, state, scratch, cells, job)."""
    types = ("int64[:,::1]", "int64", "int64", "int64", "int64[::1]", "int64[::1]")
    signature = f"{result}({', '.join(types[:arguments])})"
    declare = lambda cache: njit(signature, nogil=True, cache=cache, **OPTIONS)(function)  # noqa: E731
    return _once(function.__name__, declare)  # type: ignore[no-any-return]


def compile_scheduling() -> None:
    """Compile the functions that run programs, which every model needs."""
    for function, arguments, result in _SCHEDULING:
        _nogil(function, arguments, result)


_SCHEDULING = (
    (schedule.lead_image, 5, "int64"),
    (schedule.help_image, 5, "void"),
    (schedule.lead_batch, 6, "void"),
    (schedule.help_batch, 6, "void"),
)


# ------------------------------------------------------------------------------------------------------ threads
def available_threads() -> int:
    """Cores that this process may use: affinity, cgroup quota, OMP_NUM_THREADS, BITVIT_NUM_THREADS; the smallest."""
    try:
        limits = [len(os.sched_getaffinity(0))]
    except AttributeError:  # not Linux
        limits = [os.cpu_count() or 1]
    quota = _cgroup_quota()
    if quota is not None:
        limits.append(max(1, math.ceil(quota)))
    for name in ("OMP_NUM_THREADS", "BITVIT_NUM_THREADS"):
        value = os.environ.get(name, "").split(",")[0].strip()
        if value.isdigit() and int(value) > 0:
            limits.append(int(value))
    return min(limits)


def _cgroup_quota() -> float | None:
    """CPUs granted by the control group (v2, then v1), None if unlimited."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota_us = int((_CGROUP / "cpu/cpu.cfs_quota_us").read_text())
        period_us = int((_CGROUP / "cpu/cpu.cfs_period_us").read_text())
        return None if quota_us <= 0 else quota_us / period_us
    return None


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

    @property
    def addresses(self) -> tuple[int, int]:
        return self.state.ctypes.data, self.scratch.ctypes.data

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
        self._jobs: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...], set[int] | None]] = (
            queue.SimpleQueue()
        )
        self._idle = True
        threading.Thread(target=self._serve, name="bitvit", daemon=True).start()

    def post(self, function: Callable[..., None], arguments: tuple[Any, ...], cpus: set[int] | None) -> None:
        """Hand over a job, unless the helper has not even woken up for the last one."""
        if self._idle:
            self._idle = False
            self._jobs.put((function, arguments, cpus))

    def _serve(self) -> None:
        mine: set[int] | None = None
        while True:
            function, arguments, cpus = self._jobs.get()
            self._idle = True
            if cpus is not None and cpus != mine:
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(0, cpus)
                    mine = cpus
            function(*arguments)
            del function, arguments  # the arenas of a model that is no longer used


MOST_REST = 64  # calls


class Team:
    """Helpers for one caller at a time.

    A team pays only if every member has a core. After two calls in a row in which one had not (the leader waited for a
    helper, or was itself interrupted), the next calls do without helpers: 2, then 4, up to MOST_REST while it goes on.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._current_cpu = _current_cpu()
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._helpers: list[_Helper] = []
        self._crowded = self._resting = 0

    @contextlib.contextmanager
    def lead(self) -> Iterator[bool]:
        """Become the leader; yields False if another thread is, or the team rests: the caller had better work alone."""
        if self._pid != os.getpid():  # forked: the helpers stayed behind, and the lock may be held for ever
            self._start()
        lock = self._lock
        if not lock.acquire(blocking=False):
            yield False
            return
        if self._resting > 0:
            self._resting -= 1
            lock.release()
            yield False
            return
        try:
            while len(self._helpers) < self.size - 1:
                self._helpers.append(_Helper())
            yield True
        finally:
            lock.release()

    def run(self, lead: Callable[[], object], function: Callable[..., None], arguments: list[tuple[Any, ...]]) -> None:
        """Run `lead()` here and function(*arguments[i]) on helper i.

        `lead` returns whether it waited too long for a helper, or None where nobody waits for pieces of others.

        Linux often wakes a helper on the very CPU that its caller keeps busy, so for the time of the run the caller
        stays where it is and the helpers go elsewhere.
        """
        here, others = self._split_cpus()
        for helper, args in zip(self._helpers, arguments, strict=False):
            helper.post(function, args, others)
        if here is None:
            stalled = lead()
            if stalled is not None:
                self._plan_rest(bool(stalled))
            return
        before, interruptions = os.sched_getaffinity(0), _interruptions()
        os.sched_setaffinity(0, here)
        try:
            stalled = lead()
        finally:
            os.sched_setaffinity(0, before)
        if stalled is not None:
            self._plan_rest(bool(stalled) or _interruptions() > interruptions)

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
    return aligned_zeros(2 * lines * schedule.LINE).view(np.int64)


class Runner:
    """Runs one program on images, from any number of Python threads at once."""

    def __init__(self, program: Program, threads: int | None) -> None:
        self.program = program
        self.threads = max(1, min(threads or available_threads(), available_threads()))
        self._arguments = [np.array([step.arguments]) for step in program.steps]
        self._table = np.array(
            [
                (compiled(step.kernel).address, record.ctypes.data, step.pieces)
                for step, record in zip(program.steps, self._arguments, strict=True)
            ],
            np.int64,
        )
        parts = (_nogil(*part) for part in _SCHEDULING)
        self._lead_image, self._help_image, self._lead_batch, self._help_batch = parts
        self._team = Team(self.threads)
        self._image_cells = _new_cells(schedule.CLAIMS + len(program.steps))
        self._pid = os.getpid()
        self._shared = [Workspace(program)]  # the leader's, then one a helper, made when first needed
        self._spare: list[Workspace] = []

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """images: float32 [B, 3, S, S], C-contiguous; returns float32 [B, outputs]."""
        out = np.empty((len(images), self.program.outputs), np.float32)
        if self.threads == 1:
            self._alone(images, out)
            return out
        with self._team.lead() as leading:
            if leading:
                self._together(images, out)
            else:
                self._alone(images, out)
        return out

    def _alone(self, images: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        try:
            workspace = self._spare.pop()
        except IndexError:
            workspace = Workspace(self.program)
        cells = _new_cells(schedule.CLAIMS)
        job = self._job(images, out)
        self._lead_batch(self._table, self.program.const.ctypes.data, *workspace.addresses, cells, job)
        self._finish(out, [workspace])
        self._spare.append(workspace)

    def _together(self, images: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        if self._pid != os.getpid():  # forked: the parent's gate may have been open
            self._image_cells, self._pid = _new_cells(schedule.CLAIMS + len(self.program.steps)), os.getpid()
        while len(self._shared) < self.threads:
            self._shared.append(Workspace(self.program))
        whole = len(images) // self.threads * self.threads if len(images) >= self.threads else 0
        if whole:
            self._images_apart(images[:whole], out[:whole])
        for i in range(whole, len(images)):
            self._image_together(images[i], out[i])
        self._finish(out, self._shared)

    def _images_apart(self, images: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Each member computes whole images."""
        job, const = self._job(images, out), self.program.const.ctypes.data
        cells = _new_cells(schedule.CLAIMS)  # fresh ones: a helper late for an older batch must find its gate closed
        parts = [(self._table, const, *w.addresses, cells, job) for w in self._shared]
        self._team.run(lambda: self._lead_batch(*parts[0]), self._help_batch, parts[1:])

    def _image_together(self, image: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """All members share the pieces of one image."""
        const, state = self.program.const.ctypes.data, self._shared[0].state
        self._shared[0].set_image(image)
        leader = state.ctypes.data
        parts = [(self._table, const, leader, w.scratch.ctypes.data, self._image_cells) for w in self._shared]
        self._team.run(lambda: self._lead_image(*parts[0]), self._help_image, parts[1:])
        start = self.program.output.offset
        out[:] = state[start : start + self.program.outputs].view(np.float32)

    def run_steps(self, workspace: Workspace, first: int, last: int) -> None:
        """Compute steps first … last - 1 on this thread, for profiling and verification.

        What they read must be in the workspace's state: `workspace.set_image` for the stem.
        """
        _nogil(schedule.run_steps, 4)(self._table[first:last], self.program.const.ctypes.data, *workspace.addresses)

    def run_piece(self, workspace: Workspace, step: int, piece: int) -> None:
        """Compute one piece of one step on this thread; its working memory is left in workspace.scratch."""
        address, arguments, _ = (int(v) for v in self._table[step])
        _STEP(address)(piece, arguments, self.program.const.ctypes.data, *workspace.addresses)

    def _job(self, images: NDArray[np.float32], out: NDArray[np.float32]) -> NDArray[np.int64]:
        size = images.strides[0] if len(images) else 0
        fields = (images.ctypes.data, size, len(images), self.program.output.offset, out.ctypes.data, out.shape[1])
        return np.array(fields, np.int64)

    def _finish(self, out: NDArray[np.float32], workspaces: list[Workspace]) -> None:
        """A NaN in an image would stay in pad lanes, which are multiplied by 0; so start the next one afresh."""
        if not np.isfinite(out).all():
            for workspace in workspaces:
                workspace.clear()
