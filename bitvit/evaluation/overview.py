"""Reports at a glance: a few lines of text, and HTML for notebooks."""

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from bitvit.messages import plural

if TYPE_CHECKING:
    from bitvit.evaluation.report import Comparison, EvalReport

__all__ = ["comparison_html", "comparison_lines", "report_html", "report_lines"]

MANY = 40  # classes; of more, those with the lowest recall are shown
WORST = 10
MOST_MODELS = 10  # that the text of a comparison names


def report_lines(report: "EvalReport") -> str:
    """What it was measured on, the figures, and what a reader should know, in a few lines."""
    figures = ", ".join(f"{name} {value}" for name, value in _figures(report))
    lines = [f"EvalReport of {report.model} on {report.data}: {_counts(report)}", figures, *_notes(report)]
    return "\n  ".join(lines)


def report_html(report: "EvalReport") -> str:
    """The same, and a table of the classes."""
    shown, caption = list(report.classes), ""
    if len(shown) > MANY:
        shown = sorted((c for c in shown if c.recall is not None), key=lambda c: c.recall or 0)[:WORST]
        caption = f"The {len(shown)} classes with the lowest recall, of {len(report.classes):,}:"
    rows = [
        (c.name, f"{c.images:,}", _percent(c.recall), _percent(c.precision), _number(c.f1), c.mistaken_for or "")
        for c in shown
    ]
    return _html(
        f"{report.model} on {report.data}: {_counts(report)}",
        _table(("figure", "value"), _figures(report)),
        *(_paragraph(note) for note in _notes(report)),
        *([_paragraph(caption)] if caption else []),
        _table(("class", "images", "recall", "precision", "F1", "most often taken for"), rows),
    )


def comparison_lines(comparison: "Comparison") -> str:
    """A line for each model, and the mean, in a few lines."""
    reports = comparison.reports
    lines = [
        f"Comparison of {plural(len(reports), 'model')}",
        *(f"{r.model} on {r.data}: {_counts(r)}, top-1 {_percent(r.top1)}" for r in reports[:MOST_MODELS]),
    ]
    if len(reports) > MOST_MODELS:
        lines.append(f"and {len(reports) - MOST_MODELS} more")
    lines.append(f"mean: top-1 {_percent(comparison.mean['top1'])}")
    return "\n  ".join(lines)


def comparison_html(comparison: "Comparison") -> str:
    """A table with a row for each model, mean and standard deviation."""
    header = ("model", "data", "images", *(name for name, _ in _figures(comparison.reports[0])))
    rows = [
        (report.model, report.data, f"{report.images:,}", *(value for _, value in _figures(report)))
        for report in comparison.reports
    ]
    for name, figures in (("mean", comparison.mean), ("standard deviation", comparison.spread)):
        rows.append((name, "", "", *(value for _, value in _named(figures))))
    return _html(f"Comparison of {plural(len(comparison.reports), 'model')}", _table(header, rows))


def _counts(report: "EvalReport") -> str:
    return f"{report.images:,} images of {len(report.classes):,} classes"


def _figures(report: "EvalReport") -> list[tuple[str, str]]:
    from bitvit.evaluation.metrics import FIGURES

    return _named({name: getattr(report, name) for name in FIGURES})


def _named(figures: dict[str, float | None]) -> list[tuple[str, str]]:
    return [
        ("top-1", _percent(figures["top1"])),
        ("top-5", _percent(figures["top5"])),
        ("loss", _number(figures["loss"])),
        ("balanced accuracy", _percent(figures["balanced_accuracy"])),
        ("macro F1", _number(figures["macro_f1"])),
        ("ROC-AUC", _number(figures["roc_auc"])),
        ("calibration error", _number(figures["calibration_error"])),
    ]


def _notes(report: "EvalReport") -> list[str]:
    failed = [f"{plural(len(report.failures), 'image')} could not be read"] if report.failures else []
    turned = (
        [f"{plural(len(report.turned), 'image')} would be turned by EXIF data, which is ignored; exif=True obeys it"]
        if report.turned
        else []
    )
    return [*failed, *turned, *(f"note: {note}" for note in report.notes)]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _html(title: str, *parts: str) -> str:
    return f"<div><p><b>{html.escape(title)}</b></p>{''.join(parts)}</div>"


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
