"""bitvit push: a packed model -> a repository of the Hugging Face Hub, with a card."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitvit.cli.console import print_note, require_stdout
from bitvit.cli.tables import print_lines

if TYPE_CHECKING:
    from bitvit.hub.pushing import Publication

__all__ = ["push"]


def push(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Packed model, written by bitvit convert.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository; it is made if there is none.")],
    private: Annotated[bool, typer.Option("--private", help="Only its owners may see the repository.")] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="Branch to upload to, made if there is none. Default: main.")
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Your own model card. Default: one is written from the model, unless the repository has one.",
        ),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Licence for the card, as the Hub calls it (mit, cc-by-4.0). Default: none."),
    ] = None,
    message: Annotated[
        str | None, typer.Option("--message", "-m", metavar="TEXT", help="Message of the commit.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before the upload.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Upload nothing; print what would be, and the card.")
    ] = False,
) -> None:
    """Publish a packed model on the Hugging Face Hub, as hf://OWNER/NAME.

    The token is the one of huggingface_hub: log in with `hf auth login`, or set HF_TOKEN. On a terminal it is asked
    first whether to upload.
    """
    require_stdout()
    from bitvit.hub.pushing import prepare

    publication = prepare(
        model, repository, branch=revision, private=private, card=card, license=license, message=message
    )
    print_lines(_plan(publication, model))
    if dry_run:
        print_lines(["nothing is uploaded (--dry-run); the card:", "", *publication.card.splitlines()])
        return
    if not yes and sys.stdin is not None and sys.stdin.isatty() and not typer.confirm("Upload? (--yes does not ask)"):
        print_note("nothing is uploaded")
        raise SystemExit(1)
    pushed = publication.push()
    if pushed.kept_card:
        print_note("the repository's README.md is kept as it is; --card FILE replaces it")
    print_lines([f"uploaded: {pushed.url}", f"this very model: {pushed.name}"])


def _plan(publication: "Publication", model: Path) -> list[str]:
    """What goes where."""
    from bitvit.cli.console import printable
    from bitvit.hub.card import PUBLISHED

    seen = "private" if publication.private else "public, if it is new"
    card = "your card" if publication.replaces_card else "a card written from the model, unless it has one"
    return [
        f"to hf://{publication.repository}, branch {publication.branch or 'main'} ({seen}):",
        f"  {PUBLISHED}  {printable(str(model))}, {len(publication.model):,} bytes, sha256 {publication.sha256}",
        f"  README.md          {card}",
        f"  message            {printable(publication.message)}",
    ]
