"""A process that feeds one target under Atheris, which watches which branches an input reaches.

    python -m tools.fuzz.engine TARGET FOLDER FACTS [options and folders of libFuzzer]

FOLDER: an empty one, in memory if there is such. FACTS: a file that gets what has come out so far, as JSON.
"""

import gc
import json
import sys
from pathlib import Path
from random import Random

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

from .targets import KINDS, all_modules

__all__: list[str] = []

WARM_UP = 300  # mutants
NOTED_EVERY = 500  # inputs
BY_BYTES = 0.15  # of the changes are libFuzzer's own


def main(arguments: list[str]) -> None:
    name, folder, facts, *options = arguments
    kind = KINDS[name]
    others = [module for module in all_modules() if not kind.watches(module)]
    with atheris.instrument_imports(include=["bitvit"], exclude=others):  # Atheris includes whole packages
        from .guard import Guard, limit_memory
        from .target import Judge

        target = kind.make(Path(folder))
    judge = Judge(target, Guard())
    seeds, rng = target.seeds(), Random(0)
    judge.warm_up((*seeds, *(target.mutate(rng, rng.choice(seeds)) for _ in range(WARM_UP))))
    count = 0

    def feed(data: bytes) -> None:
        nonlocal count
        count += 1
        judge.feed(data)
        if count % NOTED_EVERY == 0:
            content = {
                "outcomes": judge.outcomes, "messages": sorted(judge.messages), "slowest": judge.slowest, "count": count
            }  # fmt: skip
            Path(facts).write_text(json.dumps(content), encoding="utf-8")

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = Random(seed)
        if rng.random() < BY_BYTES:
            return bytes(atheris.Mutate(data, most))
        return target.mutate(rng, data)[:most]

    gc.collect()
    gc.freeze()
    limit_memory()
    atheris.Setup([sys.argv[0], f"-max_len={target.longest}", *options], feed, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
