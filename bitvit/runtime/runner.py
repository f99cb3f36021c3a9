"""Running a program: images one by one, shared by a team of threads, or in batches, whole images to each.

Results do not depend on who computed what: every element is summed in one fixed order.

An exception may come between any two lines, as Ctrl-C does in an interactive session. A call that it ends may leave the
gate of kernels/schedule.py open and helpers inside, who read the caller's pixels; so whoever opens the gate sees to it
that it is closed.
"""

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from bitvit.jit import loader
from bitvit.kernels import catalog
from bitvit.kernels.catalog import JOB, STEP
from bitvit.program import Program, aligned_zeros
from bitvit.runtime.calls import Call, c_function, kernel_at
from bitvit.runtime.inputs import Inputs
from bitvit.runtime.team import Team
from bitvit.runtime.workspace import Workspace
from bitvit.system import available_threads

__all__ = ["Runner", "new_cells"]


def new_cells(lines: int) -> NDArray[np.int64]:
    """Counters for the functions of kernels/schedule.py, all 0: int64 [lines * LINE], a cache line for each."""
    return aligned_zeros(2 * lines * catalog.LINE).view(np.int64)


class _SharedImage(NamedTuple):
    """What a team's members call for an image that they share; the gate is shut between images."""

    open: Call
    calls: list[Call]  # the leader's first
    lingering: NDArray[np.int64]  # of each helper
    gate: NDArray[np.int64]  # its cell

    def is_open(self) -> bool:
        return bool(self.gate[0] & catalog.OPEN)


class _Solo(NamedTuple):
    """What a caller needs who works alone."""

    workspace: Workspace
    job: "NDArray[np.void]"
    call: Call


