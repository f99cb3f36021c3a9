"""Build a model's bundles in every way and hold them to what docs/bundle.md promises.

    python -m tools.bundle [MODEL] [--only NAME] [--folder FOLDER] [--seconds N]

Needs gcc, binutils and pip; uses, and says so where they are missing, clang, valgrind, gcc-aarch64-linux-gnu and
qemu-user-static, and a clang with LLVM's tools (llvm-19). The checks, each by its name:

    x86         levels v2, v3 and v4: gcc and clang, all levels that this processor can run have bitvit's own bits
    sanitizers  AddressSanitizer and UndefinedBehaviorSanitizer, then valgrind, find nothing
    fuzz        nor does libFuzzer for --seconds, which hands over files, floats and pixels of any bytes
    races       ThreadSanitizer, which sees the kernels too, finds nothing in many runs of several models, and finds it
                where an order of memory or a lock is taken away (x86-64; clang and LLVM 16 or later)
    symbols     nothing but the C library and POSIX threads is called
    size        all but the weights, 300 kB a level
    again       the same arguments give the same bytes
    arm         generic and cortex-a76 under qemu have the bits of x86-64-v3
    python      a new environment with NumPy and Pillow alone, as a user without a home, on a read-only root, where
                memory may not become executable

With --folder what is built stays there, for another run with the same model. Exit code 1 if any check failed. All of it
takes about ten minutes (two Zen 3 cores, November 2026).
"""

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bitvit.bundle.manifest import LIBRARY
from bitvit.bundle.writing import write_bundle
from tools.bundle import races
from tools.bundle.images import COUNT

ROOT = Path(__file__).parents[2]
CHECK, FUZZ = Path(__file__).with_name("check.c"), Path(__file__).with_name("fuzz.c")
LEVELS = {
    "x86-64-v2": "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt",
    "x86-64-v3": "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+bmi,+bmi2,+fma,+f16c,+lzcnt,+movbe",
    "x86-64-v4": "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+bmi,+bmi2,+fma,+f16c,+lzcnt,+movbe,"
    "+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl",
}
ARM = "aarch64-unknown-linux-gnu"
OTHERS = (ROOT / "weights" / "bhvit-digits.safetensors", ROOT / "weights" / "bhvit-fashion.safetensors")
PER_LEVEL = 300_000  # bytes
ALLOWED = {
    *(
        "__errno_location",
        "getrusage",
        "calloc",
        "clock_gettime",
        "free",
        "getauxval",
        "memcpy",
        "memset",
        "sched_yield",
        "sigfillset",
        "strcmp",
    ),
    *("pthread_cond_destroy", "pthread_cond_init", "pthread_cond_signal", "pthread_cond_wait", "pthread_create"),
    *("pthread_join", "pthread_mutex_destroy", "pthread_mutex_init", "pthread_mutex_lock", "pthread_mutex_unlock"),
    *("pthread_sigmask", "__cxa_finalize", "__gmon_start__", "_ITM_deregisterTMCloneTable"),
    *("_ITM_registerTMCloneTable", "__stack_chk_fail"),
}


class FailureError(Exception):
    """A promise that is not kept."""


class Place:
    """A folder for all that is built, and what several checks need."""

    def __init__(self, folder: Path, model: Path, seconds: int) -> None:
        """seconds: of fuzzing."""
        self.folder, self.model, self.seconds = folder, model, seconds

    def bundle(self, name: str = "x86") -> Path:
        """x86: three levels, with the library for Python. arm: two."""
        folder = self.folder / name
        if not folder.exists():
            target, cpus = (None, tuple(LEVELS)) if name == "x86" else (ARM, ())
            write_bundle(self.model, folder, target=target, cpus=cpus, python=name == "x86")
        return folder

    def expected(self, level: str) -> bytes:
        """bitvit's own logits."""
        path = self.folder / f"{level}.logits"
        if not path.exists():
            environment = {"NUMBA_CPU_NAME": level, "NUMBA_CPU_FEATURES": LEVELS[level]}
            command = [sys.executable, "-W", "ignore", "-m", "tools.bundle.images", self.model, self.folder, path.name]
            run(command, cwd=ROOT, environment=environment)
        return path.read_bytes()

    def built(self, name: str, compiler: str, *flags: str) -> Path:
        """check.c with a copy of a bundle, built by its Makefile."""
        tag = "-".join([name, compiler, *flags]).replace("/", "_")
        copy = self.folder / tag
        if not copy.exists():
            shutil.copytree(self.bundle(name), copy)
            prefix = compiler.removesuffix("gcc") if compiler.endswith("-gcc") else ""
            options = f"-Wall -Wextra -Wpedantic -Werror {' '.join(flags or ('-O2',))}"
            run(["make", f"CC={compiler}", f"AR={prefix}ar", f"CFLAGS={options}"], cwd=copy)
            libraries = ["-I.", str(CHECK), "libbitvit_model.a", "-pthread"]
            run([compiler, *options.split(), "-o", "check", *libraries], cwd=copy)
        return copy

    def logits(self, built: Path, level: str, *before: str) -> bytes:
        """What check.c finds; all its ways to call the library must agree."""
        self.expected("x86-64-v3")
        out = built / f"{level}.logits"
        arguments = [self.folder / "planes.bin", self.folder / "bytes.bin", COUNT, out, level]
        run([*before, built / "check", *arguments], cwd=built)
        return out.read_bytes()


