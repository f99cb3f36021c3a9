"""The comparison as a table on the terminal, Markdown, JSON and a plot; and as docs/benchmarks.json stores it."""

import json
import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bitvit.bench.plot import STYLE
from bitvit.extras import figure
from tools.peers.packages import PeersError, require
from tools.peers.timing import METHOD, quantile
from tools.results import write_text

Cell = tuple[int, int]  # threads, batch


@dataclass(frozen=True)
class Result:
    """One contender at one number of threads and one batch size; times are in seconds."""

    key: str
    network: str
    engine: str
    threads: int
    batch: int
    median: float
    p10: float | None  # 10 % of the calls took less
    p90: float  # 10 % took longer
    minimum: float
    rounds: int
    samples: tuple[float, ...] = ()

    @classmethod
    def of(cls, names: tuple[str, str, str], cell: Cell, samples: Sequence[float]) -> "Result":
        """names: key, network, engine."""
        median, p10, p90 = statistics.median(samples), quantile(samples, 0.1), quantile(samples, 0.9)
        return cls(*names, *cell, median, p10, p90, min(samples), len(samples), tuple(samples))


@dataclass(frozen=True)
class Noise:
    """How far the machine could be trusted while a cell was measured."""

    threads: int
    batch: int
    spread: float  # of the medians of five parts of bitvit's times
    others: float | None  # share of the processors that other processes used


@dataclass(frozen=True)
class Report:
    """All that was measured, and what a reader must know of it."""

    network: str  # the checkpoint's: BHViT-small some-fp
    checkpoint: str
    environment: dict[str, Any]
    results: tuple[Result, ...]
    noise: tuple[Noise, ...]
    settings: dict[str, str] = field(default_factory=dict)  # contender -> what made it fast
    skipped: dict[str, str] = field(default_factory=dict)  # contender -> why
    agreement: dict[str, float] = field(default_factory=dict)  # contender -> difference of logits from bitvit's
    model_bytes: dict[str, int] = field(
        default_factory=dict
    )  # engine -> bytes of the checkpoint's network as it takes it

    @property
    def cells(self) -> list[Cell]:
        """In the order of measuring."""
        return list(dict.fromkeys((r.threads, r.batch) for r in self.results))

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """Key, network and engine of every contender, bitvit first."""
        found = dict.fromkeys((r.key, r.network, r.engine) for r in self.results)
        return sorted(found, key=lambda row: row[0] != "bitvit")

    def result(self, key: str, cell: Cell) -> Result | None:
        matches = (r for r in self.results if r.key == key and (r.threads, r.batch) == cell)
        return next(matches, None)

    def ratio(self, result: Result) -> float | None:
        """How many times as long as bitvit's median in the same cell; below 1 the contender is faster."""
        own = self.result("bitvit", (result.threads, result.batch))
        return None if own is None else result.median / own.median


# ----------------------------------------------------------------------------------------------------------- words
def milliseconds(seconds: float) -> str:
    """Three significant digits: 4.10, 86.3, 1234."""
    value = seconds * 1e3
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def times(ratio: float) -> str:
    """A ratio to two or three digits: 0.85, 1.6, 28."""
    return f"{ratio:.{0 if ratio >= 9.95 else 1 if ratio >= 0.995 else 2}f}"


def heading(cell: Cell) -> str:
    threads, batch = cell
    return f"{threads} thread{'s' * (threads > 1)}, {batch} image{'s' * (batch > 1)}"


def entry(report: Report, key: str, cell: Cell) -> str:
    """'86.3 ms (28 x)', or a dash if it was not measured."""
    result = report.result(key, cell)
    return "–" if result is None else shown(_stored(report, result))


def shown(row: dict[str, Any]) -> str:
    """A result of `record` as a cell of a table."""
    text, ratio = f"{milliseconds(row['median_ms'] / 1e3)} ms", row["times_bitvit"]
    return text if ratio is None or row["engine"] == "bitvit" else f"{text} ({times(ratio)} x)"


def machine(environment: dict[str, Any]) -> str:
    """One line: CPU, instruction set, cores."""
    e = environment
    cores = f"{e['affinity']} of {e['cores']} cores" if e["affinity"] != e["cores"] else f"{e['cores']} cores"
    isa = [name for name in e["isa"] if name.startswith(("avx", "amx", "neon", "sve"))][-1:]
    return f"{e['cpu']} ({', '.join([e['llvm_cpu'], *isa])}), {cores}, {e['system']}"


