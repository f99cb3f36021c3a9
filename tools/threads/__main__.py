"""Check the protocol of bitvit's team of threads, and that the check would find its faults.

    python -m tools.threads [--quick] [--only NAME]

Needs spin and gcc. The sizes, then the faults, each by its name, with the number of states that were searched. Exit
code 1 if an order was found in which something goes wrong, or a fault was not found; 2 if a program is lacking.
"""

import argparse
import sys
from collections.abc import Iterator
from typing import NamedTuple

from tools.threads.checker import MissingError, Outcome, check

__all__ = ["FAULTS", "SIZES", "Fault", "Size", "main"]


class Size(NamedTuple):
    """A model without faults: no order may lead to an error."""

    name: str
    options: str
    quick: bool = False


class Fault(NamedTuple):
    """A model with a fault. found: what spin must say of the first order in which something goes wrong."""

    name: str
    options: str
    found: str


LOST = "assertion violated (counted[me]<=tried[me])"
WAITS = "assertion violated ((ended_callers=="
LATE = "assertion violated (working==0)"
EARLY = "assertion violated ((s==0)||(ended[(s-1)]=="

SIZES = (
    Size("one helper, three calls, two exceptions, batches", "CALLS=3 RAISES=2 BATCHES=1 ABSENT", quick=True),
    Size("one helper, two callers, two exceptions, helpers that end", "CALLERS=2 CALLS=1 RAISES=2 DIES", quick=True),
    Size("two helpers, two ranges, two pieces", "HELPERS=2 STEPS=1 RANGES=2"),
    Size("two helpers, an exception", "HELPERS=2 STEPS=1 PIECES=1 RAISES=1"),
    Size("two helpers, two steps", "HELPERS=2 PIECES=1"),
    Size("three helpers", "HELPERS=3 STEPS=1 PIECES=1 CALLS=1"),
    Size("four helpers", "HELPERS=4 STEPS=1 PIECES=1 CALLS=1"),
    Size("a fork at any moment", "FORK STEPS=1 PIECES=1 CALLS=1", quick=True),
    Size("a fork and an exception", "FORK STEPS=1 PIECES=1 CALLS=1 RAISES=1"),
    Size("a bundle's team, two callers, batches", "BUNDLE CALLERS=2 CALLS=1 BATCHES=1", quick=True),
    Size("a bundle's team, two helpers", "BUNDLE HELPERS=2 STEPS=1 PIECES=1"),
)

FAULTS = (
    Fault("a helper does not look again before it sleeps", "FAULT_NO_SECOND_LOOK", LOST),
    Fault("it looks before it has said that it lingers no more", "FAULT_HELPER_LOOKS_FIRST", LOST),
    Fault("the leader looks for helpers before the image has begun", "FAULT_LEADER_LOOKS_FIRST", LOST),
    Fault("the image is numbered before the gate opens", "FAULT_EPOCH_BEFORE_GATE", LOST),
    Fault("a helper notes the image when it lingers, not when it enters", "FAULT_EPOCH_READ_LATE", LOST),
    Fault("the gate opens before the counters are 0", "FAULT_GATE_FIRST", EARLY),
    Fault("nobody looks whether the gate is open", "FAULT_NO_GATE", LATE),
    Fault("the leader does not wait for helpers inside", "FAULT_CLOSE_WITHOUT_WAITING", LATE),
    Fault("a claim is read and then written", "FAULT_CLAIM_IN_TWO_STEPS", "assertion violated (begun["),
    Fault("a step begins before the last is done", "FAULT_NO_BARRIER", EARLY),
    Fault("a helper that leaves forgets to count its pieces", "FAULT_LEAVES_WITHOUT_COUNT", WAITS),
    Fault("a gate that exceptions left open is not closed", "FAULT_NOT_TIDIED RAISES=2", "assertion violated ("),
    Fault(
        "pixels are freed with the model", "FAULT_PIXELS_OF_RUNNER RAISES=2", "assertion violated ((s!=0)||(pixels=="
    ),
    Fault("a flag says whether a helper has a call", "FAULT_FLAG RAISES=2", "assertion violated idle["),
    Fault("all batches have the same cells", "FAULT_BATCH_CELLS_STAY BATCHES=1", "assertion violated (job==call)"),
    Fault("a forked child takes the parent's cells", "FORK STEPS=1 PIECES=1 CALLS=1 FAULT_FORK_KEEPS_CELLS", WAITS),
    Fault("a forked child takes the parent's lease", "FORK CALLS=1 FAULT_FORK_KEEPS_LEASE", "(leases==1))"),
)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.threads")
    parser.add_argument("--quick", action="store_true", help="the smallest sizes and all faults")
    parser.add_argument("--only", metavar="NAME", help="sizes and faults in whose names or options this is")
    asked = parser.parse_args(arguments)
    try:
        failed = sum(not good for good in _all(asked.quick, asked.only or ""))
    except MissingError as problem:
        print(f"tools.threads: {problem}", file=sys.stderr)
        return 2
    if failed:
        print(f"{failed} FAILED", file=sys.stderr)
    return 1 if failed else 0


def _all(quick: bool, only: str) -> Iterator[bool]:
    """Whether each is as it must be."""
    for size in SIZES:
        if only in f"{size.name} {size.options}" and (size.quick or not quick):
            outcome = check(size.options.split())
            yield _say(size.name, outcome, good=outcome.errors == 0)
    for fault in FAULTS:
        if only in f"{fault.name} {fault.options}":
            outcome = check(fault.options.split())
            yield _say(f"fault: {fault.name}", outcome, good=outcome.errors > 0 and fault.found in outcome.found)


def _say(name: str, outcome: Outcome, *, good: bool) -> bool:
    found = outcome.found or "no error"
    print(
        f"{'ok' if good else 'FAILED':6} {name}: {outcome.states:,} states, depth {outcome.depth:,}, "
        f"{outcome.megabytes:,.0f} MB, {outcome.seconds:.1f} s: {found}",
        flush=True,
    )
    return good


if __name__ == "__main__":
    sys.exit(main())
