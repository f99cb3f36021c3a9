"""Fixtures: golden cases converted once a session."""

import contextlib
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from safetensors.numpy import save_file

import bitvit
from bitvit.jit import cache
from bitvit.kernels.catalog import Function
from bitvit.model import functions_of
from tests.support.golden_data import load_case
from tests.support.paths import TESTS
from tests.support.runtime import compile_quietly, forget_functions
from tools.fuzz.seeds import CONFIGS, write_packed

# A shell's background job ignores Ctrl-C, and its children would too; a handler of one's own is not passed on to them.
signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST = (
    *("kernels/test_targets.py", "docs/test_guide.py", "train/test_loop.py", "kernels/test_neon.py"),
    *("tools/test_fuzz.py", "tools/test_stress.py", "test_attacks.py"),
)
"""Files that take longest, below tests/."""


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # of pytest-xdist, which else begins with the files of the most tests


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: behind all others, one of xdist's processes would work on while another has ended."""
    order = {TESTS / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(LONGEST)))


@pytest.fixture(scope="session", autouse=True)
def quiet() -> None:
    """Which test compiles the first kernel depends on the machine's cache; `cold` has it said again."""
    compile_quietly()


@pytest.fixture(scope="session", autouse=True)
def one_thread_for_others() -> None:
    """BLAS's and PyTorch's threads wait for each other in each operation: beside other tests, for those tests' turn."""
    with contextlib.suppress(ImportError):  # where only some tests run, such as those of a cluster engine
        from threadpoolctl import threadpool_limits

        threadpool_limits(1, "blas")
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """packed(name): the packed model of a golden case; the checkpoint and config.json lie beside it."""
    folder = tmp_path_factory.mktemp("packed")
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            case = load_case(name)
            checkpoint = folder / f"{name}.checkpoint.safetensors"
            save_file(dict(case.state), checkpoint)
            made[name] = folder / f"{name}.safetensors"
            bitvit.convert(checkpoint, made[name], config=dict(case.config))
        return made[name]

    return make


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest of packed models, with labels; its weights are random."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    write_packed(path, CONFIGS[0])
    return path


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """cold(): from now on this is a process that has loaded no functions; returns its cache, empty the first time."""
    forget = forget_functions(monkeypatch)

    def begin() -> Path:
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
        return forget()

    return begin


@pytest.fixture
def nearly_warm(cold: Callable[[], Path]) -> Callable[[Path, Sequence[Function]], Path]:
    """nearly_warm(model, lacking): as cold(), but the cache has the functions of a packed model, except some.

    Compiling all of them takes half a minute, once a session and not once a test.
    """

    def fill(model: Path, lacking: Sequence[Function]) -> Path:
        bitvit.load(model)
        filled = cache.folder()
        assert filled is not None
        folder = cold()
        for function in functions_of(model):
            if function not in lacking:
                shutil.copy(filled / f"{function.name}.o", folder)
        return folder

    return fill