def run(command: list[object], *, cwd: Path, environment: dict[str, str] | None = None) -> str:
    """stdout of a command, which must succeed."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise FailureError(f"{' '.join(map(str, command))[:200]}: exit code {done.returncode}: {done.stderr[-800:]}")
    return done.stdout


def require(holds: object, text: str) -> None:
    if not holds:
        raise FailureError(text)


def has(*programs: str) -> bool:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        print(f"    left out: there is no {', '.join(missing)}")
    return not missing


def runnable() -> list[str]:
    """The levels that this processor can run."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("flags", 1)[1].split("\n", 1)[0].split()
    return [level for level in LEVELS if level != "x86-64-v4" or "avx512vl" in flags]


# -------------------------------------------------------------------------------------------------------------- checks
def check_x86(place: Place) -> None:
    for compiler in ("gcc", "clang"):
        if has(compiler):
            built = place.built("x86", compiler)
            for level in runnable():
                require(place.logits(built, level) == place.expected(level), f"{compiler}, {level}: other bits")
                print(f"    {compiler}, {level}: bitvit's own bits")
    best = run([place.built("x86", "gcc") / "example", place.folder / "image.ppm"], cwd=place.folder)
    require(runnable()[-1] in best, f"the best level was not chosen: {best}")


def check_sanitizers(place: Place) -> None:
    built = place.built("x86", "gcc", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    for level in runnable():
        require(place.logits(built, level) == place.expected(level), f"sanitizers, {level}: other bits")
        print(f"    AddressSanitizer and UndefinedBehaviorSanitizer, {level}: clean")
    if has("valgrind"):
        built = place.built("x86", "gcc")
        for level in runnable()[:2]:  # valgrind knows no AVX-512
            before = ["valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full", "--show-leak-kinds=all"]
            require(place.logits(built, level, *before) == place.expected(level), f"valgrind, {level}: other bits")
            print(f"    valgrind, {level}: clean")


def check_fuzz(place: Place) -> None:
    if not has("clang"):
        return
    sanitizers = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    built, seeds = place.built("x86", "clang", *sanitizers), place.folder / "fuzz"
    flags = [*sanitizers, "-fsanitize=fuzzer", "-I.", "-D_GNU_SOURCE", "-Wno-unused-function"]
    run(["clang", *flags, "-o", "fuzz", FUZZ, "libbitvit_model.a", "-pthread"], cwd=built)
    place.expected("x86-64-v3")
    seeds.mkdir(exist_ok=True)
    shutil.copy(place.folder / "image.ppm", seeds)
    limits = [f"-max_total_time={place.seconds}", f"-max_len={1 << 17}", "-timeout=10", "-rss_limit_mb=1024"]
    done = subprocess.run(
        [built / "fuzz", *limits, "-print_final_stats=1", "-reload=0", seeds],
        cwd=place.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    require(done.returncode == 0, f"libFuzzer, see {place.folder}: {done.stderr[-3000:]}")
    facts = dict(
        line.removeprefix("stat::").split(":") for line in done.stderr.splitlines() if line.startswith("stat:")
    )
    print(f"    {int(facts['number_of_executed_units']):,} inputs, at most {facts['peak_rss_mb'].strip()} MB: clean")


def check_races(place: Place) -> None:
    tools = races.llvm_tools()
    if tools is None:
        print("    left out: there is no opt, llc and clang of one version, 16 or later")
        return
    smallest, *others = OTHERS
    asked: list[tuple[Path, str | None]] = [(smallest, None), *((smallest, weaken) for weaken in races.WEAKENED)]
    asked += [(model, None) for model in dict.fromkeys([place.model, *others]) if model != smallest]
    for model, weaken in asked:
        folder = place.folder / f"races-{model.stem}-{(weaken or 'as it is').replace(' ', '-')}"
        if not folder.exists():
            races.write_bundle_with_races_seen(model, folder, LEVELS[races.LEVEL], weaken)
        options = "-O1 -g -fsanitize=thread"
        run(["make", f"CC={tools[2]}", f"CFLAGS={options}", "libbitvit_model.a"], cwd=folder)
        libraries = ["-I.", str(CHECK), "libbitvit_model.a", "-pthread"]
        run([tools[2], *options.split(), "-o", "check", *libraries], cwd=folder)
        images = place.folder / f"images-{model.stem}"
        if not images.exists():
            images.mkdir()
            run([sys.executable, "-m", "tools.bundle.images", model, images, "logits"], cwd=ROOT)
        arguments = [images / "planes.bin", images / "bytes.bin", COUNT, folder / "logits", races.LEVEL]
        found = list(races.races_of(folder, [str(word) for word in arguments], first=weaken is not None))
        if weaken:
            require(sum(found) > 0, f"{weaken}: no report")
        else:
            require(sum(found) == 0, f"{model.stem}: {found} reports")
        print(f"    {model.stem}{f', {weaken}' if weaken else ''}: {found} reports", flush=True)


def check_symbols(place: Place) -> None:
    for name, compiler in (("x86", "gcc"), ("arm", "aarch64-linux-gnu-gcc")):
        if has(compiler):
            built = place.built(name, compiler)
            lines = run(["nm", "-D", "--undefined-only", built / "libbitvit_model.so"], cwd=built).splitlines()
            found = {line.split()[-1].split("@")[0] for line in lines}
            require(found <= ALLOWED, f"{name}: calls {sorted(found - ALLOWED)}")
            offered = run(["nm", "-D", "--defined-only", built / "libbitvit_model.so"], cwd=built).split()[2::3]
            require(all(symbol.startswith("bitvit_") for symbol in offered), f"{name}: offers {offered}")
            print(f"    {name}: calls {', '.join(sorted(found))}")


def check_size(place: Place) -> None:
    size = (place.bundle() / LIBRARY).stat().st_size
    require(size <= PER_LEVEL * len(LEVELS), f"{size} bytes for {len(LEVELS)} levels")
    print(f"    {size:,} bytes for {len(LEVELS)} levels")
    for level in LEVELS:
        code = sum(path.stat().st_size for path in (place.bundle() / "objects" / level).iterdir())
        require(code <= PER_LEVEL, f"{level}: {code} bytes of objects")
        print(f"    {level}: {code:,} bytes of objects")


def check_again(place: Place) -> None:
    first = place.bundle()
    second = place.folder / "again"
    write_bundle(place.model, second, cpus=tuple(LEVELS), python=True)

    def digests(folder: Path) -> dict[str, str]:
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    one, two = digests(first), digests(second)
    require(one == two, f"other bytes in {sorted(name for name in one if one[name] != two.get(name))}")
    print(f"    {len(one)} files with the same bytes")


def check_arm(place: Place) -> None:
    compiler, emulator = "aarch64-linux-gnu-gcc", "qemu-aarch64-static"
    if not has(compiler, emulator):
        return
    built, expected = place.built("arm", compiler), place.expected("x86-64-v3")
    for cpu, level in (("cortex-a53", "generic"), ("cortex-a76", "cortex-a76"), ("max", "cortex-a76")):
        before = [emulator, "-L", "/usr/aarch64-linux-gnu", "-cpu", cpu]
        require(place.logits(built, level, *before) == expected, f"{level} on {cpu}: other bits than x86-64-v3")
        best = run([*before, built / "example", place.folder / "image.ppm"], cwd=built)
        require(f"({level}," in best, f"{cpu}: the best level was not chosen: {best}")
        print(f"    {level} on {cpu}: the bits of x86-64-v3")


def check_python(place: Place) -> None:
    from tools.bundle.alone import run_alone

    for line in run_alone(place.bundle(), place.folder, place.expected(runnable()[-1])):
        print(f"    {line}")


CHECKS: dict[str, Callable[[Place], None]] = {
    "x86": check_x86,
    "sanitizers": check_sanitizers,
    "fuzz": check_fuzz,
    "races": check_races,
    "symbols": check_symbols,
    "size": check_size,
    "again": check_again,
    "arm": check_arm,
    "python": check_python,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.bundle")
    parser.add_argument("model", nargs="?", type=Path, default=ROOT / "weights" / "bhvit-cifar10.safetensors")
    parser.add_argument("--only", action="append", choices=CHECKS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seconds", type=int, default=60, help="of fuzzing (default 60)")
    arguments = parser.parse_args()
    failed = 0
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(mode=0o755, exist_ok=True)
        folder.chmod(0o755)
        place = Place(folder.absolute(), arguments.model.absolute(), arguments.seconds)
        for name in arguments.only or CHECKS:
            print(f"{name}:", flush=True)
            try:
                CHECKS[name](place)
            except (FailureError, AssertionError, subprocess.CalledProcessError) as failure:
                print(f"    FAILED: {failure}")
                failed += 1
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
