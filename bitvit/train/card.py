"""The card of a trained model: Markdown with YAML front matter, as the Hugging Face Hub shows it."""

import json
from pathlib import Path

from bitvit.hub.card import escaped, facts, front_matter, introduction
from bitvit.summary import summarize
from bitvit.train.export import Result, Trained, training_facts

__all__ = ["trained_card"]


def trained_card(run: Trained, result: Result, packed: Path, name: str, command: str, notes: list[str]) -> str:
    """packed: the model; name: of the file that it becomes; command: that made it; notes: what a reader should know."""
    stem = Path(name).stem
    top1 = (result.top1_bitvit or 0) / 100
    metrics = [  # what the Hub shows beside the model; JSON's strings are YAML's
        "model-index:",
        f"- name: {_quoted(stem)}",
        "  results:",
        "  - task:",
        "      type: image-classification",
        "    dataset:",
        f"      name: {_quoted(run.data.name)}",
        "      type: imagefolder",
        "    metrics:",
        "    - type: accuracy",
        f"      value: {top1:.4f}",
    ]
    rows = [f"| {what} | {escaped(value)} |" for what, value in training_facts(run, result)]
    return "\n".join(
        [
            *front_matter(None, metrics),
            "",
            f"# {escaped(stem)}",
            "",
            *introduction("trained and packed by bitvit"),
            "| | |",
            "|---|---|",
            *rows,
            *facts(summarize(packed), result.sha256 or "", name),
            "",
            *(f"* {escaped(note)}" for note in notes),
            *([""] if notes else []),
            "## Use",
            "",
            "```bash",
            f"bitvit classify {name} photo.jpg",
            "```",
            "",
            f"Made by `{command}`",
            "",
        ]
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