def software(environment: dict[str, Any]) -> str:
    """One line: versions, commit, date."""
    e = environment
    versions = ", ".join(f"{name} {number}" for name, number in e["versions"].items())
    commit = f"commit {e['commit']}, " if e["commit"] else ""
    return f"{versions}, Python {e['python']}; {commit}{e['date'][:10]}"


def noise_line(noise: Noise) -> str:
    others = "" if noise.others is None else f"; other processes used {noise.others:.0%} of the processors"
    cell = heading((noise.threads, noise.batch))
    return f"{cell}: bitvit's medians over five parts of the run lie {noise.spread:.0%} apart{others}"


# ----------------------------------------------------------------------------------------------------------- forms
def print_table(report: Report, console: Console) -> None:
    """The medians."""
    grid = Table(title=f"Median time of a call, and how many times bitvit's ({report.network})")
    grid.add_column("network")
    grid.add_column("engine")
    for cell in report.cells:
        grid.add_column(heading(cell), justify="right")
    for key, network, engine in report.rows:
        cells = (entry(report, key, cell) for cell in report.cells)
        grid.add_row(network, engine, *cells, style="bold" if key == "bitvit" else None)
    console.print(grid)


def record(report: Report) -> dict[str, Any]:
    """What docs/benchmarks.json keeps of a report: the medians, and where they were measured."""
    return {
        "environment": report.environment,
        "network": report.network,
        "rounds": min(r.rounds for r in report.results),
        "results": [_stored(report, r) for r in report.results],
        "model_bytes": report.model_bytes,
    }


def _stored(report: Report, result: Result) -> dict[str, Any]:
    facts = {name: getattr(result, name) for name in ("network", "engine", "threads", "batch")}
    return facts | {"median_ms": 1e3 * result.median, "times_bitvit": report.ratio(result)}


def table(stored: dict[str, Any]) -> str:
    """The table of medians of a `record`, and one paragraph about how they were measured."""
    results = {(r["network"], r["engine"], r["threads"], r["batch"]): r for r in stored["results"]}
    cells = list(dict.fromkeys(key[2:] for key in results))
    lines = [
        f"| network | engine | {' | '.join(heading(cell) for cell in cells)} |",
        f"|---|---|{'--:|' * len(cells)}",
    ]
    for network, engine in sorted(dict.fromkeys(key[:2] for key in results), key=lambda row: row[1] != "bitvit"):
        mark = "**" if engine == "bitvit" else ""
        found = (results.get((network, engine, *cell)) for cell in cells)
        values = (f"{mark}{'–' if row is None else shown(row)}{mark}" for row in found)
        lines.append(f"| {mark}{network}{mark} | {mark}{engine}{mark} | {' | '.join(values)} |")
    environment = stored["environment"]
    lines += [
        "",
        f"Time of a call and, in brackets, how many times bitvit's: medians of {stored['rounds']} or more rounds, one"
        f" call each. {machine(environment)}. {software(environment)}.",
    ]
    return "\n".join(lines) + "\n"


def markdown(report: Report) -> str:
    """Everything: medians, spread, noise, settings."""
    lines = [f"# bitvit and its peers: {report.network}", "", table(record(report))]
    lines += ["## Spread", "", "Milliseconds.", ""]
    lines += ["| engine | threads | images | min | p10 | median | p90 | rounds |", "|---|--:|--:|--:|--:|--:|--:|--:|"]
    for r in report.results:
        numbers = [milliseconds(t) if t is not None else "–" for t in (r.minimum, r.p10, r.median, r.p90)]
        lines.append(f"| {r.network}, {r.engine} | {r.threads} | {r.batch} | {' | '.join(numbers)} | {r.rounds} |")
    lines += ["", "## Method", "", METHOD, "", "## Noise", "", *[f"* {noise_line(noise)}" for noise in report.noise]]
    lines += ["", "## Settings", "", *[f"* {name}: {text}" for name, text in report.settings.items()]]
    if report.agreement:
        worst = max(report.agreement.values())
        lines += [
            "",
            f"All engines give bitvit's logits to within {worst:.0e} of their spread, on a random image none",
        ]
        lines += ["of whose values lies so near its threshold that rounding decides a sign."]
    if report.skipped:
        lines += ["", "## Not measured", "", *[f"* {name}: {why}" for name, why in report.skipped.items()]]
    return "\n".join(lines) + "\n"


