"""Random networks of every valid shape: the engine against the float64 reference, and one processor against another.

    python -m tools.differential run FOLDER [--networks 20000] [--minutes M]      this processor, with the reference
    NUMBA_CPU_NAME=nehalem python -m tools.differential run FOLDER --no-reference  as another, logits alone
    python -m tools.differential compare FOLDER                                    exit code 1 if one has other bits

A network comes from its number alone, so every run has the same ones. Each has IMAGES images: computed together on one
thread, one by one, and together on two threads they must have the same bits. Their logits may be off by LIMIT of their
spread from the reference's, in float64; where they are not, a sign may have hung on float32's last bits, or a norm have
let them grow, so then each layer is compared by itself, with what the reference itself answers to inputs that are
nudged, and in float32.

A network that fails is shrunk to a smaller one that fails too, printed as it is written in Python, and ends the run.
A run may be stopped and started again: what is done stands in FOLDER, in a file for each PORTION networks.

Processors of one group, with as many lanes, and with fused multiply-adds or without, must have the same bits. Two
groups round differently: with 16 lanes norms sum in another order, and SSE4.2 has no fused multiply-adds.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitvit.config import Config
from bitvit.files import write_file
from bitvit.kernels import target
from bitvit.model import Network
from bitvit.runtime import Runner
from bitvit.runtime.policy import RestPolicy
from bitvit.runtime.team import Team
from bitvit.verify import reference
from tests.support.engine import folded, random_state, spread
from tests.support.networks import check_layers, configs

__all__ = ["Tally", "check", "close", "compare", "portion"]

IMAGES = 3
LIMIT = 2e-5  # shared/golden's: honest float32 gives 2.4e-6 at most, a flipped sign 5e-5 and more
PORTION = 100
WIDEST = 512  # channels of a map
TEAM = Team(2, policy=lambda: RestPolicy(0))  # which never rests

Logits = NDArray[np.float32]
app = typer.Typer(add_completion=False, help=__doc__)


class Tally:
    """What came of some networks."""

    def __init__(self) -> None:
        self.logits: dict[str, Logits] = {}
        """Of each network, by how it is written."""
        self.apart: set[str] = set()
        """Those whose logits differ from the reference's because a sign hung on last bits."""


def group() -> str:
    """Of processors that must have the same bits as this one."""
    fused = target.ARM or target.target_has("fma")
    return f"{target.LANES} lanes, {'fused' if fused else 'separate'} multiply-adds"


def check(config: Config, number: int, *, against_reference: bool) -> tuple[Logits, bool]:
    """float32 [IMAGES, outputs] of a network, and whether they agree with the reference's, as far as float32 can.

    Raises AssertionError if they do not and no sign hung on last bits, or if they depend on batch or threads.
    """
    state = random_state(config, number)
    program = Network.read(config, folded(config, state)).program()
    pixels = np.random.default_rng(number).standard_normal(
        (IMAGES, 3, config.image_size, config.image_size), np.float32
    )
    runner = Runner(program, 1)
    together = runner(pixels)
    one_by_one = np.concatenate([runner(image[None]) for image in pixels])
    assert one_by_one.tobytes() == together.tobytes(), "images one by one have other bits than together"
    assert Runner(program, team=TEAM)(pixels).tobytes() == together.tobytes(), "two threads have other bits than one"
    if not against_reference:
        return together, True
    hung = False
    for image in pixels[~close(config, state, pixels, together)]:
        undecided, _, agrees = check_layers(config, number, image)
        assert agrees or undecided, "no sign hangs on last bits, but the logits differ from the reference's"
        hung = hung or not agrees
    return together, not hung


def close(config: Config, state: dict[str, Any], pixels: NDArray[np.float32], logits: Logits) -> NDArray[np.bool_]:
    """Whether each image's logits are the reference's, within LIMIT of the spread that all images' have together."""
    names = "depths", "num_heads", "window_size", "padding", "top_tokens"
    expected = reference.forward(state, pixels, **{name: getattr(config, name) for name in names})
    near: NDArray[np.bool_] = np.abs(logits - expected).max(axis=1) <= LIMIT * spread(expected)
    return near


