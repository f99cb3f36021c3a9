"""The file behind an hf:// name: found in its repository, and downloaded into huggingface_hub's cache.

A commit whose file is in the cache needs no network. A branch or tag is asked for each time, and taken from the cache
as it was the last time where the Hub cannot be reached or HF_HUB_OFFLINE is set.
"""

import contextlib
import hashlib
import logging
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitvit.errors import HubError
from bitvit.hub.library import is_unreachable, library, told_plainly
from bitvit.hub.names import HubName
from bitvit.messages import listing
from bitvit.modelfile import METADATA_KEY
from bitvit.tensorfile import FormatError, read_header

__all__ = ["Fetched", "fetch"]

SECONDS = 10  # to wait for an answer
MOST_CANDIDATES = 16  # .safetensors files of a repository whose headers are looked at

_ENDING = ".safetensors"
_log = logging.getLogger("bitvit")


@dataclass(frozen=True)
class Fetched:
    """A file of the Hub, on this machine."""

    path: Path
    name: HubName
    """With the file that was found."""
    commit: str

    def sha256(self) -> str:
        """Of the file's bytes."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def fetch(path: str | os.PathLike[str], *, packed: bool = True) -> Fetched:
    """Download what an hf:// name names, unless the cache has it.

    packed: where the name has no file, the repository's only packed model is meant; otherwise a file must be named.

    Raises HubError.
    """
    name = HubName.parse(path)
    hub = library(name)
    if name.is_pinned and (cached := _cached(hub, name, packed)):
        return _told(cached)
    api = hub.HfApi(library_name="bitvit")
    try:
        info = api.model_info(name.repository, revision=name.revision, timeout=SECONDS)
    except Exception as problem:
        if is_unreachable(hub, problem) and (cached := _cached(hub, name, packed)):
            _log.info("%s: the Hub cannot be reached; taken from the cache", name)
            return _told(cached)
        with told_plainly(hub, name, reading=True):
            raise
    with told_plainly(hub, name, reading=True), _bars_on_terminals_only(hub):
        files = sorted(sibling.rfilename for sibling in info.siblings or ())
        file = _chosen(api, name, files, packed, info.sha)
        place = Path(api.hf_hub_download(name.repository, file, revision=name.revision, etag_timeout=SECONDS))
    commit = place.parents[file.count("/")].name  # .../snapshots/COMMIT/file
    return _told(Fetched(place, HubName(name.owner, name.name, name.revision, file), commit))


def _told(found: Fetched) -> Fetched:
    if _log.isEnabledFor(logging.INFO):  # else nobody wants the checksum
        _log.info("%s: commit %s, sha256 %s", found.name, found.commit, found.sha256())
    return found


# ----------------------------------------------------------------------------------------------------- the file meant
def _chosen(api: Any, name: HubName, files: Sequence[str], packed: bool, commit: str) -> str:
    """The file that is meant, of those in the repository. Raises HubError."""
    if name.file is not None:
        if name.file in files:
            return name.file
        raise HubError(f"{name}: no such file in the repository, {_holding(files)}; check the name")
    if not packed:
        raise HubError(f"{name}: names no file, {_holding(files)}; put its name behind, as {name}/FILE")
    candidates = [file for file in files if file.endswith(_ENDING)]
    if len(candidates) > MOST_CANDIDATES:
        raise HubError(f"{name}: has {len(candidates)} {_ENDING} files; put the name of one behind, as {name}/FILE")
    if len(candidates) > 1:
        candidates = [file for file in candidates if _is_packed(api, name, file, commit)]
    return _only(name, candidates, files)


def _only(name: HubName, candidates: Sequence[str], files: Sequence[str]) -> str:
    """The one candidate. Raises HubError where there are none or several."""
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise HubError(
            f"{name}: no packed model in the repository, {_holding(files)}; a checkpoint in it is made one by "
            f"bitvit convert {name}/FILE -o model.safetensors"
        )
    raise HubError(
        f"{name}: {len(candidates)} packed models in the repository: {listing(candidates, show=str)}; put the name of "
        f"one behind, as {name}/{candidates[0]}"
    )


def _is_packed(api: Any, name: HubName, file: str, commit: str) -> bool:
    """Whether a file of the repository has bitvit's mark; only its header is downloaded."""
    from huggingface_hub.errors import SafetensorsParsingError

    try:
        return METADATA_KEY in api.parse_safetensors_file_metadata(name.repository, file, revision=commit).metadata
    except (SafetensorsParsingError, struct.error):  # the latter: huggingface_hub 1.0, of a file without 8 bytes
        return False


def _holding(files: Sequence[str]) -> str:
    return f"which has {listing(files, show=str)}" if files else "which is empty"


# ---------------------------------------------------------------------------------------------------------- the cache
def _cached(hub: Any, name: HubName, packed: bool) -> Fetched | None:
    """What huggingface_hub's cache has of the name; its layout is documented, and the same for all its versions.

    Raises HubError if the file is not named and the cache has several packed models.
    """
    folder = Path(hub.constants.HF_HUB_CACHE) / f"models--{name.owner}--{name.name}"
    commit = name.revision or "main"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if not name.is_pinned:
            commit = (folder / "refs" / commit).read_text(encoding="utf-8").strip()
        snapshot = folder / "snapshots" / commit
        file = name.file
        if file is None and packed:
            found = [path for path in sorted(snapshot.rglob(f"*{_ENDING}")) if _has_mark(path)]
            if not found:
                return None
            file = _only(name, [path.relative_to(snapshot).as_posix() for path in found], ())
        if file is not None and (snapshot / file).is_file():
            return Fetched(snapshot / file, HubName(name.owner, name.name, name.revision, file), commit)
    return None


def _has_mark(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return METADATA_KEY in read_header(file, path.stat().st_size).metadata
    except (FormatError, OSError):
        return False


@contextlib.contextmanager
def _bars_on_terminals_only(hub: Any) -> Iterator[None]:
    """huggingface_hub draws its progress bars into files too, unless it is told not to."""
    utils = hub.utils
    unasked = hub.constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not utils.are_progress_bars_disabled()
    if not unasked or (sys.stderr is not None and sys.stderr.isatty()):
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()