def to_json(report: Report) -> str:
    """All samples, in seconds, with their medians and ratios; and the environment."""
    results = [asdict(r) | {"ratio_to_bitvit": report.ratio(r)} for r in report.results]
    content = asdict(report) | {"method": METHOD, "results": results}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


FILES = ("peers.md", "peers.json", "peers.png")


def prepare(folder: Path) -> None:
    """Make the folder of the results; PeersError if `save` would fail in it."""
    require("matplotlib")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PeersError(f"{folder}: cannot be written to ({error.strerror}); choose another --out") from None


def save(report: Report, folder: Path) -> list[Path]:
    """Write peers.md, peers.json and peers.png into a prepared folder; returns their paths."""
    paths = [folder / name for name in FILES]
    write_text(paths[0], markdown(report))
    write_text(paths[1], to_json(report))
    plot(report, paths[2])
    return paths


# ------------------------------------------------------------------------------------------------------------ plot
OWN, SAME, OTHER = "#d1495b", "#8d99ae", "#4f8a8b"


def plot(report: Report, path: Path) -> None:
    """Horizontal bars on one logarithmic scale, a panel a cell, the fastest on top; whiskers from p10 to p90."""
    cells = report.cells
    columns = min(2, len(cells))
    rows = math.ceil(len(cells) / columns)
    size = 6.6 * columns, (0.42 * len(report.rows) + 0.9) * rows + 1.1
    with require("matplotlib").rc_context(STYLE):
        drawn = figure(*size)
        axes = drawn.subplots(rows, columns, squeeze=False)
        for axis, cell in zip(axes.flatten(), cells, strict=False):
            _panel(axis, report, cell)
        for axis in axes.flatten()[len(cells) :]:
            axis.set_visible(False)
        drawn.suptitle(f"Time of a call: {report.network} and its peers", fontsize=12, fontweight="bold")
        caption = f"Logarithmic scale; in brackets: times bitvit's. {machine(report.environment)}"
        legend = {"loc": "outside lower center", "ncols": 3, "fontsize": 8, "title_fontsize": 8, "frameon": False}
        drawn.legend(handles=_legend(report), title=caption, **legend)
        drawn.savefig(path, dpi=150)


def _legend(report: Report) -> list[Any]:
    patch = require("matplotlib.patches").Patch
    names = {OWN: "bitvit", SAME: f"other engines, {report.network}", OTHER: "networks that one could choose instead"}
    used = {_color(result, report) for result in report.results}
    return [patch(color=color, label=name) for color, name in names.items() if color in used]


def _color(result: Result, report: Report) -> str:
    if result.key == "bitvit":
        return OWN
    return SAME if result.network == report.network or result.key == "prototype" else OTHER


def _panel(axis: Any, report: Report, cell: Cell) -> None:
    """One number of threads and one batch size."""
    results = sorted((r for r in report.results if (r.threads, r.batch) == cell), key=lambda r: -r.median)
    below = [(r.median - (r.minimum if r.p10 is None else r.p10)) * 1e3 for r in results]
    above = [(r.p90 - r.median) * 1e3 for r in results]
    axis.barh(
        range(len(results)),
        [r.median * 1e3 for r in results],
        color=[_color(r, report) for r in results],
        height=0.72,
        xerr=(below, above),
        error_kw={"ecolor": "0.25", "elinewidth": 0.8, "capsize": 2},
    )
    names = [r.engine if r.network == report.network else f"{r.network}\n{r.engine}" for r in results]
    axis.set_yticks(range(len(results)), names, fontsize=8)
    for i, result in enumerate(results):
        weight = "bold" if result.key == "bitvit" else "normal"
        axis.text(result.p90 * 1e3 * 1.08, i, entry(report, result.key, cell), va="center", fontsize=8, weight=weight)
    _scale(axis, [r.median * 1e3 for r in report.results])
    axis.set_title(heading(cell), fontsize=10, loc="left")
    axis.grid(axis="x", which="major", color="0.9")
    axis.set_axisbelow(True)


def _scale(axis: Any, milliseconds: Sequence[float]) -> None:
    """A logarithmic axis with room for the numbers; a short one is labelled at 1, 2 and 5, a long one at 1 only."""
    low, high = min(milliseconds) / 2, max(milliseconds) * 7
    ticker = require("matplotlib.ticker")
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
    axis.xaxis.set_major_formatter(lambda value, _position: f"{value:g} ms")
    axis.xaxis.set_minor_locator(ticker.NullLocator())
