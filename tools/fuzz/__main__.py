"""Feed readers with inputs that Atheris finds by watching which branches each one reaches.

    pip install atheris coverage
    python -m tools.fuzz --seconds 60                 # of each target, and on from there with the same command
    python -m tools.fuzz pth --count 1000000 --out run
    python -m tools.fuzz --keep --out run             # the fewest inputs that reach as much, into the repository
    python -m tools.fuzz --reach                      # lines and branches that the inputs kept do not reach
    python -m tools.fuzz --replay                     # feed the inputs kept, without Atheris
    python -m tools.fuzz pth --replay run/pth/failures/crash-…

A failure is any exception but a BitvitError, more than 2 s of processor time or 512 MB of growth, a process that dies,
and anything that a reader does apart from reading: importing, running code, starting a process, connecting, writing.
The folder keeps the inputs that reach something, those that are failures, and how far the runs have come. The exit code
is 1 if there is any failure.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import corpus
from .campaign import Campaign, is_installed, memory
from .guard import Guard, limit_memory
from .target import BrokenPromiseError, Judge
from .targets import KINDS, ROOT

ENDLESS = 1 << 40


def replay(names: Sequence[str], file: Path | None) -> int:
    """Feed one input, or all that are kept, to their readers; returns how many failures there are."""
    guard, failures = Guard(), 0
    for name in names:
        inputs = corpus.kept(name) if file is None else [file.read_bytes()]
        with tempfile.TemporaryDirectory(prefix="bitvit-fuzz-", dir=memory()) as folder:
            target = KINDS[name].make(Path(folder))
            judge = Judge(target, guard)
            judge.warm_up(inputs)
            limit_memory()
            for data in inputs:
                try:
                    judge.feed(data)
                except BrokenPromiseError as failure:
                    failures += 1
                    print(f"{name} {corpus.name_of(data)}: {failure}", file=sys.stderr)
            target.close()
        print(f"{name:12} {len(inputs):4} inputs: {dict(judge.outcomes)}, {len(judge.messages)} messages")
        if file is not None:
            print(*sorted(judge.messages), sep="\n")
    return failures


def keep(campaign: Campaign) -> None:
    """Put the fewest inputs that reach as much as all do into the repository."""
    with tempfile.TemporaryDirectory(prefix="bitvit-fuzz-") as folder:
        out = Path(folder) / "names"
        _measure(campaign.target, campaign.inputs, out, "--least")
        chosen = [(campaign.inputs / name).read_bytes() for name in json.loads(out.read_text())]
    path = corpus.keep(campaign.target, chosen)
    print(f"{campaign.target:12} {len(list(campaign.inputs.iterdir())):6} -> {len(chosen):4} inputs", end="")
    print(f" of {sum(map(len, chosen)):,} bytes, {path.stat().st_size:,} in {path.relative_to(ROOT)}")


def reach(names: Sequence[str]) -> Iterator[str]:
    """What the inputs kept do not reach, by module. A branch is two lines, -> 0 is the end of the function."""
    lines: dict[str, set[int]] = {}
    branches: dict[str, set[tuple[int, int]]] = {}
    totals = dict.fromkeys(("num_statements", "covered_lines", "num_branches", "covered_branches"), 0)
    for name in names:
        with tempfile.TemporaryDirectory(prefix="bitvit-fuzz-") as folder:
            inputs, out = Path(folder) / "inputs", Path(folder) / "report"
            inputs.mkdir()
            for data in corpus.kept(name):
                (inputs / corpus.name_of(data)).write_bytes(data)
            _measure(name, inputs, out)
            report = json.loads(out.read_text())
        for key in totals:
            totals[key] = report["totals"][key]
        yield (
            f"{name}: {totals['covered_lines']} of {totals['num_statements']} lines, {totals['covered_branches']} of "
            f"{totals['num_branches']} branches"
        )
        for file, found in report["files"].items():
            missing = {(first, max(0, last)) for first, last in found["missing_branches"]}
            lines[file] = lines.get(file, set(found["missing_lines"])) & set(found["missing_lines"])
            branches[file] = branches.get(file, missing) & missing
    yield "\nreached by none of them:"
    for file, missed in sorted(lines.items()):
        apart = sorted(
            f"{first}->{last}" for first, last in branches[file] if first not in missed and last not in missed
        )
        if missed or apart:
            yield f"{file}: lines {_ranges(missed) or 'none'}; branches {', '.join(apart) or 'none'}"


def _ranges(numbers: set[int]) -> str:
    """'3-5, 9'"""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def _measure(target: str, inputs: Path, out: Path, *options: str) -> None:
    command = [sys.executable, "-m", "tools.fuzz.reach", target, str(inputs), str(out), *options]
    subprocess.run(command, cwd=ROOT, check=True)


def table(campaigns: Sequence[Campaign]) -> Iterator[str]:
    """What has been done."""
    yield (
        f"{'target':12}{'inputs':>12}{'a second':>10}{'refused':>12}{'read':>10}{'messages':>10}{'slowest':>9}"
        f"{'growth':>9} failures"
    )
    for campaign in campaigns:
        p = campaign.progress
        refused = sum(count for name, count in p.outcomes.items() if name != "read")
        yield (
            f"{campaign.target:12}{p.inputs:12,}{p.inputs / max(p.seconds, 1):10,.0f}{refused:12,}"
            f"{p.outcomes.get('read', 0):10,}{len(p.messages):10}{p.slowest:7.2f} s{p.grown:6} MB{p.failures:9}"
        )
    yield f"{'all':12}{sum(campaign.progress.inputs for campaign in campaigns):12,}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"some of {', '.join(KINDS)}; default: all")
    parser.add_argument("--count", type=int, help="further inputs of each target; default: no limit")
    parser.add_argument("--seconds", type=float, help="for each target; default: 60, or no limit with --count")
    parser.add_argument("--out", type=Path, default=Path("fuzz-run"), help="folder for inputs, failures and progress")
    parser.add_argument("--keep", action="store_true", help="minimise the inputs found, into the repository")
    parser.add_argument("--reach", action="store_true", help="say what the inputs kept do not reach")
    parser.add_argument("--replay", nargs="?", const=True, metavar="FILE", help="feed one input again, or those kept")
    parser.add_argument("--show", action="store_true", help="show what has been done")
    options = parser.parse_args()
    unknown = set(options.targets) - KINDS.keys()
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    names = options.targets or list(KINDS)
    if options.replay:
        file = None if options.replay is True else Path(options.replay)
        if file is not None and len(names) > 1:
            parser.error("name the target of the input to replay")
        sys.exit(replay(names, file) > 0)
    missing = "coverage" if options.keep or options.reach else "atheris"
    if not options.show and not is_installed(missing):
        parser.error(f"{missing} is not installed: pip install {missing}")
    if options.reach:
        print("\n".join(reach(names)))
        return
    campaigns = [Campaign(name, options.out) for name in names]
    if options.keep:
        for campaign in campaigns:
            keep(campaign)
        return
    fine = True
    if not options.show:
        seconds = options.seconds or (60 if options.count is None else ENDLESS)
        for campaign in campaigns:
            campaign.begin()
            fine &= campaign.run(seconds, -1 if options.count is None else options.count)
    print("\n".join(table(campaigns)))
    sys.exit(not fine)


if __name__ == "__main__":
    main()
