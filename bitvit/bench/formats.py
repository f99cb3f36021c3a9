"""Reports for people and spreadsheets: tables of text, Markdown, CSV."""

import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from bitvit.bench.comparison import ReportComparison
from bitvit.bench.report import COVERS, BenchReport, ImageTimes, ModelFacts, Part, PreprocessingTimes, Profile, Result
from bitvit.messages import listing, plural

NONE = "–"


@dataclass(frozen=True)
class Grid:
    """A table of text. words: columns that hold words, the others numbers. keys: how many columns name a row.

    paths: the first column has names such as stages.0.blocks.1.mlp.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    words: frozenset[int] = frozenset({0})
    keys: int = 1
    paths: bool = False


# ------------------------------------------------------------------------------------------------------------ grids
def results_grid(report: BenchReport) -> Grid:
    columns = (
        *("mode", "threads", "batch", "mean", "std", "min", "p50", "p90", "p95", "p99", "max"),
        *("images/s", "binary GMAC/s", "of limit", "spread", "others"),
    )
    rows = [_result_row(r) for r in report.results]
    return Grid("Time of a call, ms", columns, rows, frozenset({0}), keys=3)


def _result_row(r: Result) -> tuple[str, ...]:
    times = (r.infer_step_time, r.std_ms, r.min_ms, r.p50_ms, r.p90_ms, r.p95_ms, r.p99_ms, r.max_ms)
    return (
        *(r.mode, str(r.threads), str(r.infer_batch_size)),
        *(NONE if t is None else digits(t) for t in times),
        *(digits(r.infer_samples_per_sec), digits(r.binary_gmacs_per_sec), f"{r.share_of_limit:.0%}"),
        *(f"{r.spread:.0%}", NONE if r.others is None else f"{r.others:.0%}"),
    )


def images_grid(images: ImageTimes) -> Grid:
    rows = [
        (
            str(run.threads),
            digits(run.images_per_sec),
            digits(run.cpu_ms),
            digits(run.other_ms),
            f"{run.share_of_bound:.0%}",
        )
        for run in images.runs
    ]
    return Grid(
        "From image files to predictions", ("threads", "images/s", "CPU ms", "beyond the parts", "of bound"), rows
    )


_WORK = ("ms", "time", "bin MMAC", "float MMAC", "weights kB", "activ kB", "limit ms", "of limit", "bound by")


def kinds_grid(profile: Profile) -> Grid:
    rows = [(part.kind, *_part_cells(part, profile)) for part in profile.kinds]
    return Grid("Where the time goes, one image on one thread", ("kind", *_WORK), rows, frozenset({0, len(_WORK)}))


def layers_grid(profile: Profile) -> Grid:
    rows = [(part.layer, part.kernel, part.kind, *_part_cells(part, profile)) for part in profile.parts]
    return Grid(
        "Step by step",
        ("layer", "kernel", "kind", *_WORK),
        rows,
        frozenset({0, 1, 2, 2 + len(_WORK)}),
        keys=2,
        paths=True,
    )


def _part_cells(part: Part, profile: Profile) -> tuple[str, ...]:
    return (
        f"{part.seconds * 1e3:.3f}",
        f"{part.seconds / profile.seconds:.1%}",
        *(f"{part.binary_macs / 1e6:.1f}", f"{part.float_macs / 1e6:.1f}"),
        *(f"{part.weight_bytes / 1e3:.0f}", f"{part.activation_bytes / 1e3:.0f}"),
        *(f"{part.limit_seconds * 1e3:.3f}", f"{part.share_of_limit:.0%}", part.bound),
    )


def comparison_grid(comparison: ReportComparison) -> Grid:
    columns = ("mode", "threads", "batch", "first p50 ms", "second p50 ms", "second/first", "noise", "second is")
    rows = [
        (
            *(p.first.mode, str(p.first.threads), str(p.first.infer_batch_size)),
            *(digits(p.first.p50_ms), digits(p.second.p50_ms), f"{p.ratio:.3f}", f"± {p.noise:.0%}", p.verdict),
        )
        for p in comparison.pairs
    ]
    return Grid("Median time of a call", columns, rows, frozenset({0, len(columns) - 1}), keys=3)


def digits(value: float) -> str:
    """Three significant digits, more before the point: 0.136, 4.10, 86.3, 1234."""
    places = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{places if value >= 0.9995 or value == 0 else 3}f}"


# ------------------------------------------------------------------------------------------------------------ facts
def _computed(model: ModelFacts) -> str:
    if model.computed_binary_macs in (None, model.binary_macs):
        return ""
    return f" (of which {digits(model.computed_binary_macs / 1e6)} computed)"


def facts(report: BenchReport) -> list[str]:
    """A line each on the model, start-up, memory, preprocessing, machine and software."""
    m, s, p = report.model, report.startup, report.preprocessing
    lines = [
        f"model: {m.name}, {m.infer_img_size} x {m.infer_img_size} pixels, {m.param_count:.1f} million parameters,"
        f" {digits(m.binary_macs / 1e6)} binary{_computed(m)} and {digits(m.float_macs / 1e6)} float MMAC per image,"
        f" sha256 {m.sha256[:12]}",
    ]
    memory = f"file {m.file_bytes / 1e6:.1f} MB, weights in memory {m.weight_bytes / 1e6:.1f} MB,"
    memory += f" {m.workspace_bytes / 1e6:.1f} MB more per thread"
    if s is not None:
        compiled = (
            "none, kernels were in the cache (--cold measures it)"
            if s.compile_seconds is None
            else f"{s.compile_seconds:.1f} s for {s.compiled_functions} functions, once per machine"
        )
        lines.append(
            f"fresh process: import {s.import_seconds * 1e3:.0f} ms, load {s.load_seconds * 1e3:.0f} ms, first image"
            f" {s.first_inference_seconds * 1e3:.1f} ms; compiling: {compiled}"
        )
        if s.peak_rss_bytes is not None and s.import_rss_bytes is not None:
            memory += f"; peak of the process {s.peak_rss_bytes / 1e6:.0f} MB with batch {s.infer_batch_size} on"
            memory += f" {s.threads} thread{'s' * (s.threads > 1)}, {s.import_rss_bytes / 1e6:.0f} MB of it by imports"
    lines.append(f"memory: {memory}")
    if p is not None:
        lines.append(
            f"preprocessing an image (not part of the times above): decode {p.decode_ms:.2f} ms, resize and crop"
            f" {p.resize_ms:.2f} ms, normalise {_normalise(p)}; {p.image}"
        )
    return [*lines, *machine_facts(report)]


def _normalise(times: PreprocessingTimes) -> str:
    return "within the network" if times.normalise_ms is None else f"{times.normalise_ms:.2f} ms"


def _pixels(count: float) -> str:
    return f"{count / 1e6:.2f} megapixels" if count >= 1e5 else f"{count:,.0f} pixels"


def _bytes(count: float) -> str:
    return f"{count / 1e3:.0f} kB" if count >= 1e4 else f"{count:,.0f} bytes"


def images_facts(images: ImageTimes) -> list[str]:
    """What the parts of the work cost, which images they were, and what was left out."""
    parts = (images.decode_ms, images.resize_ms, images.network_ms)
    decode, resize, network = map(digits, parts)
    lines = [
        f"CPU time of the parts for an image, on one thread: read and decode {decode} ms, resize and crop {resize} ms,"
        f" network, which normalises, {network} ms: {digits(sum(parts))} ms",
        "of bound: this time over threads x time by the clock, 100% if no thread ever waits",
        f"images: {plural(images.images, 'image')} of {images.found:,}, on average {_pixels(images.pixels)}"
        f" and {_bytes(images.file_bytes)}, in the system's cache",
    ]
    if images.failures:
        lines.append(
            f"left out: {plural(len(images.failures), 'image')} that could not be read: {listing(images.failures)}"
        )
    return lines + [f"left out: {text}" for text in images.left_out]


def machine_facts(report: BenchReport) -> list[str]:
    """Machine and software."""
    e = report.environment
    cpus = f"{len(e.affinity)} of them for this process, " if e.affinity and len(e.affinity) != e.cores else ""
    quota = "none" if e.cgroup_quota is None else f"{e.cgroup_quota:g} cores"
    cores = f"{e.cores} core{'s' * (e.cores > 1)}, {cpus}cgroup quota {quota}"
    versions = ", ".join(f"{name} {number}" for name, number in e.versions.items())
    commit = "" if e.commit is None else f", commit {e.commit}"
    variables = "".join(f", {name}={value}" for name, value in e.variables.items())
    return [
        f"machine: {e.cpu} ({e.target}), {e.instruction_set}; {cores}; threading layer {e.threading_layer}; {e.system}",
        f"software: bitvit {e.bitvit}{commit}; {versions}; {e.python}; {e.date}{variables}",
    ]


def profile_facts(profile: Profile) -> list[str]:
    """How the profile agrees with ordinary calls, and its limits."""
    limits = profile.limits
    return [
        f"steps {profile.seconds * 1e3:.3f} ms + overhead of a call {profile.calling_seconds * 1e3:.3f} ms add up to"
        f" {profile.covered:.1%} of ordinary calls in the same run ({profile.end_to_end_seconds * 1e3:.3f} ms),"
        f" {'within' if profile.adds_up else 'NOT within'} {COVERS:.0%}; {profile.runs} runs",
        f"limits of one core: {limits.binary_macs / 1e9:,.0f} binary GMAC/s, {limits.float_macs / 1e9:.1f} float"
        f" GMAC/s, {limits.cache_bytes / 1e9:.0f} GB/s from a cache, {limits.memory_bytes / 1e9:.0f} GB/s from"
        " memory",
    ]


# --------------------------------------------------------------------------------------------------------- Markdown
def grid_markdown(grid: Grid) -> str:
    """One table, without its title."""
    marks = ["---" if i in grid.words else "--:" for i in range(len(grid.columns))]
    rows = [grid.columns, *grid.rows]
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join([lines[0], f"|{'|'.join(marks)}|", *lines[1:]]) + "\n"


def markdown(report: BenchReport) -> str:
    """The whole report."""
    parts = [f"# bitvit bench: {report.model.name}\n", _section(results_grid(report)), _bullets(facts(report))]
    if report.images is not None:
        parts += [_section(images_grid(report.images)), _bullets(images_facts(report.images))]
    if report.profile is not None:
        parts.append(_section(kinds_grid(report.profile)))
        parts.append(_bullets(profile_facts(report.profile)))
        parts.append(_section(layers_grid(report.profile)))
    if report.warnings:
        parts.append("**Warnings**\n\n" + _bullets(report.warnings))
    return "\n".join(parts)


def comparison_markdown(comparison: ReportComparison) -> str:
    """The whole comparison."""
    parts = ["# bitvit bench: two reports\n", _section(comparison_grid(comparison))]
    notes = [*comparison.differences, *comparison.alone, *(f"warning: {w}" for w in comparison.warnings)]
    return "\n".join([*parts, _bullets(notes)] if notes else parts)


def _section(grid: Grid) -> str:
    return f"{grid.title}:\n\n{grid_markdown(grid)}"


def _bullets(lines: Sequence[str]) -> str:
    return "".join(f"* {line}\n" for line in lines)


# -------------------------------------------------------------------------------------------------------------- CSV
def write_csv(report: BenchReport, stream: TextIO) -> None:
    """A row for each result: model, the fields of Result, and what is the same in all rows."""
    m, e = report.model, report.environment
    fixed: dict[str, Any] = {
        "infer_img_size": m.infer_img_size,
        "infer_gmacs": (m.binary_macs + m.float_macs) / 1e9,
        "binary_macs": m.binary_macs,
        "float_macs": m.float_macs,
        "computed_binary_macs": "" if m.computed_binary_macs is None else m.computed_binary_macs,
        "param_count": m.param_count,
        "sha256": m.sha256,
        "bitvit": e.bitvit,
        "commit": e.commit or "",
        "cpu": e.cpu,
        "instruction_set": e.instruction_set,
        "date": e.date,
    }
    rows = [{"model": m.name, **dataclasses.asdict(r), **fixed} for r in report.results]
    _write_rows(stream, rows)


def write_comparison_csv(comparison: ReportComparison, stream: TextIO) -> None:
    """A row for each cell that both reports have."""
    rows = [
        {
            "mode": p.first.mode,
            "threads": p.first.threads,
            "infer_batch_size": p.first.infer_batch_size,
            "first_p50_ms": p.first.p50_ms,
            "second_p50_ms": p.second.p50_ms,
            "ratio": p.ratio,
            "noise": p.noise,
            "verdict": p.verdict,
        }
        for p in comparison.pairs
    ]
    _write_rows(stream, rows)


def _write_rows(stream: TextIO, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
