"""Models of the Hugging Face Hub: names such as hf://owner/name, which stand where a path may, and publishing.

huggingface_hub is imported when such a name comes, and not before. It keeps what it downloads in its own cache, and
finds its token where it always does.
"""

import os
from pathlib import Path

__all__ = ["is_hub_name", "local_path", "model_name", "spelled"]


def is_hub_name(path: str | os.PathLike[str]) -> bool:
    """Whether a path is meant to be of the Hub; it may be malformed all the same. Path leaves one slash of the two."""
    text = os.fspath(path)
    return isinstance(text, str) and text.startswith("hf:/")


def local_path(path: str | os.PathLike[str], *, packed: bool = True) -> str | os.PathLike[str]:
    """Where the file of an hf:// name lies on this machine, downloaded if need be; any other path as it is.

    packed: a packed model is meant, which is looked for where the name has no file. Raises HubError.
    """
    if not is_hub_name(path):
        return path
    from bitvit.hub.fetching import fetch

    return fetch(path, packed=packed).path


def spelled(path: str | os.PathLike[str]) -> str:
    """A path as reports show it: a name of the Hub with both slashes, whatever Path has made of it. Raises HubError."""
    if not is_hub_name(path):
        return os.fspath(path)
    from bitvit.hub.names import HubName

    return str(HubName.parse(path))


def model_name(path: str | os.PathLike[str]) -> str:
    """What to call a model: after its file, or after the repository of the Hub if no file is named. Raises HubError."""
    if not is_hub_name(path):
        return Path(path).stem
    from bitvit.hub.names import HubName

    name = HubName.parse(path)
    return name.name if name.file is None else Path(name.file).stem
