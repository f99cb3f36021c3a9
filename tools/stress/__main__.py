"""Many callers, faults and long runs, against a packed model.

    python -m tools.stress                                  # all checks, a few minutes
    python -m tools.stress model.safetensors --only threads --seconds 60
    python -m tools.stress model.safetensors --soak 30        # minutes

Each line is a promise of SECURITY.md and what was done to see whether it holds. Exit code 1 if one did not.
"""

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tools.stress import callers, faults, reloads, soak
from tools.stress.promise import CheckError

DEFAULT = Path(__file__).resolve().parents[2] / "weights" / "bhvit-digits.safetensors"
COMMANDS = ("convert", "classify", "evaluate", "warmup")


def checks(
    model: Path, seconds: float, times: int, count_of_reloads: int, folder: Path
) -> dict[str, Callable[[], str]]:
    """Name and function of every check."""
    commands = functools.cache(lambda: faults.make_commands(folder))  # only if one of them is wanted
    found: dict[str, Callable[[], str]] = {
        "threads": partial(callers.check_threads, model, seconds),
        "models": partial(callers.check_models, model, seconds),
        "reloads": partial(reloads.check_reloads, model, count_of_reloads),
        **{f"pool-{method}": partial(callers.check_pool, model, method) for method in callers.start_methods()},
        "prefork": partial(callers.check_prefork, model, seconds, folder),
        "read-only-home": lambda: faults.check_read_only_home(commands()["classify"]),
        "killed": lambda: faults.check_killed(commands()["warmup"], times),
    }
    for name in COMMANDS:
        found[f"interrupt-{name}"] = partial(_with, commands, name, partial(faults.check_interrupts, times=times))
        found[f"full-disk-{name}"] = partial(_with, commands, name, faults.check_full_disk)
    return found


def _with(commands: Callable[[], dict[str, faults.Command]], name: str, check: Callable[[faults.Command], str]) -> str:
    return check(commands()[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=DEFAULT, help="packed model; default bhvit-digits")
    parser.add_argument("--seconds", type=float, default=10, help="how long each check of callers lasts (default 10)")
    parser.add_argument(
        "--times", type=int, default=6, help="how often each command is interrupted or killed (default 6)"
    )
    parser.add_argument("--reloads", type=int, default=500, help="how often a called model is replaced (default 500)")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="run the checks whose names begin with this; may be given again"
    )
    parser.add_argument(
        "--soak", type=float, metavar="MINUTES", help="run at full load for that long, and nothing else"
    )
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="bitvit-stress-") as folder:
        if options.soak:
            chosen: dict[str, Callable[[], str]] = {"soak": partial(soak.check_soak, options.model, 60 * options.soak)}
        else:
            every = checks(options.model, options.seconds, options.times, options.reloads, Path(folder))
            chosen = {n: c for n, c in every.items() if not options.only or n.startswith(tuple(options.only))}
        for name, check in chosen.items():
            begin = time.monotonic()
            try:
                print(f"{name:20} ok, {check()} ({time.monotonic() - begin:.0f} s)", flush=True)
            except CheckError as failure:
                failed += 1
                print(f"{name:20} FAILED: {failure}", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