class Runner:
    """Runs one program on images, from any number of Python threads at once.

    threads: at most this many for one call; default all cores that the process may use. team: one of another size or
    kind. workspace: makes the memory of each thread.
    """

    def __init__(
        self,
        program: Program,
        threads: int | None = None,
        *,
        team: Team | None = None,
        workspace: Callable[[Program], Workspace] = Workspace,
    ) -> None:
        self.program = program
        available = available_threads()
        self._team = team or Team(max(1, min(threads or available, available)))
        self._new_workspace = workspace
        self._arguments = [np.array([step.arguments]) for step in program.steps]  # whose addresses stand in the table
        kernels = [step.kernel for step in program.steps]
        addresses = loader.addresses([*kernels, *catalog.SCHEDULING])[: len(kernels)]
        self._table = np.zeros(len(kernels), STEP)
        self._table["address"] = addresses
        self._table["arguments"] = [record.ctypes.data for record in self._arguments]
        self._table["pieces"] = [step.pieces for step in program.steps]
        self._image: _SharedImage | None = None  # made when first needed
        self._pid = os.getpid()  # which it was made in
        self._workspaces = [workspace(program)]  # the leader's, then each helper's, made when first needed
        self._clean = True  # no call was ended by an exception
        # What helpers read while the gate is open. Their calls hold it too: after two exceptions, one that leaves the
        # gate open and one that comes before it is closed, a helper may be inside when nobody knows the runner.
        self._pixels: list[Inputs] = []
        self._solos: list[_Solo] = []  # of callers who worked alone, for the next

    def __reduce__(self) -> NoReturn:
        """It holds addresses of this process, which mean nothing to another; used or not, it is refused alike."""
        raise TypeError(
            "a runner cannot be pickled or deep-copied; pickle the model, which makes another where it goes"
        )

    @property
    def threads(self) -> int:
        """Threads that one call may use."""
        return self._team.size

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """images: float32 [B, 3, S, S], C-contiguous; returns float32 [B, outputs]."""
        return self.run(Inputs.of_planes(images))

    def run(self, images: Inputs, *, alone: bool = False) -> NDArray[np.float32]:
        """Returns float32 [B, outputs]. alone: on this thread, without the team."""
        out = np.empty((len(images), self.program.outputs), np.float32)
        if alone or self.threads == 1:
            self._run_alone(images, out)
            return out
        lease = None
        try:
            lease = self._team.lease()
            if lease is None:
                self._run_alone(images, out)
            else:
                self._run_together(images, out)
        finally:
            del lease
        return out

    def _run_alone(self, images: Inputs, out: NDArray[np.float32]) -> None:
        try:
            solo = self._solos.pop()
        except IndexError:
            workspace, job = self._new_workspace(self.program), np.zeros(1, JOB)
            cells = new_cells(catalog.CLAIMS)
            call = self.call(catalog.lead_batch, workspace.state, workspace.scratch, cells, job)
            solo = _Solo(workspace, job, call)
        self.fill_job(solo.job, images, out)
        solo.call()
        self._forget_nan(out, [solo.workspace])
        self._solos.append(solo)

    def _run_together(self, images: Inputs, out: NDArray[np.float32]) -> None:
        if self._pid != os.getpid():  # forked: the parent's gate may have been open
            self._image, self._pid = None, os.getpid()
        while len(self._workspaces) < self.threads:
            self._workspaces.append(self._new_workspace(self.program))
        if not self._clean:
            self._close_gate()
            for workspace in self._workspaces:
                workspace.clear()
        self._clean = False
        try:
            whole = len(images) // self.threads * self.threads
            if whole:
                self._compute_images_apart(images[:whole], out[:whole])
            policy = self._team.policy
            for i in range(whole, len(images)):
                image, answer = images[i : i + 1], out[i : i + 1]
                if policy.use_helpers():
                    self._share_image(image, answer[0])
                else:
                    start = time.perf_counter()
                    self._run_alone(image, answer)
                    policy.computed_alone(time.perf_counter() - start)
            self._forget_nan(out, self._workspaces)
            self._pixels.clear()
            self._clean = True
        finally:
            self._close_gate()

    def _close_gate(self) -> None:
        """Finish the image of a call that an exception ended."""
        if self._image is not None and self._image.is_open():
            self._image.calls[0]()

    def _compute_images_apart(self, images: Inputs, out: NDArray[np.float32]) -> None:
        """Each member computes whole images."""
        job = np.zeros(1, JOB)
        self.fill_job(job, images, out)
        cells = new_cells(catalog.CLAIMS)  # fresh ones: a helper late for an older batch must find its gate closed
        leader, *helpers = self._workspaces
        calls = [self.call(catalog.lead_batch, leader.state, leader.scratch, cells, job)]
        calls += [self.call(catalog.help_batch, own.state, own.scratch, cells, job) for own in helpers]
        self._team.run(calls)

    def _share_image(self, image: Inputs, out: NDArray[np.float32]) -> None:
        """All members compute pieces of one image."""
        leader = self._workspaces[0]
        if self._image is None:
            self._image = self._new_shared_image()
        self._pixels[:] = [image]
        leader.set_input(image)
        self._image.open()
        self._team.run(self._image.calls, self._image.lingering)
        start = self.program.output.offset
        out[:] = leader.state[start : start + self.program.outputs].view(np.float32)

    def _new_shared_image(self) -> _SharedImage:
        leader, *helpers = self._workspaces
        ranges = min(self.threads, catalog.MOST_RANGES)
        claims = ranges * len(self.program.steps)
        first = catalog.CLAIMS + claims  # of the helpers' own cells
        cells = new_cells(first + self.threads)
        calls = [self.call(catalog.lead_image, leader.state, leader.scratch, cells, ranges)]
        for i, own in enumerate(helpers):
            home = (i + 1) * ranges // self.threads
            calls.append(self.call(catalog.help_image, leader.state, own.scratch, cells, ranges, home, first + i))
        lingering = cells[first * catalog.LINE :: catalog.LINE][: len(helpers)]
        gate = cells[catalog.GATE * catalog.LINE :]
        return _SharedImage(Call(c_function(catalog.open_image), claims, cells), calls, lingering, gate)

    def _forget_nan(self, out: NDArray[np.float32], workspaces: list[Workspace]) -> None:
        """A NaN in an image would stay in pad lanes, which are multiplied by 0; so start the next one afresh."""
        if not np.isfinite(out).all():
            for workspace in workspaces:
                workspace.clear()

    # ------------------------------------------------------------------------ for tracing, profiling and tests
    def call(self, function: catalog.Scheduling, *arguments: int | NDArray[Any]) -> Call:
        """A call of a function of kernels/schedule.py that begins with `table, steps, const`; the rest is given."""
        table, const, keeps = self._table, self.program.const, (self._arguments, self._pixels)
        return Call(c_function(function), table, len(table), const, *arguments, keeps=keeps)

    def fill_job(self, job: "NDArray[np.void]", images: Inputs, out: NDArray[np.float32]) -> None:
        """Describe a batch for lead_batch and help_batch, to which job, images and out must outlive the call.

        job: JOB [1], gets written. out: float32 [B, outputs], C-contiguous.
        """
        job["images"] = images.records.ctypes.data
        job["count"] = len(images)
        job["output_offset"] = self.program.output.offset
        job["out"] = out.ctypes.data
        job["outputs"] = out.shape[1]

    def run_steps(self, workspace: Workspace, first: int, last: int) -> None:
        """Compute steps first … last - 1 on this thread.

        What they read must be in the workspace's state: `workspace.set_image` for the stem.
        """
        table = self._table[first:last]
        arenas = self.program.const, workspace.state, workspace.scratch
        Call(c_function(catalog.run_steps), table, len(table), *arenas)()

    def timed_steps(self, workspace: Workspace, ticks: NDArray[np.int64]) -> Call:
        """A call that computes all steps on this thread.

        ticks: int64 [steps + 1], gets the processor's clock before the first step and after each.
        """
        return self.call(catalog.time_steps, workspace.state, workspace.scratch, ticks)

    def run_piece(
        self, workspace: Workspace, step: int, piece: int, arguments: "NDArray[np.void] | None" = None
    ) -> None:
        """Compute one piece of one step on this thread; its working memory is left in workspace.scratch.

        arguments: the kernel's record [1], if not the step's own.
        """
        kernel = kernel_at(int(self._table[step]["address"]))
        arenas = self.program.const, workspace.state, workspace.scratch
        Call(kernel, piece, self._arguments[step] if arguments is None else arguments, *arenas)()
