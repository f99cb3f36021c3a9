"""Clocks that jump under a command: a day to and fro, to 1970, to 2040, before it begins and in the middle.

Only the clock that people read jumps (CLOCK_REALTIME), as it does where one is set. Times of files stay as they are, as
if the clock had been right when they were written.
"""

import contextlib
import json
import os
import re
import time
from collections.abc import Mapping
from datetime import date, datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path

from tests.support.serving import running

from .commands import Command, Done, image_for
from .kills import undisturbed
from .promise import CheckError
from .shim import faults, preloading
from .zygote import Zygote

__all__ = ["check_clock", "check_served_clock", "jumps"]

DAY = 86400.0  # seconds
_NEGATIVE = re.compile(r"(?<![\w.,/:=-])-\d")  # a number; not a range, a date or part of a name
_FOLDER = 24 * "0"  # as the cache of kernels names one


def jumps(seconds: float) -> Mapping[str, list[tuple[float, float]]]:
    """Name -> when the clock jumps, and by how much it is wrong from then on. seconds: that a command takes."""
    now = time.time()
    then = {year: datetime(year, 1, 1, tzinfo=timezone.utc).timestamp() - now + 3600 for year in (1970, 2040)}
    return {
        "a day ahead": [(0, DAY)],
        "a day back": [(0, -DAY)],
        "1970": [(0, then[1970])],
        "2040": [(0, then[2040])],
        "a day ahead in the middle": [(seconds / 2, DAY)],
        "a day back in the middle": [(seconds / 2, -DAY)],
        "1970 in the middle": [(seconds / 2, then[1970])],
        "to and fro": [(seconds * k / 16, DAY * (-1) ** k) for k in range(16)],
    }


def check_clock(zygote: Zygote, command: Command, runs: int = 3) -> str:
    """Every jump gives the same answer in the same time, and no time that is negative. runs: undisturbed ones first."""
    expected, seconds = undisturbed(zygote, command, runs)
    longest = 0.0
    for name, pairs in jumps(seconds).items():
        command.empty()
        others, begin = _kernels_of_other_versions(command), time.monotonic()
        done = zygote.run(command, environment=faults(clock=pairs))
        longest = max(longest, time.monotonic() - begin)
        lost = [path.name for path in others if not path.exists()]
        _check(command, expected, done, f"clock {name}")
        if lost:
            raise CheckError(f"{command.name}, clock {name}: kernels of other versions are thrown away: {lost}")
    if longest > 5 * seconds + 10:
        raise CheckError(f"{command.name} takes {longest:.1f} s where the clock jumps, {seconds:.1f} s otherwise")
    return f"{len(jumps(1))} clocks that jump under {command.name}: the same, in {longest:.1f} s at most"


def _check(command: Command, expected: Mapping[str, bytes], done: Done, what: str) -> None:
    found = command.written()
    wrong = [name for name in command.outputs if found.get(name) != expected[name]]
    if done.code or wrong:
        raise CheckError(f"{command.name}, {what}: {done}; other outputs: {wrong}")
    seconds = [
        float(json.loads(path.read_text())["seconds"]) for path in command.folder.rglob("report.json") if path.is_file()
    ]
    if _NEGATIVE.search(done.stderr) or _NEGATIVE.search(done.stdout) or min(seconds, default=0) < 0:
        raise CheckError(f"{command.name}, {what}: a negative number: {done.stdout} {done.stderr}")


def _kernels_of_other_versions(command: Command) -> list[Path]:
    """Folders in the command's own cache that other versions of bitvit have used some days ago."""
    place = command.environment.get("NUMBA_CACHE_DIR")
    others = [Path(place, "bitvit", f"{number}{_FOLDER[1:]}") for number in range(3)] if place else []
    for days, folder in enumerate(others):
        folder.mkdir(parents=True)
        (folder / "pool.o").write_bytes(b"code")
        used = time.time() - 5 * days * DAY
        os.utime(folder, (used, used))
    return others


def check_served_clock(library: Path, model: Path, folder: Path, seconds: float = 8.0) -> str:
    """A server whose clock jumps all the time answers in time, also a request that comes slowly; so does its log."""
    table = list(jumps(1).values())
    pairs = [((3 + seconds) * k / 16, table[k % 4][0][1]) for k in range(16)]  # 3: it has to start first
    image = image_for(model)
    variables = {**preloading(library), **faults(clock=pairs)}
    count, answers, dates = 0, set[bytes](), set[date]()
    with running(folder, f"served={model}", "--timeout", "20", variables=variables) as server:
        begin = time.monotonic()
        with contextlib.closing(server.connect()) as connection:
            while time.monotonic() - begin < seconds:
                connection.putrequest("POST", "/classify")
                connection.putheader("Content-Length", str(len(image)))
                connection.endheaders()
                connection.send(image[: len(image) // 2])
                time.sleep(0.3)  # a jump may come now
                connection.send(image[len(image) // 2 :])
                response = connection.getresponse()
                answer = response.read()
                if response.status != 200:
                    raise CheckError(f"serve, clock jumps: {response.status} {answer!r}")
                answers.add(answer)
                dates.add(parsedate_to_datetime(response.headers["Date"]).date())
                if datetime.now(timezone.utc).date() in dates:
                    raise CheckError("serve: its clock does not jump")
                count += 1
        code = server.stop()
    negative = [line for line in server.lines() if float(line.get("milliseconds", 0)) < 0]
    if len(answers) != 1 or negative or code:
        raise CheckError(f"serve, clock jumps: {len(answers)} answers, exit code {code}, {negative}")
    return f"{count} requests to a server whose clock jumps: the same, its dates from {min(dates)} to {max(dates)}"
