"""hf://owner/name[@revision][/file]: what such a name consists of."""

import os
import re
from dataclasses import dataclass

from bitvit.errors import HubError
from bitvit.messages import shown

__all__ = ["FORM", "HubName", "check_branch", "check_repository"]

FORM = "hf://owner/name[@revision][/file]"

# The Hub's own references are the only revisions with plain slashes; in others a slash is written %2F.
_WHOLE = re.compile(r"hf:/{1,2}([^/@]*)/([^/@]*)(?:@(refs/(?:pr|convert)/[^/]+|[^/]*))?(?:/(.*))?", re.DOTALL)
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,199}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9 ._()+=,@-]*(?:/[A-Za-z0-9_][A-Za-z0-9 ._()+=,@-]*)*")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubName:
    """A repository of models, at a revision, and a file in it."""

    owner: str
    name: str
    revision: str | None = None
    """A branch, a tag or a commit; None: the branch main."""
    file: str | None = None
    """None: the only packed model that the repository has."""

    @classmethod
    def parse(cls, path: str | os.PathLike[str]) -> "HubName":
        """Raises HubError for what is not of the form."""
        text = os.fspath(path)
        whole = _WHOLE.fullmatch(text)
        if whole is None:
            raise HubError(f"{shown(text)}: is no name of the Hub; expected {FORM}")
        owner, name, revision, file = whole.groups()
        check_repository(f"{owner}/{name}", shown(text))
        if revision is not None:
            revision = re.sub("%2f", "/", revision, flags=re.IGNORECASE)
            if not _is_revision(revision):
                raise HubError(f"{shown(text)}: {shown(revision)} is no branch, tag or commit; expected {FORM}")
        if file is not None and (not _FILE.fullmatch(file) or ".." in file):
            raise HubError(f"{shown(text)}: {shown(file)} is no name of a file in a repository; expected {FORM}")
        return cls(owner, name, revision, file)

    @property
    def repository(self) -> str:
        return f"{self.owner}/{self.name}"

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, whose files never change."""
        return _COMMIT.fullmatch(self.revision or "") is not None

    def __str__(self) -> str:
        revision = self.revision or ""
        if not revision.startswith("refs/"):
            revision = revision.replace("/", "%2F")
        return f"hf://{self.repository}" + (f"@{revision}" if revision else "") + (f"/{self.file}" if self.file else "")


def check_repository(repository: str, said: str | None = None) -> None:
    """Raises HubError for what is not owner/name as the Hub has them. said: what the message says it stands in."""
    owner, slash, name = repository.partition("/")
    for part in (owner, name):
        if not slash or not _PART.fullmatch(part) or "--" in part or ".." in part or part.endswith(".git"):
            raise HubError(
                f"{said or shown(repository)}: {shown(part)} is no name of an owner or a repository, which has "
                f"letters, digits, and single . - _ between them; expected {FORM if said else 'owner/name'}"
            )


def check_branch(branch: str) -> None:
    """Raises HubError for what cannot be the name of a branch."""
    if not _is_revision(branch) or _COMMIT.fullmatch(branch):
        raise HubError(f"{shown(branch)} is no name of a branch; expected one such as main")


def _is_revision(text: str) -> bool:
    return bool(_REVISION.fullmatch(text)) and ".." not in text and "//" not in text and text[-1] not in "/."
