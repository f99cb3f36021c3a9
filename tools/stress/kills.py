"""kill -9 at random moments of a command and of what it has started: nothing is half-written, the next run is right.

Commands begin in a zygote's children, so a thousand kills take minutes. A campaign may be done in parts: a tally in a
file says how many there were, and each round is random in a way of its own.
"""

import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from .commands import Command, check_next_run, check_whole
from .promise import CheckError
from .zygote import Zygote

__all__ = ["Tally", "check_kills", "undisturbed"]

LEFT = (".bitvit.*", ".bitvit.*/*", ".bitvit.*/*/*", ".bitvit.*/*/*/*")  # unfinished files, which a kill leaves behind


@dataclass
class Tally:
    """Rounds and kills so far, by command; kept in a file if one is named."""

    path: Path | None = None
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is not None and self.path.exists():
            self.counts = json.loads(self.path.read_text())

    def add(self, name: str, **counts: int) -> dict[str, int]:
        """Count some more of a command; returns all of its counts."""
        own = self.counts.setdefault(name, {})
        for what, count in counts.items():
            own[what] = own.get(what, 0) + count
        if self.path is not None:
            self.path.write_text(json.dumps(self.counts, indent=2))
        return own


def undisturbed(zygote: Zygote, command: Command, times: int = 3) -> tuple[dict[str, bytes], float]:
    """What runs of a command write, and the seconds of the longest one. They must write the same."""
    written: dict[str, bytes] = {}
    longest = 0.0
    for number in range(times):
        command.empty()
        begin = time.monotonic()
        done = zygote.run(command)
        longest = max(longest, time.monotonic() - begin)
        found = command.written()
        if done.code or (number and any(found[name] != written[name] for name in command.outputs)):
            raise CheckError(f"{command.name}, undisturbed: {done}")
        written = found
    return written, longest


def check_kills(zygote: Zygote, command: Command, times: int, tally: Tally | None = None, runs: int = 3) -> str:
    """Kill a command `times` times. runs: undisturbed ones to compare with."""
    tally = tally or Tally()
    expected, seconds = undisturbed(zygote, command, runs)
    kills, begin = 0, time.monotonic()
    counts = tally.add(command.name)
    while kills < times:
        number = counts.get("rounds", 0)
        chance = random.Random(f"{command.name} {number}")
        command.empty()
        found = {"rounds": 1, "kills": 0, "in time": 0, "half-way": 0}
        is_over = False  # of a command that does not run again once it has ended
        while not is_over and (not found["kills"] or chance.random() < 0.5):  # over what a killed run has left
            more = command.again if found["kills"] else ()
            found["in time"] += _kill(zygote, command, seconds * chance.random(), chance.random() < 0.5, more)
            found["kills"] += 1
            found["half-way"] += bool(command.written())
            _check_whole(command, expected, f"round {number}")
            is_over = command.refuses and not command.written().keys().isdisjoint(command.outputs)
        if not is_over:
            check_next_run(command, expected, zygote.run(command, *command.again), f"kills, round {number}")
        kills += found["kills"]
        counts = tally.add(command.name, **found)
    return (
        f"{command.name}: {kills} kills in {time.monotonic() - begin:.0f} s, at random within {seconds:.2f} s, nothing "
        f"half-written, all next runs right; so far {json.dumps(counts)}"
    )


def _kill(zygote: Zygote, command: Command, after: float, group: bool, more: tuple[str, ...]) -> bool:
    """Whether it was still at work."""
    run = zygote.start(command, *more)
    time.sleep(after)
    run.kill(group=group)
    return run.finish().code < 0


def _check_whole(command: Command, expected: dict[str, bytes], what: str) -> None:
    """Files are whole; a folder that is made at once has all of its files."""
    found = command.written()
    check_whole(command, expected, f"kill, {what}", more=LEFT)
    missing = expected.keys() - found.keys() if command.together else set()
    if missing and missing != expected.keys():
        raise CheckError(f"{command.name}, kill, {what}: there without {sorted(missing)}")
    for name, content in found.items():  # what may be left is whole as well
        if name.endswith(".o") and name in expected and content != expected[name]:
            raise CheckError(f"{command.name}, kill, {what}: {name} is half-written")
