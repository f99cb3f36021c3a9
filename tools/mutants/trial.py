"""Mutants on trial: a copy of the clone in which one module at a time is another, and its tests."""

import contextlib
import functools
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from bitvit.jit import cache
from bitvit.kernels import catalog
from tools.mutants.living import DECLARATIONS, KERNELS, functions_with
from tools.mutants.making import Mutant

__all__ = ["Outcome", "Trial"]

Outcome = Literal["killed", "timeout", "survived", "same code"]
SLACK = 60.0  # seconds that a mutant has beyond what all tests take twice: for kernels that must be compiled anew
_LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "build", "dist", "__pycache__", ".*_cache", ".hypothesis")


class Trial:
    """A copy of a clone, where tests are run and compiled kernels are kept."""

    def __init__(self, root: Path, folder: Path) -> None:
        """root: of the clone. folder: for the copy, which is made anew, and the kernels."""
        self.tree, self._kept = folder / "tree", folder / "cache"
        shutil.rmtree(self.tree, ignore_errors=True)
        shutil.copytree(root, self.tree, ignore=_LEFT_OUT)
        self._environment = {**os.environ, "NUMBA_CACHE_DIR": str(self._kept), "PYTHONPATH": str(self.tree)}
        self.limit: float | None = None
        """Seconds that the tests of a mutant may take."""

    @functools.cached_property
    def _kernels(self) -> Path:
        """The folder of all kernels as they are without a mutant."""
        self._run("-m", "bitvit", "warmup")
        return self._place()

    def check(self, tests: Iterable[str]) -> None:
        """Run the tests where nothing is wrong, which says how long they may take; SystemExit if they fail there."""
        begin = time.monotonic()
        code, output = self._test(tests, None)
        if code:
            raise SystemExit(f"exit code {code} of pytest before any mutant:\n{output[-3000:]}")
        self.limit = SLACK + 2 * (time.monotonic() - begin)

    def outcome(self, module: str, mutant: Mutant, tests: tuple[str, ...]) -> Outcome:
        """What the tests say of a module's mutant.

        A mutant of the kernels that survives them is "same code" if each kernel becomes the same machine code as
        without it: it is the same program, or on a branch that is not for this processor.
        """
        is_kernel = module.startswith(KERNELS)
        kernels = self._kernels if is_kernel else None
        changed = functions_with(self.tree, module, mutant.begin) if is_kernel else set()
        with self._in_place(module, mutant):
            own = self._take_over(kernels, changed) if kernels else None
            try:
                code, _ = self._test(tests, self.limit)
                if code is None:
                    return "timeout"
                if code:
                    return "killed"
                if kernels and own and Path(module).name not in DECLARATIONS and self._is_same_code(kernels, own):
                    return "same code"
                return "survived"
            finally:
                if own:
                    shutil.rmtree(own)

    @contextlib.contextmanager
    def _in_place(self, module: str, mutant: Mutant) -> Iterator[None]:
        path = self.tree / module
        text = path.read_text(encoding="utf-8")
        try:
            self._write(path, mutant.of(text))
            yield
        finally:
            self._write(path, text)

    def _write(self, path: Path, text: str) -> None:
        """Also remove what Python has compiled, which it knows by size and second of the source alone."""
        path.write_text(text, encoding="utf-8")
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)

    def _test(self, tests: Iterable[str], limit: float | None) -> tuple[int | None, str]:
        """pytest's exit code, None if it took too long, and what it wrote."""
        return self._run("-m", "pytest", "-x", "-p", "no:cacheprovider", *tests, limit=limit)

    def _run(self, *arguments: str, limit: float | None = None) -> tuple[int | None, str]:
        with subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.tree,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that what it started ends with it
        ) as process:
            try:
                output, _ = process.communicate(timeout=limit)
                return process.returncode, output
            except subprocess.TimeoutExpired:
                return None, ""
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    # ------------------------------------------------------------------------------------------------ compiled kernels
    def _place(self) -> Path:
        """Where the kernels of the tree, as it is now, are kept."""
        sources = [*sorted((self.tree / KERNELS).glob("*.py")), self.tree / "bitvit/jit/compiler.py"]
        return self._kept / "bitvit" / cache.fingerprint(cache.toolchain(), sources)

    def _take_over(self, kernels: Path, changed: set[str]) -> Path:
        """Kernels but for those that have changed; returns where those will be kept, too."""
        place = self._place()
        place.mkdir(mode=0o755, exist_ok=True)
        for function in catalog.FUNCTIONS:
            if function.name not in changed:
                shutil.copy(kernels / cache.file_name(function.name), place)
        return place

    def _is_same_code(self, kernels: Path, own: Path) -> bool:
        code, _ = self._run("-m", "bitvit", "warmup", limit=3600)
        names = [cache.file_name(function.name) for function in catalog.FUNCTIONS]
        return code == 0 and all((own / name).read_bytes() == (kernels / name).read_bytes() for name in names)
