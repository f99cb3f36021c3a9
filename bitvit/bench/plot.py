"""A profile as an image: where the time goes, and a roofline with each step."""

import math
import os
from typing import Any

import numpy as np

from bitvit.bench.formats import digits, machine_facts
from bitvit.bench.profile import KINDS
from bitvit.bench.report import BenchReport, Part, Profile
from bitvit.errors import BenchError
from bitvit.extras import figure, require
from bitvit.files import write_file

COLORS: dict[str, str] = dict(
    zip(KINDS, ("#6c757d", "#2a9d8f", "#e9a23b", "#d1495b", "#30638e", "#8f5aa8", "#a98467"), strict=True)
)
PAPER = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5}  # behind text
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def plot(report: BenchReport, path: str | os.PathLike[str]) -> None:
    """Draw the profile of a report into a PNG file, which appears when it is complete.

    BenchError if the report has no profile or the file cannot be written, BitvitError without matplotlib.
    """
    if report.profile is None:
        raise BenchError("the report has no profile to draw; measure with --profile (profile=True)")
    with require("matplotlib", "drawing").rc_context(STYLE):
        drawn = figure(13.5, 5.8)
        left, right = drawn.subplots(1, 2)
        _bars(left, report.profile)
        _roofline(right, report.profile)
        drawn.suptitle(f"{report.model.name}: one image on one thread", fontsize=12, fontweight="bold")
        drawn.supxlabel(machine_facts(report)[0], fontsize=7, color="0.35")
        write_file(path, lambda file: drawn.savefig(file, dpi=150, format="png"), error=BenchError)


def _stage(part: Part) -> int:
    """1 to 4; the stem counts to the first and the head to the last."""
    pieces = part.layer.split(".")
    return int(pieces[1]) + 1 if pieces[0] == "stages" else 1 if pieces[0] == "stem" else 4


def _bars(axis: Any, profile: Profile) -> None:
    """A bar for each kind, its stages side by side from light to dark; a line where its limit is."""
    kinds = sorted(profile.kinds, key=lambda part: part.seconds)
    unit, scale = ("ms", 1e3) if profile.seconds >= 1e-3 else ("µs", 1e6)
    most = scale * max(part.seconds for part in kinds)
    for y, kind in enumerate(kinds):
        start = 0.0
        for stage in range(1, 5):
            parts = [p for p in profile.parts if p.kind == kind.kind and _stage(p) == stage]
            width = scale * sum(p.seconds for p in parts)
            if not width:
                continue
            shade = 0.4 + 0.15 * stage
            axis.barh(
                y, width, left=start, height=0.66, color=COLORS[kind.kind], alpha=shade, edgecolor="white", lw=0.8
            )
            if width > 0.045 * most and abs(start + width / 2 - scale * kind.limit_seconds) > 0.015 * most:
                ink = "white" if stage == 4 else "black"
                axis.text(start + width / 2, y, f"{stage}", ha="center", va="center", fontsize=7, color=ink)
            start += width
        limit = scale * kind.limit_seconds
        axis.plot([limit, limit], [y - 0.4, y + 0.4], color="black", lw=1.5)
        text = f"{digits(start)} {unit}, {kind.seconds / profile.seconds:.0%}; {kind.share_of_limit:.0%} of its limit"
        axis.text(max(start, limit) + 0.015 * most, y, text, va="center", fontsize=8)
    axis.set_yticks(range(len(kinds)), [part.kind for part in kinds])
    axis.set_xlim(0, 1.5 * most)
    axis.set_xlabel(f"{unit}; the numbers are stages, a black line is the limit")
    total, calls = scale * (profile.seconds + profile.calling_seconds), scale * profile.end_to_end_seconds
    title = f"Where the time goes: {digits(total)} {unit} with the overhead of a call,"
    title += f" {profile.covered:.0%} of ordinary calls ({digits(calls)} {unit})"
    axis.set_title(title, fontsize=10, loc="left", color="black" if profile.adds_up else "red")


def _roofline(axis: Any, profile: Profile) -> None:
    """Multiply-adds per second over multiply-adds per byte; a dot for each step that multiplies, its area the time."""
    limits = profile.limits
    steps = [part for part in profile.parts if part.macs]
    intensities = np.array([part.macs / part.bytes for part in steps])
    low, high = float(intensities.min()) / 3, float(intensities.max()) * 3
    x = np.geomspace(low, high, 200)
    for roof, style, name in (
        (limits.binary_macs, "-", "popcount"),
        (limits.float_macs, "--", "float multiply-adds"),
    ):
        axis.plot(x, np.minimum(roof, x * limits.cache_bytes) / 1e9, style, color="black", lw=1.2)
        text = f"{name}: {roof / 1e9:,.0f} GMAC/s"
        axis.text(high, roof / 1e9 * 1.1, text, ha="right", va="bottom", fontsize=8, bbox=PAPER, zorder=4)
    longest = max(part.seconds for part in steps)
    for kind in KINDS:
        own = [part for part in steps if part.kind == kind]
        if own:
            axis.scatter(
                [p.macs / p.bytes for p in own],
                [p.macs / p.seconds / 1e9 for p in own],
                s=[20 + 160 * p.seconds / longest for p in own],
                color=COLORS[kind],
                alpha=0.7,
                edgecolor="white",
                lw=0.6,
                label=kind,
                zorder=3,
            )
    slowest = min(part.macs / part.seconds for part in steps) / 1e9
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlim(low, high)
    axis.set_ylim(slowest / 3, limits.binary_macs / 1e9 * 2)
    axis.set_xlabel("multiply-adds per byte of weights and activations")
    axis.set_ylabel("GMAC/s (a dot is a step; a larger one takes longer)")
    axis.set_title("Roofline of one core", fontsize=10, loc="left")
    for rate, name in ((limits.cache_bytes, "cache"), (limits.memory_bytes, "memory")):
        _slope(axis, rate / 1e9, low, limits.binary_macs / rate, f"{name}: {rate / 1e9:.0f} GB/s")
    legend = axis.legend(fontsize=8, frameon=False, loc="lower right")
    for handle in legend.legend_handles:
        handle.set_sizes([40])  # all of one size: in the legend it has no meaning


def _slope(axis: Any, rate: float, low: float, high: float, text: str) -> None:
    """The roof of reading at `rate` billion bytes a second, with its text along it."""
    axis.plot([low, high], [low * rate, high * rate], ":", color="0.5", lw=1.2, zorder=1)
    axis.figure.draw_without_rendering()  # the layout decides where the axes are
    (x0, y0), (x1, y1) = axis.transData.transform([(low, low * rate), (2 * low, 2 * low * rate)])
    start = max(low, axis.get_ylim()[0] / rate)
    start *= (high / start) ** 0.3
    axis.text(
        start,
        start * rate * 1.12,
        text,
        fontsize=8,
        color="0.35",
        rotation=math.degrees(math.atan2(y1 - y0, x1 - x0)),
        rotation_mode="anchor",
        bbox=PAPER,
        zorder=2,
    )
