"""Mutation testing: small faults are put into modules, one at a time, and their tests must fail.

    python -m tools.mutants bitvit/kernels bitvit/config.py [--count 100] [--seed 1] [--minutes M]
    python -m tools.mutants bitvit/kernels --again           those that survived, now that a test was added

Mutants are made by `ast` (making.py): a random sample of --count, spread over the modules by their lines. Each is put
into a copy of the clone, below --folder, where the tests of its module's name, and those that table.py has for it, run
until one fails: a quarter of a minute each for most, minutes for a survivor.
Kernels are compiled anew, but for those that the module has no part in.

A mutant is killed if a test fails, or if the tests take far too long. Two kinds are not counted: those on branches that
are not for this processor (`if ARM:`), which are not even tried, and those of kernels that survive as the same machine
code. So another processor may want a run of its own. Each mutant is a line of the output, and the score is the last.
What is done stands in FOLDER/results.jsonl: a run may be stopped and started again. Another text of a module begins
anew. Exit code 1 if mutants survived.
"""

import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tools.mutants.living import KERNELS, dead_spans
from tools.mutants.making import Mutant, make_mutants
from tools.mutants.table import TESTS
from tools.mutants.trial import Trial

__all__ = ["Results", "chosen", "main", "named_tests", "share"]

ROOT = Path(__file__).resolve().parents[2]


class Results:
    """What came of mutants, in a file of one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outcomes: dict[str, str] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                kept = json.loads(line)
                self._outcomes[kept["key"]] = kept["outcome"]

    def of(self, text: str, mutant: Mutant) -> str | None:
        """The last outcome of a mutant of a module that reads so; None if it was not tried."""
        return self._outcomes.get(self._key(text, mutant))

    def add(self, text: str, mutant: Mutant, outcome: str, **more: Any) -> None:
        """Keep an outcome, and what else is known."""
        key = self._key(text, mutant)
        self._outcomes[key] = outcome
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"outcome": outcome, **more, "key": key}) + "\n")

    @staticmethod
    def _key(text: str, mutant: Mutant) -> str:
        return hashlib.sha256(mutant.of(text).encode()).hexdigest()[:16]


def named_tests(module: str) -> tuple[str, ...]:
    """The tests of a module, a path below the clone's root: those of its name first; none if it has no row in TESTS."""
    tests = next((tests for start, tests in TESTS.items() if module.startswith(start)), ())
    path = Path("tests", *Path(module).parts[1:])
    own = path.with_name(f"test_{path.name}").as_posix()
    return (own, *(test for test in tests if test != own)) if tests and (ROOT / own).exists() else tests


def share(lines: Mapping[str, int], count: int) -> dict[str, int]:
    """Split a number of mutants over modules, in proportion to their lines."""
    given: dict[str, int] = {}
    total, before = sum(lines.values()), 0
    for module, own in lines.items():
        before += own
        given[module] = count * before // total - sum(given.values())
    return given


def chosen(module: str, text: str, count: int | None, seed: int, dead: Sequence[tuple[int, int]]) -> Iterator[Mutant]:
    """A random sample of a module's mutants, or all; none that does not parse, or is inside one of the dead spans."""
    mutants = [m for m in make_mutants(text) if not any(begin <= m.begin and m.end <= end for begin, end in dead)]
    random.Random(f"{seed} {module}").shuffle(mutants)
    for mutant in mutants:
        if count is not None and count <= 0:
            return
        if mutant.parses(text):
            yield mutant
            count = None if count is None else count - 1


def _modules(paths: Sequence[Path]) -> list[str]:
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))]
    modules = [file.resolve().relative_to(ROOT).as_posix() for file in files]
    return [module for module in modules if named_tests(module)]


def main(
    modules: Annotated[list[Path], typer.Argument(help="files, or folders of them", exists=True)],
    count: Annotated[int | None, typer.Option(help="of mutants, in all; default: every one")] = None,
    seed: Annotated[int, typer.Option(help="of the sample")] = 1,
    minutes: Annotated[float, typer.Option(help="begin no other mutant after so many")] = 1e9,
    again: Annotated[bool, typer.Option("--again", help="try those that survived once more")] = False,
    folder: Annotated[Path, typer.Option(help="for the copy and the results")] = Path("build/mutants"),
) -> None:
    """Put small faults into modules, one at a time, and see whether their tests fail."""
    begin = time.monotonic()
    texts = {module: (ROOT / module).read_text(encoding="utf-8") for module in _modules(modules)}
    if not texts:
        raise SystemExit("none of these modules has tests in tools/mutants/table.py")
    counts = share({module: text.count("\n") for module, text in texts.items()}, count) if count else {}
    dead = dead_spans(ROOT) if any(module.startswith(KERNELS) for module in texts) else {}
    folder.mkdir(parents=True, exist_ok=True)
    results, trial, score = Results(folder / "results.jsonl"), Trial(ROOT, folder.resolve()), Counter[str]()
    tried = [
        (module, mutant)
        for module, text in texts.items()
        for mutant in chosen(module, text, counts.get(module), seed, dead.get(module, ()))
    ]
    random.Random(seed).shuffle(tried)  # so that those before a stop are a fair sample too
    trial.check(dict.fromkeys(test for module in texts for test in named_tests(module)))
    for module, mutant in tried:
        text = texts[module]
        outcome = results.of(text, mutant)
        if outcome is None or (again and outcome == "survived"):
            if time.monotonic() - begin > 60 * minutes:
                score["not tried"] += 1
                continue
            start = time.monotonic()
            outcome = trial.outcome(module, mutant, named_tests(module))
            place, difference = f"{module}:{mutant.line(text)}", mutant.difference(text)
            seconds = round(time.monotonic() - start, 1)
            results.add(text, mutant, outcome, place=place, difference=difference, seconds=seconds)
        print(f"{outcome:9}  {module}:{mutant.line(text)}  {mutant.difference(text)}", flush=True)
        score[outcome] += 1
    killed, survived = score["killed"] + score["timeout"], score["survived"]
    print(f"{killed} of {killed + survived} killed; {', '.join(f'{n} {what}' for what, n in sorted(score.items()))}")
    raise typer.Exit(survived > 0)


if __name__ == "__main__":
    typer.run(main)