def portion(number: int, count: int, *, against_reference: bool, widest: int = WIDEST) -> Tally:
    """Check `count` networks, those of a portion's number. Raises AssertionError for the simplest that fails."""
    tally = Tally()

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(configs(widest), st.integers(0, 2**16))
    def run(config: Config, number: int) -> None:
        name = f"{config!r}, {number}"
        tally.logits[name], agree = check(config, number, against_reference=against_reference)
        if not agree:
            tally.apart.add(name)

    run()
    return tally


def _save(tally: Tally, path: Path) -> None:
    flat = np.concatenate([values.ravel() for values in tally.logits.values()])
    names = json.dumps([[name, values.size, name in tally.apart] for name, values in tally.logits.items()])
    write_file(path, lambda file: np.savez_compressed(file, flat=flat, names=np.array(names)))


def _read(path: Path) -> Iterator[tuple[str, Logits, bool]]:
    with np.load(path) as kept:
        flat, begin = kept["flat"], 0
        for name, size, apart in json.loads(str(kept["names"])):
            yield name, flat[begin : begin + size], apart
            begin += size


@app.command()
def run(
    folder: Annotated[Path, typer.Argument(help="for what is done, of all processors")],
    networks: Annotated[int, typer.Option(help="in all")] = 20_000,
    minutes: Annotated[float, typer.Option(help="begin no other portion after so many")] = 1e9,
    with_reference: Annotated[bool, typer.Option("--reference/--no-reference")] = True,
) -> None:
    """Check networks as this processor, or as the one that NUMBA_CPU_NAME says."""
    place = folder / f"{target.CPU} ({group()})"
    place.mkdir(parents=True, exist_ok=True)
    begin, done, apart = time.monotonic(), 0, 0
    for number in range(-(-networks // PORTION)):
        path = place / f"{number:05}.npz"
        if not path.exists():
            if time.monotonic() - begin > 60 * minutes:
                break
            try:
                _save(portion(number, PORTION, against_reference=with_reference), path)
            except AssertionError as problem:
                print(f"portion {number}: {problem}\n" + "\n".join(getattr(problem, "__notes__", [])))
                raise typer.Exit(1) from None
        found = list(_read(path))
        done, apart = done + len(found), apart + sum(differs for _, _, differs in found)
    print(f"{place.name}: {done:,} networks; {apart} where a sign hung on last bits; none failed")


@app.command()
def compare(folder: Path) -> None:
    """Every two processors of one group: the same bits. Between groups: how far logits are apart."""
    places = sorted(path for path in folder.iterdir() if path.is_dir())
    same = True
    for i, first in enumerate(places):
        for second in places[i + 1 :]:
            count, other, far = _compared(first, second)
            alike = first.name.partition(" (")[2] == second.name.partition(" (")[2]
            same = same and not (alike and other)
            print(
                f"{first.name} and {second.name}: {count:,} networks, {count - other:,} with the same bits"
                f"{'' if alike or not other else f', {far} further apart than {LIMIT:g} of the spread'}"
                f"{'; all must have' if alike else ''}"
            )
    raise typer.Exit(not same)


def _compared(first: Path, second: Path) -> tuple[int, int, int]:
    """Networks that both places have, those of them with other bits, and those whose logits are further apart."""
    count = other = far = 0
    for path in sorted(first.glob("*.npz")):
        with contextlib.suppress(FileNotFoundError):
            there = {name: logits for name, logits, _ in _read(second / path.name)}
            for name, logits, _ in _read(path):
                if name in there:
                    count += 1
                    if logits.tobytes() != there[name].tobytes():
                        other += 1
                        gap = float(np.abs(logits - there[name]).max())
                        far += gap > LIMIT * spread(logits)
    return count, other, far


if __name__ == "__main__":
    app()
