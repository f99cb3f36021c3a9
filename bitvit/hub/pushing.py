"""Publishing a packed model on the Hugging Face Hub, with a card."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from bitvit.errors import HubError
from bitvit.files import read_text
from bitvit.hub.card import PUBLISHED, check_license, model_card
from bitvit.hub.library import library, told_plainly
from bitvit.hub.names import check_branch, check_repository
from bitvit.modelfile import read_file, read_model
from bitvit.summary import summarize

__all__ = ["Publication", "Pushed", "prepare"]

CARD = "README.md"


@dataclass(frozen=True)
class Pushed:
    """What has become of a publication."""

    name: str
    """hf://owner/name@commit, which always means this model."""
    url: str
    kept_card: bool
    """The repository's own was left as it was."""


@dataclass(frozen=True)
class Publication:
    """What is to be uploaded, and where to."""

    repository: str
    branch: str | None
    """None: main."""
    private: bool
    message: str
    model: bytes
    card: str
    replaces_card: bool
    """Whether a README.md that the repository has is replaced."""

    @property
    def sha256(self) -> str:
        """Of the model file."""
        return hashlib.sha256(self.model).hexdigest()

    def push(self) -> Pushed:
        """Upload model and card in one commit; repository and branch are made if there are none.

        Raises HubError, also where --private is asked for and the repository is public; nothing is uploaded then.
        """
        where = f"hf://{self.repository}"
        hub = library(where)
        api = hub.HfApi(library_name="bitvit")
        with told_plainly(hub, where):
            api.create_repo(self.repository, private=self.private or None, exist_ok=True)
            if self.branch is not None:
                api.create_branch(self.repository, branch=self.branch, exist_ok=True)
            info = api.model_info(self.repository, revision=self.branch)
            if self.private and not info.private:
                raise HubError(
                    f"{where}: is there already and public, so --private would not hold; make it private in its "
                    "settings, or choose another name"
                )
            kept = not self.replaces_card and any(sibling.rfilename == CARD for sibling in info.siblings or ())
            files = {PUBLISHED: self.model} | ({} if kept else {CARD: self.card.encode()})
            commit = api.create_commit(
                self.repository,
                [hub.CommitOperationAdd(path, content) for path, content in files.items()],
                commit_message=self.message,
                revision=self.branch,
            )
        return Pushed(f"{where}@{commit.oid}", commit.commit_url, kept)


def prepare(
    model: str | os.PathLike[str],
    repository: str,
    *,
    branch: str | None = None,
    private: bool = False,
    card: str | os.PathLike[str] | None = None,
    license: str | None = None,
    message: str | None = None,
) -> Publication:
    """Read and check what is to be published; the network is not needed.

    model: path of a packed model. repository: owner/name. branch: None: main. card: a file to be the card; default: one
    that is written from the model, unless the repository has one already. license: of the model, as the Hub calls it.

    Raises ModelFileError for what is not a packed model, HubError for an impossible name, an unreadable card, or a
    license with a card of one's own, in which it belongs.
    """
    check_repository(repository)
    if branch is not None:
        check_branch(branch)
    if license is not None:
        check_license(license)
        if card is not None:
            raise HubError("--license: belongs into the front matter of your own --card; leave it out here")
    path = Path(model)
    data = read_file(path)
    read_model(data, path)  # raises ModelFileError, before summarize takes it for a checkpoint
    digest = hashlib.sha256(data).hexdigest()
    if card is None:
        text = model_card(summarize(path), digest, repository, branch=branch, license=license)
    else:
        text = read_text(card, HubError, "a model card, Markdown in UTF-8")
    return Publication(
        repository=repository,
        branch=branch,
        private=private,
        message=message or f"bitvit model, sha256 {digest[:16]}",
        model=data,
        card=text,
        replaces_card=card is not None,
    )
