"""ThreadSanitizer on a bundle's team.

In a bundle the team's counters and all kernels are objects that LLVM has compiled, in which ThreadSanitizer would see
nothing. So they are compiled once more from the same LLVM code, with its instrumentation: every read and write of the
maps, of the counters and of weights is seen, each counter's access with its order of memory.

`weaken` takes the order away from some of them. The machine code stays as it is on x86, but ThreadSanitizer, which goes
by the order that was asked for, must report it.
"""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from bitvit.bundle.processes import Process
from bitvit.bundle.writing import write_bundle

__all__ = ["LEVEL", "WEAKENED", "llvm_tools", "races_of", "write_bundle_with_races_seen", "write_llvm_code"]

LEVEL = "x86-64-v2"  # vectors of 16 bytes, the longest that ThreadSanitizer sees
REPORT = "WARNING: ThreadSanitizer"
RUNS = 3  # starts of the same program
# Vectors of 32 bytes are split, and masked ones taken apart.
PASSES = "default<O2>,function(scalarize-masked-mem-intrin,scalarizer),tsan-module,function(tsan)"
SPLIT = ("-scalarize-load-store", "-scalarize-min-bits=128")

Weaken = Callable[[str], str]


def _relaxed(pattern: str) -> Weaken:
    def weaken(code: str) -> str:
        return re.sub(pattern, lambda found: re.sub(r"\b(seq_cst|acquire|release)\b", "monotonic", found[0]), code)

    return weaken


WEAKENED: dict[str, tuple[str, Weaken]] = {
    "counters are read without order": ("ll", _relaxed(r"= load atomic .*")),
    "counters are raised without order": ("ll", _relaxed(r"= atomicrmw .*")),
    "a workspace is given back without a lock": (
        "bitvit_model.c",
        lambda code: re.sub(
            r"pthread_mutex_lock\(&model->lock\);\n(.*taken\[number\] = 0;\n.*\n) *pthread_mutex_unlock\(.*\);",
            r"\1",
            code,
        ),
    ),
    "whether a helper lingers is read plainly": (
        "bitvit_model.c",
        lambda code: re.sub(r"__atomic_load_n\((.*), __ATOMIC_SEQ_CST\)", r"*\1", code),
    ),
}
"""What ThreadSanitizer must report: the kind of file that is changed, and how."""


def llvm_tools() -> tuple[str, str, str] | None:
    """opt, llc and clang of one version, 16 or later; the newest."""
    for version in range(40, 15, -1):
        names = f"opt-{version}", f"llc-{version}", f"clang-{version}"
        if all(map(shutil.which, names)):
            return names
    return None


def write_llvm_code(model: str, place: str) -> None:
    """Write the LLVM code of a model's functions into a folder, NAME.ll, for the target of this process."""
    from bitvit.jit.compiler import llvm_code
    from bitvit.model import Network
    from bitvit.modelfile import load_model_file

    file = load_model_file(model)
    for function in Network.read(file.config, file.tensors).program().functions:
        Path(place, f"{function.name}.ll").write_text(str(llvm_code(function)), encoding="utf-8")


def write_bundle_with_races_seen(model: Path, folder: Path, features: str, weaken: str | None = None) -> None:
    """A bundle of the level LEVEL whose objects are instrumented; folder: to be made. weaken: a key of WEAKENED."""
    kind, change = WEAKENED[weaken] if weaken else ("", str)
    code = folder.with_name(f"{model.stem}.llvm")
    plain = folder.with_name(f"{model.stem}.plain")
    if not plain.exists():
        code.mkdir(exist_ok=True)
        target = f"x86_64-unknown-linux-gnu {LEVEL} {features}"
        function = write_llvm_code.__module__, write_llvm_code.__name__
        with Process(function, (str(model), str(code)), target=target) as process:
            process.result()
        write_bundle(model, plain, cpus=[LEVEL])
    suffix = LEVEL.replace("-", "_")
    shutil.copytree(plain, folder)
    for path in sorted((folder / "objects" / LEVEL).glob("*.o")):
        name = path.stem.removesuffix(f"_{suffix}")
        text = _for_older_llvm((code / f"{name}.ll").read_text(encoding="utf-8"))
        text = text.replace(f"@{name}(", f"@bitvit_{name}_{suffix}(")
        _compile(change(text) if kind == "ll" else text, path)
    if kind and kind != "ll":
        before = (folder / kind).read_text(encoding="utf-8")
        assert change(before) != before, f"{kind}: there is nothing to weaken"
        (folder / kind).write_text(change(before), encoding="utf-8")


def _for_older_llvm(text: str) -> str:
    """What Numba's LLVM writes, for one that is a few versions older; every function is to be instrumented."""
    text = re.sub(r" captures\(\w+\)|\bnocreateundeforpoison ", "", text)
    text = re.sub(r"(@llvm\.masked\.store\.\w+\.p0\(<\d+ x \w+>, ptr), ", r"\1, i32 immarg, ", text)
    text = re.sub(r"(@llvm\.masked\.store.*?), ptr align (\d+) (%[\w.]+), (<)", r"\1, ptr \3, i32 \2, \4", text)
    return re.sub(r"^(define .*\))( #\d+)? \{$", r"\1 sanitize_thread\2 {", text, flags=re.MULTILINE)


def _compile(text: str, to: Path) -> None:
    tools = llvm_tools()
    assert tools is not None, "opt, llc and clang are needed"
    opt = [tools[0], f"-mcpu={LEVEL}", *SPLIT, f"-passes={PASSES}", "-o", "-"]
    optimised = subprocess.run(opt, input=text.encode(), capture_output=True, check=False)
    assert optimised.returncode == 0, optimised.stderr.decode()[-800:]
    assert b"__tsan" in optimised.stdout, f"{to.name}: nothing is instrumented"
    llc = [tools[1], f"-mcpu={LEVEL}", "-O2", "-filetype=obj", "-relocation-model=pic", "-o", str(to)]
    subprocess.run(llc, input=optimised.stdout, capture_output=True, check=True)


def races_of(built: Path, arguments: list[str], *, first: bool = False) -> Iterator[int]:
    """Reports of each of RUNS runs of the program `check` of a bundle; first: of one run, which ends with the first.

    Raises AssertionError if it fails otherwise.
    """
    for _ in range(1 if first else RUNS):
        done = subprocess.run(
            [built / "check", *arguments],
            cwd=built,
            env={"TSAN_OPTIONS": f"exitcode=66 halt_on_error={int(first)}"},
            capture_output=True,
            text=True,
            check=False,
        )
        reports = done.stderr.count(REPORT)
        assert done.returncode == (66 if reports else 0), f"exit code {done.returncode}: {done.stderr[-800:]}"
        yield reports
