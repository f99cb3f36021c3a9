"""The card of a published model: README.md, which the Hub shows as the model's page."""

import re
from collections.abc import Sequence

from bitvit.errors import HubError
from bitvit.messages import shown
from bitvit.summary import Summary

__all__ = ["PUBLISHED", "check_license", "escaped", "facts", "front_matter", "introduction", "model_card"]

PUBLISHED = "model.safetensors"
"""What the model file is called in its repository."""

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_MOST_LABELS = 20  # are named
_TAGS = ("bitvit", "bhvit", "binary", "image-classification")


def check_license(identifier: str) -> None:
    """Raises HubError for what is not of the form of the Hub's identifiers."""
    if not _LICENSE.fullmatch(identifier):
        raise HubError(
            f"--license: {shown(identifier)} is no identifier of a licence; expected one such as mit or cc-by-4.0"
        )


def model_card(summary: Summary, sha256: str, repository: str, *, branch: str | None, license: str | None) -> str:
    """Markdown with YAML front matter, for a packed model that is published as owner/name.

    sha256: of the model file. branch: that it is on, if not on the usual one. license: the Hub's identifier of it; the
    card has none if it is not given.
    """
    name = f"hf://{repository}" + (f"@{branch.replace('/', '%2F')}" if branch else "")
    return "\n".join(
        [
            *front_matter(license),
            "",
            f"# {repository.partition('/')[2]}",
            "",
            *introduction("packed for bitvit"),
            "| | |",
            "|---|---|",
            *facts(summary, sha256, PUBLISHED),
            "",
            "## Use",
            "",
            "With bitvit and its extra `hub` (`bitvit[hub]`) installed, in Python:",
            "",
            "```python",
            "import bitvit",
            f'classify = bitvit.Classifier("{name}")',
            'print(classify("photo.jpg"))',
            "```",
            "",
            "or in a shell:",
            "",
            "```bash",
            f"bitvit classify {name} photo.jpg",
            "```",
            "",
        ]
    )


def introduction(made: str) -> list[str]:
    """What a model is, and an empty line. made: how, such as "packed for bitvit"."""
    return [
        "A [BHViT](https://arxiv.org/abs/2503.02394), a vision transformer with weights and activations of one",
        f"bit, {made}, which runs it on the CPU without a deep-learning framework.",
        "",
    ]


def front_matter(license: str | None, more: Sequence[str] = ()) -> list[str]:
    """The card's YAML, between its lines of three dashes. more: further lines of it."""
    return [
        "---",
        *([] if license is None else [f"license: {license}"]),
        "library_name: bitvit",
        "pipeline_tag: image-classification",
        "tags:",
        *(f"- {tag}" for tag in _TAGS),
        *more,
        "---",
    ]


def facts(summary: Summary, sha256: str, name: str) -> list[str]:
    """Rows of the card's table: what the model is. name: of the file."""
    config = summary.config
    rows = [
        ("parameters", f"{summary.binary_weights:,} of 1 bit, {summary.float_parameters:,} float32"),
        ("input", f"{config.image_size} x {config.image_size} pixels, RGB"),
        ("classes", _classes(config.num_classes, summary.labels)),
        ("work for one image", f"{summary.ops / 1e6:,.1f} M operations (float + binary / 64)"),
        ("file", f"`{name}`, {summary.bytes:,} bytes"),
        ("sha256", f"`{sha256}`"),
    ]
    return [f"| {what} | {value} |" for what, value in rows]


def _classes(count: int, labels: tuple[str, ...] | None) -> str:
    """How many, and what they are called; names come from whoever made the model, so nothing in them is markup."""
    if not labels:
        return str(count)
    named = ", ".join(escaped(label) for label in labels[:_MOST_LABELS])
    return f"{count}: {named}" + (", ..." if count > _MOST_LABELS else "")


def escaped(text: str) -> str:
    """Text of somebody else's, in which nothing is markup."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~$&])", r"\\\1", " ".join(text.split()))
